# mypy: allow-untyped-defs
# ruff: noqa: N803
"""Layer normalisation, alone and after a residual add.

Mathematics (Ba et al. 2016), over the C channels of a row x, or of x + residual:

    y = (x − mean) / √(variance + eps) · weight + bias

A row is in registers as float32, so the variance is the mean square of what is left after the mean is subtracted (two
passes, no cancellation), and memory is touched once. The sum with the residual is not rounded before it is normalised.
A program takes one wide row, or several narrow ones, so that enough bytes are in flight.

Its gradients, with x̂ the normalised row before weight and bias, g = dy · weight, and means over the row:

    dx = (g − mean(g) − x̂ · mean(g · x̂)) / √(variance + eps),   dweight = Σ dy · x̂,   dbias = Σ dy

The backward pass recomputes x̂ rather than store it. Each program processes rows at a fixed stride and sums dweight
and dbias over them in registers; the sums of all programs are added afterwards in a fixed order: no atomics, the same
bits every time.

Cost. About 8 FLOPs per element, and the elements that move: 2·T·C for `layer_norm`, 3·T·C for `add_layer_norm`, 4·T·C
for `residual_layer_norm`. BERT-base, 32 × 128 rows of 768 in 16 bits, `add_layer_norm`: 18.9 MB / 3.35 TB/s = 5.6 µs
on an H100 (less where the inputs are still in its 50 MB of L2). As two kernels of torch it would be 5·T·C: 9.4 µs.
Backward 3·T·C (4·T·C with a residual), and 8 bytes per channel for each of up to 1024 partial sums.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import STRIPS, gradient_wanted, launch, operator, row_tile, too_wide, why_not_here, why_not_sizes


@triton.jit
def scale_and_shift(weight, bias, channels, width):
    """A norm's weight and bias. Loaded before the rows' sums, so that nothing waits for them after the barriers."""
    inside = channels < width
    return tl.load(weight + channels, mask=inside, other=0.0), tl.load(bias + channels, mask=inside, other=0.0)


@triton.jit
def standardize(x, eps, channels, width):
    """Float32 rows of a tile, zero after `width`, with mean 0 and variance 1, and the factor that gave it."""
    x -= tl.sum(x, 1)[:, None] / width
    x = tl.where((channels < width)[None, :], x, 0.0)
    inverse = tl.rsqrt(tl.sum(x * x, 1) / width + eps)[:, None]
    return x * inverse, inverse


@triton.jit
def normalize(x, scale, shift, eps, channels, width):
    """Normalise float32 rows of a tile whose channels after `width` are zero."""
    x, _ = standardize(x, eps, channels, width)
    return x * scale.to(tl.float32)[None, :] + shift.to(tl.float32)[None, :]


@triton.jit
def row_gradient(upstream, normed, inverse, scale, width):
    """The gradient of rows, from that of their norm and from what `standardize` gave."""
    upstream *= scale.to(tl.float32)[None, :]
    along = tl.sum(upstream * normed, 1)[:, None] / width
    return (upstream - tl.sum(upstream, 1)[:, None] / width - normed * along) * inverse


@triton.jit
def store_sums(sums, dweight, dbias, channels, width):
    """What a program has summed for weight and bias, side by side."""
    sums += tl.program_id(0) * 2 * width + channels
    tl.store(sums, tl.sum(dweight, 0), mask=channels < width)
    tl.store(sums + width, tl.sum(dbias, 0), mask=channels < width)


@triton.jit(do_not_specialize=["rows"])
def _layer_norm_forward(
    x, residual, weight, bias, total, out, rows, width, eps, ROWS: tl.constexpr, BLOCK_C: tl.constexpr
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channels = tl.arange(0, BLOCK_C)
    place = row.to(tl.int64)[:, None] * width + channels[None, :]
    inside = (row < rows)[:, None] & (channels < width)[None, :]
    scale, shift = scale_and_shift(weight, bias, channels, width)
    tile = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    if residual is not None:
        tile += tl.load(residual + place, mask=inside, other=0.0).to(tl.float32)
    if total is not None:
        tl.store(total + place, tile, mask=inside)
    tl.store(out + place, normalize(tile, scale, shift, eps, channels, width), mask=inside)


@triton.jit(do_not_specialize=["rows"])
def _layer_norm_backward(
    grad, kept, x, residual, weight, dx, sums, rows, width, eps, ROWS: tl.constexpr, BLOCK_C: tl.constexpr
):
    channels = tl.arange(0, BLOCK_C)
    scale = tl.load(weight + channels, mask=channels < width, other=0.0)
    dweight = tl.zeros([ROWS, BLOCK_C], tl.float32)
    dbias = tl.zeros([ROWS, BLOCK_C], tl.float32)
    for first in range(tl.program_id(0) * ROWS, rows, tl.num_programs(0) * ROWS):
        row = first + tl.arange(0, ROWS)
        place = row.to(tl.int64)[:, None] * width + channels[None, :]
        inside = (row < rows)[:, None] & (channels < width)[None, :]
        tile = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
        if residual is not None:
            tile += tl.load(residual + place, mask=inside, other=0.0).to(tl.float32)
        upstream = tl.load(grad + place, mask=inside, other=0.0).to(tl.float32)
        normed, inverse = standardize(tile, eps, channels, width)
        if sums is not None:
            dweight += upstream * normed
            dbias += upstream
        if dx is not None:
            gradient = row_gradient(upstream, normed, inverse, scale, width)
            if kept is not None:
                gradient += tl.load(kept + place, mask=inside, other=0.0).to(tl.float32)
            tl.store(dx + place, gradient, mask=inside)
    if sums is not None:
        store_sums(sums, dweight, dbias, channels, width)


def _launch(
    x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor, total: Tensor | None, eps: float
) -> Tensor:
    width = x.shape[-1]
    rows = x.numel() // width
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    tile = row_tile(width)
    launch(
        _layer_norm_forward, (-(-rows // tile["ROWS"]),),
        x.contiguous(), None if residual is None else residual.contiguous(), weight.contiguous(), bias.contiguous(),
        total, out, rows, width, eps, **tile,
    )  # fmt: skip
    return out


def backward_tile(rows: int, width: int, into_weights: bool) -> tuple[int, dict[str, int]]:
    """How many programs share the rows of a backward pass, and its options: two warps where forward has one.

    The sums for weight and bias are in registers together with the rows.
    """
    tile = row_tile(width)
    tile = {**tile, "num_warps": 2 * tile["num_warps"]}
    programs = -(-rows // tile["ROWS"])
    return min(programs, 2 * STRIPS // tile["num_warps"]) if into_weights else programs, tile


def empty_gradients(x: Tensor, width: int, into_rows: bool, into_weights: bool) -> tuple[Tensor, Tensor]:
    """Memory for the gradient of x, and for that of a norm's weight and bias (2, C); empty where not wanted."""
    return x.new_empty(x.shape if into_rows else 0), x.new_empty(2, width if into_weights else 0)


def _fake_gradients(grad: Tensor, kept: Tensor | None, x: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return empty_gradients(x, x.shape[-1], *rest[-2:])


@operator(_fake_gradients)
def layer_norm_backward(
    grad: Tensor,
    kept: Tensor | None,
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    eps: float,
    into_rows: bool,
    into_weights: bool,
) -> tuple[Tensor, Tensor]:
    """From the gradient of `layer_norm(x + residual)`, that of x or of the residual, and of weight and bias (2, C).

    `kept` is the gradient of x + residual itself. What is not wanted is empty.
    """
    width = x.shape[-1]
    rows = x.numel() // width
    programs, tile = backward_tile(rows, width, into_weights)
    dx = torch.empty(x.shape if into_rows else 0, dtype=x.dtype, device=x.device)
    sums = torch.empty((programs, 2, width if into_weights else 0), dtype=torch.float32, device=x.device)
    launch(
        _layer_norm_backward, (programs,),
        grad.contiguous(), None if kept is None else kept.contiguous(), x.contiguous(),
        None if residual is None else residual.contiguous(), weight.contiguous(),
        dx if into_rows else None, sums if into_weights else None, rows, width, eps, **tile,
    )  # fmt: skip
    return dx, sums.sum(0).to(x.dtype)


def _gradients(needed: tuple[bool, ...], upstream: tuple[Tensor, ...], x: Tensor, *rest: Any) -> tuple:
    """Of any of this module's launchers: x, the residual where there is one, weight, bias, eps."""
    residual, weight, _, eps = rest if len(rest) == 4 else (None, *rest)
    kept = upstream[0] if len(upstream) == 2 else None
    *into_rows, into_weight, into_bias, _ = needed
    dx, sums = layer_norm_backward(
        upstream[-1], kept, x, residual, weight, eps, any(into_rows), into_weight or into_bias
    )
    return *[dx] * len(into_rows), *sums


def _fake(x: Tensor, *_: object) -> Tensor:
    return x.new_empty(x.shape)


@operator(_fake, _gradients)
def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """`x` (..., C), weight and bias (C,) -> (..., C)."""
    return _launch(x, None, weight, bias, None, eps)


@operator(_fake, _gradients)
def add_layer_norm(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """`layer_norm(x + residual)`, for models that normalise after the residual add."""
    return _launch(x, residual, weight, bias, None, eps)


@operator(lambda x, *_: (x.new_empty(x.shape), x.new_empty(x.shape)), _gradients)
def residual_layer_norm(
    x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """x + residual, and `layer_norm` of it, for models that normalise before the next block."""
    total = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    return total, _launch(x, residual, weight, bias, total, eps)


def why_not(x: Tensor, *rest: Tensor | float) -> str | None:
    """The reason why the launchers of this module cannot take their arguments, or None."""
    tensors = [x, *(argument for argument in rest if isinstance(argument, Tensor))]
    reason = why_not_here(tensors, backward=True) or too_wide(x.shape[-1], backward=gradient_wanted(tensors))
    width = (x.shape[-1],)
    reason = reason or why_not_sizes(weight=(tensors[-2], width), bias=(tensors[-1], width))
    if reason is None and any(residual.shape != x.shape for residual in tensors[:-2]):
        return f"the residual is {tuple(tensors[1].shape)}, x {tuple(x.shape)}; the kernel broadcasts nothing"
    return reason
