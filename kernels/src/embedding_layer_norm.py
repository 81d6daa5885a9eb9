# mypy: allow-untyped-defs
# ruff: noqa: N803
"""Word, position and type embeddings, their sum and its layer normalisation, in one pass.

Mathematics: y[t] = layer_norm(word[ids[t]] + position[positions[t]] + type[types[t]]), summed in float32.

Cost. 2·T·C elements for a read of the word rows and a write of y; the other tables are small enough for the cache.
BERT-base, 32 × 128 tokens of 768 in 16 bits: 12.6 MB / 3.35 TB/s = 3.8 µs on an H100. Three gathers, two sums and a
norm, done separately, would move 12·T·C: 23 µs, and launch six kernels.

Backward (`layer_norm` has the mathematics): the rows are gathered again, and their gradient (T, C) is what torch's own
kernel then adds up for each row of a table.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import gradient_wanted, launch, operator, row_tile, too_wide, why_not_here, why_not_indices, why_not_sizes
from .layer_norm import (
    backward_tile,
    empty_gradients,
    normalize,
    row_gradient,
    scale_and_shift,
    standardize,
    store_sums,
)


@triton.jit
def _gather(table, indices, size, row, rows, channels, width):
    """Rows of a table as float32, and which of their indices the table has."""
    index = tl.load(indices + row, mask=row < rows, other=0).to(tl.int64)
    found = (index >= 0) & (index < size)
    inside = (found & (row < rows))[:, None] & (channels < width)[None, :]
    return tl.load(table + index[:, None] * width + channels[None, :], mask=inside, other=0.0).to(tl.float32), found


@triton.jit
def _sum(ids, positions, types, word, position, type_, words, places, kinds, row, rows, channels, width):
    """The sum of the tables' rows, and whether all their indices were found."""
    tile, found = _gather(word, ids, words, row, rows, channels, width)
    more, also = _gather(position, positions, places, row, rows, channels, width)
    tile, found = tile + more, found & also
    if types is not None:
        more, also = _gather(type_, types, kinds, row, rows, channels, width)
        tile, found = tile + more, found & also
    return tile, found


@triton.jit(do_not_specialize=["rows"])
def _embedding_layer_norm_forward(
    ids, positions, types, word, position, type_, weight, bias, out,
    words, places, kinds, rows, width, eps, ROWS: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channels = tl.arange(0, BLOCK_C)
    scale, shift = scale_and_shift(weight, bias, channels, width)
    tile, found = _sum(
        ids, positions, types, word, position, type_, words, places, kinds, row, rows, channels, width
    )  # fmt: skip
    normed = tl.where(found[:, None], normalize(tile, scale, shift, eps, channels, width), float("nan"))
    inside = (row < rows)[:, None] & (channels < width)[None, :]
    tl.store(out + row.to(tl.int64)[:, None] * width + channels[None, :], normed, mask=inside)


@triton.jit(do_not_specialize=["rows"])
def _embedding_layer_norm_backward(
    grad, ids, positions, types, word, position, type_, weight, dx, sums,
    words, places, kinds, rows, width, eps, ROWS: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    channels = tl.arange(0, BLOCK_C)
    scale = tl.load(weight + channels, mask=channels < width, other=0.0)
    dweight = tl.zeros([ROWS, BLOCK_C], tl.float32)
    dbias = tl.zeros([ROWS, BLOCK_C], tl.float32)
    for first in range(tl.program_id(0) * ROWS, rows, tl.num_programs(0) * ROWS):
        row = first + tl.arange(0, ROWS)
        place = row.to(tl.int64)[:, None] * width + channels[None, :]
        inside = (row < rows)[:, None] & (channels < width)[None, :]
        upstream = tl.load(grad + place, mask=inside, other=0.0).to(tl.float32)
        tile, found = _sum(
            ids, positions, types, word, position, type_, words, places, kinds, row, rows, channels, width
        )  # fmt: skip
        normed, inverse = standardize(tile, eps, channels, width)
        normed = tl.where(found[:, None], normed, float("nan"))
        if sums is not None:
            dweight += upstream * normed
            dbias += upstream
        if dx is not None:
            tl.store(dx + place, row_gradient(upstream, normed, inverse, scale, width), mask=inside)
    if sums is not None:
        store_sums(sums, dweight, dbias, channels, width)


def _sizes(*tables: Tensor | None) -> list[int]:
    return [0 if table is None else table.shape[0] for table in tables]


def _contiguous(*tensors: Tensor | None) -> list[Tensor | None]:
    return [None if tensor is None else tensor.contiguous() for tensor in tensors]


def _fake_gradients(grad: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return empty_gradients(grad, grad.shape[-1], *rest[-2:])


@operator(_fake_gradients)
def embedding_layer_norm_backward(
    grad: Tensor,
    ids: Tensor,
    positions: Tensor,
    types: Tensor | None,
    word: Tensor,
    position: Tensor,
    type_: Tensor | None,
    weight: Tensor,
    eps: float,
    into_rows: bool,
    into_weights: bool,
) -> tuple[Tensor, Tensor]:
    """From the gradient of `embedding_layer_norm`, that of the sum of the tables' rows, and of weight and bias (2, C).

    What is not wanted is empty. Where an index is outside its table, as in the forward pass, it is NaN.
    """
    width = word.shape[1]
    rows = ids.numel()
    programs, tile = backward_tile(rows, width, into_weights)
    dx = torch.empty(grad.shape if into_rows else 0, dtype=word.dtype, device=word.device)
    sums = torch.empty((programs, 2, width if into_weights else 0), dtype=torch.float32, device=word.device)
    launch(
        _embedding_layer_norm_backward, (programs,),
        grad.contiguous(), *_contiguous(ids, positions, types), word, position, type_, weight.contiguous(),
        dx if into_rows else None, sums if into_weights else None,
        *_sizes(word, position, type_), rows, width, eps, **tile,
    )  # fmt: skip
    return dx, sums.sum(0).to(word.dtype)


def _into_table(rows: Tensor, indices: Tensor | None, table: Tensor | None, padding_idx: int | None) -> Tensor | None:
    """The gradient of a table, from that of the rows taken from it, except for its row `padding_idx`."""
    if indices is None or table is None:
        return None
    size = table.shape[0]
    left_out = -1 if padding_idx is None else padding_idx % size
    # An index outside the table is left out too: on a GPU its gradient would be written past the end.
    indices = indices.where((indices >= 0) & (indices < size), left_out)
    return torch.ops.aten.embedding_dense_backward(rows, indices, size, left_out, False)


def _gradients(
    needed: tuple[bool, ...],
    upstream: tuple[Tensor],
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
) -> tuple[Tensor | None, ...]:
    into_tables, into_weights = needed[3:6], needed[6] or needed[7]
    rows, sums = embedding_layer_norm_backward(
        *upstream, ids, positions, types, word, position, type_, weight, eps, any(into_tables), into_weights
    )
    taken = (ids, word, padding_idx), (positions, position, None), (types, type_, None)
    tables = (_into_table(rows, *each) if wanted else None for each, wanted in zip(taken, into_tables, strict=True))
    return None, None, None, *tables, *sums


def _fake(
    ids: Tensor,
    positions: Tensor,
    types: Tensor | None,
    word: Tensor,
    *_: object,
) -> Tensor:
    return word.new_empty(*ids.shape, word.shape[1])


@operator(_fake, _gradients)
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
    """Indices (T,) of one shape, tables (·, C), weight and bias (C,) -> (T, C); an index outside its table gives NaN.

    `types` and `type_` are None together, for models without token types. The gradient does not reach row
    `padding_idx` of the word table.
    """
    width = word.shape[1]
    rows = ids.numel()
    out = torch.empty((*ids.shape, width), dtype=word.dtype, device=word.device)
    tile = row_tile(width)
    launch(
        _embedding_layer_norm_forward, (-(-rows // tile["ROWS"]),),
        ids.contiguous(), *_contiguous(positions, types), word, position, type_,
        weight.contiguous(), bias.contiguous(), out, *_sizes(word, position, type_), rows, width, eps, **tile,
    )  # fmt: skip
    return out


def why_not(
    ids: Tensor,
    positions: Tensor,
    types: Tensor | None,
    word: Tensor,
    position: Tensor,
    type_: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    eps: float,
) -> str | None:
    """The reason why `embedding_layer_norm` cannot take these arguments, or None."""
    tensors = word, position, type_, weight, bias
    reason = why_not_here(tensors, backward=True) or too_wide(word.shape[1], backward=gradient_wanted(tensors))
    reason = reason or why_not_indices((ids, positions, types), word.device)
    width = word.shape[1]
    reason = reason or why_not_sizes(
        position=(position, (position.shape[0], width)),
        type_=(type_, (0 if type_ is None else type_.shape[0], width)),
        weight=(weight, (width,)),
        bias=(bias, (width,)),
    )
    if reason:
        return reason
    if any(indices.shape != ids.shape for indices in (positions, types) if indices is not None):
        return "ids, positions and types are not of one shape; the kernel broadcasts nothing"
    if not all(table.is_contiguous() for table in (word, position, type_) if table is not None):
        return "a table is not contiguous"
    return None
