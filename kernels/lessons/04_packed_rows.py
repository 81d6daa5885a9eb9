# ruff: noqa: N803
"""Lesson 4: q, k and v are read where the projection left them, and there is no padding.

A fused projection writes rows (T, 3 · H · D); lessons 1 to 3 want (B, H, N, D), so q, k and v are copied there and
the output is copied back: 8·T·H·D elements more than the 4·T·H·D that attention itself moves. A stride for the row
and a place for the head are all it takes to leave them where they are. And rows of tokens that exist need no
padding: a sequence is where it starts and how long it is.
"""

from lesson import check, exact_packed_attention, inputs, moved  # isort: skip
import math

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 16


@triton.jit
def forward(qkv, out, starts, lengths, heads, scale, WIDTH: tl.constexpr, TILE: tl.constexpr):
    """One tile of one sequence's queries in one head; qkv is (T, 3, H, WIDTH), out (T, H, WIDTH)."""
    sequence = tl.program_id(2)
    start, length = tl.load(starts + sequence), tl.load(lengths + sequence)
    if tl.program_id(0) * TILE >= length:
        return
    query = tl.program_id(0) * TILE + tl.arange(0, TILE)
    channel = tl.arange(0, WIDTH)
    inside = (query < length)[:, None]
    q = qkv + (start * 3 * heads + tl.program_id(1)) * WIDTH
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
    place = ((start + query)[:, None] * heads + tl.program_id(1)) * WIDTH + channel[None, :]
    tl.store(out + place, total / z[:, None], mask=inside)


def attention(qkv: Tensor, lengths: list[int]) -> Tensor:
    """Packed rows (T, 3, H, D) -> (T, H, D), D a power of two."""
    rows, _, heads, width = qkv.shape
    out = qkv.new_empty(rows, heads, width)
    on_device = torch.tensor(lengths, device=qkv.device)
    starts = on_device.cumsum(0) - on_device
    grid = (triton.cdiv(max(lengths), TILE), heads, len(lengths))
    forward[grid](qkv, out, starts, on_device, heads, width**-0.5 * math.log2(math.e), width, TILE)
    return out


if __name__ == "__main__":
    lengths = [45, 1, 16, 70]
    qkv = inputs(sum(lengths), 3, 2, 32)
    check(attention(qkv, lengths), exact_packed_attention(qkv, lengths))
    rows = 64 * 512 * 12 * 64 * 2
    print("batch 64, 12 heads, 512 tokens of 64, 16 bits:", moved(4 * rows), "instead of", moved(12 * rows))
