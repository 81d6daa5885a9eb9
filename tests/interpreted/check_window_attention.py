from itertools import product
from types import SimpleNamespace

import pytest
import torch
from minitrans.kernels import window_attention as module
from minitrans.kernels.window_attention import why_not, window_attention
from transformers.models.swin.configuration_swin import SwinConfig
from transformers.models.swin.modeling_swin import SwinLayer


def case(batch, height, width, heads, head_dim, window, dtype=torch.float32, size=1.0):
    qkv = torch.randn(batch, height, width, 3, heads, head_dim) * size
    table = torch.randn((2 * window - 1) ** 2, heads)
    padding = torch.randn(3, heads, head_dim) * size
    return qkv.to(dtype), table.to(dtype), padding.to(dtype)


def step_by_step(qkv, table, window, shift, padding):
    """Pad, roll, cut, attend, and back, each as torch does it, in the dtype of the arguments."""
    batch, height, width, _, heads, head_dim = qkv.shape
    down, across = -(-height // window), -(-width // window)
    full = torch.zeros(batch, down * window, across * window, 3, heads, head_dim, dtype=qkv.dtype)
    full += 0 if padding is None else padding
    full[:, :height, :width] = qkv

    def cut(tensor):
        tensor = tensor.roll((-shift, -shift), (1, 2))
        tensor = tensor.unflatten(2, (across, window)).unflatten(1, (down, window)).transpose(2, 3)
        return tensor.flatten(3, 4).flatten(0, 2)

    def edges(size):
        place = torch.arange(size)
        return (place >= size - window).int() + (place >= size - shift).int()

    # The regions are those of the rolled map; `cut` rolls once more, so they are rolled back first.
    regions = (edges(down * window)[:, None] * 3 + edges(across * window)).roll((shift, shift), (0, 1))
    regions = cut(regions[None, :, :, None]).squeeze(-1)
    mask = -100.0 * (regions[:, :, None] != regions[:, None, :]) * (shift > 0)
    y, x = torch.arange(window**2) // window, torch.arange(window**2) % window
    index = (y[:, None] - y + window - 1) * (2 * window - 1) + x[:, None] - x + window - 1
    q, k, v = cut(full).permute(2, 0, 3, 1, 4)
    scores = q @ k.transpose(-1, -2) * head_dim**-0.5 + table[index].permute(2, 0, 1)
    scores = scores + mask.to(qkv.dtype).repeat(batch, 1, 1)[:, None]
    out = (scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, down, across, window, window, heads * head_dim)
    out = out.transpose(2, 3).reshape(batch, down * window, across * window, -1).roll((shift, shift), (1, 2))
    return out[:, :height, :width]


def compare(check, arguments, window, shift, padding):
    out = window_attention(*arguments, window, shift, padding)
    exact = step_by_step(*(tensor.double() for tensor in arguments), window, shift, padding.double())
    check(out, step_by_step(*arguments, window, shift, padding), exact)


@pytest.mark.parametrize("window", range(4, 13))
@pytest.mark.parametrize("shifted", [False, True])
def test_windows_on_a_map_that_they_do_not_divide(window, shifted, check):
    *arguments, padding = case(1, 10, 17, 2, 32, window)
    assert why_not(*arguments, window, 0, padding) is None
    compare(check, arguments, window, window // 2 * shifted, padding)


@pytest.mark.parametrize(
    ("head_dim", "dtype"),
    [(24, torch.float32), (40, torch.float32), (64, torch.float32)]
    + [(size, torch.float16) for size in (24, 40, 64, 80, 96)],
)
def test_head_sizes(head_dim, dtype, check):
    *arguments, padding = case(1, 9, 7, 2, head_dim, 7, dtype)
    compare(check, arguments, 7, 3, padding)


@pytest.mark.parametrize("shift", [0, 3])
@pytest.mark.parametrize(("height", "width"), [(14, 21), (3, 5), (7, 7), (1, 30)])
def test_maps(height, width, shift, check):
    *arguments, padding = case(2, height, width, 1, 32, 7, torch.float16)
    compare(check, arguments, 7, shift, padding)


@pytest.mark.parametrize("size", [1e-4, 30.0])
def test_large_and_tiny_magnitudes(size, check):
    *arguments, padding = case(1, 8, 8, 1, 32, 4, torch.float16, size)
    compare(check, arguments, 4, 2, padding)


@pytest.mark.parametrize("window", [5, 9])
def test_a_program_that_serves_several_windows(window, check, monkeypatch):
    monkeypatch.setattr(module, "ENOUGH_PROGRAMS", 2)
    *arguments, padding = case(2, 10, 17, 1, 16, window)
    compare(check, arguments, window, window // 2, padding)


def test_padding_without_a_projection_bias_is_zero():
    qkv, table, _ = case(1, 5, 6, 1, 16, 4)
    out = window_attention(qkv, table, 4, 2, None)
    torch.testing.assert_close(out, step_by_step(qkv, table, 4, 2, None))


@pytest.mark.parametrize("shift", [0, 3])
def test_against_transformers(shift):
    """A whole block of transformers, its norms, output projection and MLP made to do nothing."""
    config = SwinConfig(window_size=7, attn_implementation="eager", attention_probs_dropout_prob=0.0)
    layer = SwinLayer(config, dim=32, input_resolution=(10, 17), num_heads=2, shift_size=shift).eval().double()
    layer.layernorm_before = layer.layernorm_after = layer.attention.o_proj = torch.nn.Identity()
    layer.mlp = torch.nn.Linear(32, 32).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    torch.nn.init.zeros_(layer.mlp.weight)
    torch.nn.init.zeros_(layer.mlp.bias)
    x = torch.randn(2, 10 * 17, 32, dtype=torch.float64)
    with torch.no_grad():
        expected = (layer(x, (10, 17))[0] - x).view(2, 10, 17, 32)
        parts = [getattr(layer.attention, f"{name}_proj") for name in "qkv"]
        qkv = torch.stack([part(x) for part in parts], 2).view(2, 10, 17, 3, 2, 16)
        padding = torch.stack([part.bias for part in parts]).view(3, 2, 16)
        table = layer.attention.relative_position_bias.relative_position_bias_table
        out = window_attention(qkv.float(), table.float(), 7, shift, padding.float())
    torch.testing.assert_close(out, expected.float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(
    ("height", "width", "heads", "head_dim", "window", "shift", "filled"),
    [(6, 7, 1, 16, 4, 2, True), (6, 7, 1, 16, 4, 1, False), (8, 9, 1, 32, 7, 3, True), (7, 7, 2, 24, 7, 0, False)],
)
def test_gradients(height, width, heads, head_dim, window, shift, filled, dtype, check_gradients, monkeypatch):
    monkeypatch.setattr(module, "ENOUGH_PROGRAMS", 2)
    qkv, table, padding = case(1, height, width, heads, head_dim, window, dtype)
    assert why_not(qkv.requires_grad_(), table, window, shift, padding) is None
    inputs = [qkv, table, *[padding] * filled]

    def with_window(function):
        return lambda qkv, table, padding=None: function(qkv, table, window, shift, padding)

    check_gradients(with_window(window_attention), with_window(step_by_step), *inputs)


@pytest.mark.parametrize("shift", [0, 1])
def test_gradients_by_differences(shift, in_doubles, monkeypatch):
    monkeypatch.setitem(module.SMALL_WINDOWS, (64, 16), module.SMALL_WINDOWS[32, 16])
    inputs = [tensor.double().requires_grad_() for tensor in case(1, 3, 2, 1, 2, 2)]

    def function(qkv, table, padding):
        return window_attention(qkv, table, 2, shift, padding)

    assert torch.autograd.gradcheck(function, inputs, fast_mode=True)


def test_no_gradient_is_computed_that_nobody_wants(launches):
    seen = launches(module)
    for wanted in product([False, True], repeat=3):
        seen.clear()
        inputs = [tensor.requires_grad_(each) for tensor, each in zip(case(1, 3, 2, 1, 16, 2), wanted, strict=True)]
        out = window_attention(*inputs[:2], 2, 1, inputs[2])
        assert out.requires_grad == any(wanted)
        if any(wanted):
            out.sum().backward()
            assert [seen[1][name] is not None for name in ("dqkv", "dbias", "dpadding")] == list(wanted)
        assert [tensor.grad is not None for tensor in inputs] == list(wanted)


def test_the_gradient_of_a_padding_that_is_not_there_is_zero():
    qkv, table, padding = (tensor.requires_grad_() for tensor in case(1, 4, 8, 1, 16, 4))
    window_attention(qkv, table, 4, 2, padding).sum().backward()
    assert not padding.grad.any()


def test_operator_is_registered_soundly():
    qkv, table, padding = (tensor.requires_grad_() for tensor in case(1, 3, 2, 1, 16, 2))
    torch.library.opcheck(torch.ops.minitrans.window_attention.default, (qkv, table, 2, 1, padding))


@pytest.mark.parametrize("wanted", [*product([False, True], repeat=3)])
def test_tracing_knows_the_shapes_of_gradients_that_nobody_wants(wanted):
    qkv, table, padding = case(1, 3, 2, 1, 16, 2)
    arguments = torch.randn(1, 3, 2, 16), qkv, table, 2, 1, padding, *wanted
    operator = torch.ops.minitrans.window_attention_backward.default
    torch.library.opcheck(operator, arguments, test_utils="test_faketensor")


def test_compiles_into_one_graph_with_gradients():
    def doubled(qkv, table, padding):
        return window_attention(qkv, table, 2, 1, padding) * 2

    arguments = [tensor.requires_grad_() for tensor in case(1, 3, 2, 1, 16, 2)]
    compiled, eager = torch.compile(doubled, fullgraph=True, backend="aot_eager")(*arguments), doubled(*arguments)
    torch.testing.assert_close(compiled, eager)
    gradients = (torch.autograd.grad(out.square().sum(), arguments) for out in (compiled, eager))
    torch.testing.assert_close(*gradients)


# What `why_not` asks a tensor for; one of 2³¹ elements would take 9 GB.
LARGE = SimpleNamespace(
    device=torch.device("cpu"), dtype=torch.float32, requires_grad=False, is_cuda=False,
    is_contiguous=lambda: True, shape=torch.Size((1, 4096, 4096, 3, 3, 32)),
)  # fmt: skip


@pytest.mark.parametrize(
    ("qkv", "reason"),
    [
        (torch.zeros(1, 7, 7, 3, 1, 160), "head size is 160"),
        (torch.zeros(1, 7, 7, 3, 1, 48, requires_grad=True), "head size is 48"),
        (torch.zeros(2, 7, 7, 3, 1, 16).transpose(0, 1), "not contiguous"),
        (LARGE, "32 bits"),
    ],
)
def test_why_not(qkv, reason):
    assert reason in why_not(qkv, torch.zeros(169, qkv.shape[4]), 7, 0, None)


def test_why_no_gradients_of_large_windows():
    qkv = torch.zeros(1, 12, 12, 3, 1, 16, requires_grad=True)
    assert "windows of up to 8, not 12" in why_not(qkv, torch.zeros(23**2, 1), 12, 0, None)


@pytest.mark.parametrize(
    ("table", "padding", "reason"),
    [((49, 1), None, "bias_table is (49, 1), not (169, 1)"), ((169, 1), (3, 2, 16), "padding is (3, 2, 16)")],
)
def test_short_tables_are_not_read_past_their_end(table, padding, reason):
    padding = None if padding is None else torch.zeros(padding)
    assert reason in why_not(torch.zeros(1, 7, 7, 3, 1, 16), torch.zeros(table), 7, 0, padding)


@pytest.mark.parametrize("window", [4, 8])
def test_a_table_and_a_padding_in_any_layout(window):
    qkv, table, padding = case(1, 10, 9, 2, 16, window)
    expected = window_attention(qkv, table, window, 1, padding)
    for given in ((table.T.contiguous().T, padding), (table, padding.permute(2, 1, 0).contiguous().permute(2, 1, 0))):
        assert why_not(qkv, given[0], window, 1, given[1]) is None
        torch.testing.assert_close(window_attention(qkv, given[0], window, 1, given[1]), expected, rtol=0, atol=0)


@pytest.mark.parametrize("window", [4, 10])
def test_more_windows_than_a_dimension_of_a_grid(window, monkeypatch):
    qkv, table, padding = case(2, 23, 30, 2, 16, window)
    expected = window_attention(qkv, table, window, 2, padding)
    monkeypatch.setattr(module, "MOST_GROUPS", 4)
    torch.testing.assert_close(window_attention(qkv, table, window, 2, padding), expected, rtol=0, atol=0)
