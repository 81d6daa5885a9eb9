# %% [markdown]
# # 08 · Packed rows: read q, k and v in place, without padding
#
# **The idea.** A fused projection writes rows (T, 3 · H · D). Lessons 05 to 07 need (B, H, N, D), so q, k and v are
# copied there and the output is copied back: twice the bytes of q, k, v and out again, on top of attention itself. A
# stride for the row and an offset for the head are all it takes to leave them in place. And packed rows, which are
# only real tokens, need no padding: a sequence is where it starts and how long it is.

# %%
import math

import lab
import torch
import triton
import triton.language as tl
from torch import Tensor


# %%
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


def attention(qkv: Tensor, lengths: list[int], tile: int = 16) -> Tensor:
    """Packed rows (T, 3, H, D) -> (T, H, D), D a power of two."""
    rows, _, heads, width = qkv.shape
    out = qkv.new_empty(rows, heads, width)
    on_device = torch.tensor(lengths, device=qkv.device)
    starts = on_device.cumsum(0) - on_device
    grid = (triton.cdiv(max(lengths), tile), heads, len(lengths))
    forward[grid](qkv, out, starts, on_device, heads, width**-0.5 * math.log2(math.e), width, tile)
    return out


# %% [markdown]
# **Predict**: four sequences of 45, 1, 16 and 70 tokens, two heads of 32 channels, float32, a tile of 16. How often
# are rows of k or v requested in all? A sequence's keys are read once for each of its tiles of queries. So how many
# bytes of qkv does the launch read?

# %%
MY_PREDICTION = None

if __name__ == "__main__":
    lengths = [45, 1, 16, 70]
    qkv = torch.randn(sum(lengths), 3, 2, 32)
    out, counts = lab.count(attention, qkv, lengths)
    lab.check(out, lab.packed_attention(qkv.double(), lengths), lab.packed_attention(qkv, lengths))
    row = 2 * 32 * 4  # bytes of q, k or v of one token, both heads
    read = sum(length * (1 + 2 * triton.cdiv(length, 16)) for length in lengths) * row
    lab.compare("bytes read of qkv", counts.bytes_of("qkv"), read, MY_PREDICTION)
    padded = len(lengths) * max(lengths) * (1 + 2 * triton.cdiv(max(lengths), 16)) * row
    copied = 2 * 4 * sum(lengths) * row
    print(
        f"padded to the longest it would be {lab.size(padded)}; and copies to (B, H, N, D) and back {lab.size(copied)}"
    )
    print(counts)

# %% [markdown]
# **One program's reads**, head 1 of the last sequence; qkv as rows of 3 · 2 · 32 channels, one mark for several of
# them. Every other block of columns belongs to the other head.

# %%
if __name__ == "__main__":
    lab.show(counts.picture(qkv.view(len(qkv), -1)[62:], program=(1, 1, 3)))

# %% [markdown]
# **What a count does not show.** The rows of a head are now 3 · H · D apart. Each row of D channels still consists of
# whole sectors, so no byte is moved in vain; but the copies that went away also took launches, and those take time of
# their own.
#
# **Exercise.** `exercises/08_packed_rows.py`: grouped heads, where several heads of queries share one of keys and
# values, in place: (T, H + 2 · G, D). No copy, and no repeat.
