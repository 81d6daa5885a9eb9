"""A process that runs what it is asked to, so that no library shares a heap or threads with another."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile

from benchmarks.arms import ARMS, AbsentError
from benchmarks.rows import Row
from minitrans import bench, cpu

ANSWER_WITHIN = 600.0  # seconds, for any request to a worker
PAUSE = 0.02  # seconds before a turn: until then the threads of the previous candidate may be spinning
NUMBERS = 64  # of each output that are compared
PEAKS = {"peak float32": torch.float32, "peak bfloat16": torch.bfloat16}


class LostError(AbsentError):
    """Why `arm`, which was measured so far, is no longer."""

    def __init__(self, arm: str, why: object) -> None:
        super().__init__(str(why))
        self.arm = arm


class Worker:
    """The asking side of a process; `ask` raises AbsentError, with the reason, where it fails, dies or is silent."""

    def __init__(self, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=serve, args=(other, threads))
        self.process.start()
        other.close()

    def ask(self, what: str, *arguments: Any) -> Any:
        try:
            self.connection.send((what, arguments))
            if not self.connection.poll(ANSWER_WITHIN):
                self.process.kill()
                raise AbsentError(f"no answer within {ANSWER_WITHIN:.0f} s")
            done, answer = self.connection.recv()
        except (EOFError, OSError) as error:
            self.process.join()
            raise AbsentError(f"its process ended with {self.process.exitcode}") from error
        if not done:
            raise AbsentError(answer)
        return answer

    def turn(self, arm: str) -> float:
        """Seconds of a call; LostError if the arm can no longer run."""
        time.sleep(PAUSE)
        try:
            return self.ask("turn", arm)
        except AbsentError as error:
            raise LostError(arm, error) from error

    def stop(self) -> None:
        self.connection.close()
        self.process.join(10)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def serve(connection: Connection, threads: int) -> None:
    """Answer requests until there are no more; what libraries print is dropped."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    torch.set_num_threads(threads)
    state = State()
    while True:
        try:
            what, arguments = connection.recv()
        except EOFError:
            return
        try:
            answer = True, getattr(state, what)(*arguments)
        except Exception as error:  # whatever a library raises is the reason why it is not measured
            first = next(iter(str(error).strip().splitlines()), "")
            answer = False, first if isinstance(error, AbsentError) else f"{type(error).__name__}: {first[:200]}"
        connection.send(answer)


class State:
    """The requests that a process understands."""

    def __init__(self) -> None:
        self.models: dict[str, Any] = {}
        self.turns: dict[str, Callable[[], float]] = {}
        self.runs: dict[str, Callable[[], torch.Tensor]] = {}

    def prepare(self, arm: str, row: Row, folder: Path) -> list[float]:
        """Make the program of an arm; the first numbers of its output."""
        chosen = ARMS[arm]
        if arm not in self.models:
            self.models[arm] = chosen.load(row.checkpoint, folder)
        self.runs[arm] = run = chosen.run(self.models[arm], row)
        start = time.perf_counter()
        output = run()
        if row.measure != "memory":
            self.turns[arm] = bench.per_call(run, time.perf_counter() - start)
        return output.flatten()[:NUMBERS].float().tolist()

    def turn(self, arm: str) -> float:
        return self.turns[arm]()

    def memory(self, arm: str) -> int:
        """The most bytes of tensors that a run holds at once, beyond the weights and the inputs."""
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as measured:
            self.runs[arm]()
        most = held = 0
        events = (event for event in measured.profiler.kineto_results.events() if event.name() == "[memory]")
        for event in sorted(events, key=lambda event: event.start_ns()):
            held += event.nbytes()
            most = max(most, held)
        return most

    def peak(self, name: str, side: int = 2048) -> float:
        """Make a turn of a product of `side` × `side` matrices, in the fastest way; its FLOPs."""
        dtype = PEAKS[name]
        if not cpu.packs(dtype):
            raise AbsentError(f"oneDNN has no {str(dtype).removeprefix('torch.')} on this CPU")
        x, weight = torch.randn(2, side, side).to(dtype)
        packed = cpu.packed(weight)
        ways = {
            "F.linear": bench.per_call(lambda: F.linear(x, weight)),
            "packed": bench.per_call(lambda: cpu.linear(x, packed, None, "none")),
        }
        times = bench.in_turns(ways, 1)
        self.turns[name] = ways[min(ways, key=lambda way: bench.spread(times[way]).median)]
        return 2.0 * side**3

    def bandwidth(self, size: int = 2**26) -> float:
        """Bytes per second that a sum of `size` float32 reads."""
        numbers = torch.ones(size)
        times = bench.in_turns({"sum": bench.per_call(numbers.sum)}, 1)
        return 4 * size / bench.spread(times["sum"]).median
