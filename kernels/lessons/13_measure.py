# %% [markdown]
# # 13 · How to measure honestly
#
# **The idea.** A count is the same on every run; a time is not. What goes wrong, and what helps:
#
# * *The host is ahead.* A launch returns before the kernel has begun. Record a CUDA *event* before it and one after
#   it, on the GPU's own queue, and wait for the second.
# * *Launching takes time.* A kernel of 5 µs is over before the next one is launched. Capture twenty launches as a
#   *CUDA graph*, replay it, and divide.
# * *The cache remembers.* The second run finds its inputs in L2, which a real model has filled with other things. Read
#   something larger than the cache between runs (*flush*), or use other inputs each time.
# * *Clock rates change.* A cold card is fast, a hot one is not. Record the clock rate with each number, and interleave
#   what you compare, so that both run under the same conditions. Give the median, and the spread.

# %%
import os
import statistics
from collections.abc import Callable

import torch

if torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "0"  # for once the kernels run on the card

import lab
from minitrans.kernels.bias_gelu import bias_gelu
from minitrans.kernels.layer_norm import add_layer_norm
from minitrans.kernels.merge_layer_norm import merge_layer_norm


# %%
def measure(run: Callable[[int], object], rounds: int = 50, launches: int = 20) -> float:
    """Microseconds of one launch: the median over replays of a graph of `launches`, each with inputs of its own."""
    run(0)  # compiles
    graph, flush = torch.cuda.CUDAGraph(), torch.zeros(256 << 20, dtype=torch.int8, device="cuda")
    with torch.cuda.graph(graph):
        for index in range(launches):
            run(index)
    times = []
    for _ in range(rounds):
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        flush.sum()  # read, not written: dirty lines would be written back while the clock runs
        before.record()
        graph.replay()
        after.record()
        torch.cuda.synchronize()
        times.append(before.elapsed_time(after) * 1000 / launches)
    return statistics.median(times)


if __name__ == "__main__" and torch.cuda.is_available():
    torch.use_deterministic_algorithms(False)  # as the lab sets it, it fills each output first
    tensors = [torch.randn(4096, 3072, device="cuda", dtype=torch.bfloat16) for _ in range(20)]
    bias = torch.randn(3072, device="cuda", dtype=torch.bfloat16)
    print(f"bias_gelu, 4096 × 3072, on this card: {measure(lambda index: bias_gelu(tensors[index], bias)):.1f} µs")

# %% [markdown]
# **Without a card** there are the committed measurements. First, how the method changes a number: the same kernel
# between two events, and as twenty launches in a CUDA graph. The launch overhead goes away; but the graph's launches
# have inputs of their own, which are not in a cache, and where that weighs more, the number grows.

# %%
RUN = lab.measured("h200/results.json")["sections"]
CARD = RUN["device"]["device"]


def times_of(work: str) -> dict[str, float]:
    """Microseconds of every candidate at some work; those that could not run are left out."""
    return {name: 1000 * time["ms"] for name, time in RUN["operations"][work]["times"].items() if "ms" in time}


if __name__ == "__main__":
    print(f"{CARD['name']}, torch {CARD['torch']}, Triton {CARD['triton']}")
    for work in RUN["operations"]:
        if "ours, in a graph" in (times := times_of(work)):
            print(f"{work}: {times['ours']:.1f} µs between events, {times['ours, in a graph']:.1f} in a graph")
    copied, peak = CARD["measured"]["bytes a second"], CARD["peaks"][0]
    print(f"a copy reached {copied / 1e12:.1f} TB/s, {copied / peak:.0%} of the data sheet's rate")

# %% [markdown]
# **Predict**, before you look: bias_gelu on 4096 × 3072 in bfloat16. Its bytes at the data sheet's rate are one bound,
# its counted instructions at the card's clock rate another. How many µs did it take?

# %%
MY_PREDICTION = None

if __name__ == "__main__":
    merged = lab.empty(384)
    for work, launcher, arguments in (
        ("bias_gelu, 4096 × 3072", bias_gelu, (lab.empty(4096, 3072), lab.empty(3072))),
        ("add_layer_norm, 4096 × 768", add_layer_norm,
         (lab.empty(4096, 768), lab.empty(4096, 768), lab.empty(768), lab.empty(768), 1e-5)),
        ("merge_layer_norm, 64 × 56 × 56 × 96", merge_layer_norm, (lab.empty(64, 56, 56, 96), merged, merged, 1e-5)),
    ):  # fmt: skip
        row, times = RUN["operations"][work], times_of(work)
        report = lab.compiled(launcher, *arguments).report
        issue = report.issue_us * report.gpu.clock / (row["times"]["ours"]["sm_mhz"] * 1e6)  # at this card's clock
        clocked = times["ours, in a graph"]
        bound = max(issue, 1000 * row["floor_ms"])
        print(
            f"{work}: bytes {1000 * row['floor_ms']:.1f} µs, instructions {issue:.1f} µs, measured {clocked:.1f} µs, "
            f"{bound / clocked:.0%} of it bound"
        )
        assert bound < clocked, "nothing beats a bound; if it does, the bound or the clock is wrong"
    clocked = times_of("bias_gelu, 4096 × 3072")["ours, in a graph"]
    print(f"bias_gelu took {clocked:.1f} µs; {lab.verdict(MY_PREDICTION, clocked)}")

# %% [markdown]
# **What a measurement does not show.** Why. A number that is twice its bound says that something waits, but not what:
# that takes a profiler, or a prediction that a second measurement can refute. And it holds for one card, one version
# of the compiler (the counts above are this machine's), one day.
#
# **Exercise.** `exercises/13_measure.py`: from two lists of interleaved times, how much faster one is.
