# %% [markdown]
# # 04 · A product in tiles
#
# **The idea.** C = A B, with A (M, K) and B (K, N). A program computes one tile of C, so it reads the rows of A and
# the columns of B that meet there, a step of K at a time. With tiles of T × T every element of A is read N / T times
# and every element of B M / T times: 2·M·N·K / T elements in all. Twice the tile size, half the bytes. That a loaded
# operand is used several times is called *reuse*, and the tile size determines it.
#
# FLOPs per byte are called *intensity*. A card that multiplies 295 times as fast as it moves bytes (an H100 in 16
# bits) needs that many FLOPs for each byte; below that, the kernel is bound by memory, above it, by the *tensor
# cores*, units that multiply small tiles in one instruction. Drawn over intensity, the two bounds make a roof: the
# *roofline* (`python kernels/lessons/roofline.py`).

# %%
import lab
import torch
import triton
import triton.language as tl
from torch import Tensor


# %%
@triton.jit
def product_kernel(a, b, c, rows, columns, depth, TILE: tl.constexpr, STEP: tl.constexpr):
    row = tl.program_id(0) * TILE + tl.arange(0, TILE)
    column = tl.program_id(1) * TILE + tl.arange(0, TILE)
    total = tl.zeros([TILE, TILE], tl.float32)  # the tile of C stays in registers all the while
    for start in range(0, depth, STEP):
        inner = start + tl.arange(0, STEP)
        left = tl.load(
            a + row[:, None] * depth + inner[None, :], mask=(row < rows)[:, None] & (inner < depth)[None, :], other=0.0
        )
        right = tl.load(
            b + inner[:, None] * columns + column[None, :],
            mask=(inner < depth)[:, None] & (column < columns)[None, :], other=0.0,
        )  # fmt: skip
        total = tl.dot(left, right, total, input_precision="ieee")
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    tl.store(c + row[:, None] * columns + column[None, :], total, mask=inside)


def product(a: Tensor, b: Tensor, tile: int, step: int = 16, stages: int = 1) -> Tensor:
    """(M, K) (K, N) -> (M, N)."""
    rows, depth, columns = *a.shape, b.shape[1]
    c = torch.empty(rows, columns, dtype=a.dtype, device=a.device)
    grid = (triton.cdiv(rows, tile), triton.cdiv(columns, tile))
    product_kernel[grid](a, b, c, rows, columns, depth, tile, step, num_warps=4, num_stages=stages)
    return c


# %% [markdown]
# **Predict**: M = N = K = 128 in float16, tiles of 64. How many bytes are read?

# %%
MY_PREDICTION = None

if __name__ == "__main__":
    a, b = torch.randn(128, 128).half(), torch.randn(128, 128).half()
    for tile in (16, 32, 64):
        c, counts = lab.count(product, a, b, tile)
        lab.check(c, a.double() @ b.double(), a @ b)
        mine = MY_PREDICTION if tile == 64 else None
        lab.compare(f"bytes read, tile {tile}", counts.read, 2 * 128**3 / tile * a.element_size(), mine)
        print(f"    {counts.dot_flops:,} FLOPs, {counts.dot_flops / counts.bytes:.1f} a byte; trips {counts.trips}")
    lab.show(counts.picture(a, program=(1, 0)))

# %% [markdown]
# **Stages.** While a tile is multiplied, the next can be loaded into *shared memory*, which the threads of a program
# share. The compiler makes as many copies of the loop's tiles as there are stages. On an H100 it uses `wgmma` (HGMMA),
# a product computed by four warps together, for tiles of at least 64 rows.

# %%
if __name__ == "__main__":
    for tile, stages in ((64, 1), (64, 3), (128, 3)):
        turns = 4096 // 64
        code = lab.compiled(product, lab.empty(4096, 4096), lab.empty(4096, 4096), tile, 64, stages, turns=(turns,))
        report = code.report
        print(
            f"tile {tile}, {stages} stages: {report.shared / 1024:.0f} KiB shared, {report.registers} registers, "
            f"{code.number('HGMMA') / turns:.0f} HGMMA a trip, {report.resident} programs per multiprocessor"
        )

# %% [markdown]
# **What a count does not show.** Requested bytes are not bytes from memory: the programs of a row of tiles share rows
# of A, and what one has read is in the L2 cache for the next. With a perfect cache, only the distinct bytes would be
# left.
#
# **Exercise.** `exercises/04_product.py`: a linear layer, x Wᵀ + bias, without a second kernel for the bias and
# without a transposed copy of W.
