# mypy: allow-untyped-defs
# ruff: noqa: N803
"""Layer normalisation, alone and after a residual add.

Mathematics (Ba et al. 2016), over the C channels of a row x, or of x + residual:

    y = (x − mean) / √(variance + eps) · weight + bias

A row lies in registers as float32, so that the variance is the mean square of what is left after the mean is taken
away (two passes, no cancellation), and memory is touched once. The sum with the residual is not rounded before it is
normalised. A program takes one wide row, or several narrow ones, so that enough bytes are in flight.

Cost. About 8 FLOPs an element, and the elements that move: 2·T·C for `layer_norm`, 3·T·C for `add_layer_norm`, 4·T·C
for `residual_layer_norm`. BERT-base, 32 × 128 rows of 768 in 16 bits, `add_layer_norm`: 18.9 MB / 3.35 TB/s = 5.6 µs
on an H100 (less where the inputs are still in its 50 MB of L2). As two kernels of torch it would be 5·T·C: 9.4 µs.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import launch, operator, row_tile, too_wide, why_not_here, why_not_sizes


@triton.jit
def scale_and_shift(weight, bias, channels, width):
    """A norm's weight and bias. Asked for before the rows' sums, so that nothing waits for them after the barriers."""
    inside = channels < width
    return tl.load(weight + channels, mask=inside, other=0.0), tl.load(bias + channels, mask=inside, other=0.0)


@triton.jit
def normalize(x, scale, shift, eps, channels, width):
    """Normalise float32 rows of a tile whose channels after `width` are zero."""
    x -= tl.sum(x, 1)[:, None] / width
    x = tl.where((channels < width)[None, :], x, 0.0)
    x *= tl.rsqrt(tl.sum(x * x, 1) / width + eps)[:, None]
    return x * scale.to(tl.float32)[None, :] + shift.to(tl.float32)[None, :]


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


def _fake(x: Tensor, *_: object) -> Tensor:
    return x.new_empty(x.shape)


@operator(_fake)
def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """`x` (..., C), weight and bias (C,) -> (..., C)."""
    return _launch(x, None, weight, bias, None, eps)


@operator(_fake)
def add_layer_norm(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """`layer_norm(x + residual)`, for models that normalise after the residual add."""
    return _launch(x, residual, weight, bias, None, eps)


@operator(lambda x, *_: (x.new_empty(x.shape), x.new_empty(x.shape)))
def residual_layer_norm(
    x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """x + residual, and `layer_norm` of it, for models that normalise before the next block."""
    total = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    return total, _launch(x, residual, weight, bias, total, eps)


def why_not(x: Tensor, *rest: Tensor | float) -> str | None:
    """The reason why the launchers of this module cannot take their arguments, or None."""
    tensors = [x, *(argument for argument in rest if isinstance(argument, Tensor))]
    reason = why_not_here(tensors) or too_wide(x.shape[-1])
    width = (x.shape[-1],)
    reason = reason or why_not_sizes(weight=(tensors[-2], width), bias=(tensors[-1], width))
    if reason is None and any(residual.shape != x.shape for residual in tensors[:-2]):
        return f"the residual is {tuple(tensors[1].shape)}, x {tuple(x.shape)}; the kernel broadcasts nothing"
    return reason
