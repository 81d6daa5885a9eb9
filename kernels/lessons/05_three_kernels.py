# %% [markdown]
# # 05 · Attention in three kernels, as it is written down
#
# **The idea.** S = Q Kᵀ / √D, P = softmax(S), O = P V. You have all three kernels: two products (lesson 04) and a row
# softmax (lesson 01). Everything goes through memory in between: S is written, read, written as P and read again, N²
# values per head each time. That is what limits it, not the arithmetic.

# %%
import lab
import torch
import triton
import triton.language as tl
from torch import Tensor


# %%
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


def attention(q: Tensor, k: Tensor, v: Tensor, tile: int = 16) -> Tensor:
    """q, k, v (B, H, N, D) -> (B, H, N, D)."""
    batch, heads, length, width = q.shape
    scores, out = q.new_empty(batch, heads, length, length), torch.empty_like(q)
    tiles, across, matrices = triton.cdiv(length, tile), triton.cdiv(width, tile), batch * heads
    multiply[tiles, tiles, matrices](q, k, scores, length, length, width, width**-0.5, 1, width, tile)
    softmax[(matrices * length,)](scores, length, triton.next_power_of_2(length))
    multiply[tiles, across, matrices](scores, v, out, length, width, length, 1.0, width, 1, tile)
    return out


def arithmetic(length: int, width: int, tile: int) -> int:
    """Float32 bytes that the three kernels request in one head, where the tile divides its sizes."""
    first = 2 * length**2 * width // tile + length**2  # both operands, and S
    last = length**2 * width // tile + length * width * length // tile + length * width  # P, V, and O
    return 4 * (first + 2 * length**2 + last)


# %% [markdown]
# **Predict**: one head, N = 128, D = 64, float32. q, k, v and the output are 128 KiB together. How many KiB do the
# three kernels request with a tile of 16? And with one of 64?

# %%
MY_PREDICTION = None  # in bytes, for the tile of 64

if __name__ == "__main__":
    q, k, v = (torch.randn(3, 2, 45, 24) for _ in range(3))  # sizes that no tile divides
    lab.check(attention(q, k, v), lab.attention(q.double(), k.double(), v.double()), lab.attention(q, k, v))
    q, k, v = (torch.randn(1, 1, 128, 64) for _ in range(3))
    for tile in (16, 64):
        out, counts = lab.count(attention, q, k, v, tile)
        print(f"tile {tile}: {lab.size(counts.bytes)} asked for, {lab.size(counts.distinct)} distinct")
        mine = MY_PREDICTION if tile == 64 else None
        lab.compare("bytes", counts.bytes, arithmetic(128, 64, tile), mine)
    scores = 4 * 128**2
    print(f"the scores' four passes: {lab.size(4 * scores)}; q, k, v and output: {lab.size(4 * q.numel() * 4)}")
    print(counts)

# %% [markdown]
# **What a count does not show.** With N = 128 the scores fit into a cache, and much of this never reaches memory. With
# a batch of 64, 12 heads and 512 tokens they are larger than any cache, and the count is what memory has to move.
#
# **Exercise.** `exercises/05_three_kernels.py`: where all the keys of a head fit into one tile, one program can hold
# its queries' whole rows of scores. Do all three steps in one kernel; the scores are never in memory.
