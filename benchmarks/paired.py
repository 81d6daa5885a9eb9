"""Two implementations timed in turns: A B A B …, so that a machine whose speed drifts is fair to both."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from minitrans import cpu

THREADS = 2
# What is added to a row's name -> what is done to our model first.
FORMS: dict[str, Callable[[Any], Any]] = {
    "": lambda model: model,
    ", frozen": lambda model: model.freeze(),
    ", frozen in bfloat16": lambda model: model.freeze("bfloat16"),
}
if not cpu.packs(torch.bfloat16):
    del FORMS[", frozen in bfloat16"]


@dataclass(frozen=True)
class Paired:
    """Medians in milliseconds, and the median of the per-round ratios theirs / ours (above 1: ours is faster)."""

    ours_ms: float
    theirs_ms: float
    ratio: float


def paired(ours: Callable[[], Any], theirs: Callable[[], Any], rounds: int = 7, warmup: int = 1) -> Paired:
    """Time `ours` and `theirs` in turns, each once a round."""
    for _ in range(warmup):
        ours(), theirs()
    times = [(_milliseconds(ours), _milliseconds(theirs)) for _ in range(rounds)]
    return Paired(
        statistics.median(a for a, _ in times),
        statistics.median(b for _, b in times),
        statistics.median(b / a for a, b in times),
    )


def spelled(ms: float) -> str:
    """Milliseconds to three digits, or whole ones."""
    return f"{ms:.0f} ms" if ms >= 100 else f"{ms:.3g} ms"


def _milliseconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return (time.perf_counter() - start) * 1e3


@pytest.fixture
def compare(benchmark: Any) -> Callable[..., None]:
    """Benchmark `ours`, and note in its extra information how much slower the fastest of the others is, paired.

    `others` maps names, such as transformers' attention implementations, to callables; `goal` is the ratio to reach,
    and `work` says for the report what was measured.
    """

    def run(
        work: str, ours: Callable[[], Any], others: dict[str, Callable[[], Any]], goal: float, rounds: int = 7
    ) -> None:
        torch.set_num_threads(THREADS)
        with torch.inference_mode():
            pairs = {name: paired(ours, theirs, rounds) for name, theirs in others.items()}
            best = min(pairs, key=lambda name: pairs[name].ratio)
            benchmark.extra_info.update(
                work=work,
                ours=spelled(pairs[best].ours_ms),
                theirs=f"{spelled(pairs[best].theirs_ms)} ({best})",
                ratio=round(pairs[best].ratio, 2),
                ratios={name: round(pair.ratio, 2) for name, pair in pairs.items()},
                goal=goal,
            )
            benchmark.pedantic(ours, rounds=3, warmup_rounds=1)
        assert pairs[best].ratio >= goal, f"{pairs[best]} against {best}; the goal is {goal}"

    return run
