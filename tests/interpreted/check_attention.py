import math

import pytest
import torch
import torch._dynamo.testing
import triton.language as tl
from minitrans.kernels import attention as module
from minitrans.kernels.attention import attention, why_not
from torch.utils.checkpoint import checkpoint

PACKED = [1, 129, 64, 17, 63, 65]


def packed(lengths):
    lengths = torch.tensor(lengths)
    return lengths.cumsum(0) - lengths, lengths


def projection(rows, heads, head_dim, dtype=torch.float32, size=1.0):
    """q, k and v as views of one fused projection, as the models pass them."""
    return (torch.randn(rows, 3, heads, head_dim) * size).to(dtype).unbind(1)


def per_sequence(q, k, v, starts, lengths, scale=None, causal=False, bias=None):
    """The same with torch's own function, a sequence at a time, in the dtype of its arguments."""
    out = torch.zeros_like(q)
    for b, (start, length) in enumerate(zip(starts.tolist(), lengths.tolist(), strict=True)):
        rows = slice(start, start + length)
        added = torch.zeros(length, length, dtype=q.dtype)
        if bias is not None:
            added = added + (bias if bias.dim() == 3 else bias[b])[:, :length, :length].to(q.dtype)
        if causal:
            added = added.masked_fill(torch.ones(length, length, dtype=torch.bool).triu(1), -math.inf)
        heads_first = (tensor[rows].transpose(0, 1)[None] for tensor in (q, k, v))
        answer = torch.nn.functional.scaled_dot_product_attention(
            *heads_first, attn_mask=added.expand(1, q.shape[1], -1, -1), scale=scale
        )
        out = out.index_copy(0, torch.arange(start, start + length), answer[0].transpose(0, 1))
    return out


@pytest.mark.parametrize(
    ("head_dim", "dtype"),
    [(24, torch.float32), (40, torch.float32), (64, torch.float32)]
    + [(size, torch.float16) for size in (24, 40, 64, 80, 96)],
)
def test_ragged_rows(head_dim, dtype, check):
    starts, lengths = packed(PACKED)
    q, k, v = projection(sum(PACKED), 2, head_dim, dtype)
    assert why_not(q, k, v, starts, lengths, max(PACKED)) is None
    out = attention(q, k, v, starts, lengths, max(PACKED))
    assert out.is_contiguous()
    exact = per_sequence(q.double(), k.double(), v.double(), starts, lengths)
    check(out, per_sequence(q, k, v, starts, lengths), exact)


@pytest.mark.parametrize("lengths", [[1], [16, 1, 3], [31, 32, 33], [64, 64], [127, 128], [130] * 2])
@pytest.mark.parametrize("causal", [False, True])
def test_lengths_around_the_edges_of_blocks_and_chunks(lengths, causal, check):
    starts, lengths = packed(lengths)
    q, k, v = projection(int(lengths.sum()), 1, 32, torch.float16)
    out = attention(q, k, v, starts, lengths, int(lengths.max()), causal=causal)
    exact = per_sequence(q.double(), k.double(), v.double(), starts, lengths, causal=causal)
    check(out, per_sequence(q, k, v, starts, lengths, causal=causal), exact)


def test_more_sequences_than_are_looked_at_in_one_step(monkeypatch, check):
    monkeypatch.setattr(module, "CHUNK", tl.constexpr(4))
    starts, lengths = packed([3, 1, 20, 2, 17, 1, 1, 40, 5])
    q, k, v = projection(90, 1, 16)
    exact = per_sequence(q.double(), k.double(), v.double(), starts, lengths)
    check(attention(q, k, v, starts, lengths, 40), per_sequence(q, k, v, starts, lengths), exact)


def test_starts_and_lengths_in_any_layout(check):
    starts, lengths = torch.tensor([[0, 9], [20, 9]])[:, 0], torch.tensor([20]).expand(2)
    q, k, v = projection(40, 2, 16)
    exact = per_sequence(q.double(), k.double(), v.double(), starts, lengths)
    check(attention(q, k, v, starts, lengths, 20), per_sequence(q, k, v, starts, lengths), exact)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_bias_causal_edge_and_scale(shared, causal, check):
    starts, lengths = packed([33, 1, 70])
    q, k, v = projection(104, 2, 24)
    bias = torch.randn(*([] if shared else [3]), 2, 70, 70)
    options = {"causal": causal, "bias": bias, "scale": 0.3}
    out = attention(q, k, v, starts, lengths, 70, **options)
    check(
        out,
        per_sequence(q, k, v, starts, lengths, **options),
        per_sequence(q.double(), k.double(), v.double(), starts, lengths, **options),
    )


def test_padded_layout_gives_zeros_in_padding_whatever_stands_there(check):
    starts, lengths = torch.arange(4) * 40, torch.tensor([40, 7, 0, 33], dtype=torch.int32)
    q, k, v = projection(160, 2, 32)
    padding = torch.arange(40)[None] >= lengths[:, None]
    for tensor in (q, k, v):
        tensor[padding.flatten()] = math.nan
    out = attention(q, k, v, starts, lengths, 40)
    assert (out[padding.flatten()] == 0).all()
    q, k, v = (tensor.nan_to_num(0) for tensor in (q, k, v))
    exact = per_sequence(q.double(), k.double(), v.double(), starts, lengths)
    check(out, per_sequence(q, k, v, starts, lengths), exact)


def test_a_row_whose_keys_are_all_hidden_is_zero_and_takes_no_gradient():
    starts, lengths = packed([70])
    q, k, v = (tensor.clone().requires_grad_() for tensor in projection(70, 1, 32))
    bias = torch.zeros(1, 70, 70)
    bias[:, 5] = -math.inf
    bias[:, 6, :66] = -math.inf
    out = attention(q, k, v, starts, lengths, 70, bias=bias)
    gradients = torch.autograd.grad(out.sum(), (q, k, v))
    assert (out[5] == 0).all()
    assert (gradients[0][5] == 0).all()
    assert all(tensor.isfinite().all() for tensor in (out, *gradients))
    torch.testing.assert_close(out[6, 0], (v[66:, 0].T @ (q[6, 0] @ k[66:, 0].T / 32**0.5).softmax(0)))


@pytest.mark.parametrize("size", [1e-4, 30.0])
def test_large_and_tiny_magnitudes(size, check):
    starts, lengths = packed([65, 3])
    q, k, v = projection(68, 1, 64, torch.float16, size)
    exact = per_sequence(q.double(), k.double(), v.double(), starts, lengths)
    check(attention(q, k, v, starts, lengths, 65), per_sequence(q, k, v, starts, lengths), exact)


@pytest.mark.parametrize(("head_dim", "dtype"), [(24, torch.float32), (64, torch.float16), (80, torch.float16)])
@pytest.mark.parametrize("causal", [False, True])
def test_gradients(head_dim, dtype, causal, check):
    starts = torch.tensor([0, 1, 66, 105])
    lengths = torch.tensor([1, 65, 32, 17])
    q, k, v = projection(125, 2, head_dim, dtype)
    options = {"causal": causal, "bias": torch.randn(2, 65, 65).to(dtype) if causal else None}
    upstream = torch.randn(125, 2, head_dim).to(dtype)
    real = torch.zeros(125, 1, 1, dtype=dtype)
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        real[start : start + length] = 1

    def gradients(function, cast):
        inputs = [tensor.detach().to(cast).clone().requires_grad_() for tensor in (q, k, v)]
        return torch.autograd.grad(function(*inputs), inputs, (upstream * real).to(cast))

    results = gradients(lambda *inputs: attention(*inputs, starts, lengths, 65, **options), dtype)
    plain = gradients(lambda *inputs: per_sequence(*inputs, starts, lengths, **options), dtype)
    exact = gradients(lambda *inputs: per_sequence(*inputs, starts, lengths, **options), torch.float64)
    for result, other, truth in zip(results, plain, exact, strict=True):
        check(result, other, truth)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_compiles_into_one_graph_with_gradients(dropout):
    starts, lengths = packed([5, 20])
    q, k, v = (tensor.clone().requires_grad_() for tensor in projection(25, 1, 16))

    def loss(q, k, v):
        return attention(q, k, v, starts, lengths, 20, dropout=dropout).square().sum()

    def gradients(function):
        torch.manual_seed(0)
        return torch.autograd.grad(function(q, k, v), (q, k, v))

    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(gradients(compiled), gradients(loss))


def test_other_lengths_do_not_compile_again():
    compiler = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")

    @torch.compile(fullgraph=True, backend=compiler, dynamic=True)
    def doubled(q, k, v, starts, lengths, longest):
        return attention(q, k, v, starts, lengths, longest) * 2

    for sizes in ([5, 20, 1, 4], [7, 3, 30, 2, 9], [11, 2, 1, 17, 2, 40]):
        starts, lengths = packed(sizes)
        rows = projection(sum(sizes), 2, 16)
        out = doubled(*rows, starts, lengths, max(sizes))
        torch.testing.assert_close(out, 2 * attention(*rows, starts, lengths, max(sizes)))
    assert compiler.frame_count == 1


@pytest.mark.parametrize("drop", [(0.0, None), (0.5, torch.tensor([7]))])
def test_operator_is_registered_soundly(drop):
    starts, lengths = packed([5, 20])
    q, k, v = (tensor.clone().requires_grad_() for tensor in projection(25, 1, 16))
    arguments = (q, k, v, starts, lengths, 20, 0, 0.25, False, None, *drop)
    torch.library.opcheck(torch.ops.minitrans.attention.default, arguments)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"q": torch.zeros(3, 1, 160)}, "head size is 160"),
        ({name: torch.zeros(3, 1, 80) for name in "qkv"}, "holds torch.float32 heads of up to 64"),
        ({"k": torch.zeros(2, 1, 16)}, "k is (2, 1, 16), not (3, 1, 16)"),
        ({"lengths": torch.tensor([1, 2])}, "1 starts and 2 lengths"),
        ({"q": torch.zeros(3, 1, 16, dtype=torch.float64)}, "float64"),
        ({"q": torch.zeros(3, 1, 16, dtype=torch.float16)}, "dtypes"),
        ({"q": torch.zeros(3, 1, 32)[..., ::2]}, "not contiguous"),
        ({"scale": -1.0}, "scale is -1.0"),
        ({"bias": torch.zeros(1, 3, 3, requires_grad=True)}, "gradient"),
        ({"bias": torch.zeros(2, 3, 3)}, "a head, query and key"),
        ({"bias": torch.zeros(2, 1, 3, 3)}, "a head, query and key"),
        ({"bias": torch.zeros(1, 3, 2)}, "a head, query and key"),
        ({"starts": torch.tensor([0], device="meta")}, "indices are on meta"),
        ({"lengths": torch.tensor([3.0])}, "dtype of indices"),
        ({"longest": 2**28}, "32 bits"),
        ({"dropout": 1.5}, "dropout is 1.5"),
        ({"dropout": math.nan}, "dropout is nan"),
    ],
)
def test_why_not(change, reason):
    arguments = dict.fromkeys("qkv", torch.zeros(3, 1, 16)) | {
        "starts": torch.tensor([0]),
        "lengths": torch.tensor([3]),
    }
    assert why_not(**arguments, longest=3) is None
    assert why_not(**arguments, longest=3, bias=torch.zeros(1, 3, 3)) is None
    assert reason in why_not(**(arguments | {"longest": 3} | change))


@pytest.mark.parametrize("width", [0, 70])
def test_more_tiles_or_sequences_than_a_dimension_of_a_grid(width, monkeypatch):
    """A grid's second and third dimension end early; whoever has more tiles takes both, without a sequence each."""
    lengths = torch.tensor([70, 3, 64, 65, 1, 0, 17])
    starts = torch.arange(7) * 70
    q, k, v = projection(7 * 70, 2, 32)
    inputs = [tensor.clone().requires_grad_() for tensor in (q, k, v)]
    expected = attention(*inputs, starts, lengths, 70, width=width)
    gradients = torch.autograd.grad(expected.square().sum(), inputs)
    monkeypatch.setattr(module, "MOST", tl.constexpr(4))
    out = attention(*inputs, starts, lengths, 70, width=width)
    torch.testing.assert_close(out, expected, rtol=0, atol=0)
    torch.testing.assert_close(torch.autograd.grad(out.square().sum(), inputs), gradients, rtol=0, atol=0)


@pytest.mark.parametrize("length", [64, 65])
def test_rows_behind_the_end_are_zeros_whatever_the_values_are(length):
    """Of a tile of 128 rows, by whole blocks of keys and by others; 0 · ∞ must not come out where nobody asks."""
    q, k, v = projection(256, 1, 64)
    v[0] = math.inf
    starts, lengths = torch.tensor([0, 128]), torch.tensor([length, 128])
    out = attention(q, k, v, starts, lengths, 128, width=128)
    assert (out[length:128] == 0).all()
    assert out[128:].isfinite().all()


def drawn(starts, lengths, longest, rows, heads, dropout, seed=0, **options):
    """M (rows, heads, keys), by which a call with this seed multiplies its weights: one-hot values show it."""
    channels = 64 * -(-longest // 64)
    q, v = torch.zeros(2, rows, heads, channels)
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        v[start : start + length, :, :length] = length * torch.eye(length)[:, None]  # each weight is 1 / length
    parts = []
    for each in v.split(64, 2):
        torch.manual_seed(seed)
        same = q[..., :64]
        parts.append(attention(same, same, each, starts, lengths, longest, dropout=dropout, **options))
    return torch.cat(parts, 2)


def with_mask(mask, q, k, v, starts, lengths, causal=False, bias=None):
    """(M ∘ P) V of each sequence as it is written, in the dtype of the arguments."""
    out = torch.zeros_like(q)
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        rows = slice(start, start + length)
        s = torch.einsum("qhd,khd->hqk", q[rows], k[rows]) * q.shape[2] ** -0.5
        if bias is not None:
            s = s + bias[:, :length, :length].to(q.dtype)
        if causal:
            s = s.masked_fill(torch.ones(length, length, dtype=torch.bool).triu(1), -math.inf)
        weights = s.softmax(-1) * mask[rows, :, :length].transpose(0, 1).to(q.dtype)
        out = out.index_copy(0, torch.arange(start, start + length), torch.einsum("hqk,khd->qhd", weights, v[rows]))
    return out


@pytest.mark.parametrize(
    ("head_dim", "dtype", "full"),
    [(24, torch.float32, True), (64, torch.float16, False), (64, torch.float16, True), (80, torch.float16, False)],
)
def test_dropout_and_its_gradients(head_dim, dtype, full, check):
    """All three kernels draw the mask that one-hot values show of another head size, dtype and tile."""
    starts, lengths = torch.tensor([0, 1, 66, 105]), torch.tensor([1, 65, 32, 17])
    q, k, v = projection(125, 2, head_dim, dtype)
    options = {"causal": full, "bias": torch.randn(2, 65, 65).to(dtype) if full else None}
    upstream = torch.randn(125, 2, head_dim).to(dtype)
    upstream[98:105] = upstream[122:] = 0  # rows of nobody
    mask = drawn(starts, lengths, 65, 125, 2, 0.3)

    def results(function, cast):
        inputs = [tensor.detach().to(cast).clone().requires_grad_() for tensor in (q, k, v)]
        torch.manual_seed(0)
        out = function(*inputs, starts, lengths, **options)
        return (out.detach(), *torch.autograd.grad(out, inputs, upstream.to(cast)))

    found = results(lambda *rows, **named: attention(*rows, 65, dropout=0.3, **named), dtype)
    plain = results(lambda *rows, **named: with_mask(mask, *rows, **named), dtype)
    exact = results(lambda *rows, **named: with_mask(mask, *rows, **named), torch.float64)
    for result, other, truth in zip(found, plain, exact, strict=True):
        check(result, other, truth)


def test_dropout_draws_each_weight_by_itself():
    """At the rate, and independently of its neighbours, also of those that share a counter; from the seed alone."""
    starts, lengths = packed([64, 64])
    rare, often = (drawn(starts, lengths, 64, 128, 2, rate).view(2, 64, 2, 64) for rate in (0.1, 0.5))
    for mask, rate in ((rare, 0.1), (often, 0.5)):
        dropped = mask == 0
        torch.testing.assert_close(mask, (~dropped).float() / (1 - rate), rtol=2e-5, atol=0)
        assert abs(dropped.float().mean() - rate) < 4 * (rate * (1 - rate) / dropped.numel()) ** 0.5
    dropped = often == 0
    for by in ((0, 0, 0, 1), (0, 0, 0, 8), (0, 0, 0, 16), (0, 0, 0, 32), (0, 1, 0, 0), (0, 8, 0, 0), (0, 16, 0, 0),
               (0, 8, 0, 8), (0, 8, 0, 16), (0, 0, 1, 0), (1, 0, 0, 0)):  # fmt: skip
        here = dropped[tuple(slice(step, None) for step in by)]
        there = dropped[tuple(slice(0, size - step) for size, step in zip(dropped.shape, by, strict=True))]
        assert abs((here == there).float().mean() - 0.5) < 5 * 0.5 / here.numel() ** 0.5, by
    again, other = (drawn(starts, lengths, 64, 128, 2, 0.5, seed=seed).view_as(often) for seed in (0, 1))
    assert torch.equal(again, often)
    assert abs((other == often).float().mean() - 0.5) < 0.05


def test_dropout_draws_the_same_in_any_tiles_and_layout(monkeypatch):
    starts, lengths = torch.tensor([0, 70]), torch.tensor([70, 9])
    inputs = [tensor.clone().requires_grad_() for tensor in projection(140, 2, 32)]

    def gradients(rows, **options):
        torch.manual_seed(0)
        out = attention(*(tensor[:rows] for tensor in inputs), starts, lengths, 70, dropout=0.5, **options)
        return torch.autograd.grad(out.square().sum(), inputs)

    expected = gradients(79)
    torch.testing.assert_close(gradients(140, width=70), expected)
    for name, tiles in (("FORWARD", (16, 64)), ("BACKWARD_QUERY", (32, 16)), ("BACKWARD_KEY", (16, 64))):
        monkeypatch.setitem(getattr(module, name), (32, 32), module.Tiles(*tiles, 4, 1))
    torch.testing.assert_close(gradients(79), expected)


def test_dropout_of_all_of_none_and_where_keys_are_hidden():
    starts, lengths = packed([70, 1])
    inputs = [tensor.clone().requires_grad_() for tensor in projection(71, 1, 32)]
    bias = torch.zeros(1, 70, 70)
    bias[:, 5] = -math.inf

    def results(dropout):
        out = attention(*inputs, starts, lengths, 70, bias=bias, dropout=dropout)
        return (out, *torch.autograd.grad(out.square().sum(), inputs))

    assert not any(tensor.any() for tensor in results(1.0))
    for small, none in zip(results(1e-7), results(0.0), strict=True):
        torch.testing.assert_close(small, none)
    out, query, *others = results(0.5)
    assert not out[5].any()
    assert not query[5].any()
    assert all(tensor.isfinite().all() for tensor in (out, query, *others))


def test_dropout_draws_the_same_where_a_checkpoint_computes_again():
    starts, lengths = packed([40, 3])
    inputs = [tensor.clone().requires_grad_() for tensor in projection(43, 2, 16)]

    def layers(*rows):
        for _ in range(2):
            rows = (*rows[:2], attention(*rows, starts, lengths, 40, dropout=0.3))
        return rows[2]

    def gradients(function):
        torch.manual_seed(0)
        return torch.autograd.grad(function(*inputs).square().sum(), inputs)

    again = gradients(lambda *rows: checkpoint(layers, *rows, use_reentrant=False))
    torch.testing.assert_close(again, gradients(layers), rtol=0, atol=0)
