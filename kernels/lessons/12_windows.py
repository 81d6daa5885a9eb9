# %% [markdown]
# # 12 · Windows: index arithmetic instead of moves
#
# **The idea.** Swin works within windows of a rolled map. As written down: roll, partition into windows, compute, put
# them together, roll back; and each step moves the whole map. But a kernel may read from anywhere. If a program can
# compute where a token of its window is on the original map, nothing has to move: `(row + shift) % height` is the
# roll.
#
# Here the computation is a small one, so that the moves stand out: each window's mean is subtracted from it.

# %%
from unittest import mock

import lab
import torch
import triton
import triton.language as tl
from minitrans.kernels import window_attention as shipped
from torch import Tensor

from minitrans import plain


# %%
@triton.jit
def centre_kernel(
    x, out, height, width, shift, WINDOW: tl.constexpr, TOKENS: tl.constexpr, CHANNELS: tl.constexpr
):  # fmt: skip
    """One window of the map as rolled by −shift; x and out are (height, width, CHANNELS)."""
    token = tl.arange(0, TOKENS)  # the next power of two of WINDOW²
    row = (tl.program_id(0) * WINDOW + token // WINDOW + shift) % height
    column = (tl.program_id(1) * WINDOW + token % WINDOW + shift) % width
    place = (row * width + column)[:, None] * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    inside = (token < WINDOW * WINDOW)[:, None]
    tile = tl.load(x + place, mask=inside, other=0.0)
    tl.store(out + place, tile - tl.sum(tile, 0)[None, :] / (WINDOW * WINDOW), mask=inside)


@triton.jit
def roll_kernel(x, out, height, width, shift, WIDTH: tl.constexpr, CHANNELS: tl.constexpr):
    """A line of the map, from `shift` further down and to the right."""
    column = tl.arange(0, WIDTH)
    source = (tl.program_id(0) + shift + height) % height * width + (column + shift + width) % width
    target = tl.program_id(0) * width + column
    channel = tl.arange(0, CHANNELS)[None, :]
    line = tl.load(x + source[:, None] * CHANNELS + channel, mask=(column < width)[:, None])
    tl.store(out + target[:, None] * CHANNELS + channel, line, mask=(column < width)[:, None])


def in_place(x: Tensor, window: int, shift: int) -> Tensor:
    """(H, W, C), of whole windows: one kernel."""
    height, width, channels = x.shape
    out = torch.empty_like(x)
    grid = (height // window, width // window)
    centre_kernel[grid](x, out, height, width, shift, window, triton.next_power_of_2(window**2), channels)
    return out


def by_moves(x: Tensor, window: int, shift: int) -> Tensor:
    """The same by three kernels: roll, compute, roll back."""
    height, width, channels = x.shape
    rolled, out = torch.empty_like(x), torch.empty_like(x)
    block = triton.next_power_of_2(width)
    roll_kernel[(height,)](x, rolled, height, width, shift, block, channels)
    roll_kernel[(height,)](in_place(rolled, window, 0), out, height, width, -shift, block, channels)
    return out


def by_torch(x: Tensor, window: int, shift: int) -> Tensor:
    """The same in PyTorch."""
    height, width, channels = x.shape
    rolled = x.roll((-shift, -shift), (0, 1))
    cut = rolled.view(height // window, window, width // window, window, channels)
    return (cut - cut.mean((1, 3), keepdim=True)).view_as(x).roll((shift, shift), (0, 1))


# %% [markdown]
# **Predict**: a map of 28 × 28 with 32 channels in float32, windows of 7, a shift of 3. Three kernels read and write
# the map three times. How many bytes does the single kernel request?

# %%
MY_PREDICTION = None

if __name__ == "__main__":
    x = torch.randn(28, 28, 32)
    for launcher, passes in ((by_moves, 6), (in_place, 2)):
        out, counts = lab.count(launcher, x, 7, 3)
        lab.check(out, by_torch(x.double(), 7, 3), by_torch(x, 7, 3))
        lab.compare(launcher.__name__, counts.bytes, passes * x.numel() * 4, MY_PREDICTION if passes == 2 else None)
    print("the corner window, first channel: it is in all four corners of the map")
    lab.show(counts.picture(x[:, :, 0], program=(3, 3)))

# %% [markdown]
# **One kind per program.** Swin adds a bias by relative position, and a mask between tokens that the roll brought
# together from opposite edges. Windows come in four kinds: inside, last column, last row, corner. If all windows of a
# program are of one kind, bias and mask are one tile, gathered once. The shipped kernel, with few and with many
# windows per program:

# %%
if __name__ == "__main__":
    qkv, table = torch.randn(2, 28, 28, 3, 1, 16), torch.randn(13 * 13, 1)
    exact, rounded = (
        plain.window_attention(qkv.to(d), table.to(d), 7, 3, None, 0.0) for d in (torch.float64, torch.float32)
    )
    for enough in (shipped.ENOUGH_PROGRAMS, 8):
        with mock.patch.object(shipped, "ENOUGH_PROGRAMS", enough):
            out, counts = lab.count(shipped.window_attention, qkv, table, 7, 3, None)
        lab.check(out, exact, rounded)
        print(
            f"{2 * 4 * 4} windows by {counts.programs} programs: {lab.size(counts.bytes_of('table'))} of biases, "
            f"{lab.size(counts.bytes_of('qkv', 'out'))} of q, k, v and output"
        )
    lab.compare("bytes of q, k, v and output", counts.bytes_of("qkv", "out"), 4 * 2 * 28 * 28 * 16 * 4)

# %% [markdown]
# **What a count does not show.** Integer divisions. `//` and `%` by a constant are a few instructions; by a number
# that the compiler does not know, about twenty; and in 64 bits, a call of seventy.
#
# **Exercise.** `exercises/12_windows.py`: Swin's patch merging, (H, W, C) -> (H / 2, W / 2, 4 · C), by indices alone.
