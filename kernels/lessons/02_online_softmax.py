# ruff: noqa: N803
"""Lesson 2: one kernel, and the scores stay in registers.

A program takes a tile of queries and iterates over the keys. A softmax seems to need all scores of a row first, for
their maximum; but the running sums can be rescaled: when the maximum grows from m to m', both the sum of the
exponentials and the weighted sum of the values shrink by exp(m − m') (Milakov & Gimelshein 2018).

The bytes fall from 4·N·D + 4·N² values a head to 4·N·D: at 512 tokens of 64, to a ninth.
"""

from lesson import check, exact_attention, inputs, moved  # isort: skip
import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 16


@triton.jit
def forward(q, k, v, out, length, scale, WIDTH: tl.constexpr, TILE: tl.constexpr):
    """One tile of queries of one head; q, k, v and out are (B · H, N, WIDTH)."""
    query = tl.program_id(0) * TILE + tl.arange(0, TILE)
    channel = tl.arange(0, WIDTH)
    head = tl.program_id(1) * length * WIDTH
    inside = (query < length)[:, None]
    q_tile = tl.load(q + head + query[:, None] * WIDTH + channel[None, :], mask=inside, other=0.0)
    m = tl.full([TILE], float("-inf"), tl.float32)
    z = tl.zeros([TILE], tl.float32)
    total = tl.zeros([TILE, WIDTH], tl.float32)
    for start in range(0, length, TILE):
        key = start + tl.arange(0, TILE)
        place = head + key[:, None] * WIDTH + channel[None, :]
        k_tile = tl.load(k + place, mask=(key < length)[:, None], other=0.0)
        v_tile = tl.load(v + place, mask=(key < length)[:, None], other=0.0)
        s = tl.dot(q_tile, tl.trans(k_tile), input_precision="ieee") * scale
        s = tl.where((key < length)[None, :], s, float("-inf"))
        highest = tl.maximum(m, tl.max(s, 1))
        p = tl.exp(s - highest[:, None])
        shrink = tl.exp(m - highest)
        z = z * shrink + tl.sum(p, 1)
        total = tl.dot(p, v_tile, total * shrink[:, None], input_precision="ieee")
        m = highest
    tl.store(out + head + query[:, None] * WIDTH + channel[None, :], total / z[:, None], mask=inside)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q, k, v (B, H, N, D) -> (B, H, N, D), D a power of two."""
    batch, heads, length, width = q.shape
    out = torch.empty_like(q)
    forward[triton.cdiv(length, TILE), batch * heads](q, k, v, out, length, width**-0.5, width, TILE)
    return out


if __name__ == "__main__":
    q, k, v = inputs(3, 2, 2, 45, 32)
    check(attention(q, k, v), exact_attention(q, k, v))
    print("batch 64, 12 heads, 512 tokens of 64, 16 bits:", moved(2 * 4 * 64 * 12 * 512 * 64))
