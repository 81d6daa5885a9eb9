"""The gradients of attention's keys and values.

HOLE: P is there, recomputed from the scores; the sums are missing.
"""

import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def key_kernel(q, k, v, out, grad, lse, dk, dv, length, scale, WIDTH: tl.constexpr, TILE: tl.constexpr):
    """dK and dV of one tile of keys of one head; all are (B · H, N, WIDTH), lse is (B · H, N)."""
    key = tl.program_id(0) * TILE + tl.arange(0, TILE)
    channel = tl.arange(0, WIDTH)
    head = tl.program_id(1) * length * WIDTH
    place = head + key[:, None] * WIDTH + channel[None, :]
    inside = (key < length)[:, None]
    k_tile = tl.load(k + place, mask=inside, other=0.0)
    v_tile = tl.load(v + place, mask=inside, other=0.0)
    dk_sum = tl.zeros([TILE, WIDTH], tl.float32)
    dv_sum = tl.zeros([TILE, WIDTH], tl.float32)
    for start in range(0, length, TILE):
        query = start + tl.arange(0, TILE)
        real = query < length
        there = head + query[:, None] * WIDTH + channel[None, :]
        q_tile = tl.load(q + there, mask=real[:, None], other=0.0)
        upstream = tl.load(grad + there, mask=real[:, None], other=0.0)
        delta = tl.sum(upstream * tl.load(out + there, mask=real[:, None], other=0.0), 1)
        level = tl.load(lse + tl.program_id(1) * length + query, mask=real, other=float("inf"))  # so that P is 0
        s = tl.dot(q_tile, tl.trans(k_tile), input_precision="ieee") * scale
        p = tl.exp(s - level[:, None])
        # HOLE: dV = Pᵀ dO, and dK = dSᵀ Q with dS = P ∘ (dO Vᵀ − δ)
        dv_sum += tl.sum(p) * v_tile
        dk_sum += tl.sum(delta) * k_tile
    tl.store(dk + place, dk_sum * scale, mask=inside)
    tl.store(dv + place, dv_sum, mask=inside)


def key_gradients(q: Tensor, k: Tensor, v: Tensor, out: Tensor, grad: Tensor, lse: Tensor) -> Tensor:
    """(B, H, N, D) each, lse (B, H, N) -> dK and dV, stacked: (2, B, H, N, D)."""
    batch, heads, length, width = q.shape
    both = q.new_empty(2, *q.shape)
    grid = (triton.cdiv(length, 16), batch * heads)
    key_kernel[grid](q, k, v, out, grad, lse, both[0], both[1], length, width**-0.5, width, 16)
    return both
