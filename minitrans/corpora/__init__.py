"""Whole corpora: shards of files in, a file of results for each out, over processes, machines and crashes.

A job is cut into shards by its inputs alone, so that any number of workers anywhere does the same work, and each shard
is computed by itself, so that the batches in it are the same too. The folder of a job holds `_job.json`, which says
what is done and where each shard begins, and `part-000000.parquet` (or `.jsonl`) for the first shard, and so on. A
part is written under another name and renamed once it is on the disk: what has its final name is whole, and a job that
is started again goes on with the shards that have no part. See docs/corpora.md.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from minitrans.corpora.jobs import COLUMNS, JOB, SUBTITLES, Job, as_input_of, begun, found, pinned
from minitrans.corpora.parts import OWN, column_of
from minitrans.corpora.tables import Shard, listed
from minitrans.corpora.workers import by_processes, by_ray, here, outcomes
from minitrans.processing.kinds import shown
from minitrans.saving import locked, made, sweep
from minitrans.tasks.base import Task, progress
from minitrans.tasks.options import COUNT, SWITCH, TEXTS, kept, one_of, or_none, read_all

# What may be said of a job beside the settings of its task.
SETTINGS = {
    **dict.fromkeys(("workers", "rows", "budget"), or_none(COUNT)), "column": or_none(TEXTS), "keep": TEXTS,
    "form": or_none(one_of("parquet", "jsonl", *SUBTITLES)), "float16": SWITCH, "show_progress": or_none(SWITCH),
}  # fmt: skip


@dataclass(frozen=True)
class Done:
    """What a job came to: rows, how many of them failed in all, and the shards that have no part, with the reasons."""

    rows: int
    failed: int
    first: str | None  # of the errors of this run
    missing: Mapping[str, str]


def run(
    task: Any,
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    workers: int | None = None,
    ray: bool | str = False,
    column: str | Sequence[str] | None = None,
    keep: Sequence[str] = (),
    form: str | None = None,
    float16: bool = False,
    rows: int | None = None,
    budget: int | None = None,
    as_input: Callable[[Any], Any] | None = None,
    show_progress: bool | None = None,
    **settings: Any,
) -> Done:
    """Do a task for all rows of tables, or all files, and write the results into the folder `output`.

    Begun again, with the same arguments, it goes on where it was ended. A row that fails has its error in its place.

    Args:
        task: a loaded task, or what loads one in each worker, such as `partial(Embedder.from_pretrained, "folder")`.
        source: files, folders and patterns of these. Tables are Parquet, JSON Lines, CSV, TSV and lines of text.
        output: the folder of the job, new or with a part of this job's results.
        workers: how many do it at a time, each a process with its share of torch's threads; 1 is this process. On a
            cluster it is the number of actors, by default one a machine, or one a GPU.
        ray: True for a Ray cluster that is started here, or the address of one.
        column: of a table, what holds the input, or several whose values make one, as (text, text_pair); by default
            "text", "image" or "audio".
        keep: columns of a table that the results get too.
        form: "parquet" (by default for vectors), "jsonl", or "srt" or "vtt": subtitles for each sound beside.
        float16: whether vectors are written in half the bytes.
        rows: how many rows or files a shard has, by default 16,384 rows or 256 files.
        budget: of a batch, as in `Task.__call__`.
        as_input: a function of a module that makes an input of a column's value.
        show_progress: whether a bar is shown; by default on a terminal.
        settings: those of the task.

    Raises ValueError or TypeError for settings that cannot be and for a table without a column, FileNotFoundError,
    OSError where results cannot be written, and ImportError without pyarrow or Ray where they are needed.

    >>> from pathlib import Path
    >>> from minitrans import Embedder, corpora
    >>> embedder = Embedder.from_pretrained("sentence-transformers/all-MiniLM-L6-v2")
    >>> _ = Path("texts.txt").write_text("A text.")
    >>> corpora.run(embedder, "texts.txt", "vectors").rows
    1
    >>> sorted(path.name for path in Path("vectors").iterdir())
    ['_job.json', 'part-000000.parquet']
    """
    kind = _kind(task)
    given = read_all(
        {
            "workers": workers, "rows": rows, "budget": budget, "float16": float16, "form": form, "column": column,
            "keep": keep, "show_progress": show_progress,
        },
        SETTINGS,
    )  # fmt: skip
    workers, rows, budget, show_progress = (given[name] for name in ("workers", "rows", "budget", "show_progress"))
    form, keep, float16 = given["form"], given["keep"], given["float16"]
    if form in SUBTITLES:
        if not hasattr(kind, "characters"):
            raise ValueError(f"Subtitles are made of speech; {kind.__name__} gives none.")
        settings["characters"] = True
    form = form or ("parquet" if kind.shape is not Task.shape else "jsonl")
    if float16 and (form != "parquet" or kind.shape is Task.shape):
        raise ValueError("float16 is for vectors in Parquet.")
    if taken := [name for name in keep if name in OWN]:
        raise ValueError(f"A part has a column {taken[0]!r} of its own; name another one to keep.")
    columns = given["column"] or [COLUMNS[kind.unit]]
    model, task = pinned(task)
    job = Job(
        task, kind, Path(os.path.abspath(output)), os.getcwd(),
        columns, keep, form, float16, budget, as_input, kept(settings),
    )  # fmt: skip
    sources = [source] if isinstance(source, (str, os.PathLike)) else list(source)
    if job.folder.exists() and not job.folder.is_dir():
        raise NotADirectoryError(f"{output} is a file; name a folder for the results.")
    files = found([os.fspath(item) for item in sources], os.fspath(job.folder), kind)
    with made(job.folder), locked(job.folder, waits=False) as is_ours:
        if is_ours is False:
            raise ValueError(f"Another process is at work in {output}; wait for it, or choose another folder.")
        sweep(job.folder)
        shards = begun(job, model, files, rows)
        try:
            return _run(job, shards, workers, ray, show_progress)
        except Exception:
            sweep(job.folder)
            if os.listdir(job.folder) == [JOB]:  # nothing is done, and the next try may be another job
                (job.folder / JOB).unlink()
            raise
        finally:
            sweep(job.folder)


def _run(job: Job, shards: list[Shard], workers: int | None, ray: bool | str, show_progress: bool | None) -> Done:
    finished = {shard.number: job.failures(shard) for shard in shards}
    todo = [shard for shard in shards if finished[shard.number] is None]
    failed = sum(count or 0 for count in finished.values())
    total, left = sum(shard.rows for shard in shards), sum(shard.rows for shard in todo)
    first, missing = None, {}
    with progress(total, {"s": "sound"}.get(job.kind.unit, job.kind.unit), show_progress) as bar:
        bar.update(total - left)
        bar.initial = total - left  # what the rate leaves out
        advance = bar.update
        if ray:
            outcomes = by_ray(job.sent(), todo, advance, workers, "local" if ray is True else ray)
        elif (workers or 1) > 1:
            outcomes = by_processes(job.sent(), todo, advance, workers or 1)
        else:
            outcomes = here(job, todo, advance)
        with closing(outcomes):
            for outcome in outcomes if todo else ():
                failed, first = failed + outcome.failed, first or outcome.first
                if outcome.error is not None and outcome.is_fatal:
                    raise outcome.error
                if outcome.error is not None:
                    missing[job.part(shards[outcome.number]).name] = str(outcome.error)
    return Done(total, failed, first, missing)


def _kind(task: Any) -> type[Task]:
    """The class of a task that is loaded or to be loaded."""
    if isinstance(task, Task):
        return type(task)
    kind = getattr(getattr(task, "func", None), "__self__", None)
    if not (isinstance(task, partial) and isinstance(kind, type) and issubclass(kind, Task) and len(task.args) == 1):
        raise TypeError(
            f"task is {shown(task)}; it must be a loaded task, or what loads one, such as "
            'functools.partial(Embedder.from_pretrained, "folder").'
        )
    return kind


class Mapper:
    """A task as a function of batches, for engines that bring the rows themselves.

    It gives back a batch with the columns `vector` (`vectors`, or `answer`) and `error`, for Ray Data's `map_batches`,
    `datasets.map(batched=True)` and Spark's `mapInPandas`: a batch is a mapping of columns, a data frame of pandas, or
    an iterator of these. `task`, `column` and the settings are as in `run`. Of a row that fails the result is None, a
    vector in a mapping NaN in all components, and the error a sentence; else the error is "".
    """

    def __init__(self, task: Any, column: str | Sequence[str] | None = None, **settings: Any) -> None:
        kind = _kind(task)
        self.columns = read_all({"column": column}, SETTINGS)["column"] or [COLUMNS[kind.unit]]
        self.task, self.settings = task, kept(settings)
        self.loaded: Task | None = None

    def __getstate__(self) -> dict[str, Any]:
        # As bytes: what hashes functions by their code, as datasets does for its cache, need not look into the task.
        return {**vars(self), "task": pickle.dumps(self.task), "loaded": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, task=pickle.loads(state["task"]))

    def __call__(self, batch: Any) -> Any:
        """The batch with its results."""
        if not isinstance(batch, Mapping) and not hasattr(batch, "columns"):
            return map(self, batch)
        if self.loaded is None:
            task = self.task if isinstance(self.task, Task) else self.task()
            self.loaded = task.with_options(**self.settings)
        task, columns = self.loaded, [listed(batch[name]) for name in self.columns]
        found = list(outcomes(task, [as_input_of(values, None) for values in zip(*columns, strict=True)]))
        results: Any = [result for result, _ in found]
        is_frame = hasattr(batch, "assign")
        if task.shape is not None and len(task.shape) == 1 and not is_frame:
            nothing = np.full(task.shape[0] or 0, np.nan, np.float32)
            filled = [nothing if result is None else result for result in results]
            results = np.stack(filled or [nothing])[: len(found)]
        new = {column_of(task): results, "error": [error or "" for _, error in found]}
        return batch.assign(**new) if is_frame else {**batch, **new}
