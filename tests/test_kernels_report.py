"""The counts of compiled code: held to the committed ones, to the goals, and to the FLOPs that a formula gives."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import triton
from minitrans.kernels.report import GPUS, KERNELS, Report, cycles, main, report, unit
from triton.backends.compiler import GPUTarget

from benchmarks import counts

ROOT = Path(__file__).parents[1]
WORSE = 1.03
"""How much longer a kernel's instructions may take to issue than the committed count says."""


def issue(table):
    """µs to issue and the goal by kernel and shape, of a table that benchmarks/counts.py wrote."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("| ")]
    return {tuple(row[:2]): (float(row[6]), float(row[7] or "inf")) for row in rows[2:]}


def test_no_kernel_has_more_instructions_than_the_committed_count_and_each_reaches_its_goal():
    written = counts.TABLE.read_text("utf-8")
    version = re.search(r"with Triton (\S+) for", written)[1]
    if version != triton.__version__:
        pytest.skip(f"the counts are those of Triton {version}; {triton.__version__} makes other code")
    committed, counted = issue(written), issue(counts.table())
    assert counted.keys() == committed.keys()
    assert len(counted) > 15
    worse = {row: (us, committed[row][0]) for row, (us, _) in counted.items() if us > WORSE * committed[row][0]}
    assert not worse
    assert not {row: (us, goal) for row, (us, goal) in counted.items() if us > goal}


def products_in(reports):
    """FLOPs of the matrix instructions that the compiled code of some kernels executes."""
    return sum(
        part.turns * count * cycles(opcode, each.gpu) * each.gpu.tensor * each.programs * each.warps
        for each in reports
        for part in each.parts
        for opcode, count in part.opcodes.items()
        if unit(opcode) == "tensor core"
    )


@pytest.mark.parametrize(
    ("kernel", "dtype", "products"),
    [
        ("attention", "bfloat16", 2),
        ("attention_backward", "float16", 7),  # the scores again in both kernels, dP twice, dQ, dK, dV
        ("attention", "float32", 12),  # three TF32 products for each, at half the rate
    ],
)
def test_products_counted_in_the_code_are_those_of_the_formula(kernel, dtype, products):
    batch, length, heads, head_dim = shape = 3, 256, 2, 64
    done = products_in(report(kernel, shape, dtype, "sm_90"))
    assert done == products * 2 * batch * heads * length**2 * head_dim


def test_products_counted_in_the_backward_pass_of_windows_are_the_five_of_the_formula():
    """The scores again, dP, dQ, dK and dV, of windows of 49 that fill tiles of 64."""
    shape, windows = (4, 28, 28, 3, 32, 7, 3), 4 * 4 * 4 * 3
    assert products_in(report("window_attention_backward", shape, "bfloat16", "sm_90")) == 5 * 2 * windows * 64**2 * 32
    assert KERNELS["window_attention_backward"][1](torch.bfloat16, *shape).flops == 5 * 2 * windows * 49**2 * 32


LESSON = """
import os
os.environ["TRITON_INTERPRET"] = "1"
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from minitrans.kernels.report import of_kernel

@triton.jit
def sums(x, out, size, FACTOR: tl.constexpr):
    total = tl.zeros([128], tl.float32)
    for start in range(0, size, 128):
        total += tl.load(x + tl.program_id(0) * size + start + tl.arange(0, 128)) * FACTOR
    tl.store(out + tl.program_id(0), tl.sum(total, 0))

if __name__ == "__main__":
    types = {"x": "*fp32:16", "out": "*fp32:16", "size": "i32:16"}
    report = of_kernel(sums, types, {"FACTOR": 2.0}, 1000, (8,), "sm_80", moved=1000 * 1024 * 4, num_warps=4)
    loop = report.parts[1]
    print(loop.opcodes["LDG.E"] * loop.turns, report.spilled, round(report.roofline_us, 2))
    try:
        of_kernel(sums, types, {"FACTOR": 2.0}, 1000, (8, 2), "sm_80")
    except ValueError as error:
        print(error)
"""


@pytest.mark.parametrize(
    ("opcode", "target", "lanes"),
    [("MUFU.EX2", "sm_90", 16), ("MUFU.RSQ", "sm_80", 16), ("FFMA", "sm_90", 128), ("FADD", "sm_80", 64),
     ("IMAD.WIDE", "sm_90", 64), ("LOP3.LUT", "sm_90", 64), ("IADD3", "sm_86", 64)],
)  # fmt: skip
def test_results_a_cycle_are_those_of_the_programming_guide(opcode, target, lanes):
    """The table of arithmetic instructions' throughput in CUDA's programming guide, of a multiprocessor."""
    assert 32 / cycles(opcode, GPUS[target]) == lanes


@pytest.mark.parametrize(
    ("target", "registers", "warps", "shared", "programs"),
    [
        ("sm_90", 255, 8, 0, 1), ("sm_90", 128, 8, 0, 2), ("sm_90", 129, 8, 0, 1), ("sm_90", 32, 4, 0, 16),
        ("sm_90", 16, 1, 0, 32), ("sm_90", 32, 32, 0, 2), ("sm_90", 16, 4, 115_712, 2), ("sm_90", 16, 4, 115_713, 1),
        ("sm_90", 16, 4, 232_448, 1), ("sm_80", 16, 4, 166_912, 1),
        ("sm_80", 16, 1, 0, 32), ("sm_86", 16, 1, 0, 16), ("sm_89", 16, 2, 0, 24),
        ("sm_86", 16, 4, 0, 12),
    ],
)  # fmt: skip
def test_programs_a_multiprocessor_are_those_of_cuda_s_occupancy_table(target, registers, warps, shared, programs):
    """Limits of the CUDA programming guide: registers by eight, 1 KiB of shared memory a program for the system."""
    assert GPUS[target].target == GPUTarget("cuda", int(target[3:]), 32)
    assert Report("k", target, "", 1, warps, registers, 0, shared, ()).resident == programs


@pytest.mark.parametrize(
    ("kernel", "shape", "microseconds"),
    [
        ("window_attention", (64, 56, 56, 3, 32, 7, 3), 46), ("window_attention", (64, 28, 28, 6, 32, 7, 3), 23),
        ("window_attention", (64, 14, 14, 12, 32, 7, 3), 11.5), ("window_attention", (64, 7, 7, 24, 32, 7, 0), 5.75),
        ("layer_norm", (4096, 768), 3.76), ("add_layer_norm", (4096, 768), 5.63),
        ("residual_layer_norm", (4096, 768), 7.5), ("embedding_layer_norm", (4096, 768), 3.76),
        ("merge_layer_norm", (64, 56, 56, 96), 23), ("bias_gelu", (4096, 3072), 15),
        ("convolution", (16, 160_000, 512, 10, 5), 156.5), ("attention", (64, 512, 12, 64), 60.1),
        ("window_attention_backward", (64, 56, 56, 3, 32, 7, 3), 80.5), ("layer_norm_backward", (4096, 768), 5.63),
        ("add_layer_norm_backward", (4096, 768), 7.5), ("embedding_layer_norm_backward", (4096, 768), 5.63),
        ("merge_layer_norm_backward", (64, 56, 56, 96), 34.5), ("bias_gelu_backward", (4096, 3072), 22.5),
        ("attention_backward", (64, 512, 12, 64), 120.2),
    ],
)  # fmt: skip
def test_what_moves_in_16_bits_takes_this_long_at_3350_gigabytes_a_second(kernel, shape, microseconds):
    """Each input and output once, by hand."""
    moved = KERNELS[kernel][1](torch.bfloat16, *shape).moved
    assert moved / 3.35e6 == pytest.approx(microseconds, rel=0.005)


@pytest.mark.parametrize(("samples", "taps", "stride", "frames"), [(10, 3, 2, 4), (11, 3, 2, 5), (3, 3, 5, 1)])
def test_a_convolution_multiplies_each_tap_of_each_frame(samples, taps, stride, frames):
    call = KERNELS["convolution"][1](torch.bfloat16, 2, samples, 8, taps, stride)
    assert (call.flops, call.moved) == (2 * taps * 2 * frames * 8, 2 * 2 * frames * 8)


def test_a_kernel_of_a_program_that_interprets_is_counted_too(tmp_path):
    (tmp_path / "lesson.py").write_text(LESSON)
    command = [sys.executable, str(tmp_path / "lesson.py")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    printed = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
    first, second = printed.splitlines()
    assert first == f"8.0 0 {1000 * 1024 * 4 / 2.04e12 * 1e6:.2f}"  # whatever the assembler unrolled
    assert re.match(r"The compiled code has 1 loops \(instructions: \d+\), and turns are given for 2", second)


def test_the_command_line_prints_what_a_reader_asks(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["report", "attention", "--shape", "64,512,12,64", "--target", "sm_90"])
    main()
    printed = capsys.readouterr().out
    for words in (
        "roofline 60.1 µs: 201.3 MB at 3.35 TB/s, 51.54 GFLOP at 989 TFLOP/s",
        "registers and 0 spilled bytes per thread",
        "programs per multiprocessor",
        "tensor core          FMA         MUFU          ALU   load/store      uniform      control",
        "µs at least: issue",
    ):
        assert words in printed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("attention --shape 64,512", "the shape of attention is batch,length,heads,head_dim, not 64,512"),
        ("attention --shape 64,512,12,0", "the shape of attention is batch,length,heads,head_dim, not 64,512,12,0"),
        ("attention --shape 64,512,12,wide", "a shape is whole numbers with commas between them, not 64,512,12,wide"),
        ("attention --shape 64,512,12,64 --target sm_70", "the target is sm_70; reports are made for sm_80"),
        ("bias_gelu --shape 64,512 --dtype int8", "the dtype is int8; the kernels compute in float16"),
        ("attention --shape 1,10,3,512", "heads have up to 128 channels"),
        ("window_attention --shape 1,56,56,3,32,0,0", "the shape of window_attention is batch"),
        ("window_attention --shape 1,56,56,3,32,7,7", "the shift is less than the window"),
        ("convolution --shape 1,5,512,10,5", "no more than a clip has samples"),
        ("merge_layer_norm --shape 1,2,2,9000", "rows have 36000 channels"),
        ("layer_norm_backward --shape 4,8193", "rows have 8193 channels; a program holds up to 8192"),
        ("window_attention_backward --shape 1,48,48,6,32,9,6", "the backward pass holds windows of up to 8"),
        ("window_attention_backward --shape 1,48,48,6,33,8,4", "heads have up to 32 channels"),
    ],
)
def test_what_cannot_be_counted_is_said(arguments, words, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["report", *arguments.split()])
    with pytest.raises(SystemExit):
        main()
    assert words in capsys.readouterr().err.lower()


def test_a_loop_that_the_code_leaves_by_a_call_is_followed():
    (attention,) = report("attention", (2, 512, 3, 64), target="sm_80")
    assert attention.loop.turns == 512 // 64
    assert attention.units["tensor core"] == 4 * 64 * 512 * 64 / (2 * 16 * 8 * 16) / 4  # m16n8k16, four warps
