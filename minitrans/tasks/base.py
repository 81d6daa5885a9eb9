"""What all tasks share: inputs become pieces, pieces batches of bounded size, and answers keep the inputs' order."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from minitrans import hub, ops
from minitrans.auto import AutoClass, AutoProcessing

X = TypeVar("X")


@dataclass
class Piece:
    """One row of a batch: an input or a part of one.

    `source` is the input, `inputs` what the model is given, `size` what that takes of a batch's budget, `part` what
    the task has to remember of it, `last` whether the input ends here, `done` what the progress bar counts for it.
    """

    source: Any
    inputs: Any
    size: int
    part: Any = None
    last: bool = True
    done: int = 1


class Task:
    """A model and its processor, for one job over any number of inputs.

    Call it with one input for its answer, or with any iterable for a list of answers in order. `budget` bounds the sum
    of the sizes in a batch; packed rows make that the batch's whole cost, however uneven its inputs are.
    """

    auto: ClassVar[type[AutoClass]]
    processing: ClassVar[type[AutoProcessing]]
    unit: ClassVar[str]  # of the progress bar
    budget: ClassVar[int]
    single: ClassVar[tuple[type, ...]] = (str,)  # what is one input rather than several
    window = 2048  # pieces that are read ahead and sorted by size

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor = model, processor

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **options: Any) -> Any:
        """Read a folder or hub id; options as in `AutoModel.from_pretrained`."""
        repository, options = hub.open_with(name_or_path, options)
        return cls(cls.auto.from_pretrained(repository, **options), cls.processing.from_pretrained(repository))

    def __call__(self, inputs: Any, *, budget: int | None = None, show_progress: bool | None = None) -> Any:
        """The answer for one input, or a list of answers.

        The progress bar shows on a terminal when the work is long, or as `show_progress` says.
        """
        if self.is_one(inputs):
            return next(self.stream([inputs], budget=budget, show_progress=False))[1]
        return [answer for _, answer in self.stream(inputs, budget=budget, show_progress=show_progress)]

    def stream(
        self, inputs: Iterable[Any], *, budget: int | None = None, show_progress: bool | None = None
    ) -> Iterator[tuple[Any, Any]]:
        """Pairs of an input and its answer, in order, while the inputs are read `window` pieces ahead."""
        said: list[Any] = []
        with progress(self.total(inputs), self.unit, show_progress) as bar:
            for window in windows(self.pieces(inputs), self.window):
                results = self._results(window, self.budget if budget is None else budget, bar)
                for piece, result in zip(window, results, strict=True):
                    said.append(result)
                    if piece.last:
                        yield piece.source, self.answer(piece.source, said)
                        said = []

    @torch.inference_mode()
    def _results(self, pieces: list[Piece], budget: int, bar: tqdm) -> list[Any]:
        results: dict[int, Any] = {}
        engine = self.model.engine
        for batch in by_budget([piece.size for piece in pieces], budget):
            with nullcontext() if engine == "auto" else ops.engine(engine):
                results.update(zip(batch, self.run([pieces[index] for index in batch]), strict=True))
            bar.update(sum(pieces[index].done for index in batch))
        return [results[index] for index in range(len(pieces))]

    def is_one(self, inputs: Any) -> bool:
        """Whether this is one input rather than several."""
        return isinstance(inputs, self.single)

    def total(self, inputs: Iterable[Any]) -> int | None:
        """What the progress bar will have counted at the end, None where that is not known."""
        return len(inputs) if isinstance(inputs, Sequence) else None

    def pieces(self, inputs: Iterable[Any]) -> Iterator[Piece]:
        """The inputs as pieces, at least one of each, in order."""
        raise NotImplementedError

    def run(self, pieces: list[Piece]) -> Sequence[Any]:
        """What the model says about each piece of one batch, small and on the CPU."""
        raise NotImplementedError

    def answer(self, source: Any, results: list[Any]) -> Any:
        """The answer for one input from what the model said about its pieces."""
        return results[0]


def windows(items: Iterable[X], size: int) -> Iterator[list[X]]:
    """Consecutive lists of `size` items, the last one shorter, read as they are asked for."""
    iterator = iter(items)
    while window := list(islice(iterator, size)):
        yield window


def by_budget(sizes: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Indices in batches whose sizes sum to at most `budget`, largest first; a larger one is a batch of its own.

    Equal sizes come together, which attention on a CPU computes as one.
    """
    if budget < 1:
        raise ValueError(f"The budget of a batch is {budget}; it must be at least 1.")
    batch: list[int] = []
    total = 0
    for index in sorted(range(len(sizes)), key=lambda index: -sizes[index]):
        if batch and total + sizes[index] > budget:
            yield batch
            batch, total = [], 0
        batch.append(index)
        total += sizes[index]
    if batch:
        yield batch


def progress(total: int | None, unit: str, show: bool | None) -> tqdm:
    """A progress bar on stderr; left open (None), it shows on a terminal once the work has taken two seconds."""
    disable = not sys.stderr.isatty() if show is None else not show
    return tqdm(total=total, unit=unit, disable=disable, delay=2.0 if show is None else 0.0)


def ranked(config: Any, logits: Tensor) -> list[list[dict[str, Any]]]:
    """Scores (B, K) of a classification head as [{"label", "score"}] for each row, best first.

    Softmax, or a sigmoid for each label of a multi-label head and for a single label, or the bare numbers of a
    regression, as in transformers' pipelines.
    """
    kind = config.problem_type or ("multi_label_classification" if config.num_labels == 1 else None)
    logits = logits.float().cpu()
    if kind == "multi_label_classification":
        logits = logits.sigmoid()
    elif kind != "regression":
        logits = logits.softmax(-1)
    rows = [[{"label": config.id2label[index], "score": score} for index, score in enumerate(row)]
            for row in logits.tolist()]  # fmt: skip
    return [sorted(row, key=lambda item: -item["score"]) for row in rows]
