"""A shard's results as a file: Parquet, or JSON Lines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

from minitrans.corpora.jobs import Batch, Job
from minitrans.corpora.tables import Column, Shard, listed, pyarrow, table
from minitrans.tasks.base import Task

OWN = ("file", "row", "vector", "vectors", "answer", "error")  # the columns of a part
LABELLED = {"label": "", "score": 0.0}
RANKED = {"index": 0, "score": 0.0, "text": ""}
TIMES = {"start": 0.0, "end": 0.0}
PLACES = {"start": 0, "end": 0}
# A result of each kind of task, of which its type in Parquet is made; that of any other task is its JSON.
EXAMPLES: dict[str, Any] = {
    "Classifier": [LABELLED], "ZeroShotClassifier": [LABELLED], "NextSentenceClassifier": [LABELLED],
    "EntityRecognizer": [{**LABELLED, "text": "", "word": "", **PLACES, "index": 0}],
    "MaskFiller": [[{"token": "", "score": 0.0, "id": 0}]],
    "QuestionAnswerer": [{"answer": "", "score": 0.0, **PLACES}],
    "ListTask": [RANKED],
    "FrameClassifier": [{**LABELLED, **TIMES}],
    "Transcriber": {"text": "", "words": [{"word": "", **TIMES}], "characters": [{"character": "", **TIMES}]},
    "Task": "",
}  # fmt: skip


def column_of(task: Task) -> str:
    """What the column of a task's results is called."""
    return "answer" if task.shape is None else ("vector", "vectors")[len(task.shape) - 1]


class ParquetPart:
    """Results as Parquet: `file`, `row`, what is kept, `vector`, `vectors` or `answer`, and `error`."""

    def __init__(self, job: Job, task: Task, shard: Shard, stream: BinaryIO) -> None:
        self.pa, self.task, self.dtype = pyarrow(), task, np.float16 if job.float16 else np.float32
        pa = self.pa
        if task.shape is None:
            example = next(EXAMPLES[base.__name__] for base in type(task).__mro__ if base.__name__ in EXAMPLES)
            self.type = pa.array([example]).type
        else:
            self.type = pa.list_(pa.from_numpy_dtype(self.dtype), task.shape[-1])
            self.type = self.type if len(task.shape) == 1 else pa.list_(self.type)
        kept = {} if shard.files else table(shard.path).kept(job.keep)
        fields = [("file", pa.string()), ("row", pa.int64()), *kept.items(), (column_of(task), self.type)]
        self.schema = pa.schema([*fields, ("error", pa.string())])
        # A dictionary is of use where many values are equal.
        self.writer = pyarrow("pyarrow.parquet").ParquetWriter(stream, self.schema, use_dictionary=["file"])

    def write(self, batch: Batch, results: list[Any], errors: list[str | None]) -> None:
        """Append rows; of those with an error the results are None."""
        pa, count = self.pa, len(errors)
        column = self._results(results) if self.task.shape is None else self._arrays(results, errors)
        rows = [None] * count if batch.first is None else np.arange(batch.first, batch.first + count)
        kept = [self._kept(values, self.schema.field(name).type) for name, values in batch.kept.items()]
        columns = [pa.array(batch.files, pa.string()), pa.array(rows, pa.int64()), *kept, column]
        self.writer.write_batch(pa.record_batch([*columns, pa.array(errors, pa.string())], schema=self.schema))

    def _results(self, results: list[Any]) -> Any:
        if self.type == self.pa.string():
            results = [None if result is None else _json(result) for result in results]
        elif self.pa.types.is_list(self.type):  # a single result where there may be several
            results = [[result] if isinstance(result, Mapping) else result for result in results]
        return self.pa.array(results, self.type)

    def _arrays(self, results: list[Any], errors: list[str | None]) -> Any:
        """Vectors as one array of numbers, with no Python object for each."""
        with np.errstate(over="ignore"):
            arrays = [None if result is None else result.astype(self.dtype) for result in results]
        for number, (result, array) in enumerate(zip(results, arrays, strict=True)):
            if array is not None and not np.isfinite(array).all() and np.isfinite(result).all():
                arrays[number] = None
                errors[number] = (
                    f"The vector has a component of {np.abs(result).max():.6g}, and float16 ends at 65504."
                )
        pa, shape = self.pa, self.task.shape or ()
        mask = pa.array([array is None for array in arrays])
        nothing = np.zeros([size or 0 for size in shape], self.dtype)
        filled = [nothing if array is None else array for array in arrays]
        flat = pa.array(np.concatenate([array.reshape(-1) for array in filled]))
        if len(shape) == 1:
            return pa.FixedSizeListArray.from_arrays(flat, type=self.type, mask=mask)
        vectors = pa.FixedSizeListArray.from_arrays(flat, type=self.type.value_type)
        offsets = np.cumsum([0, *map(len, filled)], dtype=np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), vectors, type=self.type, mask=mask)

    def _kept(self, values: Column, kind: Any) -> Any:
        if hasattr(values, "to_pylist"):
            return values.cast(kind)
        known = map(_finite, values)
        return self.pa.array([x if x is None or isinstance(x, str) else _json(x) for x in known], kind)

    def close(self) -> None:
        """Write the end of the file."""
        self.writer.close()


class JsonPart:
    """Results as JSON Lines: a row's `file`, `row`, what is kept and its result; or first of all its `error`."""

    def __init__(self, job: Job, task: Task, shard: Shard, stream: BinaryIO) -> None:
        self.name, self.stream = column_of(task), stream

    def write(self, batch: Batch, results: list[Any], errors: list[str | None]) -> None:
        """Append rows; of those with an error the results are None."""
        kept = {name: listed(values) for name, values in batch.kept.items()}
        for number, result in enumerate(results):
            row = {"file": batch.files[number], **({} if batch.first is None else {"row": batch.first + number})}
            row |= {name: _finite(values[number]) for name, values in kept.items()}
            if errors[number] is None:
                try:
                    line = _json({**row, self.name: result.tolist() if hasattr(result, "tolist") else result})
                except ValueError as error:
                    errors[number] = f"The result cannot be written as JSON: {error}."
            if errors[number] is not None:
                line = _json({"error": errors[number], **row})
            self.stream.write(f"{line}\n".encode(errors="backslashreplace"))

    def close(self) -> None:
        """Nothing more to write."""


def _finite(value: Any) -> Any:
    """A value as JSON has it, with None for NaN and infinite numbers, in which tables write what is missing."""
    return json.loads(json.dumps(value, default=str), parse_constant=lambda name: None)


def _json(value: Any) -> str:
    """A value on one line; ValueError for numbers that JSON has not. What it does not know is written as text."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, default=str)
