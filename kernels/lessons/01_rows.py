# %% [markdown]
# # 01 · One row per program, and the sectors that it costs
#
# **The idea.** A softmax needs a whole row before it can write any of it: first the maximum, then the sum. If one
# program holds the row in registers, memory is read once and written once. That is the shape of every *row kernel*
# here.
#
# Memory does not move single numbers. It moves *sectors* of 32 bytes, eight adjacent float32 values. Neighbours that a
# program requests together share a sector; numbers that are a row apart have one each, and the other 28 bytes of it
# are moved for nothing. Reading neighbours together is called *coalescing*. The same kernel with the strides exchanged
# computes the softmax of columns: the same bytes, but other sectors.

# %%
import lab
import torch
import triton
import triton.language as tl
from torch import Tensor


# %%
@triton.jit
def softmax_kernel(x, out, length, line_stride, stride, BLOCK: tl.constexpr):
    """One line of `length` numbers, `stride` apart; the next program's line begins `line_stride` further."""
    index = tl.arange(0, BLOCK)
    inside = index < length
    place = tl.program_id(0) * line_stride + index * stride
    line = tl.load(x + place, mask=inside, other=float("-inf"))  # what the mask keeps out counts as −∞: a power of 0
    power = tl.exp(line - tl.max(line, 0))
    tl.store(out + place, power / tl.sum(power, 0), mask=inside)


def softmax(x: Tensor, dim: int) -> Tensor:
    """The softmax of a matrix along dimension 1 (rows) or 0 (columns): only the strides differ."""
    out = torch.empty_like(x)
    length, lines = x.shape[dim], x.shape[1 - dim]
    softmax_kernel[(lines,)](x, out, length, x.stride(1 - dim), x.stride(dim), triton.next_power_of_2(length))
    return out


# %% [markdown]
# **Predict**: the softmax of the rows of a 64 × 64 matrix of float32 touches 1024 sectors (its 16 KiB, read and
# written, in pieces of 32 bytes). How many does the softmax of its columns touch?

# %%
MY_PREDICTION = None

if __name__ == "__main__":
    x = torch.randn(64, 64)
    for name, dim in (("rows", 1), ("columns", 0)):
        out, counts = lab.count(softmax, x, dim)
        lab.check(out, x.double().softmax(dim), x.softmax(dim))
        print(f"{name}: {lab.size(counts.bytes)} asked for, {lab.size(counts.sectors * lab.SECTOR)} moved in sectors")
        lab.show(counts.picture(x[:20], program=3))
    numbers = 2 * x.numel()
    lab.compare("sectors, by columns", counts.sectors, numbers, MY_PREDICTION)  # one a number

# %% [markdown]
# **Why the maximum goes first.** `exp` of 89 is more than float32 can hold. The quotient of two infinities is NaN.
# With the maximum subtracted, the largest power is 1 and nothing overflows; the result is the same, because a factor
# cancels. A row of only −∞ is another matter: −∞ − (−∞) is NaN, in torch as well. Attention has such rows where a mask
# hides every key, and lesson 06 says what to do about it.

# %%
if __name__ == "__main__":
    large = torch.tensor([[100.0, 99.0, 98.0], [float("-inf")] * 3])
    print("softmax as written down:", (large.exp() / large.exp().sum(1, keepdim=True)).tolist())
    print("less the maximum:       ", softmax(large, 1).tolist())

# %% [markdown]
# **What a count does not show.** The unused part of a sector may be what a neighbouring program requests a moment
# later, and then come from a cache. Sixty-four programs run at the same time on a real card, so columns are not always
# eight times slower; but with columns you depend on the caches.
#
# **Exercise.** `exercises/01_rows.py`: the softmax of columns, by programs that take several columns each, so that
# what they load together is adjacent. The checker counts your sectors.
