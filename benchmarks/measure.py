"""Runs the rows: processes for the candidates, interleaving, ratios, and how much of the machine each uses."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cache, partial
from itertools import groupby
from pathlib import Path
from subprocess import CalledProcessError
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import startup
from benchmarks.arms import ARMS, AbsentError, folder_of
from benchmarks.rows import CHECKPOINTS, DEFAULT, HALF, NARROW, OURS, PEERS, SDPA, YARDSTICKS, Row, minilm
from benchmarks.worker import PEAKS, LostError, Worker
from minitrans import bench, cpu

PACKAGES = ("torch", "transformers", "onnxruntime", "openvino", "sentence-transformers", "minitrans")
DIFFERENT = 0.1  # relative; outputs that differ more from transformers' than by bfloat16 error are something else
NARROW_ARMS = (NARROW, HALF, DEFAULT)


def machine(threads: int) -> dict[str, Any]:
    """What is known of this machine without measuring."""
    about = _cpuinfo()
    this = cpu.this_cpu()
    return {
        "brand": re.sub(r"\((R|TM)\)", "", about.get("model name") or platform.processor() or platform.machine()),
        "family": about.get("cpu family", ""),
        "model": about.get("model", ""),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": threads,
        "amx": this.amx,
        "avx512_bf16": this.avx512_bf16,
        "python": platform.python_version(),
        "system": platform.platform(terse=True),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
    }


def _cpuinfo() -> dict[str, str]:
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.exists() else []
    pairs = (line.partition(":") for line in reversed(lines))  # so that the first core's are kept
    return {name.strip(): value.strip() for name, _, value in pairs}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def name_of(about: dict[str, Any]) -> str:
    """A file name for a CPU: its brand, family and model, and the instruction set that torch uses."""
    words = f"{about['brand']} family {about['family']} model {about['model']} {about['capability']}"
    return "-".join(re.findall(r"[a-z0-9]+", words.lower()))


def goal(row: Row, arm: str, about: dict[str, Any]) -> float:
    """The ratio to reach: the row's for such a CPU where it has one, and otherwise not to be slower."""
    given = row.goals.get(arm)
    if given is None:
        return 1.0
    return given.amx if about["amx"] else given.zen4 if about["avx512_bf16"] else 1.0


def size_of(row: Row) -> dict[str, int]:
    """FLOPs of a row's members, each alone and without padding, and bytes of its float32 weights.

    Counted by torch in transformers' model on the meta device, which computes nothing. A table of which rows are
    looked up is not a weight that must be read.
    """
    tables = {id(module.weight) for module in _on_meta(row.checkpoint).modules() if isinstance(module, nn.Embedding)}
    weights = [weight for weight in _on_meta(row.checkpoint).parameters() if id(weight) not in tables]
    flops = sum(_flops(row.checkpoint, length, row.trains) * count for length, count in Counter(row.lengths).items())
    return {"flops": flops, "weight_bytes": sum(weight.nbytes for weight in weights)}


@cache
def _on_meta(checkpoint: str) -> Any:
    with torch.device("meta"):
        model = CHECKPOINTS[checkpoint].make().eval()
    model.set_attn_implementation("eager")
    return model


@cache
def _flops(checkpoint: str, length: Any, trains: bool) -> int:
    alone = Row("", checkpoint, (length,)).inputs()[0].to("meta")
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        output = _on_meta(checkpoint)(alone)[0]
        if trains:
            output.square().mean().backward()
    return counter.get_total_flops()


def compared(row: Row, times: bench.Times, about: dict[str, Any]) -> dict[str, Any]:
    """Medians and quartiles of a row's numbers, and of ours against each other's; which other is the yardstick."""
    others = [arm for arm in times if arm not in (*OURS, *PEAKS)]
    ours = [arm for arm in OURS if arm in times]
    ratios = {arm: {other: vars(bench.ratios(times, arm, other)) for other in others} for arm in ours}
    yardsticks = [arm for arm in YARDSTICKS if arm in times]
    return {
        "values": {arm: vars(bench.spread(own)) for arm, own in times.items() if arm not in PEAKS},
        "ratios": ratios,
        "against": {arm: bench.best(times, arm, yardsticks)[0] for arm in ours if yardsticks},
        "goals": {arm: goal(row, arm, about) for arm in ours},
    }


def shares(row: Row, flops: int, times: bench.Times, peaks: dict[str, float]) -> dict[str, Any]:
    """Candidate -> its share of the product peak of its precision, by the product's turn in each round."""
    found = {}
    for arm in times:
        narrow = arm in NARROW_ARMS or row.measure.endswith("bfloat16")
        peak = "peak bfloat16" if narrow else "peak float32"
        if arm in (*OURS, *YARDSTICKS) and peak in peaks:
            rounds = zip(times[arm], times[peak], strict=True)
            found[arm] = vars(bench.spread(flops / mine / (peaks[peak] / product) for mine, product in rounds))
    return found


@contextmanager
def workers(threads: int) -> Iterator[Callable[[str], Worker]]:
    """A function that gives the process of a name, started when it is first asked for."""
    started: dict[str, Worker] = {}

    def worker(name: str) -> Worker:
        if name not in started or not started[name].process.is_alive():
            started[name] = Worker(threads)
        return started[name]

    try:
        yield worker
    finally:
        for one in started.values():
            one.stop()


@dataclass
class Session:
    """One run on this machine; `about` says what is known of it. Checkpoints are made below `folder`."""

    threads: int
    quick: bool
    folder: Path
    machine: Worker
    about: dict[str, Any]
    peaks: dict[str, float] = field(default_factory=dict)  # the products that can be timed -> their FLOPs
    samples: dict[str, dict[str, list[dict[str, float]]]] = field(default_factory=dict)  # by script, then arm

    def measure_machine(self) -> None:
        """The fastest products, timed in every row too, and reading from memory: FLOP/s and bytes a second."""
        self.about["peaks"] = {}
        for name in PEAKS:
            with suppress(AbsentError):
                self.peaks[name] = self.machine.ask("peak", name)
                times = bench.in_turns({name: partial(self.machine.turn, name)}, 1)
                self.about["peaks"][name] = self.peaks[name] / min(times[name])
        self.about["bandwidth"] = self.machine.ask("bandwidth")

    def row(self, row: Row, worker: Callable[[str], Worker]) -> dict[str, Any]:
        """Everything about a row; candidates that were not measured are `absent`, with the reason."""
        measure = self.processes if row.measure in startup.SCRIPTS else self.programs
        times, absent = measure(row, worker)
        result = {"name": row.name, "measure": row.measure, "absent": absent, **compared(row, times, self.about)}
        if row.lengths and measure == self.programs:
            result |= size_of(row)
            if row.measure != "memory":
                result["share"] = shares(row, result["flops"], times, self.peaks)
        return {**result, "date": datetime.now(timezone.utc).isoformat(timespec="seconds")}

    def in_turns(self, turns: dict[str, Callable[[], float]]) -> bench.Times:
        seconds, least, most = (2.0, 3, 9) if self.quick else (8.0, 3, 31)
        return bench.in_turns(turns, seconds, least, most)

    def programs(self, row: Row, worker: Callable[[str], Worker]) -> tuple[bench.Times, dict[str, str]]:
        """Calls of programs that stay in their processes."""
        absent, outputs = {}, {}
        for arm in row.arms:
            try:
                if self.quick and arm in PEERS:
                    raise AbsentError("left out by --quick")
                ARMS[arm].check_here(row)
                folder = folder_of(row.checkpoint, self.folder)
                outputs[arm] = worker(ARMS[arm].process).ask("prepare", arm, row, folder)
            except (AbsentError, ImportError) as error:
                absent[arm] = str(error)
        truth = next((outputs[arm] for arm in (SDPA, *YARDSTICKS) if arm in outputs), None)
        for arm, numbers in list(outputs.items()):
            if truth and (far := difference(numbers, truth)) > DIFFERENT:
                absent[arm] = f"its output differs by {far:.2g} from the yardstick's"
                del outputs[arm]
        processes = {arm: worker(ARMS[arm].process) for arm in outputs}
        if row.measure == "memory":
            held: bench.Times = {}
            for arm, process in processes.items():
                try:
                    held[arm] = [float(process.ask("memory", arm))]
                except AbsentError as error:
                    absent[arm] = str(error)
            return held, absent
        while True:
            turns = {arm: partial(process.turn, arm) for arm, process in processes.items()}
            turns |= {name: partial(self.machine.turn, name) for name in self.peaks}
            try:
                return self.in_turns(turns), absent
            except LostError as lost:  # the others go on without it, from the start
                absent[lost.arm] = str(lost)
                for group in (processes, self.peaks):
                    group.pop(lost.arm, None)

    def processes(self, row: Row, worker: Callable[[str], Worker]) -> tuple[bench.Times, dict[str, str]]:
        """Whole processes, each of which measures several things at once."""
        script = startup.SCRIPTS[row.measure]
        if script not in self.samples:
            try:
                folder = minilm() if row.measure == "tokenizer" else folder_of(row.checkpoint, self.folder)
                self.samples[script] = self._sampled(script, row, folder)
            except (ImportError, CalledProcessError) as error:
                reason = getattr(error, "stderr", "").strip().rpartition("\n")[2] or str(error)
                return {}, dict.fromkeys(row.arms, reason)
        return {arm: [one[row.measure] for one in own] for arm, own in self.samples[script].items()}, {}

    def _sampled(self, script: str, row: Row, folder: Path) -> dict[str, list[dict[str, float]]]:
        found: dict[str, list[dict[str, float]]] = {arm: [] for arm in row.arms}

        def turn(arm: str) -> float:
            found[arm].append(startup.process(script, arm.split()[0], folder, self.threads))
            return found[arm][-1][row.measure]

        self.in_turns({arm: partial(turn, arm) for arm in row.arms})
        return {arm: own[1:] for arm, own in found.items()}  # the first round fills the file cache


def difference(numbers: list[float], truth: list[float]) -> float:
    """‖difference‖ / ‖truth‖; infinite if their sizes differ or some are NaN."""
    found, expected = torch.tensor(numbers), torch.tensor(truth)
    if found.shape != expected.shape or not found.isfinite().all():
        return float("inf")
    return float((found - expected).norm() / expected.norm().clamp_min(1e-30))


def rows(
    chosen: Iterable[Row], threads: int, quick: bool, say: Callable[[str], None]
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Measure: after each row all that is known of the machine, and the row."""
    os.environ.update(OMP_NUM_THREADS=str(threads), RAYON_NUM_THREADS=str(threads), TOKENIZERS_PARALLELISM="true")
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", HF_HUB_DISABLE_PROGRESS_BARS="1")
    with TemporaryDirectory() as folder, workers(threads) as lasting:
        session = Session(threads, quick, Path(folder), lasting("machine"), machine(threads))
        session.measure_machine()
        by_suite = sorted(chosen, key=lambda row: row.suite)
        for _, suite in groupby(by_suite, key=lambda row: row.suite):
            with workers(threads) as own:
                for row in suite:
                    start = time.perf_counter()
                    found = session.row(row, own)
                    say(f"{row.name}: {time.perf_counter() - start:.0f} s")
                    yield session.about, found
