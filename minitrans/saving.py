"""One folder, many processes: all files of a save appear together or not at all.

A save writes into a hidden folder `.saving-…` inside the one that it saves into, the one place that is certain to be
writable and on the same file system. Once every file is on the disk, a note of that, `.saved.json`, is renamed to its
place: from here the save counts, and its files move to theirs. A process that dies before leaves the old files; one
that dies after leaves what the next who opens the folder, or saves into it, moves to its place.

An advisory lock on the folder itself keeps savers apart, and readers out of the moment in which files move. It leaves
no file behind, and ends with the process that holds it, which also tells the living's `.saving-…` from the dead's.
"""

import errno
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

try:
    import fcntl
except ImportError:  # Windows, which flushes no folder either
    fcntl = None  # type: ignore[assignment]

WRITING, NOTE = ".saving-", ".saved.json"
UNFINISHED = ".writing-"  # a file alone


@contextmanager
def atomic_folder(
    folder: str | os.PathLike[str], is_replaced: Callable[[str], bool] = lambda filename: False
) -> Iterator[Path]:
    """Give a temporary folder whose files replace those of the same name in `folder` when the block ends well.

    Where the block raises, or a file cannot be moved to its place, nothing has changed. Old files that `is_replaced`
    names, and no new one does, go too. Raises TypeError or ValueError where `folder` is no path, NotADirectoryError
    where it is a file, and OSError of one sentence where something cannot be written.
    """
    folder = folder_path(folder)
    with ExitStack() as stack:
        writing = folder
        try:
            stack.enter_context(made(folder))
            with locked(folder):
                _settle(folder)
                _sweep(folder)
                writing = Path(tempfile.mkdtemp(prefix=WRITING, dir=folder))
                stack.callback(shutil.rmtree, writing, ignore_errors=True)
                stack.enter_context(locked(writing))
            (writing / "new").mkdir()
            yield writing / "new"
            (writing / "any").touch()  # with the mode that the process gives to new files
            for path in _files(writing / "new"):
                shutil.copymode(writing / "any", path)  # the safetensors library keeps its files to their owner
            flush(writing, *writing.rglob("*"))
            with locked(folder):
                _settle(folder)
                _commit(folder, writing, is_replaced)
        except Exception as error:
            if (failure := _failure(error, folder, writing / "new")) is None:
                raise
            raise failure from error


def folder_path(path: str | os.PathLike[str]) -> Path:
    """The path of a folder to save into, there already or not.

    Raises TypeError or ValueError where it is no path, NotADirectoryError where it is that of a file.
    """
    name = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(name, str):
        raise TypeError(f"The folder to save into is {name!r:.80}; it must be a path.")
    if not re.fullmatch(r"[^\0\ud800-\udc7f\udd00-\udfff]+", name):  # but what stands for bytes that are no UTF-8
        raise ValueError(f"The folder to save into is {name!r:.80}, which is no folder's name; give its path.")
    if os.path.lexists(name) and not os.path.isdir(name):
        raise NotADirectoryError(f"{name} is a file, or a link to none; give the folder to save into.")
    return Path(name)


def _os_number(error: Exception) -> int | None:
    """The number of what the system refused; None where it was not asked."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"\(os error (\d+)\)", str(error))  # libraries in Rust
    return int(found[1]) if found else None


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Let an error of the system's in the block be an OSError with the name of the file that is written there."""
    try:
        yield
    except Exception as error:
        if (number := _os_number(error)) is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


def _failure(error: Exception, folder: Path, new: Path) -> OSError | None:
    """The sentence for what could not be written into a folder, or below `new` for it; None for any other error."""
    number = _os_number(error)
    if number is None:
        return None
    found = getattr(error, "filename2", None) or getattr(error, "filename", None)
    begun = [path.name for path in _files(new)] if os.path.isdir(new) else []
    what = f"{' or '.join(begun)} in {folder}" if begun and found is None else str(folder)
    if found is not None:
        place, top, inner = (Path(os.path.abspath(os.fsdecode(path))) for path in (found, folder, new))
        if not (place.is_relative_to(top) or top.is_relative_to(place)):  # a file that was read
            return None
        if place.is_relative_to(inner):
            what = str(folder / place.relative_to(inner))
        elif WRITING not in str(place):
            what = os.fsdecode(found)
    reason = error.strerror if isinstance(error, OSError) else os.strerror(number)
    failure = OSError(number, reason)  # of the class that goes with the number
    failure = type(failure)(
        f"{what} could not be written ({reason}), and nothing has changed; put that right, or save elsewhere."
    )
    failure.errno = number
    return failure


@contextmanager
def made(folder: Path) -> Iterator[None]:
    """Make a folder where there is none, which goes at the end of the block if nothing is in it then."""
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        if is_new:
            with suppress(OSError):
                folder.rmdir()


class OutputError(OSError):
    """A file could not be written."""


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A stream whose bytes are at `path` once they are on the disk, all or none; OutputError where they cannot."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writing = path.with_name(f"{UNFINISHED}{uuid4().hex}")
    try:
        with writing.open("xb") as stream, locked(writing):
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
            os.replace(writing, path)
        flush(path.parent)
    except OSError as error:
        if error.filename in (None, str(writing), str(path)) and error.errno is not None:
            raise OutputError(f"{path} could not be written: {error.strerror}; what is finished is kept.") from error
        raise
    finally:
        writing.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove what dead processes were writing."""
    for writing in folder.rglob(f"{UNFINISHED}*"):
        with locked(writing, waits=False) as is_dead:
            if is_dead:
                writing.unlink(missing_ok=True)


@contextmanager
def unchanged(folder: Path) -> Iterator[None]:
    """While the block runs, no save changes the folder; one that was decided on is in its place before.

    Raises OSError where that cannot be done, as the folder may not be written.
    """
    while True:
        with locked(folder, shared=True):
            if _decided(folder) is None:
                yield
                return
        settle(folder)


def settle(folder: Path) -> None:
    """Put in its place what a dead process had decided on; OSError where the folder may not be written."""
    if _decided(folder) is None:
        return
    try:
        with locked(folder):
            _settle(folder)
    except OSError as error:
        raise OSError(
            f"A process died while it saved into {folder}, and what it left in {WRITING}… could not be moved to its "
            f"place ({error.strerror}); open the folder once where it can be written."
        ) from error


@contextmanager
def locked(path: Path, *, shared: bool = False, waits: bool = True) -> Iterator[bool | None]:
    """Hold the lock of a folder or file, and say whether that is so.

    False where somebody else holds it, None where there is none to be had: some network file systems have no locks.
    """
    descriptor, is_held = -1, None
    try:
        descriptor = os.open(path, os.O_RDONLY)
        if fcntl is not None:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if waits else fcntl.LOCK_NB))
            is_held = True
    except BlockingIOError:
        is_held = False
    except OSError:
        pass
    try:
        yield is_held
    finally:
        if is_held:  # closing would keep it where a child that was forked meanwhile has the descriptor too
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        if descriptor >= 0:
            os.close(descriptor)


def _decided(folder: Path) -> tuple[Path, list[str]] | None:
    """Where the files of a save lie that a note says counts, and the names of what goes with it; None without one.

    A note that came with a folder from elsewhere says nothing here: it names the inode that it was written for.
    """
    try:
        note = json.loads((folder / NOTE).read_bytes())
        writing = folder / note["folder"]
        if note["folder"].startswith(WRITING) and writing.lstat().st_ino == note["inode"]:
            return writing, note["gone"]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        pass
    return None


def _settle(folder: Path) -> None:
    decided = _decided(folder)
    if decided is not None:
        _finish(folder, *decided)
        shutil.rmtree(decided[0], ignore_errors=True)


def _sweep(folder: Path) -> None:
    """Remove what dead processes were writing."""
    for writing in folder.glob(f"{WRITING}*"):
        with locked(writing, waits=False) as is_dead:
            if is_dead:
                shutil.rmtree(writing, ignore_errors=True)


def _commit(folder: Path, writing: Path, is_replaced: Callable[[str], bool]) -> None:
    """Decide on what was written, and move it to its place; where that fails, put everything back."""
    names = [path.relative_to(writing / "new").as_posix() for path in _files(writing / "new")]
    replaces = any(map(is_replaced, names))
    gone = [path.name for path in folder.iterdir() if replaces and path.name not in names and is_replaced(path.name)]
    _keep(folder, writing / "old", [name for name in (*names, *gone) if (folder / name).is_file()])
    note = {"folder": writing.name, "inode": writing.stat().st_ino, "gone": gone}
    (writing / NOTE).write_text(json.dumps(note), encoding="utf-8")
    flush(writing / NOTE, writing)
    try:
        (writing / NOTE).rename(folder / NOTE)
        _finish(folder, writing, gone)
    except BaseException:
        if (folder / NOTE).exists():
            _restore(folder, writing, names)
        raise


def _keep(folder: Path, old: Path, names: list[str]) -> None:
    """Give files of a folder a second name, in case they are to come back."""
    for name in names:
        (old / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(folder / name, old / name)
        except OSError:  # a file system without links
            shutil.copy2(folder / name, old / name)


def _finish(folder: Path, writing: Path, gone: list[str]) -> None:
    """Move what is not in its place yet; it may be begun again where it was left."""
    flush(folder)
    for path in _files(writing / "new"):
        target = folder / path.relative_to(writing / "new")
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, target)
        flush(target.parent)
    for name in gone:
        (folder / name).unlink(missing_ok=True)
    flush(folder)
    (folder / NOTE).unlink()


def _restore(folder: Path, writing: Path, names: list[str]) -> None:
    """Undo what `_finish` did; until the last step the save is whole and counts, should the process die here."""
    for name in names:
        if not (writing / "new" / name).exists():
            (folder / name).rename(writing / "new" / name)
    for path in _files(writing / "old"):
        path.rename(folder / path.relative_to(writing / "old"))
    (folder / NOTE).unlink()


def _files(folder: Path) -> list[Path]:
    """The files below a folder, the smallest first, so that the weights come last."""
    return sorted((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def flush(*paths: Path) -> None:
    """Have files, and the names in folders, on the disk."""
    for path in paths:
        if path.is_dir() and fcntl is None:
            continue
        descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno != errno.EINVAL:  # a file system that has nothing to do for a folder
                raise
        finally:
            os.close(descriptor)
