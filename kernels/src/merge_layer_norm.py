# mypy: allow-untyped-defs
# ruff: noqa: N803
"""Swin's patch merging up to its projection: the gather of 2 × 2 neighbours and the layer normalisation of all four.

Mathematics (Liu et al. 2021): y[i, j] = layer_norm of the 4·C values (x[2i, 2j], x[2i+1, 2j], x[2i, 2j+1],
x[2i+1, 2j+1]), with zero padding at an odd edge.

Cost. 2·B·H·W·C elements: the map read once, and as many values written. Swin-T after its first stage, batch 64 in
16 bits: 64·56²·96·2·2 bytes = 77 MB / 3.35 TB/s = 23 µs on an H100; a gather and a norm apart would move it twice.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import launch, operator, row_tile, too_wide, why_not_here, why_not_sizes
from .layer_norm import normalize, scale_and_shift


@triton.jit(do_not_specialize=["rows", "height", "width", "half_height", "half_width"])
def _merge_layer_norm_forward(
    x, weight, bias, out, rows, height, width, half_height, half_width, eps,
    CHANNELS: tl.constexpr, ROWS: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    # Rows have 32 bits until they become an address: a division of 64 bits is a call of some 70 instructions.
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS))[:, None]
    column = tl.arange(0, BLOCK_C)
    scale, shift = scale_and_shift(weight, bias, column, 4 * CHANNELS)
    quarter = (column // CHANNELS)[None, :]
    line = row // half_width
    y = line % half_height * 2 + quarter % 2
    x_ = (row - line * half_width) * 2 + quarter // 2
    image = (line // half_height).to(tl.int64)
    source = x + ((image * height + y) * width + x_) * CHANNELS + (column % CHANNELS)[None, :]
    inside = (row < rows) & (quarter < 4)
    tile = tl.load(source, mask=inside & (y < height) & (x_ < width), other=0.0).to(tl.float32)
    normed = normalize(tile, scale, shift, eps, column, 4 * CHANNELS)
    tl.store(out + row.to(tl.int64) * 4 * CHANNELS + column[None, :], normed, mask=inside)


def _fake(x: Tensor, *_: object) -> Tensor:
    batch, height, width, channels = x.shape
    return x.new_empty(batch, (height + 1) // 2, (width + 1) // 2, 4 * channels)


@operator(_fake)
def merge_layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """A map (B, H, W, C), weight and bias (4·C,) -> (B, ceil(H / 2), ceil(W / 2), 4·C)."""
    batch, height, width, channels = x.shape
    half_height, half_width = (height + 1) // 2, (width + 1) // 2
    rows = batch * half_height * half_width
    out = torch.empty((batch, half_height, half_width, 4 * channels), dtype=x.dtype, device=x.device)
    tile = row_tile(4 * channels)
    launch(
        _merge_layer_norm_forward, (-(-rows // tile["ROWS"]),),
        x.contiguous(), weight.contiguous(), bias.contiguous(), out,
        rows, height, width, half_height, half_width, eps, CHANNELS=channels, **tile,
    )  # fmt: skip
    return out


def why_not(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> str | None:
    """The reason why `merge_layer_norm` cannot take these arguments, or None."""
    width = 4 * x.shape[3]
    reason = why_not_here((x, weight, bias)) or too_wide(width)
    return reason or why_not_sizes(weight=(weight, (width,)), bias=(bias, (width,)))
