# ruff: noqa: N803
"""Lesson 5: programs for tokens, not for the longest sequence.

Lesson 4 starts ceil(longest / TILE) programs for every sequence and head, and lets those past a sequence's end
return. They still have to be scheduled, and a batch of one long and many short sequences is nearly all such programs.
Here the grid is a list of tiles: program t finds its sequence and block itself, by a prefix sum over the sequences'
tile counts. The count of tiles need not be known to the host, only a bound on it: with T tokens in B sequences,
Σ ceil(length / TILE) ≤ (T + B · (TILE − 1)) / TILE. So lengths may stay on the device, and a captured graph serves
any lengths.

The shipped kernel, kernels/src/attention.py, is this with lesson 3, head sizes that are not powers of two, bias and
causal edge, padding rows, and heads that vary fastest in the grid, so that neighbours in time read neighbouring
columns.
"""

from lesson import check, exact_packed_attention, inputs  # isort: skip
import math

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 16


@triton.jit
def find_tile(tile, lengths, sequences, TILE: tl.constexpr, MOST: tl.constexpr):
    """The sequence of tile number `tile`, its block there, and the sequence's first row."""
    index = tl.arange(0, MOST)
    length = tl.load(lengths + index, mask=index < sequences, other=0)
    ends = tl.cumsum(tl.cdiv(length, TILE), 0)
    before = ends <= tile
    sequence = tl.sum(before.to(tl.int32), 0)
    return sequence, tile - tl.max(tl.where(before, ends, 0), 0), tl.sum(tl.where(before, length, 0), 0)


@triton.jit
def forward(
    qkv, out, lengths, sequences, heads, scale, WIDTH: tl.constexpr, TILE: tl.constexpr, MOST: tl.constexpr
):  # fmt: skip
    """One tile of the list in one head; qkv is (T, 3, H, WIDTH), out (T, H, WIDTH)."""
    head = tl.program_id(0) % heads
    sequence, block, start = find_tile(tl.program_id(0) // heads, lengths, sequences, TILE, MOST)
    if sequence >= sequences:
        return
    length = tl.load(lengths + sequence)
    query = block * TILE + tl.arange(0, TILE)
    channel = tl.arange(0, WIDTH)
    inside = (query < length)[:, None]
    q = qkv + (start * 3 * heads + head) * WIDTH
    k, v, row = q + heads * WIDTH, q + 2 * heads * WIDTH, 3 * heads * WIDTH
    q_tile = tl.load(q + query[:, None] * row + channel[None, :], mask=inside, other=0.0)
    m = tl.full([TILE], float("-inf"), tl.float32)
    z = tl.zeros([TILE], tl.float32)
    total = tl.zeros([TILE, WIDTH], tl.float32)
    for first in range(0, length, TILE):
        key = first + tl.arange(0, TILE)
        k_tile = tl.load(k + key[:, None] * row + channel[None, :], mask=(key < length)[:, None], other=0.0)
        v_tile = tl.load(v + key[:, None] * row + channel[None, :], mask=(key < length)[:, None], other=0.0)
        s = tl.dot(q_tile, tl.trans(k_tile), input_precision="ieee")
        s = tl.where((key < length)[None, :], s, float("-inf"))
        highest = tl.maximum(m, tl.max(s, 1) * scale)
        p = tl.exp2(s * scale - highest[:, None])
        shrink = tl.exp2(m - highest)
        z = z * shrink + tl.sum(p, 1)
        total = tl.dot(p, v_tile, total * shrink[:, None], input_precision="ieee")
        m = highest
    tl.store(
        out + ((start + query)[:, None] * heads + head) * WIDTH + channel[None, :], total / z[:, None], mask=inside
    )


def attention(qkv: Tensor, lengths: Tensor) -> Tensor:
    """Packed rows (T, 3, H, D) and lengths (B,) on the same device -> (T, H, D), D a power of two."""
    rows, _, heads, width = qkv.shape
    out = qkv.new_empty(rows, heads, width)
    grid = ((rows + len(lengths) * (TILE - 1)) // TILE * heads,)
    most = triton.next_power_of_2(len(lengths))
    forward[grid](qkv, out, lengths, len(lengths), heads, width**-0.5 * math.log2(math.e), width, TILE, most)
    return out


if __name__ == "__main__":
    lengths = [45, 1, 16, 70]
    qkv = inputs(sum(lengths), 3, 2, 32)
    check(attention(qkv, torch.tensor(lengths, device=qkv.device)), exact_packed_attention(qkv, lengths))
    ragged = [512] + 63 * [32]
    bound = (sum(ragged) + 64 * 127) // 128
    used = sum(triton.cdiv(length, 128) for length in ragged)
    print(f"one sequence of 512 and 63 of 32, tiles of 128: {used} with work, {bound} started, not {64 * 4}")
