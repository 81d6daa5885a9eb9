"""Attention with a mask that may hide whole tiles of keys.

HOLE: until a key has been seen, `highest` is −∞, and −∞ − (−∞) is NaN. If no key is seen at all, z is 0.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def attention_kernel(q, k, v, mask, out, length, scale, WIDTH: tl.constexpr, TILE: tl.constexpr):
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
        both = inside & (key < length)[None, :]
        s += tl.load(mask + query[:, None] * length + key[None, :], mask=both, other=float("-inf"))
        highest = tl.maximum(m, tl.max(s, 1))
        p = tl.exp(s - highest[:, None])  # HOLE
        shrink = tl.exp(m - highest)
        z = z * shrink + tl.sum(p, 1)
        total = tl.dot(p, v_tile, total * shrink[:, None], input_precision="ieee")
        m = highest
    # HOLE: a row without keys
    tl.store(out + head + query[:, None] * WIDTH + channel[None, :], total / z[:, None], mask=inside)


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """q, k, v (B, H, N, D), mask (N, N) of 0 and −∞ -> (B, H, N, D); a row without keys is zeros."""
    batch, heads, length, width = q.shape
    out = torch.empty_like(q)
    attention_kernel[triton.cdiv(length, 16), batch * heads](q, k, v, mask, out, length, width**-0.5, width, 16)
    return out
