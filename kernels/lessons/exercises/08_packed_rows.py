"""Grouped heads, where several heads of queries share one of keys and values.

HOLE: keys and values are addressed as if every head had its own. Heads 0, 1, ... heads / groups − 1 share group 0.
"""

import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def attention_kernel(rows, out, length, heads, groups, scale, WIDTH: tl.constexpr, TILE: tl.constexpr):
    """rows is (T, heads + 2 · groups, WIDTH): the queries of all heads, then keys, then values of all groups."""
    query = tl.program_id(0) * TILE + tl.arange(0, TILE)
    head = tl.program_id(1)
    channel = tl.arange(0, WIDTH)
    inside = (query < length)[:, None]
    row = (heads + 2 * groups) * WIDTH
    k = rows + (heads + head) * WIDTH  # HOLE
    v = k + heads * WIDTH
    q_tile = tl.load(rows + query[:, None] * row + head * WIDTH + channel[None, :], mask=inside, other=0.0)
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
    tl.store(out + (query[:, None] * heads + head) * WIDTH + channel[None, :], total / z[:, None], mask=inside)


def attention(rows: Tensor, heads: int) -> Tensor:
    """A sequence of rows (T, heads + 2 · groups, D) -> (T, heads, D); heads / groups of them share a group."""
    length, groups, width = len(rows), (rows.shape[1] - heads) // 2, rows.shape[2]
    out = rows.new_empty(length, heads, width)
    scale = width**-0.5 * 1.4426950408889634  # log₂ e
    attention_kernel[triton.cdiv(length, 16), heads](rows, out, length, heads, groups, scale, width, 16)
    return out
