"""Tables, a shard of rows at a time: Parquet, JSON Lines, CSV, and the lines of a text file.

What one row is at fault for takes its value's place; what a file is at fault for is an error.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from typing_extensions import override

from minitrans.processing.kinds import shown
from minitrans.tasks.base import FAULTS, batched

LONGEST = 2**24  # bytes of a line
UNREADABLE = (*FAULTS, RecursionError)


@dataclass(frozen=True)
class Shard:
    """`rows` of the table at `path` from the row `first`, which begins at the byte `offset`; or else `files`.

    `targets` are the names of the subtitles that are made of the files.
    """

    number: int
    path: str
    first: int
    rows: int
    offset: int = 0
    files: Sequence[str] = ()
    targets: Sequence[str] = ()


Column: TypeAlias = Any  # a list, or an array of pyarrow's; what could not be read is a ValueError in its place


class Lines:
    """A table of one column, "text": the lines of a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def types(self) -> Mapping[str, str] | None:
        """The columns and their types, None where every row says that for itself."""
        return {"text": "string"}

    def kept(self, names: Sequence[str]) -> dict[str, Any]:
        """The types in Parquet of columns that are kept: what is not text becomes its JSON."""
        return dict.fromkeys(names, pyarrow().string())

    def cut(self, rows: int) -> Iterator[tuple[int, int, int]]:
        """Where each shard of `rows` rows begins: the number of its first row, how many it has, and the byte."""
        starts, count, place, last = [0], 0, 0, b"\n"
        with open(self.path, "rb") as stream:
            while chunk := stream.read(2**20):
                ends = np.flatnonzero(np.frombuffer(chunk, np.uint8) == ord("\n"))
                starts += (place + 1 + ends[-(count + 1) % rows :: rows]).tolist()
                count, place, last = count + len(ends), place + len(chunk), chunk[-1:]
        count += last != b"\n"
        for number, start in enumerate(starts[: math.ceil(count / rows)]):
            yield number * rows, min(rows, count - number * rows), start

    def read(self, shard: Shard, names: Sequence[str], size: int) -> Iterator[list[Column]]:
        """The values of some columns in a shard, up to `size` rows at a time; OSError where the file has changed."""
        with open(self.path, "rb") as stream:
            stream.seek(shard.offset)
            rows = self.values_of(stream, range(shard.first, shard.first + shard.rows), names)
            for batch in batched(rows, size):
                yield [list(column) for column in zip(*batch, strict=True)]

    def values_of(self, stream: BinaryIO, numbers: range, names: Sequence[str]) -> Iterator[Sequence[Any]]:
        """The values of each row."""
        for number in numbers:
            values = self.record(stream, number, names)
            if values is None:
                raise self.ended(number)
            yield values

    def record(self, stream: BinaryIO, number: int, names: Sequence[str]) -> Sequence[Any] | None:
        """The values of the row with this number, at which the stream stands; None at the end."""
        line = stream.readline(LONGEST)
        if not line:
            return None
        try:
            if len(line) == LONGEST and not line.endswith(b"\n"):
                while (rest := stream.readline(LONGEST)) and not rest.endswith(b"\n"):
                    pass
                raise ValueError(f"the line is longer than {LONGEST} bytes.")
            return self.values(line.removeprefix(b"\xef\xbb\xbf" if number == 0 else b"").rstrip(b"\r\n"), names)
        except UNREADABLE as error:
            return [_unread(error)] * len(names)

    def values(self, line: bytes, names: Sequence[str]) -> Sequence[Any]:
        """The values in one line."""
        return [line.decode()]

    def ended(self, number: int) -> OSError:
        """The error for a file that has become shorter."""
        return OSError(f"{self.path} ends before its row {number}: it has changed since the job began.")


class JsonLines(Lines):
    """A table in JSON Lines: an object a line, or a text alone."""

    @override
    def types(self) -> None:
        return None

    @override
    def values(self, line: bytes, names: Sequence[str]) -> Sequence[Any]:
        row = json.loads(line)
        if b"\\u" in line:
            json.dumps(row, ensure_ascii=False).encode()  # raises for half a surrogate pair
        if isinstance(row, str) and len(names) == 1:
            return [row]
        if not isinstance(row, dict):
            raise ValueError(f"{shown(row)} is not a JSON object.")
        if missing := [name for name in names if name not in row]:
            raise ValueError(f"there is no column {missing[0]!r} among {', '.join(map(repr, row)) or 'none'}.")
        return [row[name] for name in names]


class Csv(Lines):
    """A table in CSV, or with tabs in TSV, whose first row names the columns; empty lines are left out."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.place, self.separator = 0, "\t" if path.lower().endswith(".tsv") else ","
        csv.field_size_limit(max(csv.field_size_limit(), LONGEST))

    def rows(self, stream: BinaryIO) -> Iterator[list[str]]:
        """The rows from where the stream stands; `place` is the byte after the last one."""
        self.place = stream.tell()

        def lines() -> Iterator[str]:
            for line in stream:
                skipped = 3 if self.place == 0 and line.startswith(b"\xef\xbb\xbf") else 0
                self.place += len(line)
                yield line[skipped:].decode(errors="surrogateescape")

        try:
            yield from filter(None, csv.reader(lines(), delimiter=self.separator, strict=True))
        except csv.Error as error:
            raise ValueError(f"{self.path} cannot be read as CSV before byte {self.place}: {error}.") from error

    @override
    def types(self) -> Mapping[str, str]:
        with open(self.path, "rb") as stream:
            names = next(self.rows(stream), [])
        return _once(self.path, names, ["string"] * len(names))

    @override
    def cut(self, rows: int) -> Iterator[tuple[int, int, int]]:
        first, count, start = 0, 0, 0
        with open(self.path, "rb") as stream:
            for count, _ in enumerate(self.rows(stream)):
                if count == first:  # the header, or the last row of a shard
                    if count:
                        yield first - rows, rows, start
                    first, start = first + rows, self.place
        if first and count > first - rows:
            yield first - rows, count - (first - rows), start

    @override
    def values_of(self, stream: BinaryIO, numbers: range, names: Sequence[str]) -> Iterator[Sequence[Any]]:
        header = [*self.types()]
        rows = self.rows(stream)
        for number in numbers:
            row = next(rows, None)
            if row is None:
                raise self.ended(number)
            try:
                if len(row) != len(header):
                    raise ValueError(f"{len(row)} fields stand below {len(header)} names of columns.")
                values = [row[header.index(name)] for name in names]
                for value in values:
                    value.encode("utf-8", "surrogateescape").decode()
                yield values
            except ValueError as error:
                yield [_unread(error)] * len(names)


class Parquet(Lines):
    """A table in Parquet."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        parquet = pyarrow("pyarrow.parquet")
        with self.named():
            # Without `pre_buffer` and with a buffer, a row group is read page by page.
            self.file = parquet.ParquetFile(path, pre_buffer=False, buffer_size=2**20)

    @contextmanager
    def named(self) -> Iterator[None]:
        """Errors within say which file cannot be read."""
        try:
            yield
        except (OSError, ValueError) as error:
            raise ValueError(f"{self.path} cannot be read as Parquet: {sentence(error)}") from error

    @override
    def types(self) -> Mapping[str, str]:
        schema = self.file.schema_arrow
        return _once(
            self.path,
            schema.names,
            [re.sub(r"^large_string$|^string_view$", "string", str(kind)) for kind in schema.types],
        )

    @override
    def kept(self, names: Sequence[str]) -> dict[str, Any]:
        types, string = self.types(), pyarrow().string()
        schema = self.file.schema_arrow
        return {name: string if types[name] == "string" else schema.field(name).type for name in names}

    @override
    def cut(self, rows: int) -> Iterator[tuple[int, int, int]]:
        count = self.file.metadata.num_rows
        for first in range(0, count, rows):
            yield first, min(rows, count - first), 0

    @override
    def read(self, shard: Shard, names: Sequence[str], size: int) -> Iterator[list[Column]]:
        skipped, left, place, groups = shard.first, shard.rows, 0, []
        for group in range(self.file.num_row_groups):
            count = self.file.metadata.row_group(group).num_rows
            if place + count <= shard.first:
                skipped -= count
            elif place < shard.first + shard.rows:
                groups.append(group)
            place += count
        with self.named():
            for batch in self.file.iter_batches(size, row_groups=groups, columns=[*dict.fromkeys(names)]):
                if skipped < len(batch) and left:
                    part = batch.slice(skipped, left)
                    left -= len(part)
                    yield [part.column(name) for name in names]
                skipped = max(0, skipped - len(batch))
        if left:
            raise self.ended(shard.first + shard.rows - left)


FORMATS: dict[str, type[Lines]] = {
    ".txt": Lines, ".jsonl": JsonLines, ".ndjson": JsonLines, ".csv": Csv, ".tsv": Csv, ".parquet": Parquet,
}  # fmt: skip


def table(path: str) -> Lines:
    """The table in a file, by the name's ending."""
    return FORMATS.get(Path(path).suffix.lower(), Lines)(path)


def _once(path: str, names: Sequence[str], types: Sequence[str]) -> dict[str, str]:
    """Types by their names; ValueError where a name is there twice."""
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"{path} has more than one column {repeated[0]!r}; give them different names.")
    return dict(zip(names, types, strict=True))


def _unread(error: Exception) -> ValueError:
    """What stands in place of a value that could not be read, with its sentence."""
    is_encoding = isinstance(error, UnicodeError)
    return ValueError(f"It is not UTF-8 text: {error}." if is_encoding else sentence(error))


def sentence(error: BaseException) -> str:
    """What an error says, in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def pyarrow(module: str = "pyarrow") -> Any:
    """A module of pyarrow; ImportError, with what to install, where there is none."""
    try:
        return __import__(module, fromlist=[""])
    except ImportError as error:
        raise ImportError('Parquet needs pyarrow: pip install "minitrans[corpora]".') from error


def listed(column: Column) -> list[Any]:
    """A column as a list."""
    if not hasattr(column, "to_pylist"):
        return column.tolist() if hasattr(column, "tolist") else list(column)
    try:
        return column.to_pylist()
    except UnicodeDecodeError:  # which of them is not UTF-8 shows one by one
        return [_text(scalar) for scalar in column]


def _text(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError as error:
        return _unread(error)
