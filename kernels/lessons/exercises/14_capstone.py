"""Bias and GELU in 16 bits.

HOLE: this is the shipped kernel, and everything in it is yours to change. The checker compares results with the budget
at sizes 1, 1e-4 and 50, and counts instructions.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def gelu(u):
    """The shipped formula."""
    magnitude = tl.abs(u)
    root = tl.rsqrt(1.0 + 0.23164189 * magnitude)
    t = root * root
    tail = ((((0.5307027145 * t - 0.7265760135) * t + 0.7107068705) * t - 0.142248368) * t + 0.127414796) * t
    return tl.maximum(u, 0.0) - magnitude * (tail * tl.exp2(u * u * -0.7213475204444817))


@triton.jit
def bias_gelu_kernel(x, bias, out, rows, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    columns = tl.cdiv(width, COLUMNS)
    row = tl.program_id(0) // columns * ROWS + tl.arange(0, ROWS)
    channel = tl.program_id(0) % columns * COLUMNS + tl.arange(0, COLUMNS)
    place = row.to(tl.int64)[:, None] * width + channel[None, :]
    inside = (row < rows)[:, None] & (channel < width)[None, :]
    added = tl.load(bias + channel, mask=channel < width, other=0.0).to(tl.float32)
    u = tl.load(x + place, mask=inside, other=0.0).to(tl.float32) + added[None, :]
    tl.store(out + place, gelu(u), mask=inside)


def bias_gelu(x: Tensor, bias: Tensor) -> Tensor:
    """gelu(x + bias), (T, F) and (F,) -> (T, F)."""
    rows, width = x.shape
    out, columns = torch.empty_like(x), min(1024, triton.next_power_of_2(width))
    grid = (triton.cdiv(rows, 2) * triton.cdiv(width, columns),)
    bias_gelu_kernel[grid](x, bias, out, rows, width, 2, columns, num_warps=4)
    return out
