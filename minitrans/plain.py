"""Every operation in plain torch: the CPU path, and what the kernels are held against.

The functions have the signatures of `minitrans.ops`, which has already checked the arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minitrans.sequences import Sequences

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_python": F.gelu,
    "gelu_10": lambda x: F.gelu(x).clamp(-10, 10),
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_fast": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_accurate": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_python_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": F.relu,
    "relu2": lambda x: F.relu(x).square(),
    "relu6": F.relu6,
    "leaky_relu": F.leaky_relu,
    "silu": F.silu,
    "swish": F.silu,
    "mish": F.mish,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "linear": lambda x: x,
}

# A feed-forward block's intermediate beyond this size leaves the cache, and past 32 MiB glibc maps it afresh each time.
_BLOCK_BYTES = 6 << 20
_SMALLEST_BLOCK = 256  # rows; below it the matrix products lose more than the cache gives


def _recorded(*tensors: Tensor | None) -> bool:
    """Whether autograd follows an operation on these tensors."""
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether oneDNN's linear, which torch's compiler uses, may stand in for F.linear: same sums, other blocking.

    It has a fused activation, and on short inputs it is up to 1.6 times faster than the BLAS that F.linear calls
    (`python -m benchmarks.linear`).
    """
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.numel() > 0
        and torch.backends.mkldnn.is_available()
        and not _recorded(x, weight, bias)
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
        and type(x) is Tensor
        and not torch.jit.is_tracing()
    )


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str = "linear") -> Tensor:
    if _onednn(x, weight, bias):
        fused = "gelu" if activation == "gelu" else "none"
        y = torch.ops.mkldnn._linear_pointwise(x, weight, bias, fused, [], "none")
        return y if fused == "gelu" else ACTIVATIONS[activation](y)
    return ACTIVATIONS[activation](F.linear(x, weight, bias))


def in_row_blocks(function: Callable[[Tensor], Tensor], rows: Tensor, width: int) -> Tensor:
    """`function` of `rows` (T, C), in blocks whose intermediate of `width` values a row stays in cache.

    Without autograd only: that would keep every block's intermediate anyway.
    """
    size = max(_SMALLEST_BLOCK, _BLOCK_BYTES // (width * rows.element_size()))
    if rows.shape[0] <= size:
        return function(rows)
    out = None
    for start in range(0, rows.shape[0], size):
        block = function(rows[start : start + size])
        out = block.new_empty(rows.shape[0], *block.shape[1:]) if out is None else out
        out[start : start + size] = block
    return out  # type: ignore[return-value]  # there is at least one block


def feed_forward(
    rows: Tensor, up: Tensor, up_bias: Tensor | None, down: Tensor, down_bias: Tensor | None, activation: str
) -> Tensor:
    def whole(block: Tensor) -> Tensor:
        return linear(linear(block, up, up_bias, activation), down, down_bias)

    if rows.device.type != "cpu" or torch.compiler.is_compiling() or _recorded(rows, up, up_bias, down, down_bias):
        return whole(rows)
    return in_row_blocks(whole, rows, up.shape[0])


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x, weight.shape, weight, bias, eps)


def add_layer_norm(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x + residual, weight.shape, weight, bias, eps)


def embedding_layer_norm(
    ids: Tensor,
    positions: Tensor,
    types: Tensor | None,
    word: Tensor,
    position: Tensor,
    type_: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    padding_idx: int | None = None,
) -> Tensor:
    rows = F.embedding(ids, word, padding_idx)
    if types is not None and type_ is not None:
        rows = rows + F.embedding(types, type_)
    return F.layer_norm(rows + F.embedding(positions, position), weight.shape, weight, bias, eps)


def attention(
    q: Tensor, k: Tensor, v: Tensor, sequences: Sequences, bias: Tensor | None, dropout: float
) -> Tensor:
    if sequences.spans is None:
        return _padded_attention(q, k, v, sequences, bias, dropout)
    pieces = []
    # Neighbours of one length are one call; a batch without padding is a single one.
    for length, group in groupby(enumerate(sequences.spans), key=lambda item: item[1][1]):
        members = list(group)
        first, start = members[0][0], members[0][1][0]
        rows = slice(start, start + len(members) * length)
        heads = [x[rows].unflatten(0, (-1, length)).transpose(1, 2) for x in (q, k, v)]
        here = _bias_of(bias, slice(first, first + len(members)), length)
        out = F.scaled_dot_product_attention(*heads, attn_mask=here, dropout_p=dropout)
        pieces.append(out.transpose(1, 2).flatten(0, 1))
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def _bias_of(bias: Tensor | None, which: slice, length: int) -> Tensor | None:
    if bias is None:
        return None
    return (bias if bias.dim() == 3 else bias[which])[..., :length, :length]


def _padded_attention(
    q: Tensor, k: Tensor, v: Tensor, sequences: Sequences, bias: Tensor | None, dropout: float
) -> Tensor:
    length = sequences.shape[1]
    mask = (torch.arange(length, device=q.device) < sequences.lengths[:, None])[:, None, None]
    if bias is not None:
        mask = bias.masked_fill(~mask, float("-inf"))
    heads = [x.unflatten(0, sequences.shape).transpose(1, 2) for x in (q, k, v)]
    out = F.scaled_dot_product_attention(*heads, attn_mask=mask, dropout_p=dropout)
    return sequences.blank(out.transpose(1, 2).flatten(0, 1))


def attention_probabilities(q: Tensor, k: Tensor, sequences: Sequences, bias: Tensor | None) -> Tensor:
    q, k = (sequences.unpack(x).transpose(1, 2) for x in (q, k))
    scores = q @ k.transpose(2, 3) * q.shape[-1] ** -0.5
    if bias is not None:
        scores = scores + bias
    real = sequences.unpack(torch.ones_like(sequences.pack(scores[:, 0, :, :1])))[:, None]  # (B, 1, N, 1)
    weights = scores.masked_fill(real.transpose(2, 3) == 0, float("-inf")).softmax(-1)
    return weights * real


