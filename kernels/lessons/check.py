"""Says whether an exercise is solved: `python kernels/lessons/check.py 03`.

A solution has to give the right numbers, within the error budget, and must not take more than the file of the same
name in `solutions/`: bytes, sectors, trips or, compiled for an H100, instructions. `--solution` checks that file
instead.
"""

import argparse
import math
import runpy
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lab
import torch
import torch.nn.functional as F
import triton
from minitrans.kernels.bias_gelu import bias_gelu
from torch import Tensor

SCOREBOARD = lab.LESSONS / "scoreboard.md"


@dataclass(frozen=True)
class Exercise:
    """What is asked: a function of the file, calls of it, and the same by torch, in the dtype of its inputs.

    `counts` are names of `lab.Counts`. `compiled` are arguments to count instructions for; `shipped` is the launcher
    whose issue bound then has to be beaten by a tenth, if it is not the solution's.
    """

    function: str
    calls: Callable[[], list[tuple[Any, ...]]]
    expected: Callable[..., Any]
    hint: str
    counts: tuple[str, ...] = ("bytes",)
    compiled: tuple[Any, ...] = field(default=(), repr=False)
    shipped: Callable[..., object] | None = None


def normal(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape).to(dtype)


def hiding_mask(length: int) -> Tensor:
    """Query i sees keys from 20 on, and query 3 none."""
    mask = torch.zeros(length, length)
    mask[:, :20] = mask[3] = float("-inf")
    return mask


def masked_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    return ((q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5 + mask).softmax(-1) @ v).nan_to_num(0.0)


def causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def grouped_attention(rows: Tensor, heads: int) -> Tensor:
    q, k, v = rows.transpose(0, 1).split([heads, (rows.shape[1] - heads) // 2, (rows.shape[1] - heads) // 2])
    return lab.attention(q, *(part.repeat_interleave(heads // len(k), 0) for part in (k, v))).transpose(0, 1)


def mean_of_sequences(rows: Tensor, lengths: Tensor) -> Tensor:
    return torch.stack([part.mean(0) for part in rows.split(lengths.tolist())])


def backward_inputs() -> tuple[Tensor, ...]:
    q, k, v, grad = (normal(1, 2, 45, 32) for _ in range(4))
    lse = (q.double() @ k.double().transpose(-1, -2) / 32**0.5).logsumexp(-1).float()
    return q, k, v, lab.attention(q, k, v), grad, lse


def key_gradients(q: Tensor, k: Tensor, v: Tensor, out: Tensor, grad: Tensor, lse: Tensor) -> Tensor:
    k, v = k.clone().requires_grad_(), v.clone().requires_grad_()
    return torch.stack(torch.autograd.grad(lab.attention(q, k, v), (k, v), grad))


def occupancy(registers: int, shared: int, warps: int) -> tuple[int, str]:
    by = [65536 // (math.ceil(registers / 8) * 256 * warps), 233472 // (shared + 1024), 64 // warps]
    return min(by), ("registers", "shared memory", "warps")[by.index(min(by))]


def merged(x: Tensor) -> Tensor:
    return torch.cat([x[i::2, j::2] for j in (0, 1) for i in (0, 1)], -1)


def times() -> list[tuple[list[float], list[float]]]:
    """A clock rate that falls by a third, and a round in which something else ran: still twice as fast."""
    ours = [10.0, 10.0, 10.0, 15.0, 15.0, 15.0, 15.0]
    return [(ours, [20.0, 20.0, 20.0, 30.0, 30.0, 300.0, 30.0])]


EXERCISES = {
    "00": Exercise(
        "scale_and_add", lambda: [(0.5, normal(1000), normal(1000)), (2.0, normal(128), normal(128))],
        lambda a, x, y: a * x + y,
        "Program i begins at i · BLOCK; `mask=offset < length` excludes what its block has in excess.",
    ),
    "01": Exercise(
        "softmax_of_columns", lambda: [(normal(64, 64),), (normal(45, 13),)], lambda x: x.softmax(0),
        "Eight float32 fill a sector: a tile of BLOCK rows by 8 columns.", ("sectors",),
    ),
    "02": Exercise(
        "add_layer_norm", lambda: [(100 + normal(64, 96), normal(64, 96), normal(96), normal(96))],
        lambda x, residual, weight, bias: F.layer_norm(x + residual, weight.shape, weight, bias),
        "Where the mask excludes channels, x − mean is not 0: `tl.where` sets it to 0 before the squares are summed.",
    ),
    "03": Exercise(
        "silu", lambda: [(normal(3000, dtype=torch.float16),), (50 * normal(3000, dtype=torch.float16),)], F.silu,
        "rsqrt(a) squared is 1 / a.", ("bytes",), (lab.empty(4096 * 3072, dtype=torch.float16),),
    ),
    "04": Exercise(
        "linear", lambda: [(normal(70, 45), normal(50, 45), normal(50))], F.linear,
        "Element (inner, column) of Wᵀ is at column · depth + inner.",
    ),
    "05": Exercise(
        "attention", lambda: [tuple(normal(2, 2, 45, 32) for _ in range(3))], lab.attention,
        "scores = tl.dot(q_tile, tl.trans(k_tile)) · scale, −∞ past the end; then lesson 01's softmax along axis 1.",
    ),
    "06": Exercise(
        "attention", lambda: [(*(normal(1, 2, 45, 32) for _ in range(3)), hiding_mask(45))], masked_attention,
        "Subtract a base that is `highest`, but 0 where `highest` is −∞; and divide by 1 where z is 0.",
    ),
    "07": Exercise(
        "attention", lambda: [tuple(normal(1, 2, 70, 32) for _ in range(3))], causal_attention,
        "Program t has the queries from t · TILE on: keys before need no mask; skip those from (t + 1) · TILE on.",
        ("bytes", "trips"),
    ),
    "08": Exercise(
        "attention", lambda: [(normal(45, 8, 32), 4)], grouped_attention,
        "The group of a head is head // (heads // groups); values begin `groups` heads after the keys.",
    ),
    "09": Exercise(
        "mean_of_sequences", lambda: [(normal(61, 96), torch.tensor([5, 1, 40, 15]))], mean_of_sequences,
        "tl.sum over a load of all lengths, with a mask that keeps those before the program's own sequence.",
    ),
    "10": Exercise(
        "occupancy", lambda: [(128, 57344, 4), (200, 99328, 8), (32, 0, 16), (30, 100 << 10, 4)], occupancy,
        "The least of three quotients, each rounded down; registers first rounded up to a multiple of 8.", (),
    ),
    "11": Exercise(
        "key_gradients", lambda: [backward_inputs()], key_gradients,
        "Four products: tl.trans(p) with dO, dO with tl.trans(v_tile), and tl.trans(ds) with q_tile.",
    ),
    "12": Exercise(
        "merge", lambda: [(normal(6, 10, 24),)], merged,
        "Quarters 0 to 3 are at (0, 0), (1, 0), (0, 1), (1, 1): quarter % 2 rows down, quarter // 2 columns across.",
    ),
    "13": Exercise(
        "speedup", times, lambda ours, theirs: 2.0, "The ratio of each round, and then their median.", (),
    ),
    "14": Exercise(
        "bias_gelu",
        lambda: [((size * normal(16, 384)).half(), (size * normal(384)).half()) for size in (1.0, 1e-4, 50.0)],
        lambda x, bias: F.gelu(x + bias) if x.dtype is torch.float64 else F.gelu(x.float() + bias.float()).to(x.dtype),
        "Φ(u) is nearly a sigmoid of an odd polynomial; fit it to minimise the output's largest error.", ("bytes",),
        (lab.empty(4096, 3072, dtype=torch.float16), lab.empty(3072, dtype=torch.float16)), bias_gelu,
    ),
}  # fmt: skip


def path_of(number: str, folder: str) -> Path:
    """The file of an exercise: "03" -> exercises/03_gelu.py."""
    return next((lab.LESSONS / folder).glob(f"{number}_*.py"))


def check(number: str, folder: str = "exercises") -> tuple[float, ...]:
    """Print what passes; return the issue bounds in µs, its own and the target's, where instructions are counted.

    Raises KernelError with what does not pass.
    """
    exercise = EXERCISES[number]
    mine, target = (runpy.run_path(str(path_of(number, each)))[exercise.function] for each in (folder, "solutions"))
    for arguments in exercise.calls():
        result, counts = lab.count(mine, *arguments)
        expected = exercise.expected(*arguments)
        if not isinstance(expected, Tensor):
            if result != expected:
                raise lab.KernelError(f"{exercise.function}{arguments} is {result}, not {expected}.")
            print(f"right: {exercise.function}{arguments} is {result}")
            continue
        lab.check(result, exercise.expected(*map(doubled, arguments)), expected)
        _, allowed = lab.count(target, *arguments)
        for name in exercise.counts:
            hold(name, getattr(counts, name), getattr(allowed, name))
    if not exercise.compiled:
        return ()
    bounds = [lab.compiled(each, *exercise.compiled).report.issue_us for each in (mine, exercise.shipped or target)]
    hold("µs at least to issue its instructions", bounds[0], bounds[1] * (0.9 if exercise.shipped else 1.1))
    return tuple(bounds)


def doubled(argument: Any) -> Any:
    """Floating tensors in float64, anything else as it is."""
    return argument.double() if isinstance(argument, Tensor) and argument.is_floating_point() else argument


def hold(name: str, counted: float, target: float) -> None:
    """Compare a count with its target."""
    print(f"{name}: {counted:,.6g}, target {target:,.6g}")
    if counted > target:
        raise lab.KernelError(
            f"The numbers are right, but it takes {counted:,.6g} {name}; the target is {target:,.6g}."
        )


def line(name: str, bound: float, shipped: float) -> str:
    """A line of the scoreboard."""
    return f"| {name} | {bound:.2f} | {bound / shipped:.0%} | {triton.__version__} |\n"


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Check an exercise of the lab.")
    parser.add_argument("number", choices=EXERCISES, metavar="number", help="00 to 14")
    parser.add_argument("--solution", action="store_true", help="check the file in solutions/ instead of yours")
    parser.add_argument("--record", metavar="NAME", help="only for 14: add your line to scoreboard.md")
    options = parser.parse_args()
    if options.record and options.number != "14":
        parser.error("only 14 has a scoreboard")
    number, folder = options.number, "solutions" if options.solution else "exercises"
    try:
        bounds = check(number, folder)
    except Exception as error:  # whatever a reader's code raises is the reason
        what = str(error) if isinstance(error, lab.KernelError) else f"{type(error).__name__}: {error}"
        print(f"{path_of(number, folder).name} is not solved: {what}\nHint: {EXERCISES[number].hint}")
        return 1
    print(f"{path_of(number, folder).name} is solved.")
    if options.record:
        with SCOREBOARD.open("a", encoding="utf-8") as file:
            file.write(line(options.record, *bounds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
