"""Layer norm of a residual sum.

HOLE: the variance is E[x²] − mean², which cancels for rows far from zero; and a program takes a single row, so that
weight and bias are requested again for each. Subtract the mean first, and take eight rows per program.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def norm_kernel(
    x, residual, weight, bias, out, rows, width, eps, ROWS: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channel = tl.arange(0, BLOCK)
    place = row[:, None] * width + channel[None, :]
    inside = (row < rows)[:, None] & (channel < width)[None, :]
    scale = tl.load(weight + channel, mask=channel < width, other=0.0)
    shift = tl.load(bias + channel, mask=channel < width, other=0.0)
    tile = tl.load(x + place, mask=inside, other=0.0) + tl.load(residual + place, mask=inside, other=0.0)
    mean = tl.sum(tile, 1) / width
    variance = tl.sum(tile * tile, 1) / width - mean * mean  # HOLE
    tile = (tile - mean[:, None]) * tl.rsqrt(variance + eps)[:, None]
    tl.store(out + place, tile * scale[None, :] + shift[None, :], mask=inside)


def add_layer_norm(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x and residual (T, C) -> layer_norm(x + residual), eps 1e-5."""
    out, rows = torch.empty_like(x), 1  # HOLE
    grid = (triton.cdiv(len(x), rows),)
    norm_kernel[grid](x, residual, weight, bias, out, *x.shape, 1e-5, rows, triton.next_power_of_2(x.shape[1]))
    return out
