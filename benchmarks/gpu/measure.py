"""What every part needs: the device, its peaks, random inputs, and interleaved timing."""

import re
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

# Bytes and dense 16-bit FLOPs per second, from the vendor's data sheets; the first name that fits counts.
PEAKS = {
    "H200": (4.8e12, 989e12),
    "H100 PCIe": (2.0e12, 756e12),
    "H100": (3.35e12, 989e12),
    "A100-SXM4-80GB": (2.04e12, 312e12),
    "A100-SXM4-40GB": (1.56e12, 312e12),
}
FLUSHED = 256 << 20  # bytes; several times the largest L2
LEAD = 2_000_000  # cycles that the GPU waits, a millisecond, while the host launches what is timed
ROUNDS = (5, 50)
SMI = ("clocks.sm", "clocks.max.sm", "temperature.gpu", "power.draw", "clocks_throttle_reasons.active")


@dataclass(frozen=True)
class Setup:
    """How the cases run: where, how large, and with which folder for checkpoints."""

    dry: bool
    folder: Path

    @property
    def device(self) -> torch.device:
        return torch.device("cpu" if self.dry else "cuda")

    @property
    def dtypes(self) -> tuple[torch.dtype, ...]:
        """What the kernels are checked in; the interpreter cannot multiply bfloat16."""
        return (torch.float16, *(() if self.dry else (torch.bfloat16,)), torch.float32)

    @property
    def timed_dtype(self) -> torch.dtype:
        return torch.float32 if self.dry else torch.bfloat16


@dataclass(frozen=True)
class Make:
    """Random tensors of one dtype on one device."""

    dtype: torch.dtype
    device: torch.device

    def normal(self, *shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(shape, device=self.device) * scale).to(self.dtype)

    def indices(self, size: int, *shape: int) -> Tensor:
        return torch.randint(size, shape, device=self.device)


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def describe(setup: Setup) -> dict[str, Any]:
    """The device, the versions, the peaks that rooflines come from, and what a copy and a product reach here."""
    import triton

    found: dict[str, Any] = {"torch": torch.__version__, "triton": triton.__version__, "name": "CPU, interpreted"}
    if not setup.dry:
        properties = torch.cuda.get_device_properties(0)
        found.update(
            name=properties.name,
            capability=f"{properties.major}.{properties.minor}",
            multiprocessors=properties.multi_processor_count,
            cuda=torch.version.cuda,
            driver=smi("driver_version"),
            state=clocks(),
        )
    size = 64 if setup.dry else 8192
    make = Make(setup.timed_dtype, setup.device)
    source, left, right = make.normal(size, 2 * size), make.normal(size, size), make.normal(size, size)
    target = torch.empty_like(source)
    times = in_turns({"copy": lambda: target.copy_(source), "product": lambda: left @ right}, setup, seconds=2.0)
    found["peaks"] = peaks(found["name"])
    moved = 2 * source.numel() * source.element_size()
    found["measured"] = {
        "bytes a second": moved / times["copy"]["ms"] * 1e3,
        "FLOPs a second": 2 * size**3 / times["product"]["ms"] * 1e3,
    }
    return found


def peaks(name: str) -> tuple[float, float] | None:
    return next((peak for known, peak in PEAKS.items() if re.search(rf"\b{known}\b", name)), None)


def floor_ms(moved: float, flops: float) -> float | None:
    """The roofline: the least time for these bytes and FLOPs on this device; None where its peaks are not known."""
    peak = peaks(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
    return peak and max(moved / peak[0], flops / peak[1]) * 1e3


def smi(field: str) -> str:
    """What nvidia-smi says of a field; a sentence where it says nothing."""
    command = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader", "--id=0"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "not known"


def clocks() -> dict[str, str]:
    return {field: smi(field) for field in SMI}


def replayed(call: Callable[..., Any], sets: list[tuple[Any, ...]], launches: int) -> Callable[[], Any]:
    """A CUDA graph of n calls on sets of inputs in rotation: kernels of microseconds without what launches cost.

    The sets together are larger than the L2, so that each call finds its inputs in memory.
    """
    for given in sets:
        call(*given)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for index in range(launches):
            call(*sets[index % len(sets)])
    return graph.replay


def in_turns(
    arms: dict[str, Callable[[], Any]], setup: Setup, *, seconds: float, flush: bool = False, per: int = 1
) -> dict[str, dict[str, Any]]:
    """Time callables A B C A B C …: the median and the 10th and 90th percentile in ms, or the error of each.

    With `flush` the L2 is filled with other data before each run, by reading it, so that no dirty line is left to be
    written back into the time; and the host gets a lead, so that what is timed is the GPU's work. Without, each run
    starts on an idle GPU: its time is what a caller waits. Times are divided by `per`, the calls in a run.
    """
    results: dict[str, dict[str, Any]] = {}
    running, once = {}, 0.0
    for name, arm in arms.items():
        try:
            for _ in range(0 if setup.dry else 3):
                arm()
            once += _run(arm, setup, None)
            running[name] = arm
        except Exception as error:
            results[name] = {"error": sentence(error)}
            check_device(setup)
    rounds = 1 if setup.dry else int(min(max(seconds * 1e3 / max(once, 1e-3), ROUNDS[0]), ROUNDS[1]))
    cache = torch.zeros(FLUSHED // 4, device=setup.device) if flush and not setup.dry else None
    times: dict[str, list[float]] = {name: [] for name in running}
    for _ in range(rounds):
        for name, arm in running.items():
            times[name].append(_run(arm, setup, cache))
    for name, values in times.items():
        low, *_, high = statistics.quantiles(values, n=10) if rounds > 1 else values * 2
        ms = {"ms": statistics.median(values) / per, "low": low / per, "high": high / per}
        results[name] = ms | {"rounds": rounds, "sm_mhz": clock_under(running[name], setup)}
    return {name: results[name] for name in arms}


def clock_under(arm: Callable[[], Any], setup: Setup) -> int | None:
    """The multiprocessors' clock in MHz while they run this; None where the driver does not say."""
    if setup.dry:
        return None
    for _ in range(3):
        arm()
    try:
        return torch.cuda.clock_rate()
    except Exception:  # whatever NVML objects to
        return None
    finally:
        torch.cuda.synchronize()


def _run(arm: Callable[[], Any], setup: Setup, cache: Tensor | None) -> float:
    if setup.dry:
        begin = time.perf_counter()
        arm()
        return (time.perf_counter() - begin) * 1e3
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    if cache is not None:
        cache.sum()
        torch.cuda._sleep(LEAD)
    start.record()
    arm()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end)


def sentence(error: BaseException) -> str:
    """The kind of an error and the beginning of what it says."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


class DeviceLostError(Exception):
    """The GPU no longer responds to this process, as after an illegal access; only a new process can continue."""


def check_device(setup: Setup) -> None:
    if not setup.dry:
        try:
            torch.cuda.synchronize()
        except Exception as error:
            raise DeviceLostError(sentence(error)) from error


def relative(result: Tensor, exact: Tensor) -> float:
    """‖result − exact‖ / ‖exact‖ in float64; NaN is never small."""
    return float((result.double() - exact.double()).norm() / exact.double().norm().clamp_min(1e-300))
