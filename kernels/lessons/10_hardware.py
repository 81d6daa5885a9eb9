# %% [markdown]
# # 10 · What a multiprocessor holds: one row of the table, explained
#
# **The idea.** A GPU is many *multiprocessors* (132 on an H100). Each has 65,536 registers, some shared memory, room
# for 64 warps, and four *schedulers*, each of which issues one instruction per cycle, of any warp that is ready. A
# warp that waits costs nothing as long as another is ready. So it matters how many programs fit on a multiprocessor at
# a time: the *occupancy*. A program holds its registers and its shared memory for as long as it runs.
#
# None of this needs a card: the compiler has decided it, and `minitrans.kernels.report` reads it from the code.

# %%
from unittest import mock

import lab
from minitrans.kernels import attention as module
from minitrans.kernels import report
from minitrans.kernels.launch import Tiles

REGISTERS, SHARED, WARPS = 65536, 228 * 1024, 64  # of a multiprocessor of an H100


# %%
def counted(*tile: int) -> report.Report:
    """The shipped attention compiled with another tile, for 64 × 512 tokens and 12 heads of 64 in bfloat16."""
    with mock.patch.dict(module.FORWARD, {(16, 64): Tiles(*tile)}):
        return report.report("attention", (64, 512, 12, 64))[0]


def occupancy(registers: int, shared: int, warps: int) -> dict[str, int]:
    """How many programs fit, by each resource: registers per thread in eights, and 1 KiB of memory for the system."""
    return {
        "registers": REGISTERS // (-(-registers // 8) * 8 * 32 * warps),
        "shared memory": SHARED // (shared + 1024),
        "warps": WARPS // warps,
    }


# %% [markdown]
# **The shipped row**, as kernels/README.md explains it:

# %%
if __name__ == "__main__":
    tile = module.FORWARD[16, 64]
    code = lab.elsewhere(counted, *tile)
    threads = 32 * tile.num_warps
    print(
        f"tile {tile.rows} × {tile.columns}, {tile.num_warps} warps, {tile.num_stages} stages, compiled for an H100:"
    )
    sums = tile.rows * tile.columns + tile.rows * 64
    print(f"* scores and output are {sums:,} float32 sums: {sums // threads} of a thread's {code.registers} registers")
    queries, keys = tile.rows * 64 * 2, tile.columns * 64 * 2
    print(
        f"* queries take {lab.size(queries)}, keys and values in stages {lab.size(2 * tile.num_stages * keys)}"
        f" of shared memory; the compiler asks for {lab.size(code.shared)}"
    )
    fits = occupancy(code.registers, code.shared, code.warps)
    print("* programs that fit: " + ", ".join(f"{number} by {what}" for what, number in fits.items()))
    assert min(fits.values()) == code.resident
    units = {unit: number for unit, number in code.loop.units.items() if number}
    print(f"* a warp's trip: {sum(units.values())} instructions, " + ", ".join(f"{u} {n}" for u, n in units.items()))
    print("* at least, in µs: " + ", ".join(f"{what} {us:.0f}" for what, us in code.unit_us.items() if us))

# %% [markdown]
# **Predict**: with tiles of 128 × 128 and 8 warps, there are half as many trips, so that fewer instructions are issued
# in all. How many programs fit on a multiprocessor then? And which of the tiles below would you ship?

# %%
MY_PREDICTION = None  # of the programs of 128 × 128

if __name__ == "__main__":
    clocked = lab.measured("h200/tuning.json")["attention 64x512"]["times"]
    for tile in ((64, 64, 4, 3), (128, 64, 8, 3), (128, 128, 8, 2)):
        code = lab.elsewhere(counted, *tile)
        print(
            f"{tile!s:18} {code.registers} registers, {code.resident} programs, {code.resident * code.warps} "
            f"warps; issue {code.issue_us:.0f} µs on an H100; an H200 took {clocked[f'base{tile}']:.0f} µs"
        )
    print(f"programs of 128 × 128: {code.resident}; {lab.verdict(MY_PREDICTION, code.resident)}")

# %% [markdown]
# **What a count does not show.** The tile with the fewest instructions was predicted to be the fastest, and is the
# slowest: nothing else can run while its only program waits. (The times are of the code as it was then, the counts of
# today's.) An issue bound says what a kernel cannot beat. How long it takes, only a measurement tells (lesson 13).
#
# **Exercise.** `exercises/10_hardware.py`: write `occupancy` yourself, and say which of its three limits is tightest.
