# mypy: allow-untyped-defs
# ruff: noqa: N803
"""Swin's patch merging up to its projection: the gather of 2 × 2 neighbours and the layer normalisation of all four.

Mathematics (Liu et al. 2021): y[i, j] = layer_norm of the 4·C values (x[2i, 2j], x[2i+1, 2j], x[2i, 2j+1],
x[2i+1, 2j+1]), with zero padding at an odd edge.

Cost. 2·B·H·W·C elements: the map read once, and as many values written. Swin-T after its first stage, batch 64 in
16 bits: 64·56²·96·2·2 bytes = 77 MB / 3.35 TB/s = 23 µs on an H100; a separate gather and norm would move it twice.
Backward (`layer_norm` has the mathematics) 3·B·H·W·C: a pixel belongs to one square, so its gradient is written once.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import gradient_wanted, launch, operator, row_tile, too_wide, why_not_here, why_not_sizes
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
def _sources(row, column, rows, height, width, half_height, half_width, CHANNELS: tl.constexpr):
    """Where the values of merged rows lie on the map, which of them exist, and which of these are not padding.

    Rows have 32 bits until they become an address: a division of 64 bits is a call of some 70 instructions.
    """
    quarter = (column // CHANNELS)[None, :]
    line = row // half_width
    y = line % half_height * 2 + quarter % 2
    x_ = (row - line * half_width) * 2 + quarter // 2
    image = (line // half_height).to(tl.int64)
    place = ((image * height + y) * width + x_) * CHANNELS + (column % CHANNELS)[None, :]
    inside = (row < rows) & (quarter < 4)
    return place, inside, inside & (y < height) & (x_ < width)


@triton.jit(do_not_specialize=["rows", "height", "width", "half_height", "half_width"])
def _merge_layer_norm_forward(
    x, weight, bias, out, rows, height, width, half_height, half_width, eps,
    CHANNELS: tl.constexpr, ROWS: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS))[:, None]
    column = tl.arange(0, BLOCK_C)
    scale, shift = scale_and_shift(weight, bias, column, 4 * CHANNELS)
    place, inside, real = _sources(row, column, rows, height, width, half_height, half_width, CHANNELS)
    tile = tl.load(x + place, mask=real, other=0.0).to(tl.float32)
    normed = normalize(tile, scale, shift, eps, column, 4 * CHANNELS)
    tl.store(out + row.to(tl.int64) * 4 * CHANNELS + column[None, :], normed, mask=inside)


@triton.jit(do_not_specialize=["rows", "height", "width", "half_height", "half_width"])
def _merge_layer_norm_backward(
    grad, x, weight, dx, sums, rows, height, width, half_height, half_width, eps,
    CHANNELS: tl.constexpr, ROWS: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    column = tl.arange(0, BLOCK_C)
    scale = tl.load(weight + column, mask=column < 4 * CHANNELS, other=0.0)
    dweight = tl.zeros([ROWS, BLOCK_C], tl.float32)
    dbias = tl.zeros([ROWS, BLOCK_C], tl.float32)
    for first in range(tl.program_id(0) * ROWS, rows, tl.num_programs(0) * ROWS):
        row = (first + tl.arange(0, ROWS))[:, None]
        place, inside, real = _sources(row, column, rows, height, width, half_height, half_width, CHANNELS)
        tile = tl.load(x + place, mask=real, other=0.0).to(tl.float32)
        upstream = grad + row.to(tl.int64) * 4 * CHANNELS + column[None, :]
        upstream = tl.load(upstream, mask=inside, other=0.0).to(tl.float32)
        normed, inverse = standardize(tile, eps, column, 4 * CHANNELS)
        if sums is not None:
            dweight += upstream * normed
            dbias += upstream
        if dx is not None:
            tl.store(dx + place, row_gradient(upstream, normed, inverse, scale, 4 * CHANNELS), mask=real)
    if sums is not None:
        store_sums(sums, dweight, dbias, column, 4 * CHANNELS)


def _halves(x: Tensor) -> tuple[int, int, int]:
    """How many merged rows a map makes, how many lines of them an image has, and how many a line has."""
    batch, height, width, _ = x.shape
    half_height, half_width = (height + 1) // 2, (width + 1) // 2
    return batch * half_height * half_width, half_height, half_width


@operator(lambda grad, x, weight, eps, *wanted: empty_gradients(x, 4 * x.shape[3], *wanted))
def merge_layer_norm_backward(
    grad: Tensor, x: Tensor, weight: Tensor, eps: float, into_x: bool, into_weights: bool
) -> tuple[Tensor, Tensor]:
    """From the gradient of `merge_layer_norm`, that of x, and of weight and bias (2, 4·C); empty where not wanted."""
    _, height, width, channels = x.shape
    rows, *halves = _halves(x)
    programs, tile = backward_tile(rows, 4 * channels, into_weights)
    dx = torch.empty(x.shape if into_x else 0, dtype=x.dtype, device=x.device)
    sums = torch.empty((programs, 2, 4 * channels if into_weights else 0), dtype=torch.float32, device=x.device)
    launch(
        _merge_layer_norm_backward, (programs,),
        grad.contiguous(), x.contiguous(), weight.contiguous(),
        dx if into_x else None, sums if into_weights else None,
        rows, height, width, *halves, eps, CHANNELS=channels, **tile,
    )  # fmt: skip
    return dx, sums.sum(0).to(x.dtype)


def _gradients(
    needed: tuple[bool, ...], upstream: tuple[Tensor], x: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor | None, ...]:
    dx, sums = merge_layer_norm_backward(*upstream, x, weight, eps, needed[0], needed[1] or needed[2])
    return dx, *sums


def _fake(x: Tensor, *_: object) -> Tensor:
    return x.new_empty(x.shape[0], *_halves(x)[1:], 4 * x.shape[3])


@operator(_fake, _gradients)
def merge_layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """A map (B, H, W, C), weight and bias (4·C,) -> (B, ceil(H / 2), ceil(W / 2), 4·C)."""
    batch, height, width, channels = x.shape
    rows, *halves = _halves(x)
    out = torch.empty((batch, *halves, 4 * channels), dtype=x.dtype, device=x.device)
    tile = row_tile(4 * channels)
    launch(
        _merge_layer_norm_forward, (-(-rows // tile["ROWS"]),),
        x.contiguous(), weight.contiguous(), bias.contiguous(), out,
        rows, height, width, *halves, eps, CHANNELS=channels, **tile,
    )  # fmt: skip
    return out


def why_not(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> str | None:
    """The reason why `merge_layer_norm` cannot take these arguments, or None."""
    width = 4 * x.shape[3]
    tensors = x, weight, bias
    reason = why_not_here(tensors, backward=True) or too_wide(width, backward=gradient_wanted(tensors))
    return reason or why_not_sizes(weight=(weight, (width,)), bias=(bias, (width,)))
