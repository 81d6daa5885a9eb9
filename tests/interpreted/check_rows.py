"""The kernels that hold whole rows: norms, GELU, embeddings, patch merging."""

import math
from itertools import product
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from minitrans.kernels import bias_gelu as gelu
from minitrans.kernels import embedding_layer_norm as embedding
from minitrans.kernels import launch, layer_norm, merge_layer_norm
from minitrans.kernels.launch import row_tile, why_not_here
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.models.bert.configuration_bert import BertConfig
from transformers.models.bert.modeling_bert import BertEmbeddings
from transformers.models.swin.modeling_swin import SwinPatchMerging

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float16])


def doubles(*tensors):
    return [tensor.double() for tensor in tensors]


@DTYPES
@pytest.mark.parametrize(("rows", "width"), [(1, 768), (7, 96), (33, 24), (5, 80), (3, 1024), (2, 1500), (9, 1)])
def test_norms(rows, width, dtype, check):
    x, residual = torch.randn(2, rows, width).to(dtype)
    weight, bias = torch.randn(2, width).to(dtype)
    assert layer_norm.why_not(x, residual, weight, bias, 1e-5) is None

    def torch_norm(x, weight, bias):
        return F.layer_norm(x, (width,), weight, bias, 1e-5)

    out = layer_norm.layer_norm(x, weight, bias, 1e-5)
    check(out, torch_norm(x, weight, bias), torch_norm(*doubles(x, weight, bias)))
    exact = torch_norm(x.double() + residual.double(), *doubles(weight, bias))
    rounded = torch_norm(x + residual, weight, bias)
    check(layer_norm.add_layer_norm(x, residual, weight, bias, 1e-5), rounded, exact)
    total, normed = layer_norm.residual_layer_norm(x, residual, weight, bias, 1e-5)
    torch.testing.assert_close(total, x + residual, rtol=0, atol=0)
    check(normed, rounded, exact)


@DTYPES
@pytest.mark.parametrize(
    ("rows", "width", "strips"), [(1, 768, 1024), (33, 24, 1024), (50, 96, 3), (5, 80, 1), (3, 1024, 1), (2, 1500, 2)]
)
def test_gradients_of_norms(rows, width, strips, dtype, check_gradients, monkeypatch):
    monkeypatch.setattr(layer_norm, "STRIPS", strips)
    x, residual = torch.randn(2, rows, width).to(dtype)
    weight, bias = torch.randn(2, width).to(dtype)

    def torch_norm(x, weight, bias):
        return F.layer_norm(x, (width,), weight, bias, 1e-5)

    def torch_residual_norm(x, residual, weight, bias):
        return x + residual, torch_norm(x + residual, weight, bias)

    def with_eps(kernel):
        return lambda *inputs: kernel(*inputs, 1e-5)

    check_gradients(with_eps(layer_norm.layer_norm), torch_norm, x, weight, bias)
    arguments = x, residual, weight, bias
    check_gradients(with_eps(layer_norm.add_layer_norm), lambda *inputs: torch_residual_norm(*inputs)[1], *arguments)
    check_gradients(with_eps(layer_norm.residual_layer_norm), torch_residual_norm, *arguments)


INDICES = torch.tensor([3, 0, 4, 3, 3]), torch.arange(5), torch.tensor([1, 0, 0, 1, 0])


def embedded_rows(*inputs):
    return embedding.embedding_layer_norm(*INDICES, *inputs, 1e-5)


DIFFERENTIABLE = {
    "layer_norm": (layer_norm, lambda *inputs: layer_norm.layer_norm(*inputs, 1e-5), [(3, 5), (5,), (5,)]),
    "add_layer_norm": (
        layer_norm,
        lambda *inputs: layer_norm.add_layer_norm(*inputs, 1e-5),
        [(3, 5), (3, 5), (5,), (5,)],
    ),
    "residual_layer_norm": (
        layer_norm,
        lambda *inputs: layer_norm.residual_layer_norm(*inputs, 1e-5),
        [(3, 5), (3, 5), (5,), (5,)],
    ),
    "bias_gelu": (gelu, gelu.bias_gelu, [(3, 5), (5,)]),
    "merge_layer_norm": (
        merge_layer_norm,
        lambda *inputs: merge_layer_norm.merge_layer_norm(*inputs, 1e-5),
        [(1, 3, 2, 2), (8,), (8,)],
    ),
    "embedding_layer_norm": (embedding, embedded_rows, [(6, 4), (5, 4), (2, 4), (4,), (4,)]),
}
"""Module, function of the inputs that take gradients, and their shapes; what has one dimension is a weight or bias."""


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients_by_differences(name, in_doubles):
    _, function, shapes = DIFFERENTIABLE[name]
    inputs = [torch.randn(shape).double().requires_grad_() for shape in shapes]
    assert torch.autograd.gradcheck(function, inputs, fast_mode=True)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_no_gradient_is_computed_that_nobody_wants(name, launches):
    module, function, shapes = DIFFERENTIABLE[name]
    seen = launches(module)
    for wanted in product([False, True], repeat=len(shapes)):
        seen.clear()
        inputs = [torch.randn(shape).requires_grad_(each) for shape, each in zip(shapes, wanted, strict=True)]
        out = function(*inputs)
        out = out[-1] if isinstance(out, tuple) else out
        assert out.requires_grad == any(wanted)
        if any(wanted):
            out.sum().backward()
            _, backward = seen
            for pointer, dimensions in (("dx", {2, 4}), ("sums", {1})):
                asked = any(x.requires_grad and x.dim() in dimensions for x in inputs)
                assert (backward[pointer] is not None) == asked
        assert [x.grad is not None for x in inputs] == list(wanted)


def test_a_second_derivative_is_an_error_even_of_a_first_that_is_constant():
    x, weight, bias = torch.randn(3, 6).requires_grad_().unbind()
    (gradient,) = torch.autograd.grad(layer_norm.layer_norm(x, weight, bias, 1e-5).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.square().sum().backward()


def test_gradients_of_rows_in_any_layout():
    x = torch.randn(4, 6, 16).transpose(0, 1).requires_grad_()
    weight, bias = torch.randn(16, 2).unbind(1)
    result, expected = (
        torch.autograd.grad(out.transpose(0, 2)[3:].square().sum(), x)
        for out in (layer_norm.layer_norm(x, weight, bias, 1e-5), F.layer_norm(x, (16,), weight, bias, 1e-5))
    )
    torch.testing.assert_close(result, expected)


@pytest.mark.parametrize(("offset", "size"), [(100.0, 1e-3), (0.0, 1e-12), (0.0, 1e12)])
def test_norm_of_rows_far_from_zero_tiny_and_large(offset, size, check):
    x = offset + size * torch.randn(4, 768)
    weight, bias = torch.ones(768), torch.zeros(768)
    exact = F.layer_norm(x.double(), (768,), eps=1e-12)
    check(layer_norm.layer_norm(x, weight, bias, 1e-12), F.layer_norm(x, (768,), eps=1e-12), exact)


def test_norm_of_a_constant_row_is_the_bias():
    bias = torch.randn(96)
    out = layer_norm.layer_norm(torch.full((3, 96), 7.0), torch.ones(96), bias, 1e-5)
    torch.testing.assert_close(out, bias.expand(3, 96))


def test_rows_in_any_layout():
    x = torch.randn(4, 6, 16).transpose(0, 1)
    weight, bias = torch.randn(2, 16)
    torch.testing.assert_close(layer_norm.layer_norm(x, weight, bias, 1e-5), F.layer_norm(x, (16,), weight, bias))
    torch.testing.assert_close(gelu.bias_gelu(x, bias), F.gelu(x + bias))
    residual = torch.randn(6, 16, 4).mT
    expected = F.layer_norm(x + residual[:, :4], (16,), weight, bias)
    torch.testing.assert_close(layer_norm.add_layer_norm(x, residual[:, :4], weight, bias, 1e-5), expected)
    grid = torch.randn(4, 5, 2, 3).permute(2, 0, 1, 3)
    merged = merge_layer_norm.merge_layer_norm(grid, *torch.ones(2, 12), 1e-5)
    kept = merge_layer_norm.merge_layer_norm(grid.contiguous(), *torch.ones(2, 12), 1e-5)
    torch.testing.assert_close(merged, kept, rtol=0, atol=0)
    tables, indices = torch.randn(3, 9, 16).unbind(), torch.randint(9, (7, 3)).unbind(1)
    expected = F.layer_norm(sum(table[ids] for table, ids in zip(tables, indices, strict=True)), (16,), weight, bias)
    torch.testing.assert_close(embedding.embedding_layer_norm(*indices, *tables, weight, bias, 1e-5), expected)


def test_weights_that_are_columns_of_something():
    x, table, ids = torch.randn(3, 16), torch.randn(3, 16), torch.arange(3)
    weight, bias = (each.detach() for each in torch.randn(16, 2).unbind(1))
    norm = weight, bias, 1e-5
    kept = weight.contiguous(), bias.contiguous(), 1e-5
    quarters = x.view(3, 2, 2, 4)
    rows = ids, ids, None, table, table, None
    for kernel, given in (
        (layer_norm.layer_norm, (x,)),
        (layer_norm.add_layer_norm, (x, table)),
        (merge_layer_norm.merge_layer_norm, (quarters,)),
        (embedding.embedding_layer_norm, rows),
    ):
        wanted = [each.requires_grad_() for each in (x, table, weight, bias, *kept[:2])]
        found, expected = kernel(*given, *norm), kernel(*given, *kept)
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
        upstream = torch.randn_like(found)
        gradients = [
            torch.autograd.grad(out, wanted[:2] + own, upstream, allow_unused=True)
            for out, own in ((found, wanted[2:4]), (expected, wanted[4:]))
        ]
        for one, other in zip(*gradients, strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                torch.testing.assert_close(one, other, rtol=0, atol=0)
    with torch.no_grad():
        torch.testing.assert_close(gelu.bias_gelu(x, bias), F.gelu(x + bias))


@DTYPES
@pytest.mark.parametrize(("rows", "width"), [(1, 3072), (5, 384), (3, 1100), (4, 5)])
@pytest.mark.parametrize("size", [1.0, 1e-4, 50.0])
def test_bias_gelu(rows, width, size, dtype, check):
    x, bias = (size * torch.randn(rows, width)).to(dtype), (size * torch.randn(width)).to(dtype)
    check(gelu.bias_gelu(x, bias), F.gelu(x + bias), F.gelu(x.double() + bias.double()))


@DTYPES
@pytest.mark.parametrize(("rows", "width", "strips"), [(1, 1100, 1024), (33, 24, 1024), (15, 1100, 6), (9, 130, 1)])
@pytest.mark.parametrize("size", [1.0, 1e-4, 50.0])
def test_gradients_of_bias_gelu(rows, width, strips, size, dtype, check_gradients, monkeypatch):
    monkeypatch.setattr(gelu, "STRIPS", strips)
    x, bias = (size * torch.randn(rows, width)).to(dtype), (size * torch.randn(width)).to(dtype)
    check_gradients(gelu.bias_gelu, lambda x, bias: F.gelu(x + bias), x, bias)


def test_a_bias_of_another_dtype_as_autocast_has_it():
    x, bias = torch.randn(3, 6).half().requires_grad_(), torch.randn(6, requires_grad=True)
    expected = torch.autograd.grad(F.gelu(x + bias).sum(), (x, bias))
    result = torch.autograd.grad(gelu.bias_gelu(x, bias).sum(), (x, bias))
    assert [gradient.dtype for gradient in result] == [torch.float16, torch.float32]
    torch.testing.assert_close(result, expected, rtol=1e-3, atol=1e-3)


@DTYPES
@pytest.mark.parametrize("width", [24, 768])
@pytest.mark.parametrize("typed", [False, True])
def test_embeddings(width, typed, dtype, check):
    tables = [torch.randn(size, width).to(dtype) for size in (50, 20, 2)]
    indices = [torch.randint(len(table), (13,)) for table in tables]
    weight, bias = torch.randn(2, width).to(dtype)
    if not typed:
        indices[2] = tables[2] = None
    assert embedding.why_not(*indices, *tables, weight, bias, 1e-12) is None

    def torch_embedding(tables, weight, bias):
        chosen = [F.embedding(i, table) for i, table in zip(indices, tables, strict=True) if i is not None]
        return F.layer_norm(sum(chosen), (width,), weight, bias, 1e-12)

    out = embedding.embedding_layer_norm(*indices, *tables, weight, bias, 1e-12)
    exact = torch_embedding([table if table is None else table.double() for table in tables], *doubles(weight, bias))
    check(out, torch_embedding(tables, weight, bias), exact)


@DTYPES
@pytest.mark.parametrize(("rows", "width"), [(1, 24), (70, 40), (13, 1100)])
@pytest.mark.parametrize("typed", [False, True])
@pytest.mark.parametrize("padding_idx", [None, 3])
def test_gradients_of_embeddings(rows, width, typed, padding_idx, dtype, check_gradients, monkeypatch):
    monkeypatch.setattr(layer_norm, "STRIPS", 2)
    sizes = (5, 20, 2) if typed else (5, 20)
    tables, (weight, bias) = [torch.randn(size, width).to(dtype) for size in sizes], torch.randn(2, width).to(dtype)
    indices = [torch.randint(size, (rows,), dtype=torch.int32) for size in sizes]
    left_out = (padding_idx, None, None)
    absent = [None] * (not typed)

    def kernel(*inputs):
        *tables, weight, bias = inputs
        return embedding.embedding_layer_norm(*indices, *absent, *tables, *absent, weight, bias, 1e-12, padding_idx)

    def torch_embedding(*inputs):
        *tables, weight, bias = inputs
        chosen = [F.embedding(*each) for each in zip(indices, tables, left_out, strict=False)]
        return F.layer_norm(sum(chosen), (width,), weight, bias, 1e-12)

    check_gradients(kernel, torch_embedding, *tables, weight, bias)


class Indices(TorchDispatchMode):
    """Notes the rows of a table into which gradients are written."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.embedding_dense_backward.default:
            self.seen.append(args[1].tolist())
        return func(*args, **(kwargs or {}))


def test_the_gradient_of_an_index_outside_its_table_is_nan_and_is_written_nowhere_else():
    table, positions = torch.randn(5, 8, requires_grad=True), torch.randn(4, 8, requires_grad=True)
    weight, bias = torch.ones(8), torch.zeros(8)
    ids = torch.tensor([0, 5, -1, 4])
    out = embedding.embedding_layer_norm(ids, torch.arange(4), None, table, positions, None, weight, bias, 1e-5)
    with Indices() as written:
        out.square().sum().backward()
    assert written.seen == [[0, -1, -1, 4], [0, 1, 2, 3]]  # -1 is left out
    assert table.grad.isfinite().all()
    assert table.grad.any(1).tolist() == [True, False, False, False, True]
    assert positions.grad.isnan().all(1).tolist() == [False, True, True, False]


def test_embeddings_against_transformers():
    config = BertConfig(vocab_size=50, hidden_size=24, max_position_embeddings=20)
    module = BertEmbeddings(config).eval()
    ids, types, positions = torch.randint(50, (2, 9)), torch.randint(2, (2, 9)), torch.arange(9).expand(2, 9)
    with torch.no_grad():
        out = embedding.embedding_layer_norm(
            ids, positions, types,
            module.word_embeddings.weight, module.position_embeddings.weight, module.token_type_embeddings.weight,
            module.LayerNorm.weight, module.LayerNorm.bias, config.layer_norm_eps,
        )  # fmt: skip
        torch.testing.assert_close(out, module(ids, types, positions))


def test_an_index_outside_its_table_gives_nan():
    table, weight, bias = torch.randn(5, 24), torch.ones(24), torch.zeros(24)
    ids, positions = torch.tensor([0, 5, -1, 4]), torch.tensor([0, 1, 2, 9])
    out = embedding.embedding_layer_norm(ids, positions, None, table, table, None, weight, bias, 1e-5)
    assert out.isnan().all(1).tolist() == [False, True, True, True]
    assert out[0].isfinite().all()


def merging(channels, dtype):
    """The module of transformers without its product, as a function of a map and the norm's weight and bias."""
    module = SwinPatchMerging(channels)
    module.reduction = torch.nn.Identity()

    def merge(x, weight, bias):
        height, width = x.shape[1:3]
        values = {"norm.weight": weight, "norm.bias": bias}
        out = torch.func.functional_call(module, values, (x.flatten(1, 2), (height, width)))
        return out.unflatten(1, (math.ceil(height / 2), math.ceil(width / 2)))

    return merge, *torch.randn(2, 4 * channels).to(dtype)


MAPS = pytest.mark.parametrize(("height", "width", "channels"), [(4, 6, 24), (5, 7, 96), (1, 1, 16), (3, 2, 40)])


@DTYPES
@MAPS
def test_merging(height, width, channels, dtype, check):
    x = torch.randn(2, height, width, channels).to(dtype)
    merge, *norm = merging(channels, dtype)
    assert merge_layer_norm.why_not(x, *norm, 1e-5) is None
    check(merge_layer_norm.merge_layer_norm(x, *norm, 1e-5), merge(x, *norm), merge(*doubles(x, *norm)))


@DTYPES
@MAPS
def test_gradients_of_merging(height, width, channels, dtype, check_gradients, monkeypatch):
    monkeypatch.setattr(layer_norm, "STRIPS", 3)
    x = torch.randn(2, height, width, channels).to(dtype)
    merge, *norm = merging(channels, dtype)
    check_gradients(lambda *inputs: merge_layer_norm.merge_layer_norm(*inputs, 1e-5), merge, x, *norm)


def test_all_compile_into_one_graph_with_gradients():
    inputs = [tensor.requires_grad_() for tensor in (*torch.randn(3, 6, 16), *torch.randn(2, 16))]
    ids = torch.tensor([0, 5, 3])

    def everything(x, residual, table, weight, bias):
        total, normed = layer_norm.residual_layer_norm(x, residual, weight, bias, 1e-5)
        y = layer_norm.add_layer_norm(total, layer_norm.layer_norm(normed, weight, bias, 1e-5), weight, bias, 1e-5)
        y = gelu.bias_gelu(y, bias)
        merged = merge_layer_norm.merge_layer_norm(y.view(1, 6, 4, 4), weight, bias, 1e-5)
        rows = embedding.embedding_layer_norm(ids, ids, None, table, table, None, weight, bias, 1e-5)
        return merged.square().sum() + rows.square().sum()

    compiled = torch.compile(everything, fullgraph=True, backend="aot_eager")(*inputs)
    eager = everything(*inputs)
    torch.testing.assert_close(compiled, eager)
    torch.testing.assert_close(torch.autograd.grad(compiled, inputs), torch.autograd.grad(eager, inputs))


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_operators_are_registered_soundly(name):
    module, _, shapes = DIFFERENTIABLE[name]
    inputs = [torch.randn(shape).requires_grad_() for shape in shapes]
    if module is embedding:
        inputs = [*INDICES, *inputs]
    if module is not gelu:
        inputs.append(1e-5)
    torch.library.opcheck(getattr(torch.ops.minitrans, name).default, inputs)


BACKWARD = {
    "bias_gelu_backward": [(3, 5), (3, 5), (5,)],
    "layer_norm_backward": [(3, 5), None, (3, 5), None, (5,), 1e-5],
    "merge_layer_norm_backward": [(1, 2, 1, 8), (1, 3, 2, 2), (8,), 1e-5],
    "embedding_layer_norm_backward": [(5, 4), *INDICES, (6, 4), (5, 4), (2, 4), (4,), 1e-5],
}
"""The arguments before those that say what is wanted; of random tensors the shapes."""


@pytest.mark.parametrize("wanted", [*product([False, True], repeat=2)])
@pytest.mark.parametrize("name", BACKWARD)
def test_tracing_knows_the_shapes_of_gradients_that_nobody_wants(name, wanted):
    inputs = [torch.randn(each) if isinstance(each, tuple) else each for each in BACKWARD[name]]
    operator = getattr(torch.ops.minitrans, name).default
    torch.library.opcheck(operator, (*inputs, *wanted), test_utils="test_faketensor")


def embedded(ids, positions):
    return embedding.why_not(ids, positions, None, *torch.zeros(2, 5, 8), None, *torch.zeros(2, 8), 1e-5)


def test_a_kernel_runs_on_one_device():
    there = [SimpleNamespace(device=torch.device("cuda", i), dtype=torch.half, requires_grad=False) for i in (0, 1)]
    assert "cuda:0 and cuda:1" in why_not_here(there)


@pytest.mark.parametrize(
    ("reason", "found"),
    [
        ("up to 8192", layer_norm.why_not(torch.zeros(1, 10000, requires_grad=True), *torch.ones(2, 10000), 1e-5)),
        (
            "broadcasts nothing",
            layer_norm.why_not(torch.zeros(2, 8), torch.zeros(1, 8), torch.ones(8), torch.ones(8), 1e-5),
        ),
        ("broadcasts nothing", embedded(torch.zeros(3).long(), torch.zeros(1).long())),
        ("dtype of indices", embedded(torch.zeros(3), torch.zeros(3).long())),
        ("indices are on meta", embedded(torch.zeros(3).long(), torch.zeros(3, device="meta").long())),
        ("weight is (7,), not (8,)", layer_norm.why_not(torch.zeros(1, 8), torch.ones(7), torch.ones(8), 1e-5)),
        ("bias is (9,), not (8,)", layer_norm.why_not(torch.zeros(1, 8), torch.ones(8), torch.ones(9), 1e-5)),
        (
            "weight is (8,), not (32,)",
            merge_layer_norm.why_not(torch.zeros(1, 2, 2, 8), torch.ones(8), torch.ones(32), 1e-5),
        ),
        ("float64", gelu.why_not(torch.zeros(1, 8).double(), torch.zeros(8))),
        ("20000 channels", layer_norm.why_not(torch.zeros(1, 20000), 1e-5)),
        ("20000 channels", merge_layer_norm.why_not(torch.zeros(1, 1, 1, 5000), torch.ones(1), torch.ones(1), 1e-5)),
    ],
)
def test_why_not(reason, found):
    assert reason in found


def test_a_short_bias_is_not_read_past_its_end():
    with pytest.raises(ValueError, match=r"a bias of 8, not \(4,\)"):
        gelu.bias_gelu(torch.zeros(1, 8), torch.zeros(4))


@pytest.mark.parametrize(
    ("triton", "numpy", "fails"),
    [("3.6.0", "2.4.6", True), ("3.6.0", "2.3.5", False), ("3.7.0", "2.4.0", False), ("3.10.0", "2.10.1", False)],
)
def test_an_interpreter_that_is_older_than_numpy_is_named_before_it_fails(triton, numpy, fails, monkeypatch):
    monkeypatch.setattr(launch, "triton", SimpleNamespace(__version__=triton))
    monkeypatch.setattr(launch, "version", lambda _: numpy)
    launch.forget_target()
    reason = why_not_here([torch.zeros(1)])
    launch.forget_target()
    assert (reason is not None) == fails
    assert not fails or "it needs numpy<2.4, or triton>=3.7" in reason


@pytest.mark.parametrize("width", [2**power for power in range(15)])
def test_programs_of_rows_have_a_power_of_two_of_warps(width):
    tile = row_tile(width)
    assert tile["num_warps"] in (1, 2, 4, 8, 16)
    assert tile["ROWS"] * tile["BLOCK_C"] == max(1024, width)
    assert tile["num_warps"] == max(1, width // 1024)
