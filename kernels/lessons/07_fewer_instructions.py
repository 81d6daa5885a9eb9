# %% [markdown]
# # 07 · Less to do for each of the N² scores
#
# **The idea.** With the bytes gone, the arithmetic on scores is the bottleneck. At D = 64 a score costs 4·D = 256
# FLOPs in the two products. The tensor cores of one multiprocessor of an H100 do 4096 per cycle, so that takes 1/16 of
# a cycle; and so does one power on its special function units, which do 16 per cycle. Every other operation on it, at
# 128 per cycle, adds 1/128.
#
# Lesson 06 has the product with the scale, the maximum, the difference, a product with log₂ e (which `exp` hides: the
# hardware has only 2ˣ), the power, the sum, and the mask's comparison and selection. Here fewer are left:
#
# * log₂ e is folded into the scale, and `exp2` is called;
# * the scale is positive, so the maximum is taken before it: `s · scale − m` is a single multiply-add;
# * only the last block of keys can reach past the end, so only it is masked.

# %%
import math

import lab
import torch
import triton
import triton.language as tl
from torch import Tensor


# %%
@triton.jit
def attend(
    q_tile, k, v, m, z, total, first, last, length, scale,
    WIDTH: tl.constexpr, TILE: tl.constexpr, LEAN: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Add the keys [first, last) to the running sums, as in lesson 06 or LEAN."""
    channel = tl.arange(0, WIDTH)
    for start in range(first, last, TILE):
        key = start + tl.arange(0, TILE)
        place = key[:, None] * WIDTH + channel[None, :]
        if MASKED:
            k_tile = tl.load(k + place, mask=(key < length)[:, None], other=0.0)
            v_tile = tl.load(v + place, mask=(key < length)[:, None], other=0.0)
        else:
            k_tile = tl.load(k + place)
            v_tile = tl.load(v + place)
        s = tl.dot(q_tile, tl.trans(k_tile), input_precision="ieee")
        if not LEAN:
            s = s * scale
        if MASKED:
            s = tl.where((key < length)[None, :], s, float("-inf"))
        if LEAN:
            highest = tl.maximum(m, tl.max(s, 1) * scale)
            p = tl.exp2(s * scale - highest[:, None])
            shrink = tl.exp2(m - highest)
        else:
            highest = tl.maximum(m, tl.max(s, 1))
            p = tl.exp(s - highest[:, None])
            shrink = tl.exp(m - highest)
        z = z * shrink + tl.sum(p, 1)
        total = tl.dot(p.to(v_tile.dtype), v_tile, total * shrink[:, None], input_precision="ieee")
        m = highest
    return m, z, total


@triton.jit
def forward(q, k, v, out, length, scale, WIDTH: tl.constexpr, TILE: tl.constexpr, LEAN: tl.constexpr):
    """One tile of queries of one head; q, k, v and out are (B · H, N, WIDTH)."""
    query = tl.program_id(0) * TILE + tl.arange(0, TILE)
    channel = tl.arange(0, WIDTH)
    head = tl.program_id(1) * length * WIDTH
    inside = (query < length)[:, None]
    q_tile = tl.load(q + head + query[:, None] * WIDTH + channel[None, :], mask=inside, other=0.0)
    m = tl.full([TILE], float("-inf"), tl.float32)
    z = tl.zeros([TILE], tl.float32)
    total = tl.zeros([TILE, WIDTH], tl.float32)
    k += head
    v += head
    whole = length // TILE * TILE
    if LEAN:
        m, z, total = attend(q_tile, k, v, m, z, total, 0, whole, length, scale, WIDTH, TILE, True, False)
        m, z, total = attend(q_tile, k, v, m, z, total, whole, length, length, scale, WIDTH, TILE, True, True)
    else:
        m, z, total = attend(q_tile, k, v, m, z, total, 0, length, length, scale, WIDTH, TILE, False, True)
    tl.store(out + head + query[:, None] * WIDTH + channel[None, :], total / z[:, None], mask=inside)


def attention(q: Tensor, k: Tensor, v: Tensor, tile: int = 16, lean: bool = True) -> Tensor:
    """q, k, v (B, H, N, D) -> (B, H, N, D), D a power of two."""
    batch, heads, length, width = q.shape
    out, scale = torch.empty_like(q), width**-0.5 * (math.log2(math.e) if lean else 1.0)
    forward[triton.cdiv(length, tile), batch * heads](q, k, v, out, length, scale, width, tile, lean, num_stages=3)
    return out


# %% [markdown]
# **Predict**: compiled for an H100 in bfloat16, what fraction of the instructions that a warp executes in a trip of
# lesson 06's loop is left (1.0 would be all)?

# %%
MY_PREDICTION = None

if __name__ == "__main__":
    q, k, v = (torch.randn(3, 2, 45, 32) for _ in range(3))
    exact, by_torch = lab.attention(q.double(), k.double(), v.double()), lab.attention(q, k, v)
    lab.check(attention(q, k, v), exact, by_torch)
    q, k, v = (torch.randn(1, 1, 128, 64) for _ in range(3))
    each = []
    for lean in (False, True):
        _, counts = lab.count(attention, q, k, v, 64, lean)
        tensor = lab.empty(64, 12, 512, 64)
        turns = (512 / 64, 0) if lean else (512 / 64,)  # 512 keys are whole blocks: the masked loop does not turn
        code = lab.compiled(attention, tensor, tensor, tensor, 64, lean, turns=turns)
        each.append(code.report.loop)
        print(
            f"{'lesson 07' if lean else 'lesson 06'}: {counts.other_flops / 128**2:.2f} FLOPs and "
            f"{counts.powers / 128**2:.2f} powers a score; compiled, {sum(each[-1].opcodes.values())} instructions a "
            f"warp and trip: " + ", ".join(f"{unit} {number}" for unit, number in each[-1].units.items() if number)
        )
    share = sum(each[1].opcodes.values()) / sum(each[0].opcodes.values())
    print(f"{share:.2f} of the instructions are left; {lab.verdict(MY_PREDICTION, share)}")
    assert share < 0.9

# %% [markdown]
# The interpreter's FLOPs hardly change: it counts a multiply-add as two, and the product within `exp`, the comparison
# and the selection as none. The instructions did change. So count both.
#
# **What a count does not show.** What the loop waits for: on a card, a trip takes a multiple of the time that its
# instructions take to issue (`kernels/README.md`, predictions that missed).
#
# **Exercise.** `exercises/07_fewer_instructions.py`: causal attention, where a query sees no later key. Tiles past the
# diagonal need not be visited, and only those on it need a mask. The checker counts trips.
