"""The operations of the text models against their formulas in float64, and the choice of the engine."""

import itertools
import logging
import math
import threading
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import minitrans
from minitrans import ops, plain
from minitrans.sequences import Sequences

CPU = torch.device("cpu")
LENGTHS = [7, 1, 4, 4, 9]


def layouts(lengths: list[int] = LENGTHS) -> dict[str, Sequences]:
    width = max(lengths)
    mask = torch.arange(width) < torch.tensor(lengths)[:, None]
    holes = torch.zeros(len(lengths), width, dtype=torch.bool)
    for row, length in enumerate(lengths):
        holes[row, torch.randperm(width, generator=torch.Generator().manual_seed(row))[:length]] = True
    return {
        "ragged": Sequences.from_mask(mask, CPU),
        "holes": Sequences.from_mask(holes, CPU),
        "padded": Sequences.padded(torch.tensor(lengths, dtype=torch.int32), width),
    }


def row_count(sequences: Sequences) -> int:
    return int(sequences.row_positions().numel())


def exact(q: Tensor, k: Tensor, v: Tensor, sequences: Sequences, bias: Tensor | None) -> tuple[Tensor, list[Tensor]]:
    """Attention by its formula, one sequence and head at a time; zeros in rows that belong to nobody."""
    out, weights = torch.zeros_like(q), []
    for index, (start, length) in enumerate(zip(sequences.starts.tolist(), sequences.lengths.tolist(), strict=True)):
        rows = slice(start, start + length)
        scores = torch.einsum("ihd,jhd->hij", q[rows], k[rows]) / math.sqrt(q.shape[-1])
        if bias is not None:
            scores = scores + (bias if bias.dim() == 3 else bias[index])[:, :length, :length]
        weights.append(scores.exp() / scores.exp().sum(-1, keepdim=True))
        out[rows] = torch.einsum("hij,jhd->ihd", weights[-1], v[rows])
    return out, weights


def test_attention_of_a_grid_is_that_of_its_packed_rows():
    mask = torch.tensor([[False, True, True, True], [True, True, False, False]])
    grid, packed = Sequences.grid(mask), Sequences.from_mask(mask, mask.device)
    qkv = torch.randn(3, 8, 2, 5, dtype=torch.float64)
    found = ops.attention(*qkv, grid)
    expected = ops.attention(*(packed.pack(x.unflatten(0, (2, 4))) for x in qkv), packed)
    torch.testing.assert_close(found, packed.unpack(expected).flatten(0, 1))


@pytest.mark.parametrize("layout", ["ragged", "holes", "padded"])
@pytest.mark.parametrize("bias", [None, "heads", "all"])
@pytest.mark.parametrize(("heads", "size"), [(2, 8), (3, 5), (1, 1)])
def test_attention(layout, bias, heads, size):
    torch.manual_seed(0)
    sequences = layouts()[layout]
    # Views into one projection, as the models have them.
    q, k, v = torch.randn(row_count(sequences), 3, heads, size, dtype=torch.float64).unbind(1)
    shape = {None: None, "heads": (heads, 9, 9), "all": (5, heads, 9, 9)}[bias]
    added = None if shape is None else torch.randn(shape, dtype=torch.float64)
    expected, weights = exact(q, k, v, sequences, added)
    out = ops.attention(q, k, v, sequences, bias=added)
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    found = ops.attention_probabilities(q, k, sequences, bias=added)
    assert found.shape == (5, heads, 9, 9)
    for index, length in enumerate(LENGTHS):
        if layout != "holes":
            torch.testing.assert_close(found[index, :, :length, :length], weights[index], rtol=1e-12, atol=1e-12)
            assert (found[index, :, length:] == 0).all()
            assert (found[index, :, :, length:] == 0).all()
        assert float(found[index].sum()) == pytest.approx(length * heads)
    half = [x.float() for x in (q, k, v)]
    found = ops.attention(*half, sequences, bias=None if added is None else added.float())
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bias", [None, "heads", "all"])
@pytest.mark.parametrize("lengths", [LENGTHS, [1], [2, 9, 1], [3, 1, 1]], ids=str)
def test_attention_off_the_cpu_and_off_the_kernel_is_one_call(lengths, bias, monkeypatch):
    """Tensors on the meta device say which calls there are; the numbers and gradients are those of the call itself."""
    torch.manual_seed(0)
    shape = {None: None, "heads": (2, 9, 9), "all": (len(lengths), 2, 9, 9)}[bias]
    added = None if shape is None else torch.randn(shape, dtype=torch.float64, requires_grad=True)
    sequences = Sequences._ragged((len(lengths), 9), lengths, torch.arange(9) < torch.tensor(lengths)[:, None], CPU)
    q, k, v = torch.randn(sum(lengths), 3, 2, 4, dtype=torch.float64, requires_grad=True).unbind(1)
    expected, _ = exact(q, k, v, sequences, added)
    found = plain._masked_attention(q, k, v, sequences, added, 0.0)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    inputs, weight = [x for x in (q, k, v, added) if x is not None], torch.randn_like(found)
    for ours, theirs in zip(*(torch.autograd.grad(out, inputs, weight) for out in (found, expected)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)

    calls, own = [], F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *x, **y: (calls.append(1), own(*x, **y))[1])
    there = replace(sequences, starts=sequences.starts.to("meta"), lengths=sequences.lengths.to("meta"))
    away = ops.attention(*(x.to("meta") for x in (q, k, v)), there, bias=None if added is None else added.to("meta"))
    assert away.shape == q.shape
    assert len(calls) == 1


@pytest.mark.parametrize("layout", ["ragged", "padded"])
def test_gradients_of_attention(layout):
    torch.manual_seed(0)
    sequences = layouts([3, 1, 2])[layout]
    qkv = torch.randn(row_count(sequences), 3, 2, 2, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(2, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, b: ops.attention(*x.unbind(1), sequences, bias=b), (qkv, bias))


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 3e-2)]
)
@pytest.mark.parametrize("lengths", [[7], [4, 4, 4], [5, 2, 2, 7]], ids=str)
def test_dropout_of_attention_is_that_of_torch(lengths, dtype, tolerance):
    """One seed drops the same weights: of sequences of one length in one call, of others one after the other."""
    torch.manual_seed(0)
    given = torch.randn(sum(lengths), 3, 4, 8, dtype=dtype, requires_grad=True)
    upstream = torch.randn(sum(lengths), 4, 8, dtype=dtype)
    torch.manual_seed(1)
    out = ops.attention(*given.unbind(1), layouts(lengths)["ragged"], dropout=0.3)
    torch.manual_seed(1)
    pieces = []
    for _, group in itertools.groupby(given.split(lengths), key=len):
        q, k, v = torch.stack(list(group)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=0.3)
        pieces.append(mixed.transpose(1, 2).flatten(0, 1))
    expected = torch.cat(pieces)
    for found, wanted in zip(*([x, *torch.autograd.grad(x, given, upstream)] for x in (out, expected)), strict=True):
        torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("layout", ["ragged", "padded"])
def test_dropout_of_attention_drops_weights_and_keeps_the_mean(layout):
    torch.manual_seed(0)
    sequences = layouts()[layout]
    q, k = torch.randn(2, row_count(sequences), 1, 4)
    v = torch.ones(row_count(sequences), 1, 4)
    once = ops.attention(q, k, v, sequences, dropout=0.5)
    assert float((once - 1).abs().max()) > 0.1
    many = torch.stack([ops.attention(q, k, v, sequences, dropout=0.5) for _ in range(2000)]).mean(0)
    expected, _ = exact(q, k, v, sequences, None)
    torch.testing.assert_close(many, expected, rtol=0, atol=0.12)


@pytest.mark.parametrize(
    "arguments",
    [
        (torch.ones(3, 1, 2), torch.ones(3, 1, 2), torch.ones(3, 1, 3)),
        (torch.ones(3, 1, 2), torch.ones(3, 2, 2), torch.ones(3, 1, 2)),
        (torch.ones(3, 2), torch.ones(3, 2), torch.ones(3, 2)),
        (torch.ones(3, 1, 2), torch.ones(3, 1, 2).double(), torch.ones(3, 1, 2)),
    ],
)
def test_attention_of_what_does_not_fit(arguments):
    with pytest.raises(ValueError, match=r"one shape \(T, H, D\)"):
        ops.attention(*arguments, Sequences.full(1, 3, CPU))


@pytest.mark.parametrize("rows", [1, 2, 5, 300, 3000])
@pytest.mark.parametrize("activation", ["gelu", "relu", "gelu_new"])
@pytest.mark.parametrize("bias", [True, False])
def test_feed_forward_and_linear(rows, activation, bias):
    """In blocks or whole, through either library, with autograd or without."""
    torch.manual_seed(0)
    x, up, down = torch.randn(rows, 24), torch.randn(2100, 24) / 5, torch.randn(24, 2100) / 50
    up_bias, down_bias = (torch.randn(2100), torch.randn(24)) if bias else (None, None)
    wide = [None if t is None else t.double() for t in (x, up, up_bias, down, down_bias)]
    hidden = ops.ACTIVATIONS[activation](F.linear(wide[0], wide[1], wide[2]))
    expected = F.linear(hidden, wide[3], wide[4])
    tolerance = 5e-6 * float(expected.abs().max())
    for grad in (True, False):
        found = ops.feed_forward(x, up.requires_grad_(grad), up_bias, down, down_bias, activation)
        assert found.requires_grad is grad
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=tolerance)
    found = ops.linear(x[None], up, up_bias)
    assert found.shape == (1, rows, 2100)
    torch.testing.assert_close(found[0].double(), F.linear(*wide[:3]), rtol=0, atol=2e-5)


def test_linear_of_odd_inputs():
    """None at all, columns of another tensor, half precision: whatever torch's own takes."""
    weight, bias = torch.randn(4, 6), torch.randn(4)
    assert ops.linear(torch.ones(0, 6), weight, bias).shape == (0, 4)
    x = torch.randn(5, 12)[:, ::2]
    torch.testing.assert_close(ops.linear(x, weight, bias), F.linear(x, weight, bias))
    torch.testing.assert_close(ops.linear(x[0], weight, bias), F.linear(x[0], weight, bias))
    half = [tensor.bfloat16() for tensor in (x, weight, bias)]
    torch.testing.assert_close(ops.linear(*half), F.linear(*half))
    with torch.autocast("cpu", torch.bfloat16):
        assert ops.linear(x, weight, bias).dtype == torch.bfloat16
    with torch.inference_mode():
        torch.testing.assert_close(ops.linear(x, weight, None), F.linear(x, weight))
    with pytest.raises(RuntimeError, match="shape"):
        ops.linear(torch.ones(2, 5), weight, bias)


def test_norms():
    torch.manual_seed(0)
    x, residual = torch.randn(2, 5, 7, dtype=torch.float64) * 3 + 1
    weight, bias = torch.randn(2, 7, dtype=torch.float64)

    def exactly(y: Tensor) -> Tensor:
        centred = y - y.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-3).sqrt() * weight + bias

    torch.testing.assert_close(ops.layer_norm(x, weight, bias, 1e-3), exactly(x))
    torch.testing.assert_close(ops.add_layer_norm(x, residual, weight, bias, 1e-3), exactly(x + residual))
    both = x + residual, exactly(x + residual)
    torch.testing.assert_close(ops.residual_layer_norm(x, residual, weight, bias, 1e-3), both)
    ids, positions, types = torch.randint(0, 4, (3, 5))
    word, position, type_ = torch.randn(3, 4, 7, dtype=torch.float64)
    summed = word[ids] + position[positions]
    found = ops.embedding_layer_norm(ids, positions, types, word, position, type_, weight, bias, 1e-3)
    torch.testing.assert_close(found, exactly(summed + type_[types]))
    found = ops.embedding_layer_norm(ids, positions, None, word, position, None, weight, bias, 1e-3)
    torch.testing.assert_close(found, exactly(summed))


def test_the_padding_row_of_a_table_gets_no_gradient():
    word = torch.randn(4, 3, requires_grad=True)
    ids = torch.tensor([0, 1, 1, 2])
    others = torch.randn(2, 3), None, torch.ones(3), torch.zeros(3), 1e-5
    ops.embedding_layer_norm(ids, torch.zeros_like(ids), None, word, *others, 1).square().sum().backward()
    assert (word.grad[[1, 3]] == 0).all()
    assert (word.grad[[0, 2]] != 0).any()


def test_indices_outside_a_table():
    for ids, value in (([0, 5], "5"), ([-1, 2], "-1")):
        with pytest.raises(ValueError, match=rf"things holds {value}, outside the table of 5 rows \(0 to 4\)"):
            ops.check_ids(torch.tensor(ids), 5, "things", "table")
    ops.check_ids(torch.tensor([], dtype=torch.long), 5, "things", "table")


def test_row_blocks():
    torch.manual_seed(0)
    rows = torch.randn(2000, 3)
    sizes = []

    def double(block: Tensor) -> Tensor:
        sizes.append(block.shape[0])
        return block * 2

    with torch.no_grad():
        assert torch.equal(ops.in_row_blocks(double, rows, 10**5), rows * 2)
    assert max(sizes) == (6 << 20) // (4 * 10**5)
    assert sum(sizes) == 2000
    sizes.clear()
    ops.in_row_blocks(double, rows, 10**5)
    assert sizes == [2000]


# Engines


def test_engines_nest_and_belong_to_their_thread(monkeypatch):
    def runs() -> str:
        try:
            ops.layer_norm(torch.ones(1, 2), torch.ones(2), torch.zeros(2), 1e-5)
            return "plain"
        except RuntimeError as error:
            return str(error).split()[1]

    assert runs() == "plain"
    with minitrans.engine("triton"):
        assert runs() == "triton"
        with minitrans.engine("plain"):
            assert runs() == "plain"
        assert runs() == "triton"
        elsewhere = []
        thread = threading.Thread(target=lambda: elsewhere.append(runs()))
        thread.start()
        thread.join()
        assert elsewhere == ["plain"]
    assert runs() == "plain"
    with pytest.raises(KeyError), minitrans.engine("triton"):
        raise KeyError
    assert runs() == "plain"
    monkeypatch.setenv("MINITRANS_ENGINE", "triton")
    assert runs() == "triton"
    with minitrans.engine("auto"):
        assert runs() == "plain"


def test_the_engine_of_a_model_wins_unless_it_leaves_the_choice():
    model = minitrans.BertModel(minitrans.BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2)).eval()
    ids = torch.ones(1, 3, dtype=torch.long)
    model(ids)
    with minitrans.engine("triton"), pytest.raises(RuntimeError, match="The triton engine was asked for"):
        model(ids)
    model.engine = "plain"
    with minitrans.engine("triton"):
        model(ids)
    model.engine = "triton"
    with minitrans.engine("plain"), pytest.raises(RuntimeError, match="The triton engine was asked for"):
        model(ids)
    for name, chosen in (("auto", "triton"), ("plain", "plain"), ("triton", "triton")):  # as tasks ask for it
        model.engine = name
        with minitrans.engine("triton"), ops.engine_of(model):
            assert ops.chosen_engine() == chosen


def test_a_function_keeps_the_engine_and_its_caller_his_own():
    with minitrans.engine("plain"):
        kept = ops.on_this_engine(lambda x, y: (x, y, ops.chosen_engine()))
    with minitrans.engine("triton"):
        assert kept(1, 2) == (1, 2, "plain")
        assert ops.chosen_engine() == "triton"
        failing = ops.on_this_engine(lambda: 1 / 0)
    with minitrans.engine("plain"):
        with pytest.raises(ZeroDivisionError):
            failing()
        assert ops.chosen_engine() == "plain"
    assert ops.chosen_engine() == "auto"


def test_every_kernel_refuses_the_cpu_with_its_reason():
    x = torch.ones(2, 4)
    ids = torch.zeros(2, dtype=torch.long)
    one, zero, heads = torch.ones(4), torch.zeros(4), torch.ones(2, 1, 4)
    calls = {
        "attention": lambda: ops.attention(heads, heads, heads, Sequences.full(1, 2, CPU)),
        "layer_norm": lambda: ops.layer_norm(x, one, zero, 1e-5),
        "embedding_layer_norm": lambda: ops.embedding_layer_norm(ids, ids, None, x, x, None, one, zero, 1e-5),
        "bias_gelu": lambda: ops.feed_forward(x, torch.ones(4, 4), zero, torch.ones(4, 4), zero, "gelu"),
    }
    for name, call in calls.items():
        call()
        with minitrans.engine("triton"), pytest.raises(RuntimeError, match=rf"{name} cannot run: .*CPU"):
            call()
    with minitrans.engine("triton"), pytest.raises(RuntimeError, match="layer_norm"):
        ops.add_layer_norm(x, x, one, zero, 1e-5)
    with minitrans.engine("triton"), pytest.raises(RuntimeError, match="dropout"):
        ops.window_attention(torch.ones(1, 2, 2, 3, 1, 4), torch.ones(9, 1), 2, 0, None, dropout=0.1)


def test_an_exported_program_has_no_kernels(monkeypatch):
    """It may run where there is no Triton; only who asks for the engine gets it."""
    x, one = torch.ones(2, 4, device="meta"), torch.ones(4, device="meta")
    asked = []
    monkeypatch.setattr(ops, "_import", lambda name: (asked.append(name), "it is not installed"))
    monkeypatch.setattr(torch.jit, "is_tracing", lambda: True)
    assert ops.layer_norm(x, one, one, 1e-5).shape == (2, 4)
    assert not asked
    with minitrans.engine("triton"), pytest.raises(RuntimeError, match="layer_norm"):
        ops.layer_norm(x, one, one, 1e-5)
    assert asked == ["layer_norm"]


def test_a_missing_triton_is_said_once(monkeypatch, caplog):
    """On another device than the CPU: the automatic choice says its reason once, and computes all the same."""
    monkeypatch.setattr(ops, "_import", lambda name: (None, "triton cannot be imported"))
    minitrans.logging._said.clear()
    x = torch.ones(2, 4, device="meta")
    one = torch.ones(4, device="meta")
    with caplog.at_level(logging.WARNING, "minitrans"):
        for _ in range(3):
            assert ops.layer_norm(x, one, one, 1e-5).shape == (2, 4)
    assert [record.getMessage() for record in caplog.records] == [
        "layer_norm runs in plain torch: triton cannot be imported"
    ]
    minitrans.logging._said.clear()


@pytest.mark.parametrize("name", ["BertModel", "DistilBertModel", "SwinModel", "Wav2Vec2Model"])
@pytest.mark.parametrize("engine", ["auto", "plain"])
def test_what_the_backward_pass_recomputes_runs_on_the_engine_of_the_forward_pass(name, engine):
    """Triton cannot run here, and would say so."""
    kind = getattr(minitrans, name)
    sizes = {"conv_dim": (8,) * 7, "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}
    small = {
        "SwinModel": {"image_size": 16, "embed_dim": 8, "depths": [2], "num_heads": [2], "window_size": 2},
        "Wav2Vec2Model": {**sizes, "layerdrop": 0.0},
    }
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = kind(kind.config_class(**({} if name == "SwinModel" else text), **small.get(name, {}))).train()
    x = {"SwinModel": torch.randn(2, 3, 16, 16), "Wav2Vec2Model": torch.randn(2, 900)}
    inputs = x.get(name, torch.ones(2, 5, dtype=torch.long))
    model.gradient_checkpointing_enable()
    model.engine = engine
    loss = model(inputs)[0].square().mean()
    with minitrans.engine("triton"):
        loss.backward()
    assert all(x.grad is not None for path, x in model.named_parameters() if not path.startswith(("pooler", "masked")))


def test_a_prepacked_weight_has_no_history():
    weight = torch.nn.Parameter(torch.randn(8, 16))
    packed = ops.prepacked(weight)
    assert not packed.requires_grad
    assert torch.equal(packed.to_dense(), weight)
