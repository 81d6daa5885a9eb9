# %% [markdown]
# # 03 · GELU: its cost is instructions
#
# **The idea.** An *elementwise* kernel reads and writes each number once, and nothing can reduce that. What remains
# are instructions. A multiprocessor of an H100 issues four of them per cycle, each for a warp of 32 threads. If
# issuing an element's instructions takes longer than moving its bytes, memory waits.
#
# GELU is u · Φ(u), with Φ(u) = (1 + erf(u / √2)) / 2. The GPU has no instruction for erf, so the compiler uses one
# polynomial for the inner part, another for the outer, and selects. It does have 2ˣ and 1/√x, on a *special function
# unit* (MUFU). Abramowitz & Stegun's formula 7.1.26 needs one of each: Φ(−|u|) = t · polynomial(t) · exp(−u²/2) with
# t = 1 / (1 + p |u|). Its error is below 1e-7. Which dtype may use it?

# %%
import lab
import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor


# %%
@triton.jit
def by_erf(u):
    return 0.5 * u * (1.0 + tl.erf(u * 0.7071067811865476))


@triton.jit
def by_polynomial(u):
    magnitude = tl.abs(u)
    root = tl.rsqrt(1.0 + 0.23164189 * magnitude)  # squared: a reciprocal would be a division, of many instructions
    t = root * root
    tail = ((((0.5307027145 * t - 0.7265760135) * t + 0.7107068705) * t - 0.142248368) * t + 0.127414796) * t
    return tl.maximum(u, 0.0) - magnitude * (tail * tl.exp2(u * u * -0.7213475204444817))


@triton.jit
def gelu_kernel(x, out, length, BLOCK: tl.constexpr, ERF: tl.constexpr):
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    u = tl.load(x + place, mask=place < length, other=0.0).to(tl.float32)
    if ERF:
        y = by_erf(u)
    else:
        y = by_polynomial(u)
    tl.store(out + place, y, mask=place < length)


BLOCK = 2048


def gelu(x: Tensor, erf: bool) -> Tensor:
    out = torch.empty_like(x)
    gelu_kernel[(triton.cdiv(x.numel(), BLOCK),)](x, out, x.numel(), BLOCK, erf, num_warps=4)
    return out


# %% [markdown]
# **Who may use it.** The budget is four times the error that torch itself makes in that dtype. A 16-bit result is
# rounded so coarsely that 1e-7 disappears in it. A float32 result shows it, and for small numbers, where the output is
# about u / 2, an *absolute* error of 1e-7 in Φ is a *relative* error of the output.

# %%
if __name__ == "__main__":
    for dtype in (torch.float16, torch.float32):
        for scale in (1.0, 1e-4):
            x = (scale * torch.randn(4096)).to(dtype)
            exact = F.gelu(x.double())
            allowed = 4 * lab.error_of(F.gelu(x), exact) + torch.finfo(dtype).eps / 4
            errors = [lab.error_of(gelu(x, erf), exact) for erf in (True, False)]
            verdict = "may" if errors[1] <= allowed else "may not"
            print(
                f"{dtype}, numbers of size {scale:g}: erf {errors[0]:.1e}, polynomial {errors[1]:.1e}, "
                f"allowed {allowed:.1e}: it {verdict} be used"
            )
            assert errors[0] <= allowed
            assert errors[1] <= allowed or dtype is torch.float32

# %% [markdown]
# **Predict**: take all instructions that a warp executes, divided by the elements of one of its threads. What fraction
# of erf's instructions does the polynomial take (1.0 would be as many)?

# %%
MY_PREDICTION = None

if __name__ == "__main__":
    x = torch.randn(3000)
    _, counts = lab.count(gelu, x, False)
    print(f"bytes: {lab.size(counts.bytes)} asked for, {lab.size(counts.distinct)} distinct; powers {counts.powers:,}")
    each = []
    for erf in (True, False):
        code = lab.compiled(gelu, lab.empty(4096 * 3072), erf)
        elements = BLOCK / code.report.warps / 32
        each.append(code.report.instructions / elements)
        print(
            f"{'erf' if erf else 'polynomial'}: {each[-1]:.1f} instructions an element, "
            f"{code.number('MUFU') / elements:.1f} of them special functions; 4096 × 3072 elements take at least "
            f"{code.report.issue_us:.1f} µs to issue, {4 * 4096 * 3072 / code.report.gpu.bandwidth * 1e6:.1f} to move"
        )
    share = each[1] / each[0]
    print(f"the polynomial takes {share:.2f} of it; {lab.verdict(MY_PREDICTION, share)}")
    assert share < 0.7, "the polynomial should take far fewer instructions"

# %% [markdown]
# **The shipped kernel** adds a bias and chooses by the dtype of its output. It is `kernels/src/bias_gelu.py`.

# %%
if __name__ == "__main__":
    from minitrans.kernels.bias_gelu import bias_gelu

    x, bias = torch.randn(8, 384).half(), torch.randn(384).half()
    lab.check(bias_gelu(x, bias), F.gelu(x.double() + bias.double()), F.gelu(x + bias))

# %% [markdown]
# **What a count does not show.** The card's own 2ˣ and 1/√x are off by a unit or two in the last place; numpy's, which
# the interpreter uses, are not. So the table above has to be made once on the card too (`benchmarks/results` has it).
# And an instruction bound is only a bound: no kernel issues four instructions in every cycle.
#
# **Exercise.** `exercises/03_gelu.py`: SiLU, x / (1 + exp(−x)), in 16 bits. The division as written is the expensive
# part.
