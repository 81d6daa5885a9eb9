"""What a kernel's compiled code says it costs, on a machine without a GPU.

`python -m minitrans.kernels.report attention --shape 64,512,12,64 --target sm_90` compiles what that call would launch
and prints its roofline time, registers, shared memory, programs per multiprocessor, and the instructions of a warp by
the unit that executes them, loop by loop. `report` gives the same as an object; `of_kernel` takes any @triton.jit
function.

Method. The machine code is cut into basic blocks. A block is counted once per iteration of the loops around it, which
follows from the shape; blocks that only lead to a loop without iterations, or come from it, do not count. At any other
branch, the path that executes more counts. A unit's time is its instructions over the rate of all multiprocessors;
that of the issue slots, four per multiprocessor and cycle, bounds any kernel from below: good ones take 1.3 to 2.5
times as long.

Counts hold for one version of Triton, whose compiler makes the code.
"""

import argparse
import contextlib
import functools
import importlib
import importlib.util
import io
import math
import os
import pickle
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from . import attention, bias_gelu, convolution, embedding_layer_norm, layer_norm, merge_layer_norm, window_attention
from .launch import INTERPRETED, forget_target, too_wide

UNITS = ("tensor core", "FMA", "MUFU", "ALU", "load/store", "uniform", "control")


@dataclass(frozen=True)
class GPU:
    """A card of a target: what rooflines and occupancy are computed for.

    `bandwidth` is in bytes per second and `flops` that of dense 16-bit products, both as published; `tensor` is FLOPs
    per cycle and multiprocessor, `fma` lanes of float32; `shared` is bytes per multiprocessor.
    """

    name: str
    target: GPUTarget
    multiprocessors: int
    clock: float
    bandwidth: float
    flops: float
    tensor: int
    fma: int
    shared: int
    warps: int
    programs: int


GPUS = {
    "sm_80": GPU("A100", GPUTarget("cuda", 80, 32), 108, 1.41e9, 2.04e12, 312e12, 2048, 64, 164 << 10, 64, 32),
    "sm_86": GPU("A10", GPUTarget("cuda", 86, 32), 72, 1.695e9, 0.6e12, 125e12, 1024, 128, 100 << 10, 48, 16),
    "sm_89": GPU("L4", GPUTarget("cuda", 89, 32), 58, 2.04e9, 0.3e12, 121e12, 1024, 128, 100 << 10, 48, 24),
    "sm_90": GPU("H100", GPUTarget("cuda", 90, 32), 132, 1.755e9, 3.35e12, 989e12, 4096, 128, 228 << 10, 64, 32),
    "sm_120": GPU("RTX 5090", GPUTarget("cuda", 120, 32), 170, 2.41e9, 1.79e12, 209e12, 512, 128, 100 << 10, 48, 24),
}
REGISTERS = 65536
"""Of a multiprocessor, on each of these."""


@dataclass(frozen=True)
class Part:
    """Instructions of a warp in a loop, without those of inner loops, or outside of all; by opcode, for one turn."""

    name: str
    turns: float
    opcodes: Mapping[str, int]

    @property
    def units(self) -> dict[str, int]:
        """Instructions by the unit that executes them."""
        found = dict.fromkeys(UNITS, 0)
        for opcode, count in self.opcodes.items():
            found[unit(opcode)] += count
        return found


@dataclass(frozen=True)
class Report:
    """One kernel of a call. Registers and spilled bytes are a thread's, shared bytes a program's."""

    kernel: str
    target: str
    triton: str
    programs: int
    warps: int
    registers: int
    spilled: int
    shared: int
    parts: tuple[Part, ...]
    moved: int = 0
    flops: int = 0

    @property
    def gpu(self) -> GPU:
        """The card that times are computed for."""
        return GPUS[self.target]

    @property
    def resident(self) -> int:
        """How many programs fit on a multiprocessor at a time."""
        each = -(-self.registers // 8) * 8 * 32 * self.warps
        shared = self.shared + 1024  # the system's own
        return min(REGISTERS // each, self.gpu.shared // shared, self.gpu.warps // self.warps, self.gpu.programs)

    @property
    def instructions(self) -> float:
        """Of a warp, from its first to its last."""
        return sum(part.turns * sum(part.opcodes.values()) for part in self.parts)

    @property
    def units(self) -> dict[str, float]:
        """Instructions of a warp by the unit that executes them."""
        return {name: sum(part.turns * part.units[name] for part in self.parts) for name in UNITS}

    @property
    def loop(self) -> Part:
        """The part that issues the most instructions."""
        return max(self.parts, key=lambda part: part.turns * sum(part.opcodes.values()))

    @property
    def issue_us(self) -> float:
        """Microseconds that all warps' instructions take to issue, prologues included."""
        return self._us(0.25 * self.instructions)

    @property
    def unit_us(self) -> dict[str, float]:
        """Microseconds that each unit works; memory's from the bytes that have to move."""
        each = dict.fromkeys(UNITS, 0.0)
        for part in self.parts:
            for opcode, count in part.opcodes.items():
                each[unit(opcode)] += part.turns * count * cycles(opcode, self.gpu)
        busy = {name: self._us(each[name]) for name in ("tensor core", "FMA", "MUFU", "ALU", "load/store")}
        return {"issue": self.issue_us, **busy, "memory": self.moved / self.gpu.bandwidth * 1e6}

    @property
    def tightest(self) -> str:
        """What bounds the time most: the issue slots, a unit, or memory."""
        return max(self.unit_us, key=self.unit_us.__getitem__)

    @property
    def roofline_us(self) -> float:
        """The lower bound in microseconds: the bytes or the FLOPs at the card's published rates."""
        return max(self.moved / self.gpu.bandwidth, self.flops / self.gpu.flops) * 1e6

    def _us(self, cycles_a_warp: float) -> float:
        warps = self.programs * self.warps
        return warps * cycles_a_warp / self.gpu.multiprocessors / self.gpu.clock * 1e6

    def __str__(self) -> str:
        gpu = self.gpu
        lines = [f"{self.kernel} on {self.target} ({gpu.name}), Triton {self.triton}"]
        if self.roofline_us:
            lines.append(
                f"roofline {self.roofline_us:.1f} µs: {self.moved / 1e6:.1f} MB at {gpu.bandwidth / 1e12:.2f} TB/s, "
                f"{self.flops / 1e9:.2f} GFLOP at {gpu.flops / 1e12:.0f} TFLOP/s"
            )
        lines.append(
            f"{self.programs} programs of {self.warps} warps, {self.registers} registers and {self.spilled} spilled "
            f"bytes per thread, {self.shared / 1024:.0f} KiB shared, {self.resident} programs per multiprocessor"
        )
        width = max(len(part.name) for part in self.parts) + 10
        lines += ["", "instructions of a warp".ljust(width) + "".join(f"{name:>13}" for name in (*UNITS, "all"))]
        for part in self.parts:
            turn = (*part.units.values(), sum(part.opcodes.values()))
            lines.append(f"{part.name}, × {part.turns:g}".ljust(width) + "".join(f"{count:13}" for count in turn))
        whole = (*self.units.values(), self.instructions)
        lines.append("in all".ljust(width) + "".join(f"{count:13.0f}" for count in whole))
        busy = ", ".join(f"{name} {us:.1f}" for name, us in sorted(self.unit_us.items(), key=lambda item: -item[1]))
        return "\n".join([*lines, "", f"µs at least: {busy}"])


_FAMILIES = (
    ("tensor core", r"(H|I|D|Q|B|O)(G?MMA)|UTC\w*MMA"),
    ("FMA", r"[FHDU]?(ADD|MUL|FMA)2?$|IMAD|FSWZADD|HMNMX2|IDP"),
    ("MUFU", r"MUFU|[FI]2[FI](?!P)|FRND|POPC|FLO|BREV"),
    ("load/store", r"(LD|ST)([GSLC]|SM|GSTS)?$|ATOM|RED$|REDG|REDUX|SHFL|UTMA|UBLKCP|MATCH|CCTL|S2R"),
    (
        "control",
        r"BRA|BRX|JMP|EXIT|CALL|RET|BSSY|BSYNC|BREAK|BMOV|WARP|BAR|B2R|UCGABAR|DEPBAR|LDGDEPBAR|MEMBAR|FENCE|ERRBAR"
        r"|SYNCS|NANOSLEEP|YIELD|NOP|ELECT|ACQ|PREEXIT|USETMAXREG",
    ),
    ("uniform", r"U|R2UR|S2UR|REDUX"),
)
"""Units by the start of an opcode's name, the first that fits; the rest, integers and comparisons, is the ALU's."""


def unit(opcode: str) -> str:
    """Which unit executes an instruction of this name."""
    base = opcode.split(".")[0]
    return next((name for name, pattern in _FAMILIES if re.match(pattern, base)), "ALU")


def cycles(opcode: str, gpu: GPU) -> float:
    """How long an instruction of one warp keeps its unit's share of a multiprocessor busy."""
    kind = unit(opcode)
    if kind == "tensor core":
        if shape := re.search(r"\.(\d+)x(\d+)x(\d+)", opcode):  # four warps issue a warpgroup's together
            rows, columns, depth = (int(size) for size in shape.groups())
            flops = 2 * rows * columns * depth / 4
        else:
            digits = re.search(r"\.(16)(8)(\d+)", opcode)
            flops = 2 * math.prod(int(size) for size in digits.groups()) if digits else 0
        return flops / gpu.tensor * (2 if "TF32" in opcode else 1)
    if kind == "load/store":
        wide = re.search(r"\.(64|128)|\.M88\.(\d)", opcode)
        return int(wide[1]) / 32 if wide and wide[1] else int(wide[2]) if wide else 1
    lanes = {"FMA": 64 if opcode.startswith("IMAD") else gpu.fma, "MUFU": 16, "ALU": 64}
    return 32 / lanes[kind] if kind in lanes else 0


@dataclass(frozen=True)
class Launch:
    """A kernel that a call launches, as it was compiled."""

    kernel: str
    programs: int
    options: dict[str, Any]
    compiled: Any


class _Driver:
    """Stands for a GPU that Triton can ask for its name, and for nothing else; each target is a device of its own."""

    def __init__(self, target: GPUTarget) -> None:
        self.target = target

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> str:
        return str(self.target)

    def get_current_stream(self, device: str) -> int:
        return 0


@contextlib.contextmanager
def compiling_only(target: GPUTarget) -> Iterator[list[Launch]]:
    """Launchers called in here compile for a target and run nothing: what they would have launched is in the list."""
    launches: list[Launch] = []
    run, driver = JITFunction.run, triton.runtime.driver._active

    def compile_only(self: JITFunction, *args: object, grid: tuple[int, ...], warmup: bool, **options: Any) -> None:
        compiled = run(self, *args, grid=grid, warmup=True, **options)
        launches.append(Launch(self.__name__.removeprefix("_"), math.prod(grid), options, compiled))

    triton.runtime.driver.set_active(_Driver(target))
    JITFunction.run = compile_only
    forget_target()
    try:
        yield launches
    finally:
        JITFunction.run = run
        triton.runtime.driver._active = driver
        forget_target()


def _inspect(tool: str, cubin: bytes, *options: str) -> str:
    """What a program of the Triton package prints about machine code."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [getattr(triton.knobs.nvidia, tool).path, *options, file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def registers_and_spills(compiled: Any) -> tuple[int, int]:
    """Registers and spilled bytes per thread, from the program's header: cuobjdump reads NVIDIA's, AMD's is text."""
    if "cubin" in compiled.asm:
        header = _inspect("cuobjdump", compiled.asm["cubin"], "--dump-resource-usage")
        counters = (r"REG:(\d+)", r"STACK:(\d+)")
    else:
        header = compiled.asm["amdgcn"]
        counters = (r"\.vgpr_count:\s+(\d+)", r"\.vgpr_spill_count:\s+(\d+)")
    registers, spilled = (int(re.findall(counter, header)[0]) for counter in counters)
    return registers, spilled


@dataclass
class _Block:
    """Instructions that run one after another, and the blocks that may come next; a function that it calls last."""

    opcodes: list[str]
    following: list[int]
    called: int | None = None


def _blocks(assembly: str) -> list[_Block]:
    """The code of a kernel, cut where it branches or is branched to."""
    lines: list[tuple[str, str]] = []
    places: dict[str, int] = {}
    for line in assembly.splitlines():
        if label := re.match(r"\s*([.$\w]+):", line):
            places[label[1]] = len(lines)
        elif code := re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+\{?\s*((?:@!?U?P\w+\s+)?)([^;]*)", line):
            lines.append((code[1], code[2]))
    leads: dict[int, list[int]] = {}
    calls: dict[int, int] = {}
    for index, (predicate, text) in enumerate(lines):
        opcode = text.split()[0].split(".")[0]
        target = re.search(r"`\(([^)]+)\)", text)
        # A call under a predicate is how sm_80 leaves a loop, and never comes back; a function is called without.
        if target and (opcode == "BRA" or (opcode == "CALL" and predicate)):
            # A predicate may stand among the operands as well.
            may_pass = predicate or re.search(r"\bU?P\d", text)
            leads[index] = [places[target[1]], *([index + 1] if may_pass else [])]
        elif opcode == "CALL" and target:
            leads[index], calls[index] = [index + 1], places[target[1]]
        elif opcode in ("EXIT", "RET"):
            leads[index] = [index + 1] if predicate else []
    cuts = {0, len(lines), *(index + 1 for index in leads), *(to for each in leads.values() for to in each)}
    edges = sorted(cuts | set(calls.values()))
    number = {start: index for index, start in enumerate(edges)}
    return [
        _Block(
            [text.split()[0] for _, text in lines[start:end]],
            [number[to] for to in leads.get(end - 1, [end]) if to < len(lines)],
            number[calls[end - 1]] if end - 1 in calls else None,
        )
        for start, end in pairwise(edges)
    ]


def _loops(blocks: list[_Block]) -> dict[int, set[int]]:
    """The blocks of each loop by its first, in the order of the code, an outer loop before those in it."""
    before = _before(blocks)
    reached, frontier = {0}, [0]
    while frontier:
        new = [to for to in blocks[frontier.pop()].following if to not in reached]
        reached.update(new)
        frontier += new
    dominators = {index: {0} if index == 0 else reached for index in reached}
    changed = True
    while changed:
        changed = False
        for index in sorted(reached - {0}):
            new_ones = {index} | set.intersection(*(dominators[each] for each in before[index] if each in reached))
            changed |= new_ones != dominators[index]
            dominators[index] = new_ones
    bodies: dict[int, set[int]] = {}
    for index in reached:
        for head in dominators[index].intersection(blocks[index].following):  # a branch back
            body = bodies.setdefault(head, {head})
            frontier = [index]
            while frontier:
                each = frontier.pop()
                if each not in body:
                    body.add(each)
                    frontier += before[each]
    return {head: bodies[head] for head in sorted(bodies)}


def _before(blocks: list[_Block]) -> list[list[int]]:
    """The blocks that may come before each."""
    before: list[list[int]] = [[] for _ in blocks]
    for index, block in enumerate(blocks):
        for to in block.following:
            before[to].append(index)
    return before


def _heaviest(blocks: list[_Block], loops: dict[int, set[int]], weights: list[float], first: int) -> tuple[int, ...]:
    """The blocks of the path through the code that executes the most, through each loop once."""

    def onward(index: int) -> set[int]:
        """The blocks that come next; those after the loop, where the next one is its first again."""
        nexts = set(blocks[index].following)
        for head in nexts.intersection(loops):
            if index in loops[head]:
                nexts |= {each for part in loops[head] for each in blocks[part].following} - loops[head]
                nexts.remove(head)
        return {each for each in nexts if weights[each]}

    @functools.cache
    def best(index: int) -> tuple[float, tuple[int, ...]]:
        rest = max((best(each) for each in onward(index)), default=(0.0, ()))
        return rest[0] + weights[index] * len(blocks[index].opcodes), (index, *rest[1])

    return best(first)[1]


def _unrolled(ptx: str, blocks: list[_Block], loops: list[set[int]]) -> list[int]:
    """How many turns of the source one of each loop is: the assembler unrolls small ones.

    Told by instructions that neither it nor the compiler before it adds: global loads and stores, powers, products.
    """
    before, after = r"ld\.global|st\.global|cp\.async\.c|ex2|mma\.sync|mma_async", r"LDG|STG|MUFU\.EX2|[A-Z]MMA|HGMMA"
    places: dict[str, int] = {}
    written: dict[int, str] = {}
    for found in re.finditer(r"^(\$\w+):|\bbra(?:\.uni)?\s+(\$\w+)", ptx, re.MULTILINE):
        if found[1]:
            places[found[1]] = found.start()
        elif found[2] in places:  # back to where the loop begins
            written[places[found[2]]] = ptx[places[found[2]] : found.start()]
    if len(written) != len(loops):
        return [1] * len(loops)
    compiled = [[code for each in body for code in blocks[each].opcodes if re.match(after, code)] for body in loops]
    counts = [len(re.findall(before, written[head])) for head in sorted(written)]
    return [max(1, round(len(codes) / count)) if count else 1 for codes, count in zip(compiled, counts, strict=True)]


def _parts(assembly: str, ptx: str, turns: Sequence[float]) -> tuple[Part, ...]:
    """A warp's instructions outside of all loops and in each, whose turns are given in the order of the code."""
    blocks = _blocks(assembly)
    every = _loops(blocks)
    # A wait for a copy or a product tries again until it is there: once, at best.
    waits = [any("SYNCS" in code for each in body for code in blocks[each].opcodes) for body in every.values()]
    loops = [body for body, waiting in zip(every.values(), waits, strict=True) if not (waiting and len(body) <= 2)]
    if len(loops) != len(turns):
        sizes = ", ".join(str(sum(len(blocks[each].opcodes) for each in body)) for body in loops) or "none"
        raise ValueError(
            f"The compiled code has {len(loops)} loops (instructions: {sizes}), and turns are given for {len(turns)}: "
            "give one number per loop, in the order of the code."
        )
    turns = [turn / times for turn, times in zip(turns, _unrolled(ptx, blocks, loops), strict=True)]
    for block in blocks:
        if block.called is not None:
            ways = _heaviest(blocks, {}, [1.0] * len(blocks), block.called)
            block.opcodes += [opcode for each in ways for opcode in blocks[each].opcodes]
    around = [[number for number, body in enumerate(loops) if index in body] for index in range(len(blocks))]
    weights = [math.prod(turns[number] for number in each) for each in around]
    # Nothing runs that only leads to a loop without a turn, or only comes from it.
    neighbours = [*zip((block.following for block in blocks), _before(blocks), strict=True)]
    while idle := [
        index
        for index, both in enumerate(neighbours)
        if weights[index] and any(near and not any(weights[each] for each in near) for near in both)
    ]:
        for index in idle:
            weights[index] = 0
    if not weights[0]:
        raise ValueError(f"With turns of {list(turns)} nothing could run: each path through the code has a loop of 0.")
    parts = [Counter[str]() for _ in range(len(loops) + 1)]
    for index in _heaviest(blocks, every, weights, 0):
        parts[around[index][-1] + 1 if around[index] else 0].update(blocks[index].opcodes)
    rounds = [math.prod(turn for other, turn in zip(loops, turns, strict=True) if body <= other) for body in loops]
    return tuple(
        Part(f"loop {number}" if number else "outside loops", times, dict(opcodes))
        for number, (times, opcodes) in enumerate(zip((1, *rounds), parts, strict=True))
    )


def read(
    compiled: Any, kernel: str, programs: int, turns: Sequence[float], target: str, moved: int = 0, flops: int = 0
) -> Report:
    """The report of a kernel that Triton compiled for one of `GPUS`; arguments as those of `of_kernel`."""
    registers, spilled = registers_and_spills(compiled)
    metadata = compiled.metadata
    parts = _parts(_inspect("nvdisasm", compiled.asm["cubin"], "-c"), compiled.asm["ptx"], turns)
    return Report(
        kernel, target, triton.__version__, programs, metadata.num_warps, registers, spilled, metadata.shared, parts,
        moved, flops,
    )  # fmt: skip


def of_kernel(
    kernel: Any,
    signature: Mapping[str, str],
    constexprs: Mapping[str, Any],
    programs: int,
    turns: Sequence[float] = (),
    target: str = "sm_90",
    *,
    moved: int = 0,
    flops: int = 0,
    **options: Any,
) -> Report:
    """What any @triton.jit kernel costs; where this process interprets kernels, another one compiles it.

    Args:
        kernel: the function, from a file.
        signature: the type of every argument by name, as "*bf16", "i32", "fp32"; ":16" after it says that an address
            or number is a multiple of 16, as a launch finds out by itself.
        constexprs: the arguments that are constants, with their values; None is one.
        programs: how many the grid has.
        turns: how often each loop runs, in the order of the compiled code, an outer loop before those in it; an inner
            one's for one turn of the outer. Numbers may be averages, and 0 for one that never turns. They are the
            source's: where the assembler unrolled a loop, its part has a turn for several.
        target: one of `GPUS`.
        moved, flops: what the roofline is computed from; there is none where they are 0.
        options: num_warps, num_stages.

    Raises:
        ValueError: for a target that is not in `GPUS`, or turns of another number of loops than the code has.
    """
    _known(target)
    arguments = (dict(signature), dict(constexprs), programs, tuple(turns), target)
    if INTERPRETED:
        where = (kernel.fn.__module__, kernel.fn.__code__.co_filename, kernel.fn.__name__)
        return _elsewhere("of_kernel", where, *arguments, moved=moved, flops=flops, **options)
    names = kernel.arg_names
    types = {name: "constexpr" if name in constexprs else signature[name].split(":")[0] for name in names}
    attributes = {(names.index(name),): [["tt.divisibility", 16]] for name in signature if ":16" in signature[name]}
    source = ASTSource(kernel, types, dict(constexprs), attributes)
    compiled = triton.compile(source, target=GPUS[target].target, options={"enable_fp_fusion": True, **options})
    return read(compiled, kernel.__name__.removeprefix("_"), programs, turns, target, moved, flops)


@dataclass(frozen=True)
class Call:
    """A call of a shipped launcher: what it computes, what has to move, and how often its kernels' loops turn."""

    run: Callable[[], object]
    moved: int
    flops: int
    turns: Callable[[Launch], Sequence[float]] = lambda _: ()


def _empty(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def _attention(
    dtype: torch.dtype,
    batch: int,
    length: int,
    heads: int,
    head_dim: int,
    *,
    backward: bool = False,
    dropout: float = 0,
) -> Call:
    rows = batch * length
    q, k, v = _empty(rows, 3, heads, head_dim, dtype=dtype).unbind(1)
    index = _empty(batch, dtype=torch.int64)
    scale = head_dim**-0.5

    def gradients() -> object:
        lse = _empty(rows, heads, dtype=torch.float32)
        return attention._attention_gradients(
            _empty(rows, heads, head_dim, dtype=dtype), q, k, v, _empty(rows, heads, head_dim, dtype=dtype), lse,
            index, index, length, length, scale, False, None, dropout, index[:1] if dropout else None,
        )  # fmt: skip

    def turns(launch: Launch) -> Sequence[float]:
        step = launch.options["BLOCK_N"]
        return 0, length // step, length % step > 0  # none to search the tile's sequence; whole blocks; the last

    def forward() -> object:
        return attention.attention(q, k, v, index, index, length, width=length, dropout=dropout)

    elements, products = 4 * rows * heads * head_dim, 4 * head_dim * heads * batch * length**2
    if backward:  # q, k, v, out and its gradient are read, three gradients written
        return Call(gradients, 2 * elements * dtype.itemsize, products * 5 // 2, turns)
    return Call(forward, elements * dtype.itemsize, products, turns)


def _window_attention(
    dtype: torch.dtype,
    batch: int,
    height: int,
    width: int,
    heads: int,
    head_dim: int,
    window: int,
    shift: int,
    *,
    backward: bool = False,
) -> Call:
    qkv, padding = (
        _empty(batch, height, width, 3, heads, head_dim, dtype=dtype),
        _empty(3, heads, head_dim, dtype=dtype),
    )
    table = _empty((2 * window - 1) ** 2, heads, dtype=dtype)
    windows = batch * -(-height // window) * -(-width // window)

    def turns(launch: Launch) -> Sequence[float]:
        if "KEYS" in launch.options and "BLOCK_M" not in launch.options:  # spreads the biases
            return ()
        blocks = -(-(window**2) // launch.options["BLOCK_M"])
        each = windows * heads * blocks / launch.programs
        within = -(-(window**2) // launch.options["BLOCK_N"])
        return (each, within) if within > 1 else (each,)

    elements, products = batch * height * width * heads * head_dim, 4 * windows * window**4 * head_dim * heads
    if backward:  # q, k, v and the gradient are read, three gradients written; the biases' partial sums are small
        grad = _empty(batch, height, width, heads, head_dim, dtype=dtype)
        wanted = (True, True, True)
        return Call(
            lambda: window_attention.window_attention_backward(grad, qkv, table, window, shift, padding, *wanted),
            7 * elements * dtype.itemsize,
            products * 5 // 2,
            lambda launch: (windows * heads / launch.programs,),
        )
    return Call(
        lambda: window_attention.window_attention(qkv, table, window, shift, padding),
        4 * elements * dtype.itemsize,
        products,
        turns,
    )


def _shared(rows: int) -> Callable[[Launch], Sequence[float]]:
    """The turns of a loop whose programs share the rows."""
    return lambda launch: (-(-rows // launch.options["ROWS"]) / launch.programs,)


def _norm(launcher: Callable, tensors: int, dtype: torch.dtype, rows: int, width: int) -> Call:
    """`tensors`: how many of (rows, width) move; the launcher takes one where that is 2, else two."""
    x, weight = _empty(rows, width, dtype=dtype), _empty(width, dtype=dtype)
    inputs = (x,) if tensors == 2 else (x, x)
    return Call(lambda: launcher(*inputs, weight, weight, 1e-12), tensors * rows * width * dtype.itemsize, 0)


def _norm_backward(residual: bool, dtype: torch.dtype, rows: int, width: int) -> Call:
    x, weight = _empty(rows, width, dtype=dtype), _empty(width, dtype=dtype)
    return Call(
        lambda: layer_norm.layer_norm_backward(x, None, x, x if residual else None, weight, 1e-12, True, True),
        (3 + residual) * x.numel() * dtype.itemsize,
        0,
        _shared(rows),
    )


def _embedding_layer_norm(dtype: torch.dtype, rows: int, width: int, *, backward: bool = False) -> Call:
    index, weight = _empty(rows, dtype=torch.int64), _empty(width, dtype=dtype)
    word, position, type_ = (_empty(size, width, dtype=dtype) for size in (30522, 512, 2))
    taken, moved = (index, index, index, word, position, type_), rows * width * dtype.itemsize
    if backward:
        grad = _empty(rows, width, dtype=dtype)
        return Call(
            lambda: embedding_layer_norm.embedding_layer_norm_backward(grad, *taken, weight, 1e-12, True, True),
            3 * moved,
            0,
            _shared(rows),
        )
    return Call(lambda: embedding_layer_norm.embedding_layer_norm(*taken, weight, weight, 1e-12), 2 * moved, 0)


def _merge_layer_norm(
    dtype: torch.dtype, batch: int, height: int, width: int, channels: int, *, backward: bool = False
) -> Call:
    x, weight = _empty(batch, height, width, channels, dtype=dtype), _empty(4 * channels, dtype=dtype)
    moved, rows = x.numel() * dtype.itemsize, batch * -(-height // 2) * -(-width // 2)
    if backward:
        grad = _empty(rows, 4 * channels, dtype=dtype)
        return Call(
            lambda: merge_layer_norm.merge_layer_norm_backward(grad, x, weight, 1e-5, True, True),
            3 * moved,
            0,
            _shared(rows),
        )
    return Call(lambda: merge_layer_norm.merge_layer_norm(x, weight, weight, 1e-5), 2 * moved, 0)


def _bias_gelu(dtype: torch.dtype, rows: int, width: int, *, backward: bool = False) -> Call:
    x, bias = _empty(rows, width, dtype=dtype), _empty(width, dtype=dtype)
    moved = x.numel() * dtype.itemsize
    if backward:

        def turns(launch: Launch) -> Sequence[float]:
            tile = launch.options["ROWS"], launch.options["COLUMNS"]
            return (-(-rows // tile[0]) * -(-width // tile[1]) / launch.programs,)

        return Call(
            lambda: bias_gelu.bias_gelu_backward(x, x, bias, True, True),
            3 * moved,
            0,
            turns,
        )
    return Call(lambda: bias_gelu.bias_gelu(x, bias), 2 * moved, 0)


def _convolution(dtype: torch.dtype, clips: int, samples: int, channels: int, taps: int, stride: int) -> Call:
    rows, weight = _empty(clips, samples, 1, dtype=dtype), _empty(clips, channels, taps, 1, dtype=dtype)
    bias = _empty(clips, channels, dtype=dtype)
    frames = clips * ((samples - taps) // stride + 1)
    return Call(
        lambda: convolution.convolution(rows, weight, bias, stride, 1, "gelu"),
        frames * channels * dtype.itemsize,
        2 * taps * frames * channels,
    )


KERNELS: dict[str, tuple[str, Callable[..., Call]]] = {
    "attention": ("batch,length,heads,head_dim", _attention),
    "attention_backward": ("batch,length,heads,head_dim", partial(_attention, backward=True)),
    "attention_dropout": ("batch,length,heads,head_dim", partial(_attention, dropout=0.1)),
    "attention_backward_dropout": ("batch,length,heads,head_dim", partial(_attention, backward=True, dropout=0.1)),
    "window_attention": ("batch,height,width,heads,head_dim,window,shift", _window_attention),
    "window_attention_backward": (
        "batch,height,width,heads,head_dim,window,shift",
        partial(_window_attention, backward=True),
    ),
    "layer_norm": ("rows,width", lambda *shape: _norm(layer_norm.layer_norm, 2, *shape)),
    "add_layer_norm": ("rows,width", lambda *shape: _norm(layer_norm.add_layer_norm, 3, *shape)),
    "residual_layer_norm": ("rows,width", lambda *shape: _norm(layer_norm.residual_layer_norm, 4, *shape)),
    "layer_norm_backward": ("rows,width", partial(_norm_backward, False)),
    "add_layer_norm_backward": ("rows,width", partial(_norm_backward, True)),
    "embedding_layer_norm": ("rows,width", _embedding_layer_norm),
    "embedding_layer_norm_backward": ("rows,width", partial(_embedding_layer_norm, backward=True)),
    "merge_layer_norm": ("batch,height,width,channels", _merge_layer_norm),
    "merge_layer_norm_backward": ("batch,height,width,channels", partial(_merge_layer_norm, backward=True)),
    "bias_gelu": ("rows,width", _bias_gelu),
    "bias_gelu_backward": ("rows,width", partial(_bias_gelu, backward=True)),
    "convolution": ("clips,samples,channels,taps,stride", _convolution),
}
"""What `report` knows: the numbers of a shape, and the call of that shape."""


def report(kernel: str, shape: Sequence[int], dtype: str = "bfloat16", target: str = "sm_90") -> tuple[Report, ...]:
    """What a shipped launcher of `KERNELS` costs at a shape: a report for each kernel that it launches, in order.

    Each of them has the roofline of the whole call. Sequences and windows are full, and attention is told so.

    Raises:
        ValueError: for an unknown kernel, dtype or target, a shape with other numbers than the kernel's, or one that
            its launcher does not take.
    """
    _known(target)
    if kernel not in KERNELS:
        raise ValueError(f"There is no kernel {kernel!r}; there are {', '.join(KERNELS)}.")
    names, make = KERNELS[kernel]
    each = dict(zip(names.split(","), shape, strict=False))
    if len(shape) != len(names.split(",")) or any(size < (name != "shift") for name, size in each.items()):
        raise ValueError(f"The shape of {kernel} is {names}, not {','.join(map(str, shape))}.")
    if dtype not in ("float16", "bfloat16", "float32"):
        raise ValueError(f"The dtype is {dtype}; the kernels compute in float16, bfloat16 and float32.")
    if reason := _why_not(kernel, each, dtype):
        raise ValueError(f"{kernel} takes no {','.join(map(str, shape))} in {dtype}: {reason}.")
    if INTERPRETED:
        return _elsewhere("report", kernel, shape, dtype, target)
    call = make(getattr(torch, dtype), *shape)
    with compiling_only(GPUS[target].target) as launches:
        call.run()
    return tuple(
        read(each.compiled, each.kernel, each.programs, call.turns(each), target, call.moved, call.flops)
        for each in launches
    )


def _why_not(kernel: str, shape: Mapping[str, int], dtype: str) -> str | None:
    """The reason why no launcher takes this shape, or None: what `why_not` would say of tensors on a GPU."""
    backward, largest = "backward" in kernel, 64 if dtype == "float32" else 128
    if backward and "window" in shape:
        largest = window_attention.LARGEST_BACKWARD
        if shape["window"] > window_attention.WIDEST_BACKWARD:
            return f"the backward pass holds windows of up to {window_attention.WIDEST_BACKWARD}"
    if shape.get("head_dim", 0) > largest:
        return f"heads have up to {largest} channels"
    if shape.get("shift", 0) >= shape.get("window", 1):
        return "the shift is less than the window"
    if shape.get("taps", 0) > min(shape.get("samples", 0), convolution.TAPS):
        return f"the filter has up to {convolution.TAPS} taps, and no more than a clip has samples"
    if "norm" not in kernel:
        return None
    return too_wide(4 * shape["channels"] if "channels" in shape else shape["width"], backward=backward)


def _known(target: str) -> None:
    if target not in GPUS:
        raise ValueError(f"The target is {target}; reports are made for {', '.join(GPUS)}.")


def _elsewhere(name: str, *arguments: Any, **options: Any) -> Any:
    """Call a function of this module in a process that compiles kernels: one that interprets them cannot."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(Path(each).absolute()) for each in sys.path)))
    command = [sys.executable, "-c", "from minitrans.kernels.report import _answer; _answer()"]
    question = pickle.dumps((name, arguments, options))
    done = subprocess.run(command, input=question, env=environment, stdout=subprocess.PIPE, check=True)
    answer = pickle.loads(done.stdout)
    if isinstance(answer, Exception):
        raise answer
    return answer


def _answer() -> None:
    """The other side of `_elsewhere`."""
    triton.knobs.runtime.interpret = False  # whatever the kernel's file says to those who run it
    name, (first, *rest), options = pickle.load(sys.stdin.buffer)
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            answer = globals()[name](_load(*first) if name == "of_kernel" else first, *rest, **options)
        except ValueError as error:
            answer = error
    sys.stdout.buffer.write(pickle.dumps(answer))


def _load(module: str, file: str, name: str) -> Any:
    """A kernel by its module, or by its file where that is the program itself."""
    if module != "__main__":
        return getattr(importlib.import_module(module), name)
    specification = importlib.util.spec_from_file_location("counted", file)
    assert specification is not None
    assert specification.loader is not None
    loaded = importlib.util.module_from_spec(specification)
    sys.modules["counted"] = loaded
    specification.loader.exec_module(loaded)
    return getattr(loaded, name)


def main() -> None:
    """The command line."""
    shapes = "\n".join(f"  {name:<22}{names}" for name, (names, _) in KERNELS.items())
    parser = argparse.ArgumentParser(
        prog="python -m minitrans.kernels.report",
        description="What a shipped kernel costs by its compiled code; needs no GPU.",
        epilog=f"kernels, and the numbers of their shapes:\n{shapes}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("kernel", choices=KERNELS, metavar="kernel")
    parser.add_argument("--shape", required=True, help="numbers, with commas between them")
    parser.add_argument("--dtype", default="bfloat16", help="float16, bfloat16 (default) or float32")
    parser.add_argument("--target", default="sm_90", help=f"of {', '.join(GPUS)}; sm_90 by default")
    options = parser.parse_args()
    if not re.fullmatch(r"\d+(,\d+)*", options.shape):
        parser.error(f"A shape is whole numbers with commas between them, not {options.shape}.")
    shape = [int(size) for size in options.shape.split(",")]
    try:
        print(*report(options.kernel, shape, options.dtype, options.target), sep="\n\n")
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
