"""A linear layer, x Wᵀ + bias, with W as torch keeps it: (N, K)."""

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def linear_kernel(x, w, bias, out, rows, columns, depth, TILE: tl.constexpr):
    row = tl.program_id(0) * TILE + tl.arange(0, TILE)
    column = tl.program_id(1) * TILE + tl.arange(0, TILE)
    total = tl.zeros([TILE, TILE], tl.float32)
    for start in range(0, depth, TILE):
        inner = start + tl.arange(0, TILE)
        inside_x = (row < rows)[:, None] & (inner < depth)[None, :]
        inside_w = (inner < depth)[:, None] & (column < columns)[None, :]
        left = tl.load(x + row[:, None] * depth + inner[None, :], mask=inside_x, other=0.0)
        right = tl.load(w + column[None, :] * depth + inner[:, None], mask=inside_w, other=0.0)
        total = tl.dot(left, right, total, input_precision="ieee")
    total += tl.load(bias + column, mask=column < columns, other=0.0)[None, :]
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    tl.store(out + row[:, None] * columns + column[None, :], total, mask=inside)


def linear(x: Tensor, w: Tensor, bias: Tensor) -> Tensor:
    """x (M, K), w (N, K), bias (N,) -> (M, N)."""
    rows, depth, columns = *x.shape, len(w)
    out = torch.empty(rows, columns, dtype=x.dtype, device=x.device)
    grid = (triton.cdiv(rows, 32), triton.cdiv(columns, 32))
    linear_kernel[grid](x, w, bias, out, rows, columns, depth, 32)
    return out
