"""Batches of inputs of different length: filled up to a budget, longest first, answered in the caller's order."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

from tqdm import tqdm

X = TypeVar("X")
Y = TypeVar("Y")


def by_budget(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Indices in batches whose lengths sum to at most `budget`, longest first; a longer input is a batch of its own.

    Packed rows make this the whole cost: a batch takes the time of its real tokens, however uneven they are.
    """
    if budget < 1:
        raise ValueError(f"The budget of a batch is {budget}; it must be at least 1.")
    batch: list[int] = []
    total = 0
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if batch and total + lengths[index] > budget:
            yield batch
            batch, total = [], 0
        batch.append(index)
        total += lengths[index]
    if batch:
        yield batch


def windows(items: Iterable[X], size: int) -> Iterator[list[X]]:
    """Consecutive lists of `size` items, the last one shorter, read as they are asked for."""
    iterator = iter(items)
    while window := list(islice(iterator, size)):
        yield window


def answer_in_order(
    items: Sequence[X],
    lengths: Sequence[int],
    budget: int,
    answer: Callable[[list[X]], Sequence[Y]],
    bar: tqdm | None = None,
) -> list[Y]:
    """`answer` of all items, batch by batch, in the items' order."""
    answers: dict[int, Y] = {}
    for batch in by_budget(lengths, budget):
        answers.update(zip(batch, answer([items[index] for index in batch]), strict=True))
        if bar is not None:
            bar.update(len(batch))
    return [answers[index] for index in range(len(items))]


def progress(total: int | None, unit: str, show: bool | None) -> tqdm:
    """A progress bar on stderr; left open (None), it shows on a terminal once the work has taken two seconds."""
    disable = not sys.stderr.isatty() if show is None else not show
    return tqdm(total=total, unit=unit, disable=disable, delay=2.0 if show is None else 0.0)
