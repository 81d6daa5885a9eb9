# %% [markdown]
# # 14 · Capstone: beat the shipped kernel
#
# **The idea.** You now know all it takes to beat a shipped kernel. `bias_gelu` is bound by memory on paper, but its
# instructions take nearly as long to issue, so they are what is worth reducing. Write a kernel of the same signature
# whose *counted issue bound* is at least a tenth lower, within the same error budget: in float16, for inputs of size
# 1, of 1e-4 and of 50, four times torch's own error.
#
# There are no other requirements. You may choose another formula (a 16-bit result has eleven bits; the shipped one
# gives twenty), another tile, another number of warps. `check.py 14` counts; `check.py 14 --record NAME` adds a line
# to `scoreboard.md` if the kernel passes.

# %%
import lab
import torch
import torch.nn.functional as F
from minitrans.kernels.bias_gelu import bias_gelu

SHAPE = (4096, 3072)
SIZES = (1.0, 1e-4, 50.0)


# %% [markdown]
# **Where the instructions are.** A warp's, by the unit that executes them, divided by the elements of a thread.

# %%
if __name__ == "__main__":
    code = lab.compiled(bias_gelu, lab.empty(*SHAPE, dtype=torch.float16), lab.empty(SHAPE[1], dtype=torch.float16))
    report = code.report
    elements = SHAPE[0] * SHAPE[1] / report.programs / report.warps / 32
    print(f"{report.instructions / elements:.1f} instructions per element; issue bound {report.issue_us:.2f} µs")
    print(
        "of these " + ", ".join(f"{unit} {number / elements:.1f}" for unit, number in report.units.items() if number)
    )
    for opcode in ("MUFU", "FFMA", "FMUL", "FADD", "FMNMX", "F2FP", "HADD2", "LDG", "STG", "ISETP", "IMAD"):
        print(f"    {opcode} {code.number(opcode) / elements:.2f}", end="")
    print()
    moved = 2 * SHAPE[0] * SHAPE[1] * 2
    print(f"to move {lab.size(moved)} takes {moved / report.gpu.bandwidth * 1e6:.1f} µs on an {report.gpu.name}")

# %% [markdown]
# **How much error is left to spend.** The shipped kernel's, and what the budget allows.

# %%
if __name__ == "__main__":
    bias = torch.zeros(256).half()
    for scale in SIZES:
        x = (scale * torch.randn(32, 256)).half()
        exact = F.gelu(x.double())
        allowed = 4 * lab.error_of(F.gelu(x), exact) + torch.finfo(x.dtype).eps / 4
        spent = lab.error_of(bias_gelu(x, bias), exact)
        print(f"numbers of size {scale:g}: {spent:.1e} of {allowed:.1e}")
        assert spent <= allowed

# %% [markdown]
# **Predict**: how many instructions per element will yours take?

# %%
MY_PREDICTION = None

if __name__ == "__main__":
    _, counts = lab.count(bias_gelu, x, bias)
    shipped = report.instructions / elements
    print(f"shipped: {shipped:.3g} per element; {lab.verdict(MY_PREDICTION, shipped)}")
    lab.compare("bytes asked for", counts.bytes_of("x", "out"), 2 * x.numel() * 2)

# %% [markdown]
# **What a count does not show.** Whether it is faster: the shipped kernel also waits for memory, and fewer
# instructions only help until memory is the only bound (lesson 13 has its time). That is the next thing to measure on
# a card; and if it holds there, it is a better kernel, and belongs in `kernels/src`.
#
# **Exercise.** `exercises/14_capstone.py` begins as the shipped kernel.
