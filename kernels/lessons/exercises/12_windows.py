"""Swin's patch merging, the gather of 2 × 2 neighbours, by indices alone.

HOLE: all four quarters come from the same pixel, and from the wrong one.
"""

import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def merge_kernel(x, out, half_width, CHANNELS: tl.constexpr, BLOCK: tl.constexpr):
    """One pixel of the result, which holds x[2i, 2j], x[2i + 1, 2j], x[2i, 2j + 1], x[2i + 1, 2j + 1]."""
    i = tl.program_id(0) // half_width
    j = tl.program_id(0) % half_width
    column = tl.arange(0, BLOCK)  # of 4 · CHANNELS
    quarter = column // CHANNELS
    place = (i * 2 * half_width + j + 0 * quarter) * CHANNELS + column % CHANNELS  # HOLE
    inside = column < 4 * CHANNELS
    tile = tl.load(x + place, mask=inside)
    tl.store(out + tl.program_id(0) * 4 * CHANNELS + column, tile, mask=inside)


def merge(x: Tensor) -> Tensor:
    """A map (H, W, C) of even sides -> (H / 2, W / 2, 4 · C)."""
    height, width, channels = x.shape
    out = x.new_empty(height // 2, width // 2, 4 * channels)
    grid = (height // 2 * (width // 2),)
    merge_kernel[grid](x, out, width // 2, channels, triton.next_power_of_2(4 * channels))
    return out
