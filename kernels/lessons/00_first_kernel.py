# %% [markdown]
# # 00 · A first kernel
#
# **The idea.** A *kernel* is a function that a GPU runs many times at once. Each run is a *program*, and the programs
# of one *launch* form a *grid*. All programs execute the same lines; the only thing that tells them apart is a number,
# `tl.program_id(0)`. So the first thing any program does is to work out, from its number, which part is its own.
#
# What would be `out = x + y` in PyTorch is cut into *blocks*: program 0 adds the first 256 numbers, program 1 the
# next. A program does not index a tensor. It gets a *pointer*, the address of the tensor's first element, and computes
# `pointer + offset` for 256 elements at once; `tl.load` reads them, `tl.store` writes them. The last block may
# reach past the tensor's end, into other tensors. A *mask*, one boolean per element, prevents that.

# %%
import lab
import torch
import triton
import triton.language as tl
from torch import Tensor


# %%
@triton.jit
def add_kernel(x, y, out, length, BLOCK: tl.constexpr):
    offset = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)  # BLOCK places, a constant when the kernel is compiled
    inside = offset < length
    total = tl.load(x + offset, mask=inside) + tl.load(y + offset, mask=inside)
    tl.store(out + offset, total, mask=inside)


def add(x: Tensor, y: Tensor) -> Tensor:
    """The launcher: it allocates the result, and launches as many programs as it takes to cover it."""
    out = torch.empty_like(x)
    grid = (triton.cdiv(x.numel(), BLOCK),)  # a quotient, rounded up
    add_kernel[grid](x, y, out, x.numel(), BLOCK)  # kernel[grid](arguments): a tensor arrives as a pointer
    return out


@triton.jit
def add_without_mask(x, y, out, BLOCK: tl.constexpr):
    offset = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + offset, tl.load(x + offset) + tl.load(y + offset))


BLOCK = 256  # a power of two: tiles in Triton have no other sizes

# %% [markdown]
# **Predict** before you run: x, y and out have 1000 float32 values each (4 bytes). How many bytes does the launch
# request, reads and writes together? Write the number in place of `None`.

# %%
MY_PREDICTION = None

if __name__ == "__main__":
    x, y = torch.randn(1000), torch.randn(1000)
    out, counts = lab.count(add, x, y)
    lab.check(out, x.double() + y.double(), x + y)
    print(f"{counts.programs} programs, {lab.size(counts.read)} read and {lab.size(counts.written)} written")
    print(f"{counts.other_flops} additions: a tile computes the lanes that its mask keeps out as well")
    lab.compare("bytes asked for", counts.bytes, 3 * x.numel() * x.element_size(), MY_PREDICTION)

# %% [markdown]
# **What program 2 touches**, with x drawn as 20 rows of 50. (A grid may have three axes, so the lab gives a program's
# number as three.)

# %%
if __name__ == "__main__":
    lab.show(counts.picture(x.view(20, 50), program=2))

# %% [markdown]
# **Leave out the mask and see.** On a GPU the last program would read whatever comes after x, and overwrite whatever
# comes after out: no error, but wrong numbers somewhere else. Here the lab stops it, because it knows where each
# tensor ends.

# %%
if __name__ == "__main__":
    try:
        lab.count(add_without_mask[(triton.cdiv(x.numel(), BLOCK),)], x, y, torch.empty_like(x), BLOCK)
        raise SystemExit("the lab should have stopped this kernel")
    except lab.KernelError as error:
        print("stopped:", error)

# %% [markdown]
# **What a count does not show.** Time. The interpreter runs the four programs one after another; a GPU would run them
# at once, and for 1000 numbers it would spend nearly all its time on launching. And not every requested byte comes
# from memory: what was read a moment ago may still be in a cache.
#
# **Exercise.** `exercises/00_first_kernel.py`: `a · x + y`, with the mask and the pointers left for you. Then `python
# kernels/lessons/check.py 00`.
