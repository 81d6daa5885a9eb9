"""Counts what a Triton kernel does, on a machine without a GPU; import it before triton.

    out, counts = lab.count(launcher, x, y)     run a launcher in Triton's interpreter and count its kernels
    lab.compare("bytes", counts.bytes, 12_000)  a count next to its arithmetic and to your own prediction
    lab.show(counts.picture(x, program=1))      what one program reads and writes, as text or (in a notebook) as SVG
    lab.compiled(launcher, lab.empty(64, 768))  what the compiler makes of it: instructions, registers, shared memory

The interpreter runs programs one after another in numpy. It knows every address and every operation on a tile, but
nothing of warps, registers, caches or time. So a count is exact: it says what is requested, not how long it takes.
"""

import atexit
import contextlib
import functools
import importlib
import json
import os
import pickle
import re
import runpy
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

os.environ.setdefault("TRITON_INTERPRET", "1")

import numpy as np
import torch
import triton
from listener import Access, KernelError, Listener
from torch import Tensor
from triton.runtime import interpreter

LESSONS = Path(__file__).parent
RESULTS = LESSONS.parents[1] / "benchmarks" / "results"
SECTOR = 32
"""The least number of bytes that a GPU's memory moves: an access to one of them moves all."""

# numpy warns of NaN and −∞, a GPU does not.
warnings.filterwarnings("ignore", category=RuntimeWarning, module=interpreter.__name__)
torch.use_deterministic_algorithms(True)  # fresh memory holds NaN, so that what no program writes is seen
torch.manual_seed(0)

Result = TypeVar("Result")


@dataclass
class Counts:
    """What the kernels of one call did, over all their programs."""

    programs: int = 0
    idle: int = 0
    """Programs that stored nothing."""
    trips: int = 0
    """Iterations of loops, except `tl.static_range`, which the compiler unrolls."""
    dot_flops: int = 0
    """2·M·N·K for each `tl.dot`: what tensor cores do."""
    other_flops: int = 0
    """Sums, products, quotients, maxima, roots and erf of floats, one each; a multiply-add is two."""
    powers: int = 0
    """Elements of `tl.exp` and `tl.exp2`."""
    reductions: int = 0
    """`tl.sum`, `tl.max`, `tl.cumsum` ...: where threads wait for each other, if a row lies in several warps."""
    barriers: int = 0
    """`tl.debug_barrier`. The barriers that the compiler adds are in its code alone: see `compiled`."""
    accesses: list[Access] = field(default_factory=list)
    kept: list[Tensor] = field(default_factory=list)  # so that no address is used twice while counting

    @property
    def flops(self) -> int:
        """All floating point operations, powers apart."""
        return self.dot_flops + self.other_flops

    def bytes_of(self, *tensors: str, written: bool | None = None) -> int:
        """Bytes requested through these of the kernels' parameters (all by default), in reads, writes or both."""
        chosen = self._chosen(tensors, written)
        return sum(access.addresses.size * access.size for access in chosen)

    @property
    def bytes(self) -> int:
        """Bytes requested: an element counts as often as a program requests it."""
        return self.bytes_of()

    @property
    def read(self) -> int:
        """Bytes requested by loads."""
        return self.bytes_of(written=False)

    @property
    def written(self) -> int:
        """Bytes requested by stores."""
        return self.bytes_of(written=True)

    @property
    def distinct(self) -> int:
        """Bytes touched at least once: what has to move, however good the caches are."""
        touched: dict[int, list[np.ndarray]] = {}
        for access in self.accesses:
            touched.setdefault(access.size, []).append(access.addresses)
        return sum(size * np.unique(np.concatenate(addresses)).size for size, addresses in touched.items())

    @property
    def sectors(self) -> int:
        """32-byte sectors touched by each access, summed: at least `bytes` / 32, more where neighbours are apart."""
        return sum(np.unique(access.addresses // SECTOR).size for access in self.accesses)

    def _chosen(self, tensors: tuple[str, ...], written: bool | None) -> Iterator[Access]:
        for access in self.accesses:
            if (not tensors or access.tensor in tensors) and written in (None, access.written):
                yield access

    def picture(
        self, tensor: Tensor, program: int | tuple[int, ...] = 0, cells: tuple[int, int] = (32, 64)
    ) -> "Picture":
        """Where one program read and wrote a tensor, in at most `cells` cells; leading dimensions are rows."""
        place = (*(program if isinstance(program, tuple) else (program,)), 0, 0)[:3]
        steps = zip(np.ogrid[tuple(slice(size) for size in tensor.shape)], tensor.stride(), strict=True)
        own = tensor.data_ptr() + tensor.element_size() * sum(index * stride for index, stride in steps)
        own = own.reshape(-1, tensor.shape[-1])
        step = (-(-own.shape[0] // cells[0]), -(-own.shape[1] // cells[1]))
        marks = np.zeros([-(-size // each) for size, each in zip(own.shape, step, strict=True)], int)
        for written in (False, True):
            chosen = [a.addresses for a in self.accesses if a.program == place and a.written == written]
            rows, columns = np.nonzero(np.isin(own, np.concatenate([*chosen, np.zeros(0, np.uint64)])))
            marks[rows // step[0], columns // step[1]] |= 1 + written
        return Picture(marks, step, place)

    def __str__(self) -> str:
        lines = [f"programs {self.programs:,} ({self.idle:,} idle), trips {self.trips:,}"]
        lines.append(f"reductions {self.reductions:,}, barriers {self.barriers:,}")
        lines.append(f"FLOPs {self.dot_flops:,} in products, {self.other_flops:,} others; powers {self.powers:,}")
        for name in dict.fromkeys(access.tensor for access in self.accesses):
            own = Counts(accesses=list(self._chosen((name,), None)))
            lines.append(
                f"  {name:12} read {size(own.read):>12}, written {size(own.written):>12}, "
                f"distinct {size(own.distinct):>12}, sectors {own.sectors:>8,}"
            )
        total = f"  {'all':12} read {size(self.read):>12}, written {size(self.written):>12}, "
        return "\n".join([*lines, f"{total}distinct {size(self.distinct):>12}, sectors {self.sectors:>8,}"])


@dataclass(frozen=True)
class Picture:
    """A tensor as cells: 0 untouched, 1 read, 2 written, 3 both."""

    cells: np.ndarray
    step: tuple[int, int]
    program: tuple[int, int, int]

    MARKS = "·rwb"
    COLOURS = ("#eceff1", "#1e88e5", "#fb8c00", "#43a047")

    def __str__(self) -> str:
        rows, columns = self.step
        title = f"program {self.program}, a mark is {rows} × {columns} elements: r read, w written, b both, · neither"
        return "\n".join([title, *("".join(self.MARKS[cell] for cell in row) for row in self.cells)])

    def _repr_svg_(self) -> str:
        height, width = self.cells.shape
        squares = "".join(
            f'<rect x="{10 * x}" y="{10 * y}" width="9" height="9" fill="{self.COLOURS[cell]}"/>'
            for y, row in enumerate(self.cells) for x, cell in enumerate(row)
        )  # fmt: skip
        return f'<svg xmlns="http://www.w3.org/2000/svg" width="{10 * width}" height="{10 * height}">{squares}</svg>'


def size(count: float) -> str:
    """Bytes in readable units."""
    return f"{count:,.0f} bytes" if count < 10 * 1024 else f"{count / 1024:,.0f} KiB"


def count(call: Callable[..., Result], *arguments: Any, **keywords: Any) -> tuple[Result, Counts]:
    """The result of a call that launches kernels, and what these did. Raises KernelError if one leaves its memory."""
    listener = Listener(Counts())
    with listener:
        try:
            result = call(*arguments, **keywords)
        except interpreter.InterpreterError as error:
            if isinstance(error.__cause__, KernelError):
                raise error.__cause__ from None
            raise
    return result, listener.counts


def error_of(out: Tensor, exact: Tensor) -> float:
    """The norm of the difference over the norm of the exact result."""
    return ((out.double() - exact.double()).norm() / exact.double().norm()).item()


def check(out: Tensor, exact: Tensor, by_torch: Tensor) -> None:
    """Check a result against the error budget: four times torch's error in the same dtype, plus a rounding.

    `exact` is computed in float64, `by_torch` in the dtype of `out`. Raises KernelError with what is wrong.
    """
    if out.shape != exact.shape or out.dtype != by_torch.dtype:
        raise KernelError(
            f"The result is {tuple(out.shape)} of {out.dtype}, not {tuple(exact.shape)} of {by_torch.dtype}."
        )
    strange = (out.isfinite() != by_torch.isfinite()).nonzero()
    if len(strange):
        where = tuple(strange[0].tolist())
        raise KernelError(
            f"{len(strange):,} of {out.numel():,} numbers are not finite where they should be, or the reverse; the "
            f"first is {out[where].item()}, at {where}. NaN is also what memory holds that no program has written."
        )
    allowed = 4 * error_of(by_torch, exact) + torch.finfo(out.dtype).eps / 4
    error = error_of(out, exact)
    if not error <= allowed:
        raise KernelError(f"The result is wrong: its relative error is {error:.1e}, allowed are {allowed:.1e}.")
    print(f"right: relative error {error:.1e} of the {allowed:.1e} allowed")


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention over (..., N, D) as torch computes it, in the dtype of its inputs."""
    return (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1) @ v


def packed_attention(qkv: Tensor, lengths: list[int]) -> Tensor:
    """The same over packed rows (T, 3, H, D), a sequence at a time: (T, H, D)."""
    heads_first = (part.permute(1, 2, 0, 3) for part in qkv.split(lengths))
    return torch.cat([attention(*part).transpose(0, 1) for part in heads_first])


def compare(what: str, counted: float, arithmetic: float, mine: float | None = None) -> None:
    """Print a count, what arithmetic says, and your prediction. Raises KernelError if the first two differ."""
    print(f"{what}: counted {_number(counted)}; arithmetic {_number(arithmetic)}; {verdict(mine, counted)}")
    if counted != arithmetic:
        raise KernelError(f"{what}: counted {_number(counted)}, but arithmetic says {_number(arithmetic)}.")


def verdict(mine: float | None, counted: float) -> str:
    """How far a prediction is from what was counted."""
    if mine is None:
        return "write your prediction down"
    off = "right" if mine == counted else f"{abs(mine / counted - 1):.0%} off"
    return f"you predicted {_number(mine)}, {off}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:,.3g}"


def show(picture: "Picture") -> None:
    """A picture as SVG in a notebook, as text elsewhere."""
    if "ipykernel" in sys.modules:
        from IPython.display import display  # where ipykernel is, IPython is

        display(picture)
    else:
        print(picture)


def measured(name: str) -> dict[str, Any]:
    """A committed measurement, by its path within benchmarks/results: "h200/results.json"."""
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def empty(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """A tensor without memory, to compile for."""
    return torch.empty(shape, dtype=dtype, device="meta")


@dataclass(frozen=True)
class Code:
    """A compiled kernel: its report (minitrans.kernels.report), and the opcodes in the order of the code."""

    report: Any
    opcodes: list[str]

    def order(self, *opcodes: str) -> str:
        """These opcodes, in the order of the code: "LDG LDG BAR STG"."""
        return " ".join(each.split(".")[0] for each in self.opcodes if each.split(".")[0] in opcodes)

    def number(self, opcode: str) -> float:
        """How many instructions of this opcode a warp executes, as "MUFU.EX2"."""
        return sum(
            part.turns * number
            for part in self.report.parts
            for name, number in part.opcodes.items()
            if f"{name}.".startswith(f"{opcode}.")
        )


def compiled(launcher: Callable[..., object], *arguments: Any, turns: tuple[float, ...] = (), target: str = "sm_90",
             **keywords: Any) -> Code:  # fmt: skip
    """The kernel that a launcher launches, compiled for a GPU, which need not be present; nothing runs.

    `turns` is how often each loop of the compiled code runs. Raises KernelError where the kernel does not compile.
    """
    return elsewhere(_compile, _where(launcher), launcher.__name__, arguments, keywords, turns, target)


def elsewhere(function: Callable[..., Result], *arguments: Any) -> Result:
    """A function's result in a process that compiles kernels, which one that interprets them cannot do.

    The other process loads the function's file. Raises KernelError with what was raised there.
    """
    try:
        pickle.dump((_where(function), function.__name__, arguments), _compiler().stdin)
        _compiler().stdin.flush()
        result, error = pickle.load(_compiler().stdout)
    except (EOFError, BrokenPipeError):
        error = "The compiling process has ended; its output is above."
    if error:
        raise KernelError(error)
    return result


def _compile(
    where: str, name: str, arguments: tuple[Any, ...], keywords: dict[str, Any], turns: tuple[float, ...], target: str
) -> Code:
    from minitrans.kernels import report

    with report.compiling_only(report.GPUS[target].target) as launches:
        _load(where)[name](*arguments, **keywords)
    launch = launches[-1]
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(launch.compiled.asm["cubin"])
        file.flush()
        command = [triton.knobs.nvidia.nvdisasm.path, "-c", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    opcodes = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ +)?([A-Z][\w.]*)", text)
    return Code(report.read(launch.compiled, launch.kernel, launch.programs, turns, target), opcodes)


def _load(where: str) -> dict[str, Any]:
    """The names in a module of the package, or in a file."""
    if Path(where).resolve() == Path(__file__).resolve():
        return globals()
    return runpy.run_path(where, run_name="loaded") if where.endswith(".py") else vars(importlib.import_module(where))


def _where(launcher: Callable[..., object]) -> str:
    """The package's module of a launcher, or its file; a notebook's is made of the cells that ran."""
    if launcher.__module__.startswith("minitrans."):
        return launcher.__module__
    file = Path(launcher.__code__.co_filename)
    if "ipykernel" in file.parent.name:
        from IPython import get_ipython

        file = Path(_folder().name) / f"{len(os.listdir(_folder().name))}.py"
        file.write_text("\n".join(get_ipython().user_ns["In"]), encoding="utf-8")
    return str(file)


@functools.cache
def _folder() -> Any:
    return tempfile.TemporaryDirectory()


@functools.cache
def _compiler() -> Any:
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_DEFAULT_FP_FUSION": "1"}
    command = [sys.executable, str(LESSONS / "lab.py")]
    process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    atexit.register(process.communicate)  # ends it
    return process


def _answer() -> None:
    """The other side of `elsewhere`, until there are no more requests."""
    answers, sys.stdout = sys.stdout.buffer, sys.stderr
    with contextlib.suppress(EOFError):
        while True:
            where, name, arguments = pickle.load(sys.stdin.buffer)
            try:
                answer = _load(where)[name](*arguments), ""
            except Exception as error:  # whatever a reader's kernel raises is the result
                answer = None, f"{type(error).__name__}: {error}"
            pickle.dump(answer, answers)
            answers.flush()


if __name__ == "__main__":
    import lab  # under the name that it has on the other side, for what travels between them

    lab._answer()
