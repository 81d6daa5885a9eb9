"""Programs timed in turns, and `minitrans bench MODEL`: a checkpoint of yours here and in transformers, on this CPU.

Turns are A B C, C B A, A B C …, so that a machine whose speed drifts is fair to all. What is compared is the ratio of
two turns of one round; its median and quartiles over the rounds say how sure it is.
"""

from __future__ import annotations

import importlib.util
import math
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import torch

from minitrans import cpu, hub
from minitrans.auto import AutoConfig, architecture_class
from minitrans.config import pair

Run = Callable[[], Any]
Times = dict[str, list[float]]


@dataclass(frozen=True)
class Spread:
    """The median of numbers, and their first and third quartile."""

    median: float
    low: float
    high: float


def spread(values: Iterable[float]) -> Spread:
    """The median and the quartiles of one number or more; ValueError for none."""
    found = sorted(values)
    if not found:
        raise ValueError("There is no median of nothing.")
    low, median, high = statistics.quantiles(found, n=4, method="inclusive") if len(found) > 1 else found * 3
    return Spread(median, low, high)


def ratios(times: Times, ours: str, theirs: str) -> Spread:
    """Their time over ours, round by round: above 1, ours is faster."""
    return spread(b / a for a, b in zip(times[ours], times[theirs], strict=True))


def best(times: Times, ours: str, others: Iterable[str]) -> tuple[str, Spread]:
    """The one of `others` that is the fastest beside `ours`, and its ratio; ValueError where there is none."""
    found = {name: ratios(times, ours, name) for name in others if name in times}
    if not found:
        raise ValueError(f"Nothing was timed beside {ours!r}.")
    return min(found.items(), key=lambda item: item[1].median)


def in_turns(
    arms: Mapping[str, Run],
    seconds: float,
    least: int = 3,
    most: int = 31,
    clock: Callable[[], float] = time.perf_counter,
) -> Times:
    """What each arm's turns returned, a number a round, after a round that is thrown away.

    That first round says how many fit into `seconds`; there are `least` at least and `most` at most.
    """
    names = list(arms)
    start = clock()
    for name in names:
        arms[name]()
    cost = clock() - start
    rounds = int(min(most, max(least, seconds / cost if cost > 0 else most)))
    times: Times = {name: [] for name in names}
    for number in range(rounds):
        for name in names if number % 2 else reversed(names):
            times[name].append(arms[name]())
    return times


def per_call(
    run: Run,
    first: float | None = None,
    at_least: float = 0.05,
    clock: Callable[[], float] = time.perf_counter,
) -> Callable[[], float]:
    """A turn of a program: as many calls as last `at_least` seconds; it returns the seconds that one took.

    `first` says how long a first call took, where there has been one.
    """

    def measured(calls: int) -> float:
        start = clock()
        for _ in range(calls):
            run()
        return (clock() - start) / calls

    first = measured(1) if first is None else first
    calls = 1 if first > 20 * at_least else max(1, math.ceil(at_least / max(measured(1), 1e-6)))
    return lambda: measured(calls)


# What is timed of a checkpoint: words for it -> its inputs, by the main input of the model.
Inputs = dict[str, torch.Tensor]


def _texts(config: Any) -> Iterator[tuple[str, Inputs]]:
    longest = config.max_position_embeddings
    for batch, length in ((1, 16), (8, 128), (1, 512)):
        length = min(length, longest)
        yield f"{batch} × {length} tokens", _words(config, torch.full((batch,), length))
    lengths = torch.linspace(0, 1, 16).square().mul(min(256, longest) - 3).add(3).long()
    yield f"16 texts of {lengths[0]} to {lengths[-1]} tokens", _words(config, lengths)


def _words(config: Any, lengths: torch.Tensor) -> Inputs:
    mask = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
    return {"input_ids": torch.randint(config.vocab_size, mask.shape) * mask, "attention_mask": mask}


def _images(config: Any) -> Iterator[tuple[str, Inputs]]:
    height, width = pair(config.image_size)
    for count in (1, 8):
        pixels = torch.randn(count, config.num_channels, height, width)
        yield f"{count} image{'s' * (count > 1)} of {height} × {width}", {"pixel_values": pixels}


def _sounds(config: Any) -> Iterator[tuple[str, Inputs]]:
    for batch, length in ((1, 1), (1, 10), (4, 5)):
        yield f"{batch} × {length} s", {"input_values": torch.randn(batch, length * 16_000)}


WORK: dict[str, Callable[[Any], Iterator[tuple[str, Inputs]]]] = {
    "input_ids": _texts,
    "pixel_values": _images,
    "input_values": _sounds,
}
LOADED, FROZEN, NARROW = OURS = ("as loaded", "frozen", "frozen bfloat16")
THEIRS = {"transformers eager": "eager", "transformers sdpa": "sdpa"}


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Inside the block torch computes in the given number of threads; ValueError for none, or for very many a core."""
    most = 16 * (os.cpu_count() or 1)
    if not isinstance(count, Integral) or not 1 <= count <= most:
        raise ValueError(f"threads is {count!r}; it must be a whole number from 1 to {most}, 16 a core.")
    before = torch.get_num_threads()
    torch.set_num_threads(int(count))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def checkpoint(name: str, count: int = 2, seconds: float = 10) -> dict[str, Any]:
    """Time a checkpoint, a folder or hub id, on this CPU in `count` threads, for about `seconds` a row.

    Gives `model`, `class`, `threads`, `rows` and `absent`: what is not compared -> why. A row has its `work`; `ms`:
    who -> median milliseconds; `ratios`: each of ours -> `against`, the faster attention of transformers, and the
    `median` and the quartiles `low` and `high` of its time over ours. Raises what loading does, and ValueError for
    numbers that are not above 0.
    """
    if not isinstance(seconds, Real) or not seconds > 0:
        raise ValueError(f"seconds is {seconds!r}; it must be a number above 0.")
    with threads(count), torch.inference_mode():
        models, absent = _models(name)
        ours = models[LOADED]
        choices = type(ours).__name__.endswith("ForMultipleChoice")  # which takes (B, choices, N): one each
        rows = []
        for work, inputs in WORK[ours.main_input_name](ours.config):
            given = {key: x[:, None] if choices else x for key, x in inputs.items()}
            rows.append(_row(work, models, given, seconds))
    return {"model": name, "class": type(ours).__name__, "threads": count, "rows": rows, "absent": absent}


def _models(name: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Who is timed -> the model; who is not -> why."""
    repository = hub.open_repository(name)
    ours = architecture_class(AutoConfig.from_pretrained(repository)).from_pretrained(repository, dtype=torch.float32)
    models = {LOADED: ours, FROZEN: ours.freeze()}
    absent = {}
    if cpu.packs(torch.bfloat16):
        models[NARROW] = ours.freeze("bfloat16")
    else:
        absent[NARROW] = "oneDNN has no bfloat16 on this CPU"
    if importlib.util.find_spec("transformers") is None:
        return models, {**absent, "transformers": "not installed: pip install transformers"}
    import transformers

    published = getattr(transformers, type(ours).__name__)
    folder = repository.file("config.json").parent
    for who, attention in THEIRS.items():
        try:
            models[who] = published.from_pretrained(
                folder, attn_implementation=attention, dtype=torch.float32, local_files_only=True
            ).eval()
        except Exception as error:  # whatever another library raises is a reason, and no end
            absent[who] = f"{type(error).__name__}: {(str(error).splitlines() or ['no reason given'])[0]}"
    return models, absent


def _row(work: str, models: dict[str, Any], inputs: Inputs, seconds: float) -> dict[str, Any]:
    def of(model: Any) -> Run:
        return lambda: model(**inputs)

    times = in_turns({who: per_call(of(model)) for who, model in models.items()}, seconds)
    beside = [who for who in THEIRS if who in models]
    found = {}
    for who in OURS if beside else ():
        if who in times:
            against, ratio = best(times, who, beside)
            found[who] = {"against": against, **vars(ratio)}
    return {"work": work, "ms": {who: spread(own).median * 1e3 for who, own in times.items()}, "ratios": found}


def milliseconds(value: float | None) -> str:
    """Three digits, or whole ones; a dash for what was not measured."""
    return "–" if value is None else f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def lines(result: dict[str, Any]) -> Iterator[str]:
    """What `checkpoint` gave as a Markdown table, and a line for each that is not in it."""
    yield f"{result['model']}: {result['class']}, {result['threads']} threads, milliseconds"
    yield ""
    who = [name for name in (*OURS, *THEIRS) if any(name in row["ms"] for row in result["rows"])]
    compared = [name for name in OURS if any(name in row["ratios"] for row in result["rows"])]
    rows = [["work", *who, *(f"ratio, {name}" for name in compared)]]
    for row in result["rows"]:
        found = [row["ratios"].get(name) for name in compared]
        cells = [f"{r['median']:.2f} ({r['low']:.2f} to {r['high']:.2f})" if r else milliseconds(None) for r in found]
        rows.append([row["work"], *(milliseconds(row["ms"].get(name)) for name in who), *cells])
    yield from table(rows)
    yield ""
    if compared:
        yield "A ratio is the time of transformers' faster attention over ours, and its quartiles."
    yield from (f"Without {name}: {reason}." for name, reason in result["absent"].items())


def table(rows: list[list[str]]) -> Iterator[str]:
    """A Markdown table, its cells aligned for whoever reads it as text; the first row is its head."""
    first, *widths = (max(map(len, column)) for column in zip(*rows, strict=True))
    ruled = [rows[0], ["-" * first, *("-" * (width - 1) + ":" for width in widths)], *rows[1:]]
    for name, *cells in ruled:
        right = (cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
        yield f"| {' | '.join([name.ljust(first), *right])} |"
