# %% [markdown]
# # 02 · Layer norm: two passes, several rows per program, loads before barriers
#
# **The idea.** y = (x − mean) / √(variance + ε) · weight + bias, over the channels of a row. There are two ways to the
# variance. *One pass*: E[x²] − mean², from two sums over x. *Two passes*: subtract the mean, then square. With the row
# in registers the second pass costs no memory traffic at all; and the first formula subtracts two large numbers that
# are nearly equal, so that only rounding error is left. That is *cancellation*.

# %%
import lab
import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor


# %%
@triton.jit
def norm_kernel(
    x, weight, bias, out, rows, width, eps,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, TWO_PASSES: tl.constexpr, WEIGHTS_FIRST: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channel = tl.arange(0, BLOCK)
    place = row[:, None] * width + channel[None, :]  # [:, None] and [None, :] make a tile of rows × channels
    inside = (row < rows)[:, None] & (channel < width)[None, :]
    if WEIGHTS_FIRST:
        scale = tl.load(weight + channel, mask=channel < width, other=0.0)
        shift = tl.load(bias + channel, mask=channel < width, other=0.0)
    tile = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    mean = tl.sum(tile, 1) / width
    if TWO_PASSES:
        tile = tl.where(inside, tile - mean[:, None], 0.0)
        variance = tl.sum(tile * tile, 1) / width
    else:
        variance = tl.sum(tile * tile, 1) / width - mean * mean
        tile -= mean[:, None]
    if not WEIGHTS_FIRST:
        scale = tl.load(weight + channel, mask=channel < width, other=0.0)
        shift = tl.load(bias + channel, mask=channel < width, other=0.0)
    tile *= tl.rsqrt(variance + eps)[:, None]
    tl.store(out + place, tile * scale[None, :].to(tl.float32) + shift[None, :].to(tl.float32), mask=inside)


def layer_norm(
    x: Tensor, weight: Tensor, bias: Tensor, rows=4, two_passes=True, weights_first=True, warps=4
) -> Tensor:
    """(T, C) -> (T, C), `rows` of them per program."""
    out, block = torch.empty_like(x), triton.next_power_of_2(x.shape[1])
    norm_kernel[(triton.cdiv(len(x), rows),)](
        x, weight, bias, out, *x.shape, 1e-5, rows, block, two_passes, weights_first, num_warps=warps
    )
    return out


# %% [markdown]
# **Predict**: 64 rows of 96 float32, read and written once. Every program also requests the weight and the bias (96
# float32 each). How many bytes do the programs request, reads and writes, with four rows each?

# %%
MY_PREDICTION = None

if __name__ == "__main__":
    x, weight, bias = torch.randn(64, 96), torch.randn(96), torch.randn(96)
    exact = F.layer_norm(x.double(), (96,), weight.double(), bias.double())
    for rows in (1, 4):
        out, counts = lab.count(layer_norm, x, weight, bias, rows)
        lab.check(out, exact, F.layer_norm(x, (96,), weight, bias))
        print(f"{rows} rows a program: {lab.size(counts.bytes)} asked for, {lab.size(counts.distinct)} distinct")
    lab.compare("bytes, 4 rows a program", counts.bytes, (2 * 64 * 96 + 64 / 4 * 2 * 96) * 4, MY_PREDICTION)

# %% [markdown]
# **Cancellation**, with the same numbers shifted by 100 and by 1000. An error of 1 means that nothing is right.

# %%
if __name__ == "__main__":
    for offset in (0, 100, 1000):
        moved = x + offset
        exact = F.layer_norm(moved.double(), (96,), weight.double(), bias.double())
        errors = [lab.error_of(layer_norm(moved, weight, bias, 4, passes), exact) for passes in (True, False)]
        print(f"offset {offset:4}: error {errors[0]:.1e} in two passes, {errors[1]:.1e} in one")
    assert errors[0] < errors[1] / 10, "two passes should lose far less"

# %% [markdown]
# **In the compiled code.** A program's threads come in *warps* of 32, and a sum over a row that lies in several warps
# has to wait for all of them, at a *barrier* (BAR). Loads (LDG) after the barriers have to be waited for once more, so
# weights are loaded first. The lab compiles the kernel for an H100, without having one, and lists these instructions
# in order. A row in one warp needs no barrier at all.

# %%
if __name__ == "__main__":
    tensors = [lab.empty(4096, 768), lab.empty(768), lab.empty(768)]
    for title, options in (
        ("weights last", {"weights_first": False}),
        ("weights first", {"weights_first": True}),
        ("one warp a row", {"warps": 1}),
    ):
        code = lab.compiled(layer_norm, *tensors, rows=1, **options)
        print(f"{title:15} {code.report.registers:3} registers: {code.order('LDG', 'BAR', 'STG')}")

# %% [markdown]
# **The shipped kernel**, `kernels/src/layer_norm.py`, is this with weights first, one warp per row and 64-bit offsets;
# and with the sum with a residual in the same pass.

# %%
if __name__ == "__main__":
    from minitrans.kernels.layer_norm import layer_norm as shipped

    exact = F.layer_norm(x.double(), (96,), weight.double(), bias.double())
    ours, counts = lab.count(shipped, x, weight, bias, 1e-5)
    lab.check(ours, exact, F.layer_norm(x, (96,), weight, bias))
    print(f"shipped: {lab.size(counts.bytes)} asked for by {counts.programs} programs")

# %% [markdown]
# **What a count does not show.** 96 channels take a tile of 128, so a quarter of the lanes computes nothing. And how
# much a late load costs depends on what else the multiprocessor has to do meanwhile: only a measurement tells (lesson
# 13).
#
# **Exercise.** `exercises/02_layer_norm.py`: layer norm of x + residual, in one pass over memory, several rows per
# program.
