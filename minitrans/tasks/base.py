"""What all tasks share: inputs become pieces, pieces batches of bounded size, and results keep the inputs' order."""

from __future__ import annotations

import io
import logging
import os
import re
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from copy import copy
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar, TypeVar, cast

import torch
from torch import Tensor
from tqdm import tqdm
from typing_extensions import Self

from minitrans import hub, ops
from minitrans.auto import (
    AutoClass,
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoModel,
    AutoProcessing,
    AutoProcessor,
    AutoTokenizer,
)
from minitrans.processing.kinds import shown
from minitrans.tasks.options import COUNT, SWITCH, Option, named, or_none, read, single

X = TypeVar("X")

logger = logging.getLogger("minitrans")

FAULTS = (ValueError, TypeError, OSError, EOFError)  # what a single input may be at fault for
# Of every call; the size that a batch may have, whether the progress bar shows, what an input at fault does.
BUDGET, SHOWN = or_none(COUNT), or_none(SWITCH)
ON_ERROR: Option = {"raise": "raise", "skip": "skip"}.__getitem__, "'raise' or 'skip'"
INPUTS = {"text": "input_ids", "image": "pixel_values", "s": "input_values"}  # what a model takes, by a task's unit
# What prepares inputs is called -> what it has, by which it is known.
PROCESSORS: dict[Any, tuple[str, str]] = {
    AutoTokenizer: ("tokenizer", "model_max_length"), AutoImageProcessor: ("image_processor", "do_rescale"),
    AutoFeatureExtractor: ("feature_extractor", "sampling_rate"), AutoProcessor: ("processor", "tokenizer"),
}  # fmt: skip


class Held(logging.Filter):
    """Holds log records back: where an error says the same, they are not wanted too."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep the record."""
        self.records.append(record)
        return False


@dataclass
class Piece:
    """One entry of a batch: an input or a part of one.

    `read` is the input as `Task.read` gave it, `inputs` what the model is given, `size` what that takes of a batch's
    budget, `part` what the task has to remember of it, `last` whether the input ends here, `done` what the progress
    bar counts for it, `error` what made the input fail, where it is to be skipped, `source` the input as it came.
    """

    read: Any
    inputs: Any
    size: int
    part: Any = None
    last: bool = True
    done: int = 1
    error: Exception | None = None
    source: Any = None


class Task:
    """A model and its processor, for one job over any number of inputs.

    Call it with one input for its result, or with any iterable for a list of results in order. `budget` bounds the sum
    of the sizes in a batch; packed rows make that the batch's whole cost, however uneven its inputs are. The
    attributes named in `options` are the task's settings; a call takes other values for itself. What they may be is
    checked wherever they are set.
    """

    auto: ClassVar[type[AutoClass]]
    heads: ClassVar[tuple[str, ...]] = ()  # ends of the names of other classes with the same results
    processing: ClassVar[type[AutoProcessing]]
    unit: ClassVar[str]  # of the progress bar
    takes: ClassVar[str]  # what one input is, for messages
    budget: ClassVar[int]
    options: ClassVar[Mapping[str, Option]] = {}
    checked: ClassVar[Mapping[str, Option]] = {"budget": COUNT, "on_error": ON_ERROR}  # beside the options
    unneeded: ClassVar[str] = "(?!)"  # a pattern of the tensors, by their published names, that no result depends on
    group = 1  # inputs that are prepared together
    read_ahead = 2048  # pieces that are read ahead and sorted by size
    prefetch = 0  # lists of these that a thread prepares while the model computes; inputs are read in it then
    on_error = "raise"

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor = self._fitting(model), processor
        name, known = PROCESSORS[self.processing]
        if not any(hasattr(found, known) for found in (processor, getattr(processor, name, None))):
            raise TypeError(
                f"{type(self).__name__} prepares its inputs with a {name} beside the model, which {shown(processor)} "
                f"is not; {type(self).__name__}.from_pretrained loads both."
            )

    @classmethod
    def _fitting(cls, model: Any) -> Any:
        """The model; TypeError or ValueError where it is none of minitrans, or its published class is for another."""
        if not hasattr(model, "load_report"):
            raise TypeError(
                f"model is {shown(model)}; {cls.__name__} takes a loaded model of minitrans, and a folder or hub id "
                "is read by from_pretrained."
            )
        wanted = cls.auto._class_for(model.config)
        is_published = type(model).__module__ == wanted.__module__  # a class of the user's own may be anything
        has_head = cls.auto is AutoModel or type(model).__name__.endswith((*cls.auto.tasks, *cls.heads))
        if (is_published and not has_head) or model.main_input_name != INPUTS[cls.unit]:
            raise ValueError(f"{cls.__name__} takes a {wanted.__name__}, not a {type(model).__name__}.")
        holding(model.device)
        return model

    def __setattr__(self, name: str, value: Any) -> None:
        option = self.options.get(name) or self.checked.get(name)
        super().__setattr__(name, value if option is None else read(name, value, option))

    @classmethod
    def from_pretrained(cls, name_or_path: str | os.PathLike[str], **options: Any) -> Self:
        """Read a folder or hub id; options as in `AutoModel.from_pretrained`, and `frozen=True` for `model.freeze()`.

        A frozen model computes in `dtype`, which may be "fastest" then.

        Raises ValueError, with their names, where results would depend on tensors that the checkpoint does not hold.
        """
        repository, options = hub.open_with(name_or_path, options)
        model = cls.load_model(repository, **options)
        return cls(model, cls.processing.from_pretrained(repository))

    @classmethod
    def load_model(cls, repository: hub.Repository, *, frozen: bool = False, **options: Any) -> Any:
        """The model of a repository, frozen or not, where the file held every tensor that the results depend on."""
        frozen = read("frozen", frozen, SWITCH)
        dtype = options.pop("dtype") if frozen and options.get("dtype") == "fastest" else None
        held = Held()
        logger.addFilter(held)
        try:
            model = cls.auto.from_pretrained(repository, **options)
        finally:
            logger.removeFilter(held)
        holding(model.device)
        report = model.load_report
        mismatched = [name for name, *_ in report.mismatched]
        random = [name for name in [*report.missing, *mismatched] if not re.search(cls.unneeded, name)]
        if random:
            listed = ", ".join(random[:8]) + (f" and {len(random) - 8} more" if len(random) > 8 else "")
            raise ValueError(
                f"{repository.name} holds no weights for {listed} of {type(model).__name__}: {cls.__name__} would "
                "guess at random; choose a checkpoint that was trained for this task, or train this one first."
            )
        for record in held.records:
            logger.handle(record)
        return model.freeze(dtype) if frozen else model

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.model.device

    def with_options(self, **options: Any) -> Self:
        """The same task with other settings, those named in `options`; TypeError for one that it does not have."""
        if unknown := options.keys() - {*self.options}:
            known = f"it has {', '.join(self.options)}" if self.options else "it has none"
            raise TypeError(f"{type(self).__name__} has no option {min(unknown)!r}; {known}.")
        job = copy(self)
        for name, value in options.items():
            setattr(job, name, value)
        job.check()
        return job

    def check(self) -> None:
        """Raise ValueError for settings that do not go together, or not with the model."""

    def __call__(
        self,
        inputs: Any,
        *,
        budget: int | None = None,
        show_progress: bool | None = None,
        on_error: str = "raise",
        **options: Any,
    ) -> Any:
        """The result for one input, or a list of results.

        The progress bar shows on a terminal when the work is long, or as `show_progress` says. `on_error="skip"` logs
        what is wrong with an input and gives None for it; "raise" stops at the first. Other options are the task's
        settings, for this call.
        """
        self._refuse_table(inputs)
        if self.is_one(inputs):
            show = False if show_progress is None else show_progress
            return next(self._started([inputs], budget, show, on_error, options))[1]
        common: dict[str, Any] = {"budget": budget, "show_progress": show_progress, "on_error": on_error, **options}
        return [result for _, result in self.stream(inputs, **common)]

    def stream(
        self,
        inputs: Iterable[Any],
        *,
        budget: int | None = None,
        show_progress: bool | None = None,
        on_error: str = "raise",
        **options: Any,
    ) -> Iterator[tuple[Any, Any]]:
        """Pairs of an input and its result, in order, while the inputs are read `read_ahead` pieces ahead.

        Options as in a call. Raises TypeError for what is not several inputs.
        """
        return self._started(self._several(inputs), budget, show_progress, on_error, options)

    def _started(
        self, inputs: Iterable[Any], budget: Any, show: Any, on_error: str, options: Any
    ) -> Iterator[tuple[Any, Any]]:
        job = self.with_options(**options)
        job.on_error = on_error
        show = read("show_progress", show, SHOWN)
        return job._in_order(inputs, read("budget", budget, BUDGET) or self.budget, show)

    def _in_order(self, inputs: Iterable[Any], budget: int, show_progress: bool | None) -> Iterator[tuple[Any, Any]]:
        said: list[Any] = []
        number = 0
        with progress(self.total(inputs), self.unit, show_progress) as bar:
            for pieces in prefetched(batched(self.pieces(inputs), self.read_ahead), self.prefetch):
                outputs = self._outputs(pieces, budget, bar)
                for piece, output in zip(pieces, outputs, strict=True):
                    said.append(output)
                    if piece.last:
                        yield piece.source, self._result(piece, said, number)
                        said, number = [], number + 1

    def _result(self, piece: Piece, said: list[Any], number: int) -> Any:
        """The result for the input that ends with `piece`, None for one that is skipped."""
        error: Exception | None = next((output for output in said if isinstance(output, Exception)), None)
        if error is None:
            try:
                return self.assemble(piece.read, said)
            except FAULTS as fault:
                if self.on_error == "raise":
                    raise
                error = fault
        is_named = isinstance(piece.source, (str, os.PathLike))
        self.report(str(piece.source)[:200] if is_named else f"input {number}", error)
        return None

    @property
    def shape(self) -> tuple[int | None, ...] | None:
        """The shape of a result that is an array, None for a length that differs; None where it is something else."""
        return None

    def report(self, name: str, error: Exception) -> None:
        """Say that an input was skipped, and why."""
        logger.warning("%s was skipped: %s", name, error)

    def _several(self, inputs: Any) -> Iterable[Any]:
        """`inputs`, where one can go over them and find inputs."""
        self._refuse_table(inputs)
        is_several = isinstance(inputs, Iterable) or hasattr(inputs, "__getitem__")
        if self.is_one(inputs) or not is_several or getattr(inputs, "ndim", 1) == 0:
            raise TypeError(
                f"{type(self).__name__} goes over several inputs here, each {self.takes}; {shown(inputs)} of type "
                f"{type(inputs).__name__} is not several."
            )
        return inputs

    def _refuse_table(self, inputs: Any) -> None:
        if hasattr(inputs, "columns") and hasattr(inputs, "shape"):
            raise TypeError(
                f"A {type(inputs).__name__} is a table; {type(self).__name__} takes one of its columns, such as "
                f"table[{str(next(iter(inputs.columns), 'text'))!r}]."
            )

    @torch.inference_mode()
    def _outputs(self, pieces: list[Piece], budget: int, bar: tqdm) -> list[Any]:
        outputs: dict[int, Any] = {}
        sound = [index for index, piece in enumerate(pieces) if piece.error is None]
        for places in by_budget([pieces[index].size for index in sound], budget):
            batch = [sound[place] for place in places]
            with ops.engine_of(self.model), evaluating(self.model):
                outputs.update(zip(batch, self._run([pieces[index] for index in batch]), strict=True))
            bar.update(sum(pieces[index].done for index in batch))
        return [outputs.get(index, piece.error) for index, piece in enumerate(pieces)]

    def _run(self, pieces: list[Piece]) -> Sequence[Any]:
        """`run`; where inputs are skipped, one that makes the model fail takes no other with it."""
        try:
            return self.run(pieces)
        except FAULTS as error:
            if self.on_error == "raise":
                raise
            return [error] if len(pieces) == 1 else [self._run([piece])[0] for piece in pieces]

    def is_one(self, inputs: Any) -> bool:
        """Whether this is one input rather than several."""
        return isinstance(inputs, (str, bytes, bytearray, memoryview, Mapping)) or is_stream(inputs)

    def total(self, inputs: Iterable[Any]) -> int | None:
        """What the progress bar will have counted at the end, None where that is not known."""
        return len(inputs) if isinstance(inputs, Sequence) else None

    def pieces(self, inputs: Iterable[Any]) -> Iterator[Piece]:
        """The inputs as pieces, at least one of each, in order; one that fails, as its error where it is skipped."""
        for sources in batched(inputs, self.group):
            found = [self._read(source) for source in sources]
            together = None
            if len(found) > 1 and not any(isinstance(one, Exception) for one in found):
                with suppress(*FAULTS if self.on_error == "skip" else ()):  # which is at fault shows one by one
                    together = list(_owned(sources, self.prepare(found)))
            if together is not None:
                yield from together
                continue
            for source, one in zip(sources, found, strict=True):
                try:
                    if isinstance(one, Exception):
                        raise one
                    yield from _owned([source], self.prepare([one]))
                except FAULTS as error:
                    if self.on_error == "raise":
                        raise
                    yield Piece(None, None, 1, error=error, source=source)

    def _read(self, source: Any) -> Any:
        """An input as `read` gives it, which is asked once, or its error where it is to be skipped."""
        try:
            return self.read(source)
        except FAULTS as error:
            if self.on_error == "raise":
                raise
            return error

    def read(self, source: Any) -> Any:
        """An input as `prepare` and `assemble` take it; TypeError or ValueError for what is none."""
        return source

    def prepare(self, found: list[Any]) -> Iterator[Piece]:
        """The pieces of some inputs as `read` gave them, at least one of each, in order."""
        raise NotImplementedError

    def refusal(self, source: Any, why: str = "") -> TypeError:
        """The error for what is not an input of this task."""
        found = why or f"not a {type(source).__name__}: {shown(source)}"
        return TypeError(f"{type(self).__name__} takes {self.takes}, {found}.")

    def run(self, pieces: list[Piece]) -> Sequence[Any]:
        """What the model says about each piece of one batch, small and on the CPU."""
        raise NotImplementedError

    def assemble(self, found: Any, outputs: list[Any]) -> Any:
        """The result for one input, as `read` gave it, from what the model said about its pieces."""
        return outputs[0]


def _owned(sources: Iterable[Any], pieces: Iterable[Piece]) -> Iterator[Piece]:
    """Pieces with the inputs that they are of."""
    remaining, source, ended = iter(sources), None, True
    for piece in pieces:
        source = next(remaining) if ended else source
        piece.source, ended = source, piece.last
        yield piece


def place(device: Any) -> torch.device:
    """A device to compute on as torch has it; ValueError for one that is not here, and for one that holds nothing."""
    try:
        found = torch.empty(0, device=torch.device(single(device))).device
    except Exception as error:  # whatever torch raises is a reason
        reason = str(error).split("\n")[0]
        raise ValueError(f'device is {shown(device)}; it must be one that torch has here ("cpu"): {reason}') from None
    return holding(found)


def holding(device: torch.device) -> torch.device:
    """The device; ValueError for one without memory."""
    if device.type == "meta":
        raise ValueError("device is 'meta', which holds no weights to compute with; name another one.")
    return device


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Within it a model in training draws no dropout: the results of two calls are equal."""
    training = [module for module in model.modules() if module.training] if model.training else []
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def batched(items: Iterable[X], size: int) -> Iterator[list[X]]:
    """Consecutive lists of `size` items, the last one shorter, read as they are asked for."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def prefetched(items: Iterable[X], count: int) -> Iterator[X]:
    """The items in their order, of which a thread makes up to `count` before they are asked for; 0 for no thread."""
    if not count:
        yield from items
        return
    iterator, end = iter(items), cast(X, object())
    thread = ThreadPoolExecutor(1, "prefetch")
    waiting = deque(thread.submit(next, iterator, end) for _ in range(count))
    try:
        while (item := waiting.popleft().result()) is not end:
            waiting.append(thread.submit(next, iterator, end))
            yield item
    finally:
        thread.shutdown(cancel_futures=True)


def by_budget(sizes: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Indices in batches whose sizes sum to at most `budget`, largest first; a larger one is a batch of its own.

    Equal sizes come together, which attention on a CPU computes as one.
    """
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


class Bar(tqdm):
    """tqdm's bar, under a lock of this process alone.

    tqdm's lock is shared by all processes that were forked from one: where one of them is killed while it holds the
    lock, the others wait for it for ever.
    """

    _lock = threading.RLock()


def progress(total: int | None, unit: str, show: bool | None) -> tqdm:
    """A progress bar on stderr; left open (None), it shows on a terminal once the work has taken two seconds."""
    disable = not sys.stderr.isatty() if show is None else not show
    return Bar(total=total, unit=unit, disable=disable, delay=2.0 if show is None else 0.0)


FUNCTIONS = {"softmax": lambda logits: logits.softmax(-1), "sigmoid": Tensor.sigmoid, "none": lambda logits: logits}


class Classifier(Task):
    """A task whose results are classes: [{"label", "score"}], best first.

    Scores are a softmax, or a sigmoid for each label of a multi-label head and for a single label, or the bare numbers
    of a regression, as in transformers' pipelines, unless `function_to_apply` says "softmax", "sigmoid" or "none".
    `top_k` is how many classes are given, None for all.
    """

    options: ClassVar = {"top_k": or_none(COUNT), "function_to_apply": or_none(named(*FUNCTIONS))}
    top_k: int | None = None
    function_to_apply: str | None = None

    def __init__(self, model: Any, processor: Any, *more: Any) -> None:
        super().__init__(model, processor, *more)
        check_labels(model.config)

    def ranked(self, logits: Tensor) -> list[list[dict[str, Any]]]:
        """The results for scores (B, K)."""
        scores = FUNCTIONS[self.function_to_apply or usual_function(self.model.config)](logits.float().cpu())
        names = self.model.config.id2label
        found = [[{"label": label_of(names, index), "score": score} for index, score in enumerate(numbers)]
                 for numbers in scores.tolist()]  # fmt: skip
        return [sorted(items, key=lambda item: -item["score"])[: self.top_k] for items in found]


def usual_function(config: Any) -> str:
    """What makes scores of a classification head's logits, by its configuration."""
    kind = config.problem_type or ("multi_label_classification" if config.num_labels == 1 else "")
    return {"multi_label_classification": "sigmoid", "regression": "none"}.get(kind, "softmax")


def check_labels(config: Any) -> None:
    """Say so where `id2label` does not name each class from 0 on."""
    if unnamed := sorted(set(range(config.num_labels)) - {*config.id2label}):
        logger.warning(
            "id2label names the classes %s and not %s, so that names may stand beside the wrong scores; a class "
            "without a name is called LABEL_ and its number.",
            ", ".join(map(str, sorted(config.id2label))),
            ", ".join(map(str, unnamed)),
        )


def as_bytes(source: Any) -> Any:
    """The bytes that an open binary file or a buffer holds, from where it stands; what is neither, as it is."""
    if isinstance(source, (bytearray, memoryview)):
        return bytes(source)
    if not is_stream(source):
        return source
    try:
        start = source.tell()
        content = source.read()
        source.seek(start)  # it may be read again, as a recording is for its mean
    except (OSError, ValueError) as error:  # of a pipe, or of a file that is closed
        raise OSError(
            f"{shown(source)} cannot be read and set back ({error}); give the bytes that it holds."
        ) from error
    return content


def is_stream(source: Any) -> bool:
    """Whether this is an open binary file."""
    return hasattr(source, "read") and hasattr(source, "seek") and not isinstance(source, io.TextIOBase)


def label_of(names: Mapping[int, str], index: int) -> str:
    """The name of a class."""
    return names.get(index, f"LABEL_{index}")
