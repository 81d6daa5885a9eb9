"""The lab's counts beside arithmetic, on ten kernels, and beside the compiled code where both speak."""

import runpy

import lab
import pytest
import torch
from minitrans.kernels.attention import attention
from minitrans.kernels.bias_gelu import bias_gelu
from minitrans.kernels.convolution import convolution
from minitrans.kernels.embedding_layer_norm import embedding_layer_norm
from minitrans.kernels.layer_norm import add_layer_norm, residual_layer_norm
from minitrans.kernels.merge_layer_norm import merge_layer_norm
from minitrans.kernels.window_attention import window_attention


def lesson(number, function):
    return runpy.run_path(str(next(lab.LESSONS.glob(f"{number}_*.py"))))[function]


def randn(*shape):
    return torch.randn(shape)


def index(*shape):
    return torch.randint(4, shape)


def packed(length):
    return *randn(length, 3, 2, 32).unbind(1), torch.tensor([0]), torch.tensor([length]), length


# A launcher, its arguments, and what it has to do by arithmetic. A tile computes its masked lanes as well.
KERNELS = {
    "a sum": (lesson("00", "add"), (randn(1000), randn(1000)), {
        "programs": 4, "read": 8000, "written": 4000, "distinct": 12000, "sectors": 375, "other_flops": 1024,
    }),
    "softmax of columns": (lesson("01", "softmax"), (randn(64, 32), 0), {
        "programs": 32, "bytes": 2 * 64 * 32 * 4, "sectors": 2 * 64 * 32, "powers": 64 * 32, "reductions": 64,
        "other_flops": 2 * 64 * 32 + 2 * 63 * 32,
    }),
    "a product in tiles": (lesson("04", "product"), (randn(64, 96), randn(96, 32), 32), {
        "programs": 2, "trips": 2 * 96 // 16, "read": 2 * (32 * 96 + 96 * 32) * 4, "written": 64 * 32 * 4,
        "dot_flops": 2 * 64 * 32 * 96, "other_flops": 0,
    }),
    "attention in a loop": (lesson("06", "attention"), (randn(1, 2, 48, 16),) * 3, {
        "programs": 6, "trips": 18, "bytes": 2 * (2 + 2 * 3) * 48 * 16 * 4, "distinct": 2 * 2 * 48 * 16 * 4,
        "dot_flops": 2 * 4 * 48 * 48 * 16, "powers": 2 * (48 * 48 + 3 * 48), "reductions": 36,
    }),
    "the tile list": (lesson("09", "attention"), (randn(20, 3, 1, 16), torch.tensor([17, 1, 2])), {
        "programs": 4, "idle": 0, "trips": 2 * 2 + 1 + 1, "written": 20 * 16 * 4,
    }),
    "bias_gelu": (bias_gelu, (randn(10, 96).half(), randn(96).half()), {
        "programs": 5, "read": (10 * 96 + 5 * 96) * 2, "written": 10 * 96 * 2, "powers": 5 * 2 * 128,
    }),
    "add_layer_norm": (add_layer_norm, (randn(16, 96), randn(16, 96), randn(96), randn(96), 1e-5), {
        "programs": 2, "read": 2 * 16 * 96 * 4 + 2 * 2 * 96 * 4, "written": 16 * 96 * 4, "reductions": 4,
    }),
    "residual_layer_norm": (residual_layer_norm, (randn(16, 96), randn(16, 96), randn(96), randn(96), 1e-5), {
        "written": 2 * 16 * 96 * 4, "distinct": 4 * 16 * 96 * 4 + 2 * 96 * 4,
    }),
    "embedding_layer_norm": (
        embedding_layer_norm, (index(6), index(6), index(6), *randn(3, 4, 768), *randn(2, 768), 1e-5), {
        "programs": 6, "read": 6 * (3 * 8 + 3 * 768 * 4 + 2 * 768 * 4), "written": 6 * 768 * 4,
    }),
    "merge_layer_norm": (merge_layer_norm, (randn(1, 4, 6, 48), randn(192), randn(192), 1e-5), {
        "read": 4 * 6 * 48 * 4 + 2 * 2 * 192 * 4, "written": 4 * 6 * 48 * 4, "programs": 2,
    }),
    "window_attention": (window_attention, (randn(1, 14, 7, 3, 2, 16), randn(169, 2), 7, 0, None), {
        "programs": 4, "dot_flops": 4 * 4 * 64 * 64 * 16, "powers": 4 * 64 * 64, "written": 14 * 7 * 32 * 4,
        "distinct": 4 * 14 * 7 * 32 * 4 + 169 * 2 * 4,
    }),
    "attention, shipped": (attention, packed(128), {
        "programs": 2, "dot_flops": 2 * 4 * 128 * 128 * 32, "powers": 2 * (128 * 128 + 2 * 128),
    }),
    "convolution": (convolution, (randn(100, 1), randn(32, 10, 1), randn(32), 5, 1, None), {"written": 19 * 32 * 4}),
}  # fmt: skip


@pytest.mark.parametrize(("launcher", "arguments", "expected"), KERNELS.values(), ids=KERNELS)
def test_counts_are_what_arithmetic_says(launcher, arguments, expected):
    _, counts = lab.count(launcher, *arguments)
    assert {name: getattr(counts, name) for name in expected} == expected


def test_atomics_read_and_write_and_explicit_barriers_count():
    source = runpy.run_path(str(lab.LESSONS.parents[1] / "tests" / "lab" / "atomic.py"))
    total = torch.zeros(1)
    _, counts = lab.count(source["add_up"], torch.arange(64.0), total)
    assert total.item() == 64 * 63 / 2
    assert (counts.bytes_of("x"), counts.bytes_of("total", written=False), counts.bytes_of("total", written=True)) == (
        256, 16, 16,
    )  # fmt: skip
    assert counts.barriers == counts.programs == 4


def test_the_compiled_code_agrees_on_products_powers_and_loads():
    """What a warp executes, times its 32 lanes and all warps, beside what the interpreter saw."""
    tile, width = 64, 64
    code = lab.compiled(lesson("07", "attention"), *[lab.empty(1, 1, tile, width)] * 3, tile, turns=(1, 0))
    _, counts = lab.count(lesson("07", "attention"), *(randn(1, 1, tile, width) for _ in range(3)), tile)
    warps = code.report.programs * code.report.warps
    # A warpgroup's product, 64 × 64 × 16, is one instruction in each of its four warps.
    assert code.number("HGMMA.64x64x16") * warps / 4 * 2 * 64 * 64 * 16 == counts.dot_flops
    # Each of four lanes that share a row has its own copy of the row's shrinking.
    assert code.number("MUFU.EX2") * warps * 32 == tile * tile + 4 * tile
    assert counts.powers == tile * tile + tile

    code = lab.compiled(lesson("03", "gelu"), lab.empty(8192, dtype=torch.float16), False)
    _, counts = lab.count(lesson("03", "gelu"), randn(8192).half(), False)
    lanes = code.report.programs * code.report.warps * 32
    assert code.number("MUFU.EX2") * lanes == counts.powers
    assert (code.number("LDG.E.128") * lanes * 16, code.number("STG.E.128") * lanes * 16) == (
        counts.read, counts.written,
    )  # fmt: skip


def test_a_kernel_that_leaves_its_memory_is_stopped_before_it_harms():
    memory = torch.zeros(4096)
    x, out = memory[:1000].clone(), torch.zeros(1000)
    kernel = lesson("00", "add_without_mask")
    with pytest.raises(lab.KernelError, match=r"Program \(3, 0, 0\) of add_without_mask reads 24 elements outside x"):
        lab.count(kernel[(4,)], x, x, out, 256)


def test_pictures_show_what_a_program_touches():
    x = randn(16, 16)
    _, counts = lab.count(lesson("01", "softmax"), x, 1)
    picture = counts.picture(x, program=3)
    assert str(picture).splitlines()[1:] == ["·" * 16] * 3 + ["r" * 16] + ["·" * 16] * 12
    assert picture._repr_svg_().count("#1e88e5") == 16
    _, counts = lab.count(lesson("01", "softmax"), x, 0)
    assert [row[3] for row in str(counts.picture(x, 3)).splitlines()[1:]] == ["r"] * 16


def test_comparisons_say_how_far_a_prediction_was(capsys):
    lab.compare("bytes", 100, 100, 150)
    lab.compare("bytes", 100, 100, 100)
    lab.compare("bytes", 100, 100)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("; ")[-1] for line in lines] == [
        "you predicted 150, 50% off", "you predicted 100, right", "write your prediction down",
    ]  # fmt: skip
    with pytest.raises(lab.KernelError, match="bytes: counted 100, but arithmetic says 90"):
        lab.compare("bytes", 100, 90)


def test_results_are_held_to_torchs_own_error_shape_and_dtype():
    x = randn(1000)
    lab.check(x, x.double(), x)
    for wrong, sentence in (
        (x + 1e-5, "relative error"),
        (x[:10], r"\(10,\)"),
        (x.double(), "float64"),
        (torch.where(x > 2, torch.nan, x), "not finite"),
    ):
        with pytest.raises(lab.KernelError, match=sentence):
            lab.check(wrong, x.double(), x)
