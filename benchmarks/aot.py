"""Compile every shipped kernel configuration ahead of time and tabulate what it costs; needs no GPU.

`python -m benchmarks.aot` prints the table and fails if a configuration spills registers, needs more shared memory
than the device has, or lacks matrix instructions; `--write` writes the table to kernels/results/compiled.md.

The real launchers run on CPU tensors under a driver that only names a target, with the launch itself left out: what
is compiled here is what a user's first call compiles. TRITON_INTERPRET must not be set.
"""

import argparse
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import triton
from minitrans.kernels.attention import SHORT_ROWS, attention
from minitrans.kernels.bias_gelu import bias_gelu, bias_gelu_backward
from minitrans.kernels.convolution import convolution
from minitrans.kernels.embedding_layer_norm import embedding_layer_norm, embedding_layer_norm_backward
from minitrans.kernels.launch import exact_on_tensor_cores, tf32_products
from minitrans.kernels.layer_norm import add_layer_norm, layer_norm, layer_norm_backward, residual_layer_norm
from minitrans.kernels.merge_layer_norm import merge_layer_norm, merge_layer_norm_backward
from minitrans.kernels.report import Launch, compiling_only, registers_and_spills
from minitrans.kernels.window_attention import LARGEST_BACKWARD, window_attention, window_attention_backward
from torch import Tensor
from triton.backends.compiler import GPUTarget

TABLE = Path(__file__).parents[1] / "kernels" / "results" / "compiled.md"
ABOUT = """# What the compiler says

Written by `python -m benchmarks.aot --write` with Triton {version}: registers a thread, shared memory a program,
matrix instruction. "Short" is the tile for sequences of up to 64 rows.

"""


@dataclass(frozen=True)
class Target:
    """A GPU to compile for: the bytes of shared memory a program may use, and its matrix instructions in assembly."""

    gpu: GPUTarget
    shared: int
    matrix: tuple[str, ...]


TARGETS = {
    "sm_80": Target(GPUTarget("cuda", 80, 32), 163 << 10, ("mma.sync",)),
    "sm_86": Target(GPUTarget("cuda", 86, 32), 99 << 10, ("mma.sync",)),
    "sm_89": Target(GPUTarget("cuda", 89, 32), 99 << 10, ("mma.sync",)),
    "sm_90": Target(GPUTarget("cuda", 90, 32), 227 << 10, ("wgmma", "mma.sync")),
    "sm_100": Target(GPUTarget("cuda", 100, 32), 227 << 10, ("tcgen05.mma", "mma.sync")),
    "sm_120": Target(GPUTarget("cuda", 120, 32), 99 << 10, ("mma.sync",)),
    "gfx90a": Target(GPUTarget("hip", "gfx90a", 64), 64 << 10, ("v_mfma",)),
    "gfx942": Target(GPUTarget("hip", "gfx942", 64), 64 << 10, ("v_mfma",)),
    "gfx950": Target(GPUTarget("hip", "gfx950", 64), 160 << 10, ("v_mfma",)),
    "gfx1100": Target(GPUTarget("hip", "gfx1100", 32), 64 << 10, ("v_wmma",)),
    "gfx1201": Target(GPUTarget("hip", "gfx1201", 32), 64 << 10, ("v_wmma",)),
}
WARPGROUP_ROWS = 64
"""From this many rows on, a tile on sm_90 is to use the warpgroup's instruction."""


SPILL_ALLOWED = 32
"""Bytes per thread: some registers that are spilled once, outside the loop."""

SPILLS_MORE = {"window_attention_backward": 72}
"""In float32 on sm_100, and on sm_86 and sm_89 with Triton 3.9; twice the warps would need more issue slots."""

ATTENTION_FORMS = (
    ("", 512, False, False, 0.0),
    (", short", SHORT_ROWS, False, False, 0.0),
    (", causal, bias", 512, True, False, 0.0),
    (", dropout", 512, False, False, 0.1),
    ("", 512, False, True, 0.0),
    (", causal, bias", 512, True, True, 0.0),
    (", dropout", 512, False, True, 0.1),
)
"""Label, longest sequence, whether causal and biased, whether backward, and dropout."""


@dataclass(frozen=True)
class Case:
    """A call that launches kernels, and whether their products belong on tensor cores (exact float32 ones do not)."""

    name: str
    products: bool
    call: Callable[[], object]


@dataclass(frozen=True)
class Cost:
    """What the compiler says about one kernel: registers and spilled bytes per thread, shared bytes per program."""

    kernel: str
    case: str
    tile: tuple[int, ...]
    warps: int
    stages: int
    registers: int
    spilled: int
    shared: int
    matrix: str
    products: bool


def cases() -> Iterator[Case]:
    """Every row of the tables, plainest and fullest; float32 attention where exact products are fast."""
    exact = exact_on_tensor_cores()
    for dtype, tf32, head_dims in (
        (torch.bfloat16, False, (16, 32, 64, 128)),
        (torch.float32, False, (16, 32, 64)),
        (torch.float32, True, (64,) if tf32_products() else ()),
    ):
        name = "tf32" if tf32 else str(dtype).removeprefix("torch.")
        products = tf32 or dtype is not torch.float32
        for head_dim in head_dims:
            for label, *form, dropout in ATTENTION_FORMS if exact or dtype is not torch.float32 else ():
                if dropout and head_dim < 64:  # which leaves it more registers in the same tiles
                    continue
                call = partial(call_attention, dtype, tf32, head_dim, *form, dropout)
                yield Case(f"{name}, D {head_dim}{label}", products, call)
            for window in (4, 7, 12):
                call = partial(call_window_attention, dtype, tf32, head_dim, window)
                yield Case(f"{name}, D {head_dim}, window {window}", products, call)
            if head_dim <= LARGEST_BACKWARD:
                call = partial(call_window_attention, dtype, tf32, head_dim, 7, backward=True)
                yield Case(f"{name}, D {head_dim}, window 7, gradients", dtype is not torch.float32, call)
    for dtype in (torch.bfloat16, torch.float32):
        name = str(dtype).removeprefix("torch.")
        for width in (96, 768, 1024):
            for label, call in row_calls(dtype, width).items():
                yield Case(f"{name}, C {width}{label}", False, call)
        yield Case(f"{name}, C 512, K 10", dtype is not torch.float32, partial(call_convolution, dtype))


def exact_products(exact: bool) -> None:
    torch.backends.cuda.matmul.fp32_precision = "ieee" if exact else "tf32"


def call_attention(
    dtype: torch.dtype, tf32: bool, head_dim: int, longest: int, full: bool, backward: bool, dropout: float
) -> object:
    exact_products(not tf32)
    q, k, v = torch.zeros(2 * longest, 3, 12, head_dim, dtype=dtype).unbind(1)
    starts, lengths = torch.tensor([0, longest]), torch.tensor([longest, longest])
    bias = torch.zeros(12, longest, longest, dtype=dtype) if full else None
    if not backward:
        return attention(q, k, v, starts, lengths, longest, causal=full, bias=bias, dropout=dropout)
    lse, scale, seed = torch.zeros(2 * longest, 12), head_dim**-0.5, torch.zeros(1).long() if dropout else None
    arguments = (q, q, k, v, q, lse, starts, lengths, longest, 0, scale, full, bias, dropout, seed)
    return torch.ops.minitrans.attention_backward(*arguments)


def call_window_attention(
    dtype: torch.dtype, tf32: bool, head_dim: int, window: int, backward: bool = False
) -> object:
    exact_products(not tf32)
    qkv, padding = torch.zeros(8, 30, 30, 3, 3, head_dim, dtype=dtype), torch.zeros(3, 3, head_dim, dtype=dtype)
    table = torch.zeros((2 * window - 1) ** 2, 3, dtype=dtype)
    if not backward:
        return window_attention(qkv, table, window, window // 2, padding)
    return window_attention_backward(qkv[:, :, :, 0], qkv, table, window, window // 2, padding, True, True, True)


def row_calls(dtype: torch.dtype, width: int) -> dict[str, Callable[[], object]]:
    """Calls of the kernels that hold whole rows, with what tells apart those of one kernel."""
    x, weight, index = torch.zeros(64, width, dtype=dtype), torch.zeros(width, dtype=dtype), torch.zeros(64).long()
    norm, tables = (weight, weight, 1e-5), (index, index, index, x, x, x)
    grid, wide = x.view(2, 16, 2, width), weight.repeat(2, 4)
    return {
        "": partial(layer_norm, x, *norm),
        ", add": partial(add_layer_norm, x, x, *norm),
        ", add and keep": partial(residual_layer_norm, x, x, *norm),
        ", all gradients": partial(layer_norm_backward, x, None, x, None, weight, 1e-5, True, True),
        ", all gradients, add and keep": partial(layer_norm_backward, x, x, x, x, weight, 1e-5, True, True),
        ", gradient of rows": partial(layer_norm_backward, x, None, x, None, weight, 1e-5, True, False),
        ", gathered": partial(embedding_layer_norm, *tables, *norm),
        ", gathered, gradients": partial(embedding_layer_norm_backward, x, *tables, weight, 1e-5, True, True),
        ", merged": partial(merge_layer_norm, grid, *wide, 1e-5),
        ", merged, gradients": partial(merge_layer_norm_backward, x, grid, wide[0], 1e-5, True, True),
        ", GELU": partial(bias_gelu, x, weight),
        ", GELU's gradients": partial(bias_gelu_backward, x, x, weight, True, True),
    }


def call_convolution(dtype: torch.dtype) -> Tensor:
    exact_products(True)
    rows, weight = torch.zeros(4000, 1, dtype=dtype), torch.zeros(512, 10, 1, dtype=dtype)
    return convolution(rows, weight, torch.zeros(512, dtype=dtype), 5, 1, "gelu")


def compile_for(name: str) -> list[Cost]:
    """The costs of all cases on one target."""
    costs: list[Cost] = []
    target = TARGETS[name]
    with compiling_only(target.gpu) as launches:
        for case in cases():
            case.call()
            costs += (read_cost(case, target, launch) for launch in launches)
            launches.clear()
    return costs


def read_cost(case: Case, target: Target, launch: Launch) -> Cost:
    registers, spilled = registers_and_spills(launch.compiled)
    text = launch.compiled.asm["ptx" if "ptx" in launch.compiled.asm else "amdgcn"]
    matrix = next((name for name in target.matrix if name in text), "")
    sizes = ("BLOCK_M", "BLOCK_N", "ROWS", "BLOCK_C", "COLUMNS", "FRAMES", "CHANNELS")
    tile = tuple(launch.options[size] for size in sizes if size in launch.options)
    metadata = launch.compiled.metadata
    products = case.products and "PRECISION" in launch.options
    kernel = launch.kernel.removesuffix("_forward")
    options = metadata.num_warps, metadata.num_stages
    return Cost(kernel, case.name, tile, *options, registers, spilled, metadata.shared, matrix, products)


def complaint(target: Target, cost: Cost) -> str | None:
    """What is wrong with a configuration, or None."""
    if cost.spilled > SPILLS_MORE.get(cost.kernel, SPILL_ALLOWED):
        return f"spills {cost.spilled} bytes per thread"
    if cost.shared > target.shared:
        return f"needs {cost.shared} bytes of shared memory; the device has {target.shared}"
    if cost.products and cost.matrix not in target.matrix:
        return "has no matrix instructions"
    if cost.products and target.gpu.arch == 90 and cost.tile[0] >= WARPGROUP_ROWS and cost.matrix != "wgmma":
        return "has no warpgroup matrix instructions"
    return None


def cell(cost: Cost) -> list[str]:
    """What the table says about a kernel on one target."""
    spilled = f"**spills {cost.spilled}**" if cost.spilled else ""
    return [f"{cost.registers}", f"{cost.shared / 1024:.0f} KiB", cost.matrix, spilled]


def table(costs: dict[str, list[Cost]]) -> str:
    """One row per configuration, one column per target: registers, KiB of shared memory, matrix instruction."""
    lines = ["| kernel | case | tile, warps, stages | " + " | ".join(costs) + " |", "| --- " * (3 + len(costs)) + "|"]
    found = {name: {(cost.kernel, cost.case): cost for cost in each} for name, each in costs.items()}
    rows: dict[tuple[str, str], Cost] = {}
    for each in found.values():
        rows |= {key: cost for key, cost in each.items() if key not in rows}
    for key, first in rows.items():
        cells = [", ".join(filter(None, cell(each[key]))) if key in each else "" for each in found.values()]
        options = " × ".join(map(str, first.tile)), first.warps, first.stages
        row = [first.kernel, first.case, ", ".join(map(str, options)), *cells]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description="Compile every shipped kernel configuration without a GPU.")
    parser.add_argument("targets", nargs="*", default=list(TARGETS), help=f"of {', '.join(TARGETS)}; all by default")
    parser.add_argument("--write", action="store_true", help=f"put the table into {TABLE.name}")
    options = parser.parse_args()
    with multiprocessing.get_context("spawn").Pool(os.cpu_count(), maxtasksperchild=1) as pool:
        costs = dict(zip(options.targets, pool.map(compile_for, options.targets, chunksize=1), strict=True))
    text = table(costs)
    print(text)
    if options.write:
        TABLE.parent.mkdir(exist_ok=True)
        TABLE.write_text(f"{ABOUT.format(version=triton.__version__)}{text}\n", encoding="utf-8")
    failures = [
        f"{name}: {cost.kernel} ({cost.case}) {reason}"
        for name in costs
        for cost in costs[name]
        if (reason := complaint(TARGETS[name], cost))
    ]
    print(*failures, sep="\n", file=sys.stderr)
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
