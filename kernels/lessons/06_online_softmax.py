# %% [markdown]
# # 06 · One kernel: the online softmax
#
# **The idea.** A program takes a tile of queries and iterates over the keys; the scores stay in registers. A softmax
# seems to need all scores of a row first, for their maximum. But what has been summed so far can be corrected: when
# the maximum grows from m to m', the sum of the powers and the weighted sum of the values are both multiplied by
# exp(m − m') (Milakov & Gimelshein 2018; as a tiled kernel, Dao et al. 2022). q and the output are requested once, k
# and v once for every tile of queries: only this repetition grows with N².

# %%
import lab
import torch
import triton
import triton.language as tl
from torch import Tensor


# %%
@triton.jit
def forward(q, k, v, out, length, scale, WIDTH: tl.constexpr, TILE: tl.constexpr, RESCALE: tl.constexpr):
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
        if RESCALE:
            shrink = tl.exp(m - highest)
        else:
            shrink = tl.full([TILE], 1.0, tl.float32)
        z = z * shrink + tl.sum(p, 1)
        total = tl.dot(p, v_tile, total * shrink[:, None], input_precision="ieee")
        m = highest
    tl.store(out + head + query[:, None] * WIDTH + channel[None, :], total / z[:, None], mask=inside)


def attention(q: Tensor, k: Tensor, v: Tensor, tile: int = 16, rescale: bool = True) -> Tensor:
    """q, k, v (B, H, N, D) -> (B, H, N, D), D a power of two."""
    batch, heads, length, width = q.shape
    out = torch.empty_like(q)
    grid = (triton.cdiv(length, tile), batch * heads)
    forward[grid](q, k, v, out, length, width**-0.5, width, tile, rescale)
    return out


# %% [markdown]
# **Predict**: one head, N = 128, D = 64, float32, a tile of 64: two programs. How many bytes are requested now?

# %%
MY_PREDICTION = None

if __name__ == "__main__":
    q, k, v = (torch.randn(3, 2, 45, 32) for _ in range(3))
    exact, by_torch = lab.attention(q.double(), k.double(), v.double()), lab.attention(q, k, v)
    lab.check(attention(q, k, v), exact, by_torch)
    q, k, v = (torch.randn(1, 1, 128, 64) for _ in range(3))
    for tile in (16, 64):
        _, counts = lab.count(attention, q, k, v, tile)
        print(f"tile {tile}: {lab.size(counts.bytes)} asked for, {lab.size(counts.distinct)} distinct")
        mine = MY_PREDICTION if tile == 64 else None
        lab.compare("bytes", counts.bytes, (2 + 2 * 128 / tile) * q.numel() * 4, mine)
        powers = 128 * 128 + 128 * 128 / tile  # one a score, and one a row and trip
        lab.compare("powers", counts.powers, powers)

# %% [markdown]
# **Leave out the rescaling and see.** Tiles that were summed under a smaller maximum then count too much, and the more
# so the more the maximum grows: here the later keys are made larger.

# %%
if __name__ == "__main__":
    growing = k * torch.linspace(0, 4, 128)[:, None]
    exact = lab.attention(q.double(), growing.double(), v.double())
    for rescale in (True, False):
        error = lab.error_of(attention(q, growing, v, 16, rescale), exact)
        print(f"{'with' if rescale else 'without'} rescaling: relative error {error:.1e}")
        assert (error < 1e-5) == rescale

# %% [markdown]
# **−∞ and NaN.** The first trip has m = −∞, and exp(−∞ − m') is 0, which is right: nothing has been summed yet. But if
# a mask hides every key of the first tile, m' is −∞ too, and −∞ − (−∞) is NaN, which no later tile repairs. A finite
# stand-in for −∞ (−1e30) would make the hidden keys' powers exp(0) = 1 instead. The remedy is a base that is never −∞:
# where m' is −∞, subtract 0. A NaN in a query, on the other hand, must show, in its own row and in no other.

# %%
if __name__ == "__main__":
    broken = q.clone()
    broken[0, 0, 5, 0] = float("nan")
    rows = attention(broken, k, v, 64)[0, 0].isnan().any(1).nonzero().flatten().tolist()
    print("rows with NaN when query 5 has one:", rows)
    assert rows == [5]

# %% [markdown]
# **What a count does not show.** A trip's products wait for its loads, and its powers for its first product. A single
# program leaves one unit after another idle; several programs on a multiprocessor fill the gaps, if their registers
# fit (lesson 10).
#
# **Exercise.** `exercises/06_online_softmax.py`: attention with a mask (N, N) of 0 and −∞ that may hide a whole tile,
# and even a whole row, whose output is zeros.
