"""What a job is: its shards, by its inputs alone, and what makes it this one and no other."""

from __future__ import annotations

import glob
import json
import logging
import os
import pickle
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from minitrans import __version__, hub
from minitrans.corpora.tables import FORMATS, Column, Shard, listed, pyarrow, sentence, table
from minitrans.processing.kinds import shown
from minitrans.saving import atomic_file
from minitrans.tasks.base import Task
from minitrans.weights import digest

logger = logging.getLogger("minitrans")

ROWS, FILES = 16_384, 256  # of a shard
PREFETCH = 1  # lists of inputs that are tokenized, or decoded, while the model computes
JOB = "_job.json"  # engines that read a folder of parts leave out names that begin like this
# What a task takes, by its unit: the column of a table that holds it, and how its files end.
COLUMNS = {"text": "text", "image": "image", "s": "audio"}
ENDINGS = {
    "image": (".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"),
    "s": (
        ".aac", ".aif", ".aiff", ".flac", ".m4a", ".mkv", ".mov", ".mp3", ".mp4", ".oga", ".ogg", ".opus", ".wav",
        ".webm", ".wma",
    ),
    "text": tuple(FORMATS),
}  # fmt: skip
SUBTITLES = ("srt", "vtt")


@dataclass(frozen=True)
class Job:
    """What is done with every shard; it goes to the workers."""

    task: Any  # see `run`; a loaded one as a pickle where it goes to other processes
    kind: type[Task]
    folder: Path
    here: str  # the folder that paths, of the model too, are relative to
    columns: Sequence[str]
    keep: Sequence[str]
    form: str
    float16: bool
    budget: int | None
    as_input: Callable[[Any], Any] | None
    settings: Mapping[str, Any]

    def load(self, device: str | None = None) -> Task:
        """The task, on another device than it says where that is given, with its settings."""
        if isinstance(self.task, Task):
            task = self.task
        elif isinstance(self.task, bytes):
            task = pickle.loads(self.task)
        else:
            task = self.task(**({} if device is None else {"device": device}))
        task = task.with_options(**self.settings)
        task.prefetch = PREFETCH
        return task

    @property
    def device(self) -> Any:
        """Where the task is to be loaded."""
        return getattr(self.task, "keywords", {}).get("device")

    def sent(self) -> Job:
        """The job for other processes: of a loaded task, torch would move the tensors into shared memory."""
        return replace(self, task=pickle.dumps(self.task)) if isinstance(self.task, Task) else self

    def part(self, shard: Shard) -> Path:
        """The file of a shard's results."""
        return self.folder / f"part-{shard.number:06}.{'parquet' if self.form == 'parquet' else 'jsonl'}"

    def failures(self, shard: Shard) -> int | None:
        """How many rows of a finished shard have failed; None where its part is not there or not whole."""
        path = self.part(shard)
        try:
            if self.form == "parquet":
                errors = pyarrow("pyarrow.parquet").ParquetFile(path).read(["error"])["error"]
                rows, failed = len(errors), len(errors) - errors.null_count
            else:
                rows = failed = 0
                with path.open("rb") as stream:
                    for rows, line in enumerate(stream, 1):  # noqa: B007
                        failed += line.startswith(b'{"error"')
        except (OSError, ValueError):
            return None
        return failed if rows == shard.rows else None


@dataclass
class Batch:
    """Some rows of a shard: what identifies them, what is kept of them, inputs of the sound ones, errors of others."""

    files: Sequence[str]
    first: int | None
    kept: dict[str, Column] = field(default_factory=dict)
    inputs: list[Any] = field(default_factory=list)
    errors: list[str | None] = field(default_factory=list)
    targets: Sequence[str] = ()


def batches(job: Job, shard: Shard, size: int) -> Iterator[Batch]:
    """A shard's rows."""
    if shard.files:
        for start in range(0, len(shard.files), size):
            files = shard.files[start : start + size]
            targets = shard.targets[start : start + size]
            yield Batch(list(map(_shown_name, files)), None, {}, list(files), [None] * len(files), targets)
        return
    first, names = shard.first, [*job.columns, *job.keep]
    for columns in table(shard.path).read(shard, names, size):
        given = [listed(column) for column in columns[: len(job.columns)]]
        batch = Batch([_shown_name(shard.path)] * len(given[0]), first)
        for name, column in zip(job.keep, columns[len(job.columns) :], strict=True):
            values = column if hasattr(column, "to_pylist") else [None if _is_error(x) else x for x in column]
            batch.kept[name] = values
        for values in zip(*given, strict=True):
            wrong = next((value for value in values if _is_error(value) or value is None), "")
            if wrong == "":
                batch.inputs.append(as_input_of(values, job.as_input))
            null = job.columns[values.index(None)] if wrong is None else ""
            batch.errors.append(f"The column {null!r} holds nothing here." if null else str(wrong) or None)
        first += len(batch.errors)
        yield batch


def _is_error(value: Any) -> bool:
    return isinstance(value, ValueError)


def as_input_of(values: tuple[Any, ...], shape: Callable[[Any], Any] | None) -> Any:
    """An input of the columns' values: that of a single one, shaped, or a tuple of several."""
    return values if len(values) > 1 else shape(values[0]) if shape else values[0]


def _shown_name(path: str) -> str:
    """A path as text, whatever its bytes are."""
    return os.fsencode(path).decode(errors="backslashreplace")


def found(sources: Sequence[str], output: str, kind: type[Task]) -> dict[str, str]:
    """The files that are named, in their order, each once, and their names below the folder that they were found in.

    Of folders those that end as what the task takes; nothing in the folder `output`, which none may be or lie in.
    """
    files: dict[str, str] = {}
    seen: set[str] = set()

    def is_inside(path: str) -> bool:
        return f"{os.path.abspath(path)}{os.sep}".startswith(f"{output}{os.sep}")

    def is_hidden(folder: str, name: str) -> bool:
        return name.startswith(".") or is_inside(os.path.join(folder, name))

    def add(path: str, name: str) -> None:
        whole = os.path.abspath(path)
        if whole not in seen and not is_inside(path):
            seen.add(whole)
            files[path] = name

    for source in sources:
        if is_inside(source):
            raise ValueError(f"{source} lies in the folder of the results, {output}; choose another folder for them.")
        if os.path.isdir(source):
            others = 0
            for folder, folders, names in os.walk(source):
                folders[:] = sorted(name for name in folders if not is_hidden(folder, name))
                for name in sorted(names):
                    path = os.path.join(folder, name)
                    if Path(name).suffix.lower() not in ENDINGS[kind.unit] or is_hidden(folder, name):
                        others += 1
                    else:
                        add(path, os.path.relpath(path, source))
            if others:
                logger.warning("%s also holds %d files of other kinds, which are left out.", source, others)
        elif os.path.isfile(source):
            add(source, os.path.basename(source))
        else:
            matches = [path for path in sorted(glob.glob(source, recursive=True)) if os.path.isfile(path)]
            if not matches:
                raise FileNotFoundError(f"There is no file or folder {source}, and nothing that it is a pattern of.")
            for path in matches:
                add(path, os.path.basename(path))
    if not files:
        where, endings = ", ".join(sources) or "no source", ", ".join(ENDINGS[kind.unit])
        raise FileNotFoundError(f"There is no file for {kind.__name__} in {where}; of folders it takes {endings}.")
    return files


def _plan(job: Job, files: Mapping[str, str], rows: int | None) -> list[Shard]:
    """The shards of the files; those that are not tables are inputs themselves and come last."""
    _check_columns(job, files)
    shards: list[Shard] = []
    for path in files:
        if _is_table(job.kind, path):
            for first, count, offset in table(path).cut(rows or ROWS):
                shards.append(Shard(len(shards), path, first, count, offset))
    inputs = [path for path in files if not _is_table(job.kind, path)]
    targets = _targets(job.form, [files[path] for path in inputs]) if job.form in SUBTITLES else []
    for start in range(0, len(inputs), rows or FILES):
        part = slice(start, start + (rows or FILES))
        shards.append(Shard(len(shards), "", start, len(inputs[part]), 0, inputs[part], targets[part]))
    return shards


def _is_table(kind: type[Task], path: str) -> bool:
    return kind.unit == "text" or Path(path).suffix.lower() in FORMATS


def _targets(form: str, names: Sequence[str]) -> list[str]:
    """A file of subtitles for each sound: with its ending where two have one name but for it."""
    stems = Counter(os.path.splitext(name)[0] for name in names)
    targets = [
        f"{stem if stems[stem] == 1 else name}.{form}" for name in names for stem in [os.path.splitext(name)[0]]
    ]
    if twice := [target for target, count in Counter(targets).items() if count > 1]:
        raise ValueError(f"Two sounds would both have {twice[0]} of their own; do them in two jobs, with two folders.")
    return targets


def _check_columns(job: Job, files: Iterable[str]) -> None:
    """ValueError for a table without one of the columns, or with another type than one before."""
    seen: dict[str, tuple[str, str]] = {}
    for path in files:
        whole, is_table = path, _is_table(job.kind, path)
        wanted = [*job.columns, *job.keep] if is_table else job.keep
        types = table(whole).types() if is_table else {}
        types = dict.fromkeys(wanted, "string") if types is None else types
        for name in wanted if types or not is_table or os.path.getsize(whole) else ():  # an empty file has no rows
            if name not in types:
                raise ValueError(f"{path} has no column {name!r}; it has {', '.join(map(repr, types)) or 'none'}.")
            other, kind = seen.setdefault(name, (path, types[name]))
            if types[name] != kind:
                raise ValueError(f"{name!r} is {types[name]} in {path} and {kind} in {other}; do them in two jobs.")


def _identity(job: Job, model: Mapping[str, Any], files: Iterable[str], rows: int | None) -> dict[str, Any]:
    """What makes a job this one and no other, as JSON has it."""
    shape = getattr(job.as_input, "func", job.as_input)
    about = {
        "minitrans": __version__, "layout": 1, "task": job.kind.__name__, **model,
        "settings": {name: value if _is_json(value) else shown(value, 999) for name, value in job.settings.items()},
        "input": shape and [shape.__name__, *getattr(job.as_input, "args", ())],
        "columns": job.columns, "keep": job.keep, "format": job.form, "float16": job.float16,
        "rows of a shard": rows, "sources": [
            [path, *_stamp(path)] for path in files
        ],
    }  # fmt: skip
    return json.loads(json.dumps(about))


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def _stamp(path: str) -> tuple[int, int]:
    stat = os.stat(path)
    return stat.st_size, stat.st_mtime_ns


def pinned(task: Any) -> tuple[dict[str, Any], Any]:
    """What tells a task's model from any other, and the task, whose workers load that one from the hub."""
    if isinstance(task, Task):
        own = {name: value for name, value in vars(task).items() if _is_json(value)}
        return {"model": type(task.model).__name__, "digest": digest(task.model.state_dict()), "attributes": own}, task
    name, options = task.args[0], {key: value for key, value in task.keywords.items() if key != "device"}
    repository, _ = hub.open_with(name, options)
    loading = {key: str(value) for key, value in options.items() if value not in (None, False) and key != "token"}
    model = {"model": str(name), "digest": repository.identity(), "loading": loading}
    on_hub = isinstance(repository, hub.HubRepository)
    return model, partial(task, revision=model["digest"]) if on_hub else task


def begun(job: Job, model: Mapping[str, Any], files: Mapping[str, str], rows: int | None) -> list[Shard]:
    """The shards of the job in the folder, which is begun where there is none; ValueError where there is another."""
    path, identity = job.folder / JOB, _identity(job, model, files, rows)
    try:
        there = json.loads(path.read_bytes())
        shards = [Shard(**shard) for shard in there.pop("shards")]
    except FileNotFoundError:
        if parts := sorted(job.folder.glob("part-*")):
            raise ValueError(f"{job.folder} holds {parts[0].name} and no {JOB}; choose another folder.") from None
        shards = _plan(job, files, rows)
        for target in chain.from_iterable(shard.targets for shard in shards):
            if (job.folder / target).exists():
                raise FileExistsError(f"{job.folder / target} is there already; choose another folder.") from None
        with atomic_file(path) as stream:
            stream.write(json.dumps({**identity, "shards": [asdict(shard) for shard in shards]}).encode())
        return shards
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} does not say what was begun there ({sentence(error)}); choose another.") from error
    differs = [key for key in {**there, **identity} if there.get(key) != identity.get(key)]
    if differs and differs != ["model"]:  # which is the same where it has been moved
        key, (was, now) = differs[0], (there.get(differs[0]), identity.get(differs[0]))
        if isinstance(was, list) and isinstance(now, list):  # show what differs in them
            was, now = ([item for item in one if item not in other] for one, other in ((was, now), (now, was)))
        raise ValueError(
            f"{job.folder} holds another job, with {shown(was)} for {key!r} and not {shown(now)}; choose another "
            "folder, or remove that one."
        )
    return shards
