"""Causal attention: a query sees no later key.

HOLE: it is right, but half of the tiles that it visits lie past the diagonal, where every power is 0; and all of
them are masked. Visit the tiles before the diagonal without a mask, the diagonal's with one, and no other.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def attend(
    q_tile, k, v, m, z, total, first, last, query, length, scale,
    WIDTH: tl.constexpr, TILE: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Add the keys [first, last) to the running sums; only MASKED looks at the end and the diagonal."""
    channel = tl.arange(0, WIDTH)
    for start in range(first, last, TILE):
        key = start + tl.arange(0, TILE)
        place = key[:, None] * WIDTH + channel[None, :]
        k_tile = tl.load(k + place, mask=(key < length)[:, None], other=0.0)
        v_tile = tl.load(v + place, mask=(key < length)[:, None], other=0.0)
        s = tl.dot(q_tile, tl.trans(k_tile), input_precision="ieee") * scale
        if MASKED:
            s = tl.where((key < length)[None, :] & (key[None, :] <= query[:, None]), s, float("-inf"))
        highest = tl.maximum(m, tl.max(s, 1))
        p = tl.exp2(s - highest[:, None])
        shrink = tl.exp2(m - highest)
        z = z * shrink + tl.sum(p, 1)
        total = tl.dot(p, v_tile, total * shrink[:, None], input_precision="ieee")
        m = highest
    return m, z, total


@triton.jit
def attention_kernel(q, k, v, out, length, scale, WIDTH: tl.constexpr, TILE: tl.constexpr):
    query = tl.program_id(0) * TILE + tl.arange(0, TILE)
    channel = tl.arange(0, WIDTH)
    head = tl.program_id(1) * length * WIDTH
    place = head + query[:, None] * WIDTH + channel[None, :]
    inside = (query < length)[:, None]
    q_tile = tl.load(q + place, mask=inside, other=0.0)
    m = tl.full([TILE], float("-inf"), tl.float32)
    z = tl.zeros([TILE], tl.float32)
    total = tl.zeros([TILE, WIDTH], tl.float32)
    k += head
    v += head
    m, z, total = attend(q_tile, k, v, m, z, total, 0, length, query, length, scale, WIDTH, TILE, True)  # HOLE
    tl.store(out + place, total / z[:, None], mask=inside)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q, k, v (B, H, N, D) -> (B, H, N, D), D a power of two; query i sees the keys up to i."""
    batch, heads, length, width = q.shape
    out = torch.empty_like(q)
    scale = width**-0.5 * 1.4426950408889634  # log₂ e
    attention_kernel[triton.cdiv(length, 16), batch * heads](q, k, v, out, length, scale, width, 16)
    return out
