# ruff: noqa: N803
"""Lesson 1: attention as it is written down, in three kernels: S = Q Kᵀ / √D, P = softmax(S), O = P V.

Everything goes through memory in between: S is written, read, written as P and read again, N² values a head each
time. That is what limits it, not the arithmetic: see what it prints for a batch of 64 with 12 heads and 512 tokens.
"""

from lesson import check, exact_attention, inputs, moved  # isort: skip
import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 16


@triton.jit
def multiply(a, b, out, rows, columns, depth, scale, b_row, b_column, TILE: tl.constexpr):
    """A tile of scale · A B for one of many matrices; the strides of B say whether it is transposed."""
    row = tl.program_id(0) * TILE + tl.arange(0, TILE)
    column = tl.program_id(1) * TILE + tl.arange(0, TILE)
    matrix = tl.program_id(2)
    total = tl.zeros([TILE, TILE], tl.float32)
    for start in range(0, depth, TILE):
        inner = start + tl.arange(0, TILE)
        left = a + matrix * rows * depth + row[:, None] * depth + inner[None, :]
        right = b + matrix * depth * columns + inner[:, None] * b_row + column[None, :] * b_column
        left = tl.load(left, mask=(row < rows)[:, None] & (inner < depth)[None, :], other=0.0)
        right = tl.load(right, mask=(inner < depth)[:, None] & (column < columns)[None, :], other=0.0)
        total = tl.dot(left, right, total, input_precision="ieee")
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    tl.store(out + matrix * rows * columns + row[:, None] * columns + column[None, :], total * scale, mask=inside)


@triton.jit
def softmax(s, width, BLOCK: tl.constexpr):
    """One row, in place."""
    column = tl.arange(0, BLOCK)
    place = s + tl.program_id(0) * width + column
    row = tl.load(place, mask=column < width, other=float("-inf"))
    row = tl.exp(row - tl.max(row, 0))
    tl.store(place, row / tl.sum(row, 0), mask=column < width)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q, k, v (B, H, N, D) -> (B, H, N, D)."""
    batch, heads, length, width = q.shape
    scores, out = q.new_empty(batch, heads, length, length), torch.empty_like(q)
    tiles, across, matrices = triton.cdiv(length, TILE), triton.cdiv(width, TILE), batch * heads
    multiply[tiles, tiles, matrices](q, k, scores, length, length, width, width**-0.5, 1, width, TILE)
    softmax[(matrices * length,)](scores, length, triton.next_power_of_2(length))
    multiply[tiles, across, matrices](scores, v, out, length, width, length, 1.0, width, 1, TILE)
    return out


if __name__ == "__main__":
    q, k, v = inputs(3, 2, 2, 45, 24)
    check(attention(q, k, v), exact_attention(q, k, v))
    elements = 4 * 64 * 12 * 512 * 64 + 4 * 64 * 12 * 512**2
    print("batch 64, 12 heads, 512 tokens of 64, 16 bits:", moved(2 * elements))
