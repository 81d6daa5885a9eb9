"""What launchers decide before a kernel runs: whether it may, in how many programs, and with which options."""

from types import SimpleNamespace

import pytest
import torch
from minitrans.kernels import (
    attention,
    bias_gelu,
    convolution,
    embedding_layer_norm,
    launch,
    layer_norm,
    merge_layer_norm,
    window_attention,
)
from minitrans.kernels.report import compiling_only
from torch._subclasses import FakeTensorMode
from triton.backends.compiler import GPUTarget

LIMIT = 65535
"""Programs along the second and third dimension of a grid, by CUDA's programming guide."""


@pytest.fixture(autouse=True)
def _asked_anew():
    launch.forget_target()
    yield
    launch.forget_target()


@pytest.fixture
def interpreted(monkeypatch):
    """Launchers and `why_not` take tensors on the CPU, as in Triton's interpreter."""
    monkeypatch.setattr(launch, "INTERPRETED", True)
    monkeypatch.setattr(launch, "why_no_interpreter", lambda: None)


@pytest.fixture
def launched(interpreted, monkeypatch):
    """What a module would launch: the arguments and options by name, the grid and the kernel. Nothing runs."""

    def of(module):
        seen = []

        def remember(kernel, grid, *arguments, **options):
            named = dict(zip(kernel.arg_names, arguments, strict=False))
            seen.append(named | options | {"grid": grid, "kernel": kernel.__name__})

        monkeypatch.setattr(module, "launch", remember)
        return seen

    return of


@pytest.mark.parametrize("module", [attention, window_attention])
def test_tiles_are_what_a_compiler_takes(module):
    """Powers of two; a dot product takes 16 rows and columns at least."""
    tables = [value for name, value in vars(module).items() if name.isupper() and isinstance(value, dict)]
    tiles = [row for table in tables for row in table.values() if isinstance(row, launch.Tiles)]
    assert len(tiles) >= 14
    for rows, columns, warps, stages in tiles:
        assert {rows.bit_count(), columns.bit_count(), warps.bit_count()} == {1}
        assert min(rows, columns) >= 16
        assert 1 <= warps <= 16
        assert stages >= 1


@pytest.fixture
def matmul():
    """What torch's matrix products may do on a GPU, put back afterwards."""
    settings = torch.backends.cuda.matmul
    before = settings.fp32_precision
    yield settings
    settings.fp32_precision = before


def tensor_on(device, dtype=torch.float16, requires_grad=False):
    """What is asked of a tensor on a device that is not here."""
    return SimpleNamespace(device=torch.device(device), dtype=dtype, requires_grad=requires_grad)


# The machine


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    ("capability", "new_enough"), [((7, 5), False), ((8, 0), True), ((8, 9), True), ((9, 0), True)]
)
def test_kernels_run_on_nvidia_gpus_from_ampere_on(capability, new_enough, dtype, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.version, "hip", None)
    reason = launch.why_not_here([tensor_on("cuda", dtype)])
    assert (reason is None) == new_enough
    assert new_enough or "older than compute capability 8.0" in reason


def test_an_amd_gpu_is_not_asked_for_its_compute_capability(monkeypatch):
    monkeypatch.setattr(torch.version, "hip", "6.4")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (0, 0))
    assert launch.why_not_here([tensor_on("cuda")]) is None


def test_why_no_kernel_runs_here(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert "on the CPU" in launch.why_not_here([tensor_on("cpu")])
    assert "on 'mps'" in launch.why_not_here([tensor_on("mps")])
    for dtype in (torch.float64, torch.int32):
        assert f"the dtype is {dtype}" in launch.why_not_here([tensor_on("cuda", dtype)])
    assert "cuda:0 and cpu" in launch.why_not_here([tensor_on("cuda:0"), None, tensor_on("cpu")])
    assert "float16 and torch.float32" in launch.why_not_here([tensor_on("cuda"), tensor_on("cuda", torch.float32)])
    assert launch.why_not_here([None]) is None
    assert launch.why_not_here([None, tensor_on("cuda"), tensor_on("cuda")]) is None


def test_the_interpreter_takes_no_bfloat16_and_no_other_device(interpreted):
    assert launch.why_not_here([torch.zeros(1)]) is None
    assert launch.why_not_here([torch.zeros(1).half()]) is None
    assert "bfloat16" in launch.why_not_here([torch.zeros(1).bfloat16()])
    assert "on 'meta'" in launch.why_not_here([torch.zeros(1, device="meta")])


def test_a_kernel_without_a_backward_pass_refuses_where_a_gradient_is_wanted(interpreted):
    plain, wanted = torch.zeros(2), torch.zeros(2, requires_grad=True)
    for tensors in ([wanted, plain], [plain, wanted], [wanted, wanted]):
        assert "no backward pass" in launch.why_not_here(tensors)
        assert launch.why_not_here(tensors, backward=True) is None
        with torch.no_grad():
            assert launch.why_not_here(tensors) is None
    assert launch.why_not_here([plain, plain]) is None


@pytest.mark.parametrize(
    ("target", "exact", "tf32"),
    [
        (GPUTarget("cuda", 80, 32), "ieee", "tf32"),
        (GPUTarget("cuda", 89, 32), "ieee", "tf32"),
        (GPUTarget("cuda", 90, 32), "tf32x3", "tf32"),
        (GPUTarget("cuda", 100, 32), "ieee", "tf32"),
        (GPUTarget("hip", "gfx90a", 64), "ieee", "ieee"),
        (GPUTarget("hip", "gfx942", 64), "ieee", "ieee"),
    ],
)
def test_products_of_float32_are_exact_unless_torch_may_use_tf32(target, exact, tf32, matmul):
    """Triton compiles TF32 for one AMD target alone; three products in it are fast by the warpgroup's instruction."""
    with compiling_only(target):
        for setting, expected in (("ieee", exact), ("tf32", tf32)):
            matmul.fp32_precision = setting
            assert launch.dot_precision(torch.float32) == expected
            assert launch.dot_precision(torch.float16) is None
            assert launch.dot_precision(torch.bfloat16) is None
        assert launch.exact_on_tensor_cores() == (exact == "tf32x3")


def test_a_question_about_the_machine_is_asked_once_until_it_is_another(monkeypatch):
    asked = []
    question = launch.asked_once(lambda *arguments: asked.append(arguments))
    question(1), question(1), question(2)
    launch.forget_target()
    question(1)
    assert asked == [(1,), (2,), (1,)]


@pytest.mark.parametrize(
    ("triton", "numpy", "fails"),
    [
        ("3.6.0", "2.4.0", True), ("3.6.0", "2.3.9", False), ("3.7.0", "2.4.0", False), ("2.9.1", "2.4.1", True),
        ("3.6.0", "1.26.4", False), ("3.6.0", "3.0.0", True), ("4.0.0", "3.0.0", False),
        ("3.6.1rc1", "2.4.0rc1", True), ("3.7.0rc2", "2.4.0.dev0", False),
    ],
)  # fmt: skip
def test_an_interpreter_that_is_older_than_numpy(triton, numpy, fails, monkeypatch):
    monkeypatch.setattr(launch, "triton", SimpleNamespace(__version__=triton))
    monkeypatch.setattr(launch, "version", lambda package: numpy)
    assert (launch.why_no_interpreter() is not None) == fails


# Arguments


def test_indices_are_whole_numbers_on_the_same_device():
    cpu = torch.device("cpu")
    for dtype in (torch.int32, torch.int64):
        assert launch.why_not_indices((None, torch.zeros(2, dtype=dtype)), cpu) is None
    for dtype in (torch.int16, torch.uint8, torch.bool, torch.float32):
        assert f"dtype of indices is {dtype}" in launch.why_not_indices((torch.zeros(2, dtype=dtype), None), cpu)
    there = torch.zeros(2, dtype=torch.int64, device="meta")
    assert "indices are on meta, the rest on cpu" in launch.why_not_indices((None, torch.zeros(2).int(), there), cpu)


def test_sizes_are_named():
    pair = torch.zeros(2, 3)
    assert launch.why_not_sizes(a=(None, (1,)), b=(pair, (2, 3))) is None
    assert launch.why_not_sizes(a=(pair, (2, 3)), b=(pair, (3, 2))) == "b is (2, 3), not (3, 2)"
    assert launch.why_not_sizes(a=(pair, (2, 3, 1)), b=(None, ())) == "a is (2, 3), not (2, 3, 1)"


def norm_of(width, *, rows=1, wanted=False):
    return torch.zeros(rows, width, requires_grad=wanted), torch.ones(width), torch.ones(width), 1e-5


@pytest.mark.parametrize("wanted", [False, True])
def test_rows_are_as_wide_as_registers_hold(wanted, interpreted):
    """Up to 16384 channels, with gradients 8192."""
    widest = 8192 if wanted else 16384
    x, weight, bias, eps = norm_of(widest, wanted=wanted)
    wider, *rest = norm_of(widest + 1, wanted=wanted)
    words = f"rows have {widest + 1} channels; a program holds up to {widest}"
    assert layer_norm.why_not(x, weight, bias, eps) is None
    assert layer_norm.why_not(x, x, weight, bias, eps) is None
    assert layer_norm.why_not(wider, *rest) == words
    merged = x.view(1, 1, 1, -1)[..., : widest // 4]
    assert merge_layer_norm.why_not(merged, weight, bias, eps) is None
    assert f"rows have {widest + 4}" in merge_layer_norm.why_not(wider[None, None, :, : widest // 4 + 1], *rest)
    ids = torch.zeros(3).long()
    assert embedding_layer_norm.why_not(ids, ids, None, x, x, None, weight, bias, eps) is None
    assert embedding_layer_norm.why_not(ids, ids, None, wider, wider, None, *rest) == words
    with torch.no_grad():  # in which no gradient is wanted
        assert layer_norm.why_not(*norm_of(16384, wanted=True)) is None


@pytest.mark.parametrize("place", range(3))
def test_each_of_a_norm_s_tensors_may_want_a_gradient(place, interpreted):
    arguments = list(norm_of(10_000))
    assert layer_norm.why_not(*arguments) is None
    arguments[place].requires_grad_()
    assert "up to 8192" in layer_norm.why_not(*arguments)


@pytest.mark.parametrize("name", ["position", "type_", "weight", "bias"])
def test_tables_of_another_width_are_named(name, interpreted):
    ids = torch.zeros(3).long()
    given = {"word": torch.ones(5, 8), "position": torch.ones(4, 8), "type_": torch.ones(2, 8),
             "weight": torch.ones(8), "bias": torch.ones(8)}  # fmt: skip
    assert embedding_layer_norm.why_not(ids, ids, ids, **given, eps=1e-5) is None
    given[name] = given[name][..., :7].contiguous()
    assert embedding_layer_norm.why_not(ids, ids, ids, **given, eps=1e-5).startswith(f"{name} is ")


@pytest.mark.parametrize("name", ["word", "position", "type_"])
def test_tables_are_contiguous(name, interpreted):
    ids = torch.zeros(3).long()
    given = {"word": torch.ones(5, 8), "position": torch.ones(4, 8), "type_": torch.ones(2, 8)}
    given[name] = given[name].T.contiguous().T
    reason = embedding_layer_norm.why_not(ids, ids, ids, **given, weight=torch.ones(8), bias=torch.ones(8), eps=1e-5)
    assert reason == "a table is not contiguous"


@pytest.mark.parametrize("name", ["positions", "types"])
def test_indices_have_one_shape(name, interpreted):
    indices = dict.fromkeys(("ids", "positions", "types"), torch.zeros(3).long()) | {name: torch.zeros(1, 3).long()}
    tables = dict.fromkeys(("word", "position", "type_"), torch.ones(4, 8))
    weights = dict.fromkeys(("weight", "bias"), torch.ones(8))
    assert "not of one shape" in embedding_layer_norm.why_not(**indices, **tables, **weights, eps=1e-5)


def test_a_merged_row_s_weight_and_bias_have_four_times_the_channels(interpreted):
    x, weight = torch.zeros(1, 2, 2, 8), torch.ones(32)
    assert merge_layer_norm.why_not(x, weight, weight, 1e-5) is None
    assert merge_layer_norm.why_not(x, weight[:31], weight, 1e-5) == "weight is (31,), not (32,)"
    assert merge_layer_norm.why_not(x, weight, weight[:31], 1e-5) == "bias is (31,), not (32,)"


@pytest.mark.parametrize("dilation", [0, 2])
def test_a_convolution_is_not_dilated(dilation, interpreted):
    rows, weight = torch.zeros(40, 1), torch.zeros(8, 10, 1)
    assert convolution.why_not(rows, weight, torch.zeros(8), 5, 1, "linear") is None
    assert "no dilation" in convolution.why_not(rows, weight, None, 5, dilation, "linear")
    assert "at most 16 taps" in convolution.why_not(rows, torch.zeros(8, 17, 1), None, 5, 1, "linear")
    assert convolution.why_not(rows, torch.zeros(8, 16, 1), None, 5, 1, "linear") is None
    assert "bias is (7,), not (8,)" in convolution.why_not(rows, weight, torch.zeros(7), 5, 1, "linear")
    assert bias_gelu.why_not(rows, torch.zeros(1, requires_grad=True)) is None


# Attention


def rows_of(heads, head_dim, dtype=torch.float32, rows=3):
    return dict(zip("qkv", torch.zeros(rows, 3, heads, head_dim, dtype=dtype).unbind(1), strict=True)) | {
        "starts": torch.tensor([0]), "lengths": torch.tensor([rows]), "longest": rows,
    }  # fmt: skip


@pytest.mark.parametrize(("dtype", "largest"), [(torch.float32, 64), (torch.float16, 128)])
def test_heads_are_as_wide_as_registers_hold(dtype, largest, interpreted):
    assert attention.why_not(**rows_of(2, largest, dtype)) is None
    assert f"head size is {largest + 1}" in attention.why_not(**rows_of(2, largest + 1, dtype))
    qkv, table = torch.zeros(1, 7, 7, 3, 2, largest, dtype=dtype), torch.zeros(169, 2, dtype=dtype)
    assert window_attention.why_not(qkv, table, 7, 0, None) is None
    wider = torch.zeros(1, 7, 7, 3, 2, largest + 1, dtype=dtype)
    assert f"head size is {largest + 1}" in window_attention.why_not(wider, table, 7, 0, None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("name", ["qkv", "table", "padding"])
def test_windows_with_gradients_are_small(name, dtype, interpreted):
    """Heads of up to 32 channels and windows of up to 8, whichever tensor the gradient is of."""

    def reason(head_dim, window):
        given = {"qkv": torch.zeros(1, 9, 9, 3, 1, head_dim, dtype=dtype), "padding": None,
                 "table": torch.zeros((2 * window - 1) ** 2, 1, dtype=dtype)}  # fmt: skip
        given |= {"padding": torch.zeros(3, 1, head_dim, dtype=dtype)} if name == "padding" else {}
        given[name].requires_grad_()
        return window_attention.why_not(given["qkv"], given["table"], window, 0, given["padding"])

    assert reason(32, 8) is None
    assert "head size is 33" in reason(33, 8)
    assert "windows of up to 8, not 9" in reason(32, 9)


@pytest.mark.parametrize("name", ["q", "k", "v", "bias"])
def test_the_last_dimension_is_contiguous(name, interpreted):
    given = rows_of(2, 16) | {"bias": torch.zeros(2, 3, 3)}
    assert attention.why_not(**given) is None
    given[name] = torch.zeros(*given[name].shape[:-1], 2 * given[name].shape[-1])[..., ::2]
    assert "not contiguous" in attention.why_not(**given)


@pytest.mark.parametrize("name", ["k", "v"])
@pytest.mark.parametrize("shape", [(2, 2, 16), (4, 2, 16), (3, 1, 16), (3, 2, 8)])
def test_keys_and_values_have_the_shape_of_queries(name, shape, interpreted):
    reason = attention.why_not(**(rows_of(2, 16) | {name: torch.zeros(shape)}))
    assert reason == f"{name} is {shape}, not (3, 2, 16)"


@pytest.mark.parametrize(
    ("shape", "fits"),
    [((2, 3, 3), True), ((1, 2, 3, 3), True), ((2, 4, 5), True), ((2, 2, 3), False), ((2, 3, 2), False),
     ((1, 3, 3), False), ((2, 2, 3, 3), False), ((1, 1, 3, 3), False), ((3, 3), False), ((1, 1, 2, 3, 3), False)],
)  # fmt: skip
def test_a_bias_has_a_number_for_each_head_query_and_key(shape, fits, interpreted):
    reason = attention.why_not(**rows_of(2, 16), bias=torch.zeros(shape))
    assert (reason is None) == fits
    assert fits or f"the bias is {shape}; the kernel takes one number a head, query and key" == reason


def test_a_bias_on_another_gpu_is_refused(interpreted, monkeypatch):
    """As both would be where each alone is fine: a device that is not here stands for the other."""
    monkeypatch.setattr(attention, "why_not_here", lambda *_, **__: None)
    reason = attention.why_not(**rows_of(2, 16), bias=torch.zeros(2, 9, 9, device="meta"))
    assert reason == "the bias is on meta, q on cpu"
    assert attention.why_not(**rows_of(2, 16), bias=torch.zeros(2, 9, 9)) is None


@pytest.mark.parametrize(("dropout", "fits"), [(0, True), (1e-9, True), (1, True), (-1e-9, False), (1 + 1e-9, False)])
def test_dropout_is_a_probability(dropout, fits, interpreted):
    assert (attention.why_not(**rows_of(1, 16), dropout=dropout) is None) == fits


@pytest.mark.parametrize(("scale", "fits"), [(None, True), (1e-9, True), (3.0, True), (0.0, False), (-1e-9, False)])
def test_the_scale_is_positive(scale, fits, interpreted):
    assert (attention.why_not(**rows_of(1, 16), scale=scale) is None) == fits


def test_float32_attention_is_for_the_gpus_whose_exact_products_are_fast(monkeypatch):
    monkeypatch.setattr(attention, "why_not_here", lambda *_, **__: None)
    for arch, fits in ((80, False), (90, True), (100, False)):
        with compiling_only(GPUTarget("cuda", arch, 32)):
            assert (attention.why_not(**rows_of(1, 16)) is None) == fits
            assert attention.why_not(**rows_of(1, 16, torch.float16)) is None


@pytest.mark.parametrize("name", ["q", "k", "v"])
def test_a_sequence_s_offsets_have_32_bits(name, interpreted):
    """Rows of 64 elements, and as many heads of 32 more, are at most 2³¹, whichever tensor has them."""
    given = rows_of(2, 16) | dict.fromkeys("qkv", torch.zeros(3, 2, 16))
    given[name] = torch.zeros(3, 2, 32)[..., :16]
    longest = (2**31 - 2 * 32) // 64
    assert attention.why_not(**(given | {"longest": longest})) is None
    assert "offsets in it have 32 bits" in attention.why_not(**(given | {"longest": longest + 1}))


def test_the_output_s_and_the_bias_s_offsets_have_32_bits(interpreted):
    given = rows_of(4, 16) | dict.fromkeys("qkv", torch.zeros(1, 1, 16).expand(3, 4, 16))
    assert attention.why_not(**(given | {"longest": 2**31 // 64})) is None
    assert "32 bits" in attention.why_not(**(given | {"longest": 2**31 // 64 + 1}))
    with FakeTensorMode():  # strides without memory: 2 · longest² elements of one head are 2³¹
        for longest, fits in ((2**15, True), (2**15 + 1, False)):
            reason = attention.why_not(**(rows_of(1, 16, rows=longest)), bias=torch.empty(1, longest, longest))
            assert (reason is None) == fits
            assert fits or "32 bits" in reason


def test_an_image_s_and_a_table_s_offsets_have_32_bits(interpreted):
    with FakeTensorMode():
        for height, fits in ((2**12, True), (2**12 + 1, False)):  # 2¹² · 2¹² · 3 · 2 · 64 / 3 elements of q are 2³¹
            qkv = torch.empty(2, height, 2**12, 1, 2, 64)
            reason = window_attention.why_not(qkv, torch.empty(9, 2), 2, 1, None)
            assert (reason is None) == fits
            assert fits or "an image's q, k and v are more than 2147483648 elements" in reason
        for heads, fits in ((2**17, True), (2**17 + 1, False)):  # tiles of 64 past windows of 64: 2¹⁷ · 128² = 2³¹
            reason = window_attention.why_not(torch.empty(1, 1, 1, 3, heads, 1), torch.empty(225, heads), 8, 0, None)
            assert (reason is None) == fits
            assert fits or "windows of 8 have more than 2147483648 biases" in reason


@pytest.mark.parametrize(("sequences", "each_alone"), [(LIMIT, True), (LIMIT + 1, False), (200_000, False)])
def test_a_grid_of_many_sequences_ends_in_time(sequences, each_alone, launched):
    seen = launched(attention)
    q, k, v = torch.zeros(sequences, 3, 1, 16).unbind(1)
    starts, lengths = torch.arange(sequences), torch.ones(sequences).long()
    attention.attention(q, k, v, starts, lengths, 1, width=1)
    [call] = seen
    head, *rest = call["grid"]
    assert head == 1
    assert max(rest) <= LIMIT
    assert (rest == [1, sequences]) == each_alone
    assert call["tiles_each"] == each_alone
    assert rest[0] * rest[1] - sequences in range(LIMIT)  # none is missing, and less than a line of them is too much


def test_a_grid_has_the_programs_that_the_least_favourable_lengths_need(launched):
    """The host does not read lengths: so many sequences of so many rows can have as many tiles of 64 rows."""
    seen = launched(attention)
    for lengths, tiles in (([1] * 5, 5), ([128], 2), ([64, 64, 1], 4), ([64, 65], 3)):
        rows, lengths = sum(lengths), torch.tensor(lengths)
        q, k, v = torch.zeros(rows, 3, 2, 16).half().unbind(1)
        attention.attention(q, k, v, lengths.cumsum(0) - lengths, lengths, 128)
        assert seen.pop()["grid"] == (2, tiles, 1)


@pytest.mark.parametrize(("width", "tiles"), [(1, 1), (63, 1), (64, 1), (65, 2), (129, 3)])
def test_sequences_of_one_width_have_a_dimension_of_the_grid(width, tiles, launched):
    seen = launched(attention)
    q, k, v = torch.zeros(3 * width, 3, 2, 16).half().unbind(1)
    attention.attention(q, k, v, torch.arange(3) * width, torch.full((3,), width), width, width=width)
    [call] = seen
    assert (call["grid"], call["tiles_each"]) == ((2, tiles, 3), tiles)


@pytest.mark.parametrize(
    ("dropout", "steps"), [(0.3, 19661), (0.1, 6554), (0.5, 32768), (1.0, 65536), (1e-7, 0), (0.7 / 65536, 1)]
)
def test_dropout_has_steps_of_a_65536th(dropout, steps, launched):
    seen = launched(attention)
    attention.attention(**rows_of(1, 16), dropout=dropout)
    assert seen[0]["DROPPED"] == steps
    assert isinstance(seen[0]["DROPPED"], int)


def test_seeds_have_63_bits_and_come_from_torch_s_generator(launched):
    seen = launched(attention)
    torch.manual_seed(0)
    for _ in range(64):
        attention.attention(**rows_of(1, 16), dropout=0.5)
    seeds = [call["seed"].item() for call in seen]
    assert len(set(seeds)) == 64
    assert 2**62 < max(seeds) < 2**63
    assert min(seeds) < 2**60
    torch.manual_seed(0)
    attention.attention(**rows_of(1, 16), dropout=0.5)
    attention.attention(**rows_of(1, 16))
    assert seen[-2]["seed"].item() == seeds[0]
    assert seen[-1]["seed"] is None


def test_the_scale_is_by_default_one_over_the_root_of_the_head_size(launched):
    seen = launched(attention)
    attention.attention(**rows_of(1, 16))
    attention.attention(**rows_of(1, 16), scale=0.25)
    assert seen[0]["scale"] == seen[1]["scale"]


@pytest.mark.parametrize("wanted", [(), ("q",), ("k",), ("v",)])
def test_what_backward_needs_is_kept_only_where_a_gradient_is_wanted(wanted, launched):
    seen = launched(attention)
    given = rows_of(1, 16)
    given |= {name: given[name].clone().requires_grad_() for name in wanted}
    assert attention.why_not(**given) is None
    assert attention.attention(**given).requires_grad == bool(wanted)
    with torch.no_grad():
        assert not attention.attention(**given).requires_grad
    assert [call["lse"] is not None for call in seen] == [bool(wanted), False]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize(("window", "tile"), [(2, 16), (3, 16), (4, 16), (5, 32), (6, 64), (8, 64)])
def test_a_window_of_up_to_64_tokens_is_one_tile_of_a_power_of_two(window, tile, dtype, launched):
    seen = launched(window_attention)
    qkv, table = torch.zeros(2, 20, 20, 3, 2, 32, dtype=dtype), torch.zeros((2 * window - 1) ** 2, 2, dtype=dtype)
    window_attention.window_attention(qkv, table, window, 1, None)
    [call] = seen
    assert (call["BLOCK_M"], call["BLOCK_N"]) == (tile, tile)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_larger_window_reads_the_biases_that_were_spread_for_it(dtype, launched):
    """81 tokens in tiles of 64 queries and 32 keys: two by three, and so 96 keys for each query."""
    seen = launched(window_attention)
    qkv, table = torch.zeros(2, 18, 18, 3, 2, 32, dtype=dtype), torch.zeros(17**2, 2, dtype=dtype)
    window_attention.window_attention(qkv, table, 9, 0, None)
    spread, call = seen
    assert (spread["grid"], spread["KEYS"], spread["BLOCK"]) == ((81, 2), 96, 128)
    assert spread["bias"] is call["table"]
    assert call["table"].shape == (2, 81, 96)
    assert (call["grid"], call["BLOCK_M"], call["BLOCK_N"]) == ((2, 2, 8), 64, 32)


@pytest.mark.parametrize("shift", [0, 1])
def test_windows_are_shared_among_one_or_two_thousand_programs(shift, launched):
    """With at most one program more a head for each of the three kinds that are at a shifted map's edges."""
    seen = launched(window_attention)
    for batch, size, heads, window in ((64, 56, 3, 7), (64, 7, 24, 7), (1, 7, 3, 7), (9, 28, 1, 7), (70_000, 2, 1, 2)):
        qkv = torch.zeros(1).expand(batch, size, size, 3, heads, 16)
        window_attention.window_attention(qkv, torch.zeros((2 * window - 1) ** 2, heads), window, shift, None)
        call = seen.pop()
        (programs, _, groups), windows = call["grid"], batch * (size // window) ** 2
        assert programs == heads
        assert call["windows_each"] * groups >= windows
        assert min(1000, windows * heads) <= programs * groups <= 2000 + 3 * heads


@pytest.mark.parametrize("shift", [0, 4])
def test_large_windows_have_a_program_each_as_far_as_a_grid_goes(shift, launched):
    seen = launched(window_attention)
    for windows, each in ((5000, 1), (65_536, 2)):
        qkv = torch.zeros(1).expand(windows, 9, 9, 3, 1, 16)
        window_attention.window_attention(qkv, torch.zeros(17**2, 1), 9, shift, None)
        call = seen.pop()
        assert call["windows_each"] == each
        assert call["grid"][2] == windows // each <= LIMIT


# Rows


@pytest.mark.parametrize("width", [24, 768, 1024, 3000, 8192])
def test_a_thousand_warps_share_the_sums_of_a_norm_s_backward_pass(width):
    """And without sums each program has rows of its own."""
    rows = 1_000_000
    programs, tile = layer_norm.backward_tile(rows, width, True)
    assert programs * tile["num_warps"] == 2 * 1024
    alone, _ = layer_norm.backward_tile(rows, width, False)
    assert alone == -(-rows // tile["ROWS"])
    assert layer_norm.backward_tile(1, width, True)[0] == 1


@pytest.mark.parametrize("width", [2**power for power in range(15)])
def test_programs_of_rows_hold_1024_elements_or_a_row_in_32_for_each_thread(width):
    for each in {width, width - width // 4}:
        tile = launch.row_tile(each)
        assert tile["ROWS"] * tile["BLOCK_C"] == max(1024, width)
        assert tile["num_warps"] * 32 * 32 == tile["ROWS"] * tile["BLOCK_C"]
        assert tile["BLOCK_C"] == width
