# %% [markdown]
# # 09 · Programs for tokens, not for the longest sequence
#
# **The idea.** Lesson 08 starts ceil(longest / TILE) programs for every sequence and head, and lets those past a
# sequence's end return. They still have to be scheduled, and a batch of one long and many short sequences is nearly
# all such programs. Here the grid is a list of tiles: program t finds its sequence and block itself, by a prefix sum
# over the sequences' tile counts. The host need not know how many tiles there are, only a bound: with T tokens in B
# sequences, Σ ceil(length / TILE) ≤ (T + B · (TILE − 1)) / TILE. So lengths may stay on the device (reading them would
# make the host wait), and a captured CUDA graph serves any lengths.

# %%
import math

import lab
import torch
import triton
import triton.language as tl
from torch import Tensor


# %%
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
    place = ((start + query)[:, None] * heads + head) * WIDTH + channel[None, :]
    tl.store(out + place, total / z[:, None], mask=inside)


def attention(qkv: Tensor, lengths: Tensor, tile: int = 16) -> Tensor:
    """Packed rows (T, 3, H, D) and lengths (B,) on the same device -> (T, H, D), D a power of two."""
    rows, _, heads, width = qkv.shape
    out = qkv.new_empty(rows, heads, width)
    grid = ((rows + len(lengths) * (tile - 1)) // tile * heads,)
    most = triton.next_power_of_2(len(lengths))
    forward[grid](qkv, out, lengths, len(lengths), heads, width**-0.5 * math.log2(math.e), width, tile, most)
    return out


# %% [markdown]
# **Predict**: one sequence of 128 tokens and seven of 5, two heads, a tile of 16. Lesson 08 would start 8 tiles for
# each of the 8 sequences, in each head. How many programs are started here, and how many of these find nothing to do?

# %%
MY_PREDICTION = None  # of the programs started

if __name__ == "__main__":
    lengths = [128] + 7 * [5]
    qkv = torch.randn(sum(lengths), 3, 2, 32)
    out, counts = lab.count(attention, qkv, torch.tensor(lengths))
    lab.check(out, lab.packed_attention(qkv.double(), lengths), lab.packed_attention(qkv, lengths))
    started = 2 * ((sum(lengths) + len(lengths) * 15) // 16)
    lab.compare("programs", counts.programs, started, MY_PREDICTION)
    lab.compare("idle programs", counts.idle, started - 2 * sum(triton.cdiv(length, 16) for length in lengths))
    print(f"lesson 08 would start {8 * 8 * 2} programs")
    search = counts.bytes_of("lengths")
    print(f"price of the list: {lab.size(search)} of lengths read, against {lab.size(counts.bytes_of('qkv'))} of qkv")

# %% [markdown]
# **The shipped kernel**, `kernels/src/attention.py`, combines this with lesson 07, head sizes that are not a power of
# two, a bias and a causal mask, and padding rows. Heads vary fastest in its grid, so that programs that run at the
# same time read neighbouring columns.

# %%
if __name__ == "__main__":
    from minitrans.kernels.attention import attention as shipped

    on_device = torch.tensor(lengths)
    starts = on_device.cumsum(0) - on_device
    ours, counts = lab.count(shipped, *qkv.unbind(1), starts, on_device, max(lengths))
    lab.check(ours, lab.packed_attention(qkv.double(), lengths), lab.packed_attention(qkv, lengths))
    print("shipped:", counts, sep="\n")

# %% [markdown]
# **What a count does not show.** Each program has to search for its tile. That is a prologue of a hundred instructions
# and some barriers, negligible for a long sequence but not for a short one: the shipped kernel skips it where all
# sequences own the same number of rows.
#
# **Exercise.** `exercises/09_tile_list.py`: the mean of each sequence's packed rows, by one program per sequence and
# block of channels, which finds its first row itself.
