"""The counts of compiled code: held to the committed ones, to the goals, and to the FLOPs that a formula gives."""

import io
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import triton
import triton.language as tl
from minitrans.kernels import convolution, launch
from minitrans.kernels import report as module
from minitrans.kernels.report import (
    GPUS,
    KERNELS,
    UNITS,
    Launch,
    Part,
    Report,
    compiling_only,
    cycles,
    main,
    of_kernel,
    read,
    registers_and_spills,
    report,
    unit,
)
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from benchmarks import counts

ROOT = Path(__file__).parents[1]
WORSE = 1.03
"""How much longer a kernel's instructions may take to issue than the committed count says, or how much less long."""


def rows_of(table):
    """The cells of a table that benchmarks/counts.py wrote, by kernel and shape."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("| ")]
    return {tuple(row[:2]): row[2:] for row in rows[2:]}


def test_no_kernel_has_more_instructions_than_the_committed_count_and_each_reaches_its_goal():
    written = counts.TABLE.read_text("utf-8")
    version = re.search(r"with Triton (\S+) for", written)[1]
    if version != triton.__version__:
        pytest.skip(f"the counts are those of Triton {version}; {triton.__version__} makes other code")
    committed, counted = rows_of(written), rows_of(counts.table())
    assert counted.keys() == committed.keys()
    assert len(counted) > 15
    for row, (instructions, _, _, roofline, issue, goal, bound) in counted.items():
        was = committed[row]
        assert 1 / WORSE < float(issue) / float(was[4]) < WORSE, row  # fewer are to be committed as well
        assert 1 / WORSE < float(instructions) / float(was[0]) < WORSE, row
        assert (roofline, bound.rpartition(" ")[0]) == (was[3], was[6].rpartition(" ")[0]), row
        assert float(issue) <= float(goal or "inf"), row


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
        ("sm_86", 16, 4, 0, 12), ("sm_89", 16, 4, 0, 12), ("sm_120", 16, 4, 0, 12), ("sm_120", 16, 1, 0, 24),
        ("sm_86", 16, 4, 50_176, 2), ("sm_86", 16, 4, 50_177, 1), ("sm_89", 16, 4, 50_176, 2),
        ("sm_89", 16, 4, 50_177, 1), ("sm_120", 16, 4, 50_176, 2), ("sm_120", 16, 4, 50_177, 1),
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


# The counts of made-up code, told by hand


@pytest.fixture
def counted(monkeypatch):
    """What `read` says of code that stands here: labels end with a colon, a predicate before its instruction."""

    def counted(code, turns=(), ptx="", **others):
        rows = [line.strip() for line in code.splitlines() if line.strip()]
        rows = [row if row.endswith(":") else f"        /*{index:04x}*/    {row} ;" for index, row in enumerate(rows)]
        text = {
            "nvdisasm": "\n".join(["\t.headerflags", ".text.k:", *rows]),
            "cuobjdump": "Resource usage:\n Function k:\n  REG:40 STACK:16 SHARED:0 LOCAL:0 CONSTANT[0]:592",
        }
        monkeypatch.setattr(module, "_inspect", lambda tool, cubin, *options: text[tool])
        compiled = SimpleNamespace(asm={"cubin": b"", "ptx": ptx}, metadata=SimpleNamespace(num_warps=2, shared=3072))
        return read(compiled, "k", 10, turns, "sm_90", **others)

    return counted


def parts_of(found):
    """Each part's turns, and its instructions as words."""
    return [(part.turns, " ".join(sorted(Counter(part.opcodes).elements()))) for part in found.parts]


CODES = {
    "straight, and a branch to itself behind the end": ("MOV R1\nFADD R0\nFADD R0\nEXIT\ntrap:\nBRA `(trap)", (), [
        (1, "EXIT FADD FADD MOV")]),
    "a loop": ("MOV R1\nloop:\nFADD R0\nFMUL R0\n@!P0 BRA `(loop)\nEXIT", (8,), [
        (1, "EXIT MOV"), (8, "BRA FADD FMUL")]),
    "two loops, one after the other": (
        "a:\nFADD R0\n@P0 BRA `(a)\nMOV R1\nb:\nFMUL R0\n@P0 BRA `(b)\nEXIT", (3, 5), [
            (1, "EXIT MOV"), (3, "BRA FADD"), (5, "BRA FMUL")]),
    "a loop in another, which turns for each of its turns": (
        "MOV R1\nouter:\nFADD R0\ninner:\nFMUL R0\n@P0 BRA `(inner)\nFFMA R0\n@P1 BRA `(outer)\nEXIT", (4, 3), [
            (1, "EXIT MOV"), (4, "BRA FADD FFMA"), (12, "BRA FMUL")]),
    "a loop that goes on from its middle": (
        "loop:\nFADD R0\n@P0 BRA `(loop)\nFMUL R0\n@P1 BRA `(loop)\nEXIT", (6,), [
            (1, "EXIT"), (6, "BRA BRA FADD FMUL")]),
    "a loop that is left from its middle": (
        "loop:\nFADD R0\n@P0 BRA `(out)\nFMUL R0\nBRA `(loop)\nout:\nMUFU R0\nEXIT", (6,), [
            (1, "EXIT MUFU"), (6, "BRA BRA FADD FMUL")]),
    "the longer way, which falls through": (
        "@P0 BRA `(a)\nFADD R0\nFADD R0\nBRA `(b)\na:\nFMUL R0\nb:\nEXIT", (), [(1, "BRA BRA EXIT FADD FADD")]),
    "the longer way, which jumps": (
        "@P0 BRA `(a)\nFADD R0\nBRA `(b)\na:\nFMUL R0\nFMUL R0\nFMUL R0\nb:\nEXIT", (), [
            (1, "BRA EXIT FMUL FMUL FMUL")]),
    "the longer way within a loop": (
        "loop:\n@P0 BRA `(a)\nFADD R0\nBRA `(b)\na:\nFMUL R0\nFMUL R0\nFMUL R0\nb:\n@P1 BRA `(loop)\nEXIT", (2,), [
            (1, "EXIT"), (2, "BRA BRA FMUL FMUL FMUL")]),
    "a branch that always jumps": ("BRA `(a)\nMUFU R0\nMUFU R0\nMUFU R0\na:\nFADD R0\nEXIT", (), [
        (1, "BRA EXIT FADD")]),
    "a branch with its predicate among the operands": (
        "BRA.U UP0, `(a)\nMUFU R0\nMUFU R0\na:\nFADD R0\nEXIT", (), [(1, "BRA.U EXIT FADD MUFU MUFU")]),
    "an end under a predicate": ("@P0 EXIT\nFADD R0\nFADD R0\n@!UP1 RET R2\nFMUL R0\nEXIT\nMUFU R0", (), [
        (1, "EXIT EXIT FADD FADD FMUL RET")]),
    "an end without one": ("FADD R0\nRET R2\nMUFU R0\nEXIT", (), [(1, "FADD RET")]),
    "a loop that does not turn, and what only leads to it and from it": (
        "FADD R0\n@P0 BRA `(out)\nMUFU R0\nMUFU R0\nloop:\nFMUL R0\n@P1 BRA `(loop)\nI2F R0\nout:\nEXIT", (0,), [
            (1, "BRA EXIT FADD"), (0, "")]),
    "the same, which turns": (
        "FADD R0\n@P0 BRA `(out)\nMUFU R0\nMUFU R0\nloop:\nFMUL R0\n@P1 BRA `(loop)\nI2F R0\nout:\nEXIT", (2.5,), [
            (1, "BRA EXIT FADD I2F MUFU MUFU"), (2.5, "BRA FMUL")]),
    "what leads to one loop of two, of which one turns": (
        "@P0 BRA `(b)\nMUFU R0\na:\nFMUL R0\n@P1 BRA `(a)\nBRA `(out)\nb:\nFADD R0\nFADD R0\nc:\nFFMA R0\n"
        "@P1 BRA `(c)\nout:\nEXIT", (4, 0), [(1, "BRA BRA EXIT MUFU"), (4, "BRA FMUL"), (0, "")]),
    "a loop that is left by a call under a predicate": (
        "loop:\nFADD R0\n@P0 CALL.REL.NOINC `(out)\nBRA `(loop)\nout:\nFMUL R0\nEXIT", (7,), [
            (1, "EXIT FMUL"), (7, "BRA CALL.REL.NOINC FADD")]),
    "a function that is called in a loop, by its longer way": (
        "loop:\nFADD R0\nCALL.REL.NOINC `(root)\nFMUL R0\n@P0 BRA `(loop)\nEXIT\n"
        "root:\nMUFU.RSQ R0\n@P0 BRA `(end)\nFFMA R0\nFFMA R0\nend:\nRET.REL.NODEC R2", (3,), [
            (1, "EXIT"), (3, "BRA BRA CALL.REL.NOINC FADD FFMA FFMA FMUL MUFU.RSQ RET.REL.NODEC")]),
    "a wait that tries again is none": (
        "FADD R0\nwait:\nSYNCS.PHASECHK.TRANS64.TRYWAIT P0\n@!P0 BRA `(wait)\nEXIT", (), [
            (1, "BRA EXIT FADD SYNCS.PHASECHK.TRANS64.TRYWAIT")]),
    "a wait of two blocks": (
        "wait:\nSYNCS.TRYWAIT P0\n@P0 BRA `(out)\nNOP\nBRA `(wait)\nout:\nEXIT", (), [
            (1, "BRA BRA EXIT NOP SYNCS.TRYWAIT")]),
    "a loop of three blocks with a wait": (
        "loop:\nSYNCS.TRYWAIT P0\n@P0 BRA `(out)\nNOP\n@P1 BRA `(out)\nNOP\nBRA `(loop)\nout:\nEXIT", (5,), [
            (1, "EXIT"), (5, "BRA BRA BRA NOP NOP SYNCS.TRYWAIT")]),
    "a wait in a loop": (
        "loop:\nFADD R0\nwait:\nSYNCS.TRYWAIT P0\n@!P0 BRA `(wait)\n@P1 BRA `(loop)\nEXIT", (9,), [
            (1, "EXIT"), (9, "BRA BRA FADD SYNCS.TRYWAIT")]),
    "a kernel that never ends": ("loop:\nFADD R0\nBRA `(loop)", (2,), [(1, ""), (2, "BRA FADD")]),
}  # fmt: skip


@pytest.mark.parametrize("name", CODES)
def test_instructions_are_counted_by_loop(name, counted):
    code, turns, expected = CODES[name]
    found = counted(code, turns)
    assert parts_of(found) == expected
    assert [part.name for part in found.parts] == ["outside loops", *(f"loop {n + 1}" for n in range(len(turns)))]


@pytest.mark.parametrize(
    ("ptx", "turns"),
    [
        ("$L:\nld.global.b32 r;\n@p bra $L;", 2.0),  # four loads a turn where the source has one
        ("$L:\nld.global.b32 r;\nld.global.b32 r;\nbra.uni $L;", 4.0),
        ("$L:\nld.global.b32 r;\nst.global.b32 r;\nex2.approx r;\n@p bra $L;", 8.0),  # 4 / 3, to whole ones
        ("$L:\n" + "ld.global.b32 r;\n" * 9 + "@p bra $L;", 8.0),
        ("$L:\nadd r;\n@p bra $L;", 8.0),  # nothing tells
        ("ld.global.b32 r;", 8.0),  # another number of loops
        ("$L:\nld.global.b32 r;\n@p bra $L;\n$M:\nld.global.b32 r;\n@p bra $M;", 8.0),
        ("@p bra $L;\nld.global.b32 r;\n$L:\nld.global.b32 r;\nadd r;\n@p bra $L;\nst.global.b32 r;", 2.0),
    ],
)
def test_a_loop_that_the_assembler_unrolled_has_a_turn_for_several(ptx, turns, counted):
    code = "loop:\nLDG.E R0\nLDG.E R0\nFADD R0\nLDG.E R0\nLDG.E R0\n@P0 BRA `(loop)\nEXIT"
    assert parts_of(counted(code, (8,), ptx)) == [(1, "EXIT"), (turns, "BRA FADD LDG.E LDG.E LDG.E LDG.E")]


def test_which_loop_was_unrolled_is_told_by_their_order(counted):
    """Powers, products and stores tell as well."""
    code = "a:\nMUFU.EX2 R0\nMUFU.EX2 R0\nMUFU.RCP R0\n@P0 BRA `(a)\nb:\nHMMA R0\nSTG.E R0\n@P0 BRA `(b)\nEXIT"
    ptx = "$B:\nex2.approx.f32 f;\n@p bra $B;\n$A:\nmma.sync r;\nst.global r;\n@p bra $A;"
    assert [part.turns for part in counted(code, (6, 6), ptx).parts] == [1, 3, 6]


@pytest.mark.parametrize(
    ("turns", "words"),
    [
        (
            (),
            r"The compiled code has 1 loops \(instructions: 3\), and turns are given for 0: give one number per loop",
        ),
        ((1, 2), r"has 1 loops \(instructions: 3\), and turns are given for 2"),
        ((0,), r"With turns of \[0.0\] nothing could run: each path through the code has a loop of 0"),
    ],
)
def test_turns_that_do_not_fit_the_code_are_refused(turns, words, counted):
    with pytest.raises(ValueError, match=words):
        counted("MOV R1\nloop:\nFADD R0\nFMUL R0\n@P0 BRA `(loop)\nEXIT", turns)


def test_turns_of_code_without_loops_are_refused(counted):
    with pytest.raises(ValueError, match=r"has 0 loops \(instructions: none\), and turns are given for 1"):
        counted("MOV R1\nEXIT", (3,))


def test_what_the_compiler_says_of_a_kernel_is_in_its_report(counted):
    found = counted("EXIT", moved=7, flops=9)
    assert (found.kernel, found.target, found.triton, found.programs) == ("k", "sm_90", triton.__version__, 10)
    assert (found.registers, found.spilled, found.warps, found.shared) == (40, 16, 2, 3072)
    assert (found.moved, found.flops, found.gpu) == (7, 9, GPUS["sm_90"])
    bare = counted("EXIT")
    assert (bare.moved, bare.flops, bare.roofline_us) == (0, 0, 0)
    amd = "  - .vgpr_count:     24\n    .vgpr_spill_count: 3\n"
    assert registers_and_spills(SimpleNamespace(asm={"amdgcn": amd})) == (24, 3)


# 216 programs of four warps, eight warps a multiprocessor of an A100: 1000 bytes at 2.04 TB/s.
MADE_UP = Report(
    "made_up", "sm_80", "3.7.1", 216, 4, 32, 8, 2048,
    (Part("outside loops", 1, {"FADD": 100, "IADD3": 50}),
     Part("loop 1", 10, {"HMMA.16816.F32": 8, "MUFU.EX2": 16, "LDG.E.128": 2, "IADD3": 20, "UIADD3": 3, "BRA": 1})),
    moved=2_040_000, flops=624_000_000,
)  # fmt: skip


def test_times_of_a_made_up_kernel_are_those_by_hand():
    """At 1.41 GHz; each of four slots issues an instruction a cycle, and m16n8k16 takes 2 at 2048 FLOPs a cycle."""
    outside, loop = MADE_UP.parts
    assert outside.units == {**dict.fromkeys(UNITS, 0), "FMA": 100, "ALU": 50}
    assert loop.units == dict(zip(UNITS, (8, 0, 16, 20, 2, 3, 1), strict=True))
    assert MADE_UP.units == dict(zip(UNITS, (80, 100, 160, 250, 20, 30, 10), strict=True))
    assert MADE_UP.instructions == 650
    assert MADE_UP.loop is loop
    cycle = 1 / 1410
    expected = {"issue": 650 / 4 * 8, "tensor core": 80 * 2 * 8, "FMA": 100 / 2 * 8, "MUFU": 160 * 2 * 8,
                "ALU": 250 / 2 * 8, "load/store": 20 * 4 * 8, "memory": 1 / cycle}  # fmt: skip
    assert MADE_UP.unit_us == pytest.approx({name: cycles * cycle for name, cycles in expected.items()})
    assert MADE_UP.issue_us == pytest.approx(1300 * cycle)
    assert MADE_UP.tightest == "MUFU"
    assert MADE_UP.roofline_us == pytest.approx(2)  # 624 MFLOP at 312 TFLOP/s; moving takes 1
    assert Report("k", "sm_80", "", 1, 4, 32, 0, 0, (), 4_080_000, 312_000_000).roofline_us == pytest.approx(2)


def test_the_page_about_a_made_up_kernel():
    def row(name, *cells):
        return name.ljust(23) + "".join(f"{cell:>13}" for cell in cells)

    assert str(MADE_UP).splitlines() == [
        "made_up on sm_80 (A100), Triton 3.7.1",
        "roofline 2.0 µs: 2.0 MB at 2.04 TB/s, 0.62 GFLOP at 312 TFLOP/s",
        "216 programs of 4 warps, 32 registers and 8 spilled bytes per thread, 2 KiB shared, "
        "16 programs per multiprocessor",
        "",
        row("instructions of a warp", *UNITS, "all"),
        row("outside loops, × 1", 0, 100, 0, 50, 0, 0, 0, 150),
        row("loop 1, × 10", 8, 0, 16, 20, 2, 3, 1, 50),
        row("in all", 80, 100, 160, 250, 20, 30, 10, 650),
        "",
        "µs at least: MUFU 1.8, memory 1.0, issue 0.9, tensor core 0.9, ALU 0.7, load/store 0.5, FMA 0.3",
    ]
    assert "roofline" not in str(Report("k", "sm_80", "", 1, 4, 32, 0, 0, (Part("outside loops", 1, {}),)))


@pytest.mark.parametrize(
    ("opcode", "target", "expected"),
    [
        ("HGMMA.64x128x16.F32.BF16", "sm_90", 2 * 64 * 128 * 16 / 4 / 4096),
        ("HGMMA.64x64x8.F32.TF32", "sm_90", 2 * 2 * 64 * 64 * 8 / 4 / 4096),
        ("HMMA.16816.F32.BF16", "sm_90", 1), ("HMMA.16816.F32", "sm_86", 4), ("HMMA.1688.F32.TF32", "sm_80", 2),
        ("IMMA.16832.S8.S8", "sm_80", 4), ("HMMA.MADE.UP", "sm_80", 0),
        ("LDG.E", "sm_90", 1), ("LDG.E.64", "sm_90", 2), ("STG.E.128", "sm_90", 4), ("LDSM.16.M88", "sm_90", 1),
        ("LDSM.16.M88.2", "sm_90", 2), ("LDSM.16.MT88.4", "sm_90", 1), ("LDSM.16.M88.4", "sm_80", 4),
        ("UIADD3", "sm_90", 0), ("BRA", "sm_90", 0), ("FFMA", "sm_80", 0.5), ("FFMA", "sm_86", 0.25),
    ],
)  # fmt: skip
def test_cycles_of_an_instruction_are_those_by_hand(opcode, target, expected):
    """A warpgroup's product is four warps'; a wide load moves four bytes a thread and cycle."""
    assert cycles(opcode, GPUS[target]) == expected


@pytest.mark.parametrize(
    ("target", "name", "multiprocessors", "tensor", "single", "bandwidth", "half", "cores"),
    [
        ("sm_80", "A100", 108, 312, 19.5, 2039, 312, 256), ("sm_86", "A10", 72, 125, 31.2, 600, 125, 128),
        ("sm_89", "L4", 58, 121, 30.3, 300, 121, 128), ("sm_90", "H100", 132, 949, 59.3, 3350, 989, 512),
        ("sm_120", "RTX 5090", 170, 209.5, 104.8, 1792, 209, 64),
    ],
)  # fmt: skip
def test_cards_are_as_nvidia_publishes_them(target, name, multiprocessors, tensor, single, bandwidth, half, cores):
    """TFLOP/s of dense 16-bit and float32 products and GB/s of the data sheets, multiply-adds a core of the white
    papers; an H100's 989 and 66.9 are at 1.83 and 1.98 GHz, and reports keep to 1.755."""
    gpu = GPUS[target]
    assert (gpu.name, gpu.multiprocessors, gpu.tensor) == (name, multiprocessors, 4 * 2 * cores)
    assert gpu.tensor * gpu.multiprocessors * gpu.clock / 1e12 == pytest.approx(tensor, rel=3e-3)
    assert 2 * gpu.fma * gpu.multiprocessors * gpu.clock / 1e12 == pytest.approx(single, rel=3e-3)
    assert gpu.bandwidth / 1e9 == pytest.approx(bandwidth, rel=2e-3)
    assert gpu.flops / 1e12 == half


@pytest.mark.parametrize(
    ("target", "shared", "warps", "programs"),
    [("sm_80", 164, 64, 32), ("sm_86", 100, 48, 16), ("sm_89", 100, 48, 24), ("sm_90", 228, 64, 32),
     ("sm_120", 100, 48, 24)],
)  # fmt: skip
def test_what_a_multiprocessor_holds_is_as_nvidia_publishes_it(target, shared, warps, programs):
    """KiB of shared memory, warps and blocks at once, of the CUDA programming guide's table of capabilities."""
    gpu = GPUS[target]
    assert (gpu.shared, gpu.warps, gpu.programs) == (shared * 1024, warps, programs)


# Shipped launchers


def moves_and_computes(kernel, *shape, dtype=torch.bfloat16):
    call = KERNELS[kernel][1](dtype, *shape)
    return call.moved, call.flops


def test_what_calls_of_odd_shapes_move_and_compute():
    """By hand: elements times bytes, and two FLOPs a product."""
    assert moves_and_computes("attention", 2, 5, 3, 7) == (4 * 2 * 5 * 3 * 7 * 2, 2 * 2 * 2 * 3 * 5 * 5 * 7)
    assert moves_and_computes("attention_backward", 2, 5, 3, 7) == (8 * 2 * 5 * 3 * 7 * 2, 5 * 2 * 2 * 3 * 5 * 5 * 7)
    assert moves_and_computes("attention", 2, 5, 3, 7, dtype=torch.float32)[0] == 4 * 2 * 5 * 3 * 7 * 4
    windows = 2 * 2 * 3  # of 4 × 4 in maps of 5 × 9
    shape, elements = (2, 5, 9, 3, 7, 4, 1), 2 * 5 * 9 * 3 * 7
    assert moves_and_computes("window_attention", *shape) == (4 * elements * 2, 2 * 2 * windows * 16 * 16 * 7 * 3)
    backward = (7 * elements * 2, 5 * 2 * windows * 16 * 16 * 7 * 3)
    assert moves_and_computes("window_attention_backward", *shape) == backward
    for kernel, tensors in (
        ("layer_norm", 2), ("add_layer_norm", 3), ("residual_layer_norm", 4), ("layer_norm_backward", 3),
        ("add_layer_norm_backward", 4), ("embedding_layer_norm", 2), ("embedding_layer_norm_backward", 3),
        ("bias_gelu", 2), ("bias_gelu_backward", 3),
    ):  # fmt: skip
        assert moves_and_computes(kernel, 5, 7) == (tensors * 5 * 7 * 2, 0), kernel
        assert moves_and_computes(kernel, 5, 7, dtype=torch.float32) == (tensors * 5 * 7 * 4, 0), kernel
    for kernel, tensors in (("merge_layer_norm", 2), ("merge_layer_norm_backward", 3)):
        assert moves_and_computes(kernel, 3, 5, 7, 6) == (tensors * 3 * 5 * 7 * 6 * 2, 0)


@pytest.mark.parametrize(
    ("kernel", "shape", "options", "programs", "turns"),
    [
        ("attention", (2, 128, 3, 64), {"BLOCK_N": 64}, 1, (0, 2, 0)),
        ("attention", (2, 129, 3, 64), {"BLOCK_N": 64}, 1, (0, 2, 1)),
        ("attention", (2, 63, 3, 64), {"BLOCK_N": 64}, 1, (0, 0, 1)),
        ("attention_backward", (2, 130, 3, 64), {"BLOCK_N": 64}, 1, (0, 2, 1)),
        ("window_attention", (2, 14, 21, 3, 32, 7, 0), {"BLOCK_M": 64, "BLOCK_N": 64}, 9, (4,)),  # 2 · 6 · 3 / 9
        ("window_attention", (2, 14, 21, 3, 32, 7, 0), {"BLOCK_M": 49, "BLOCK_N": 49}, 9, (4,)),
        ("window_attention", (2, 14, 21, 3, 32, 7, 0), {"BLOCK_M": 32, "BLOCK_N": 64, "KEYS": 64}, 9, (8,)),
        ("window_attention", (2, 13, 15, 3, 32, 7, 0), {"BLOCK_M": 64, "BLOCK_N": 32}, 9, (4, 2)),
        ("window_attention", (1, 12, 12, 3, 32, 12, 0), {"BLOCK_M": 64, "BLOCK_N": 64}, 3, (3, 3)),
        ("window_attention", (1, 12, 12, 3, 32, 12, 0), {"KEYS": 64}, 3, ()),
        ("window_attention_backward", (2, 13, 15, 3, 32, 7, 0), {}, 9, (4,)),
        ("layer_norm_backward", (17, 96), {"ROWS": 4}, 2, (2.5,)),
        ("add_layer_norm_backward", (16, 96), {"ROWS": 4}, 2, (2,)),
        ("embedding_layer_norm_backward", (15, 96), {"ROWS": 4}, 2, (2,)),
        ("merge_layer_norm_backward", (2, 5, 3, 96), {"ROWS": 4}, 2, (1.5,)),  # 12 rows
        ("merge_layer_norm_backward", (2, 5, 3, 96), {"ROWS": 1}, 1, (12,)),
        ("bias_gelu_backward", (17, 96), {"ROWS": 4, "COLUMNS": 64}, 4, (2.5,)),
        ("bias_gelu_backward", (16, 128), {"ROWS": 4, "COLUMNS": 64}, 4, (2,)),
        ("layer_norm", (17, 96), {"ROWS": 4}, 2, ()), ("add_layer_norm", (17, 96), {}, 2, ()),
        ("embedding_layer_norm", (17, 96), {}, 2, ()), ("merge_layer_norm", (2, 5, 3, 96), {}, 2, ()),
        ("bias_gelu", (17, 96), {}, 2, ()), ("convolution", (2, 50, 8, 3, 2), {}, 2, ()),
    ],
)  # fmt: skip
def test_loops_turn_as_often_as_there_are_tiles(kernel, shape, options, programs, turns):
    found = KERNELS[kernel][1](torch.bfloat16, *shape).turns(Launch("k", programs, options, None))
    assert tuple(found) == turns


@pytest.fixture
def launched(monkeypatch):
    """The arguments and options of launches, which are neither compiled nor run."""
    found = []

    def run(self, *arguments, grid, warmup, **options):
        assert warmup
        found.append((arguments, options))
        return "compiled"

    monkeypatch.setattr(JITFunction, "run", run)
    return found


ROWS, WIDE, INDEX = (260, 3, 64), (5, 96), (2,)
MAP, FILLED = (2, 5, 9, 3, 3, 32), (3, 3, 32)
BACKWARD = [*[ROWS] * 6, ROWS[:2], ROWS[:2], INDEX, INDEX]  # dO, q, k, v and two gradients, or out; the log-sums
TABLES = [(5,)] * 3 + [(30522, 96), (512, 96), (2, 96)]


@pytest.mark.parametrize(
    ("kernel", "shape", "launches"),
    [
        ("attention", (2, 130, 3, 64), [("attention_forward", 18, [*[ROWS] * 4, INDEX, INDEX])]),
        ("attention_dropout", (2, 130, 3, 64), [("attention_forward", 18, [*[ROWS] * 4, INDEX, INDEX, (1,)])]),
        ("attention_backward", (2, 130, 3, 64), [
            ("attention_backward_query", 18, BACKWARD), ("attention_backward_key", 18, BACKWARD)]),
        ("attention_backward_dropout", (2, 130, 3, 64), [
            ("attention_backward_query", 18, [*BACKWARD, (1,)]), ("attention_backward_key", 18, [*BACKWARD, (1,)])]),
        ("window_attention", (2, 5, 9, 3, 32, 4, 1), [
            ("window_attention_forward", 36, [MAP, (49, 3), FILLED, (2, 5, 9, 96)])]),
        ("window_attention_backward", (2, 5, 9, 3, 32, 4, 1), [
            ("window_attention_backward", 36, [
                (2, 5, 9, 3, 32), MAP, (49, 3), FILLED, MAP, (12, 3, 256), (12, 3, 3, 32)])]),
        ("layer_norm", (5, 96), [("layer_norm_forward", 1, [WIDE, (96,), (96,), WIDE])]),
        ("add_layer_norm", (5, 96), [("layer_norm_forward", 1, [WIDE, WIDE, (96,), (96,), WIDE])]),
        ("residual_layer_norm", (5, 96), [("layer_norm_forward", 1, [WIDE, WIDE, WIDE, (96,), (96,), WIDE])]),
        ("layer_norm_backward", (5, 96), [("layer_norm_backward", 1, [WIDE, WIDE, (96,), WIDE, (1, 2, 96)])]),
        ("add_layer_norm_backward", (5, 96), [
            ("layer_norm_backward", 1, [WIDE, WIDE, WIDE, (96,), WIDE, (1, 2, 96)])]),
        ("embedding_layer_norm", (5, 96), [
            ("embedding_layer_norm_forward", 1, [*TABLES, (96,), (96,), WIDE])]),
        ("embedding_layer_norm_backward", (5, 96), [
            ("embedding_layer_norm_backward", 1, [WIDE, *TABLES, (96,), WIDE, (1, 2, 96)])]),
        ("merge_layer_norm", (2, 5, 3, 24), [
            ("merge_layer_norm_forward", 2, [(2, 5, 3, 24), (96,), (96,), (2, 3, 2, 96)])]),
        ("merge_layer_norm_backward", (2, 5, 3, 24), [
            ("merge_layer_norm_backward", 2, [(12, 96), (2, 5, 3, 24), (96,), (2, 5, 3, 24), (2, 2, 96)])]),
        ("bias_gelu", (5, 96), [("bias_gelu_forward", 3, [WIDE, (96,), WIDE])]),
        ("bias_gelu_backward", (5, 96), [("bias_gelu_backward", 3, [WIDE, WIDE, (96,), WIDE, (3, 96)])]),
        ("convolution", (2, 50, 8, 3, 2), [
            ("convolution_forward", 2, [(2, 50, 1), (2, 8, 3, 1), (2, 8), (2, 24, 8)])]),
    ],
)  # fmt: skip
def test_a_call_launches_what_reads_and_writes_the_tensors_of_a_model(kernel, shape, launches, launched):
    """Of a model in training or inference: all gradients are wanted, and windows have padding."""
    with compiling_only(GPUS["sm_90"].target) as found:
        KERNELS[kernel][1](torch.bfloat16, *shape).run()
    for each, (arguments, options), (name, programs, shapes) in zip(found, launched, launches, strict=True):
        given = [x for x in arguments if isinstance(x, torch.Tensor)]
        assert (each.kernel, each.programs) == (name, programs)
        assert each.options.items() <= options.items()
        assert each.compiled == "compiled"
        assert sorted(tuple(x.shape) for x in given) == sorted(shapes)
        assert {x.dtype for x in given if x.shape[-1] > 3 and x.is_floating_point()} <= {torch.bfloat16, torch.float32}
        if "attention" in kernel and "window" not in kernel:
            assert options["CAUSAL"] is False
            assert bool(options["DROPPED"]) == ("dropout" in kernel)
            assert any(x == pytest.approx(1.4426950408889634 / 8) for x in arguments if isinstance(x, float))


def test_compiling_for_a_target_ends_with_its_block():
    run, driver = JITFunction.run, triton.runtime.driver._active
    exact = {}
    for target in ("sm_90", "sm_80"):
        with pytest.raises(KeyError), compiling_only(GPUS[target].target) as launches:  # noqa: PT012
            assert triton.runtime.driver.active.get_current_target() == GPUS[target].target
            exact[target] = launch.exact_on_tensor_cores()
            assert launches == []
            raise KeyError
        assert JITFunction.run is run
        assert triton.runtime.driver._active is driver
    assert exact == {"sm_90": True, "sm_80": False}


@pytest.mark.parametrize(
    ("kernel", "shape", "dtype", "words"),
    [
        ("attention", (1, 1, 1, 128), "bfloat16", None),
        ("attention", (1, 1, 1, 129), "float16", "heads have up to 128 channels"),
        ("attention", (1, 1, 1, 64), "float32", None),
        ("attention", (1, 1, 1, 65), "float32", "attention takes no 1,1,1,65 in float32: heads have up to 64"),
        ("attention_backward", (1, 1, 1, 128), "bfloat16", None),
        ("window_attention", (1, 56, 56, 3, 128, 7, 6), "bfloat16", None),
        ("window_attention", (1, 56, 56, 3, 32, 7, 7), "bfloat16", "the shift is less than the window"),
        ("window_attention", (1, 56, 56, 3, 32, 9, 0), "bfloat16", None),
        ("window_attention_backward", (1, 56, 56, 3, 32, 8, 7), "bfloat16", None),
        ("window_attention_backward", (1, 56, 56, 3, 32, 9, 1), "bfloat16", "windows of up to 8"),
        ("window_attention_backward", (1, 56, 56, 3, 33, 7, 1), "bfloat16", "heads have up to 32 channels"),
        ("convolution", (1, convolution.TAPS, 8, convolution.TAPS, 5), "bfloat16", None),
        ("convolution", (1, 99, 8, convolution.TAPS + 1, 5), "bfloat16", "and no more than a clip has samples"),
        ("convolution", (1, 3, 8, 4, 5), "bfloat16", f"the filter has up to {convolution.TAPS} taps"),
        ("convolution", (1, 4, 8, 4, 1), "bfloat16", None),
        ("layer_norm_backward", (1, 8192), "float16", None),
        ("layer_norm_backward", (1, 8193), "float16", "rows have 8193 channels"),
        ("merge_layer_norm_backward", (1, 1, 1, 2048), "float16", None),
        ("merge_layer_norm_backward", (1, 1, 1, 2049), "float16", "rows have 8196 channels"),
        ("bias_gelu", (1, 99_999), "float32", None),
        ("bias_gelu", (1, 0), "float32", "The shape of bias_gelu is rows,width, not 1,0"),
        ("bias_gelu", (1, 1, 1), "float32", "The shape of bias_gelu is rows,width, not 1,1,1"),
        ("bias_gelu", (1,), "float32", "The shape of bias_gelu is rows,width, not 1"),
        ("bias_gelu", (1, 1), "float64", "The dtype is float64"),
        ("gelu", (1, 1), "float32", "There is no kernel 'gelu'; there are attention, attention_backward"),
    ],
)  # fmt: skip
def test_the_limits_of_a_shape(kernel, shape, dtype, words, monkeypatch):
    """On both sides; where kernels are interpreted, another process is asked."""
    monkeypatch.setattr(module, "INTERPRETED", True)
    monkeypatch.setattr(module, "_elsewhere", lambda *question: question)
    if words is None:
        assert report(kernel, shape, dtype, "sm_80") == ("report", kernel, shape, dtype, "sm_80")
    else:
        with pytest.raises(ValueError, match=re.escape(words)):
            report(kernel, shape, dtype, "sm_80")


@triton.jit
def _scaled(x, out, size, FACTOR: tl.constexpr):  # noqa: N803
    place = tl.program_id(0) * 1024 + tl.arange(0, 1024)
    tl.store(out + place, tl.load(x + place, mask=place < size) * FACTOR, mask=place < size)


SCALED = {"x": "*fp32:16", "out": "*fp32:16", "size": "i32:16"}


def test_addresses_that_are_multiples_of_16_are_read_16_bytes_at_a_time():
    def opcodes(**types):
        (part,) = of_kernel(_scaled, {**SCALED, **types}, {"FACTOR": 3.0}, 7, num_warps=2).parts
        return part.opcodes

    assert opcodes()["LDG.E.128"] == 1024 // (2 * 32 * 4)
    assert opcodes(x="*fp32")["LDG.E"] == 1024 // (2 * 32)
    found = of_kernel(_scaled, SCALED, {"FACTOR": 3.0}, 7, moved=5, flops=6, target="sm_80")
    assert (found.kernel, found.programs, found.warps, found.moved, found.flops) == ("scaled", 7, 4, 5, 6)
    assert found.target == "sm_80"
    assert opcodes()["FMUL"] == 1024 // (2 * 32)
    with pytest.raises(ValueError, match="The target is sm_70; reports are made for sm_80, "):
        of_kernel(_scaled, SCALED, {"FACTOR": 3.0}, 7, target="sm_70")


@pytest.fixture
def another_process(monkeypatch):
    """Where kernels are interpreted, who is asked: this process, as another one that compiles."""
    asked = []

    inspect = subprocess.run

    def run(command, *, input=None, env=None, **options):
        if input is None:
            return inspect(command, **options)
        asked.append((command, env))
        printed = io.TextIOWrapper(io.BytesIO(), "utf-8")
        with monkeypatch.context() as patch:
            patch.setattr(module, "INTERPRETED", False)
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(input)))
            patch.setattr(sys, "stdout", printed)
            module._answer()
        return SimpleNamespace(stdout=printed.buffer.getvalue())

    monkeypatch.setattr(triton.knobs.runtime, "interpret", triton.knobs.runtime.interpret)
    monkeypatch.setattr(module, "INTERPRETED", True)
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setenv("KEPT", "yes")
    monkeypatch.setattr(sys, "path", [*sys.path, "tests"])
    return asked


def test_another_process_counts_where_this_one_interprets(another_process):
    """It gets what this one has but the interpreter, and its errors are raised here."""
    (found,) = report("bias_gelu", (5, 96), "float32", "sm_80")
    command, environment = another_process.pop()
    assert command[:2] == [sys.executable, "-c"]
    assert "TRITON_INTERPRET" not in environment
    assert environment["KEPT"] == "yes"
    assert all(Path(each).is_absolute() for each in environment["PYTHONPATH"].split(os.pathsep))
    assert (found.kernel, found.target, found.moved) == ("bias_gelu_forward", "sm_80", 2 * 5 * 96 * 4)
    with pytest.raises(ValueError, match=r"has 0 loops \(instructions: none\), and turns are given for 1"):
        of_kernel(_scaled, SCALED, {"FACTOR": 3.0}, 7, (3,), moved=4)


def test_a_kernel_of_a_module_is_that_of_the_module():
    """Whatever its file is: it may import its neighbours."""
    assert module._load(convolution.__name__, "none.py", "convolution") is convolution.convolution


def test_another_process_that_ends_early_says_so(monkeypatch, tmp_path):
    (tmp_path / "python").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(module, "INTERPRETED", True)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(subprocess.CalledProcessError, match="exit status 1"):
        report("bias_gelu", (5, 96), "float32", "sm_80")


def test_a_kernel_of_the_program_itself_is_found_by_its_file(another_process, tmp_path):
    """Whatever that prints is no answer."""
    file = tmp_path / "program.py"
    file.write_text(
        "import triton\nimport triton.language as tl\nprint('hello')\n\n@triton.jit\ndef _one(out):\n"
        "    tl.store(out, 1.0)\n"
    )
    code = compile("def _one(out): pass", str(file), "exec")
    program = {"__name__": "__main__"}
    exec(code, program)
    found = of_kernel(SimpleNamespace(fn=program["_one"]), {"out": "*fp32"}, {}, 3, target="sm_80", num_warps=1)
    assert (found.kernel, found.programs, found.warps) == ("one", 3, 1)
    assert found.parts[0].opcodes["STG.E"] == 1


def test_the_command_line_asks_for_what_it_is_told(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(module, "report", lambda *question: asked.append(question) or ("one", "two"))
    for words in ("--shape 3,4", "--shape 12 --dtype float16 --target sm_80"):
        monkeypatch.setattr(sys, "argv", ["report", "bias_gelu", *words.split()])
        main()
        assert capsys.readouterr().out == "one\n\ntwo\n"
    assert asked == [("bias_gelu", [3, 4], "bfloat16", "sm_90"), ("bias_gelu", [12], "float16", "sm_80")]
    monkeypatch.setattr(sys, "argv", ["report", "bias_gelu"])
    with pytest.raises(SystemExit):
        main()
    assert "--shape" in capsys.readouterr().err
