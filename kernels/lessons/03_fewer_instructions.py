# ruff: noqa: N803
"""Lesson 3: less to do for each of the N² scores.

With the bytes gone, the arithmetic on scores is in the way. At D = 64 a score costs 4·D = 256 operations in the two
products. The tensor cores of one multiprocessor of an H100 do 4096 in a cycle, so that takes 1/16 of a cycle; and so
does one power on its special-function units, 16 in a cycle. Every other instruction, 128 in a cycle, adds 1/128.
Lesson 2 has the product with the scale, the mask's comparison and selection, the maximum, the difference, a product
with log₂ e (which `exp` hides: the hardware has only 2ˣ), the power and the sum. Here three of these are left beside
the power: the maximum, one multiply-add, and the sum.

* log₂ e is folded into the scale, and `exp2` is called;
* the scale is positive, so the maximum is taken before it: `s · scale − m` is a single multiply-add;
* only the last block of keys can reach past the end, so only it is masked.
"""

from lesson import check, exact_attention, inputs  # isort: skip
import math

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 16


@triton.jit
def attend(
    q_tile, k, v, m, z, total, first, last, length, scale,
    WIDTH: tl.constexpr, TILE: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Add the keys [first, last) to the running sums."""
    channel = tl.arange(0, WIDTH)
    for start in range(first, last, TILE):
        key = start + tl.arange(0, TILE)
        inside = (key < length)[:, None] if MASKED else None
        k_tile = tl.load(k + key[:, None] * WIDTH + channel[None, :], mask=inside)
        v_tile = tl.load(v + key[:, None] * WIDTH + channel[None, :], mask=inside)
        s = tl.dot(q_tile, tl.trans(k_tile), input_precision="ieee")
        if MASKED:
            s = tl.where((key < length)[None, :], s, float("-inf"))
            v_tile = tl.where(inside, v_tile, 0.0)
        highest = tl.maximum(m, tl.max(s, 1) * scale)
        p = tl.exp2(s * scale - highest[:, None])
        shrink = tl.exp2(m - highest)
        z = z * shrink + tl.sum(p, 1)
        total = tl.dot(p, v_tile, total * shrink[:, None], input_precision="ieee")
        m = highest
    return m, z, total


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
    whole = length // TILE * TILE
    m, z, total = attend(q_tile, k + head, v + head, m, z, total, 0, whole, length, scale, WIDTH, TILE, False)
    m, z, total = attend(q_tile, k + head, v + head, m, z, total, whole, length, length, scale, WIDTH, TILE, True)
    tl.store(out + head + query[:, None] * WIDTH + channel[None, :], total / z[:, None], mask=inside)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q, k, v (B, H, N, D) -> (B, H, N, D), D a power of two."""
    batch, heads, length, width = q.shape
    out = torch.empty_like(q)
    scale = width**-0.5 * math.log2(math.e)
    forward[triton.cdiv(length, TILE), batch * heads](q, k, v, out, length, scale, width, TILE)
    return out


if __name__ == "__main__":
    q, k, v = inputs(3, 2, 2, 45, 32)
    check(attention(q, k, v), exact_attention(q, k, v))
    scores = 64 * 12 * 512**2
    seconds = scores / (132 * 16 * 1.755e9)
    print(f"the exponentials alone: {scores / 1e6:.0f} M at 16 a cycle on 132 multiprocessors, {seconds * 1e6:.0f} µs")
