"""Saving against processes that die, fail, or save and load at the same time, and what a folder of two saves is."""

import errno
import json
import multiprocessing
import os
import re
import resource
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import families
import numpy as np
import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import minitrans
from minitrans import saving

MODEL = "model.safetensors"
SIZES = {name: families.SIZES[name] for name in ("Bert", "DistilBert", "Swin", "Wav2Vec2")}


def model_of(family: str, value: float, **values: Any) -> Any:
    """A model of which every number is `value`, and whose configuration says so too."""
    config = getattr(minitrans, f"{family}Config")(**{**SIZES[family], "made_with": value, **values})
    model = getattr(minitrans, f"{family}Model")(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)
    return model


def values_in(folder: Path) -> set[float]:
    """Every number in a folder's weights, read by the safetensors library, and the configuration's."""
    index = folder / "model.safetensors.index.json"
    names = set(json.loads(index.read_text())["weight_map"].values()) if index.exists() else {MODEL}
    assert index.exists() != (folder / MODEL).exists()
    found = {x for name in names for tensor in load_file(folder / name).values() for x in tensor.unique().tolist()}
    return found | {json.loads((folder / "config.json").read_text())["made_with"]}


def numbers(model: Any) -> set[float]:
    """Every number in a model, and its configuration's."""
    found = {x for parameter in model.parameters() for x in parameter.detach().unique().tolist()}
    return found | {model.config.made_with}


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def in_a_child(job: Callable[[], Any]) -> int:
    """Run it in a process of its own; return the exit status, negative for a signal."""
    child = os.fork()
    if child == 0:
        try:
            job()
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def at_call(monkeypatch: pytest.MonkeyPatch, name: str, number: int, act: Callable[[], Any], after: bool) -> None:
    """Have the numbered call of a function do something, before or after its work."""
    owner, _, leaf = name.rpartition(".")
    place: Any = {"os": os, "Path": Path, "shutil": shutil}[owner]
    original, calls = getattr(place, leaf), iter(range(1, 10_000))

    def called(*arguments: Any, **options: Any) -> Any:
        is_it = next(calls) == number
        if is_it and not after:
            act()
        result = original(*arguments, **options)
        if is_it and after:
            act()
        return result

    monkeypatch.setattr(place, leaf, called)


# What fails, and what dies

LAYOUTS: dict[str, Any] = {"one file": "50GB", "shards": "20KB"}


@pytest.mark.parametrize(("old", "new"), [("one file", "one file"), ("one file", "shards"), ("shards", "one file")])
@pytest.mark.parametrize(
    ("name", "number"), [("os.replace", 1), ("os.replace", 2), ("os.fsync", 3), ("os.fsync", 9), ("Path.rename", 1)]
)
@pytest.mark.parametrize("after", [False, True])
def test_an_error_at_any_step_changes_nothing(old, new, name, number, after, tmp_path, monkeypatch):
    model_of("Bert", 1.0).save_pretrained(tmp_path, max_shard_size=LAYOUTS[old])
    before, other = files(tmp_path), model_of("Bert", 2.0)

    def fail() -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        at_call(patch, name, number, fail, after)
        with pytest.raises(OSError, match="Input/output"):
            other.save_pretrained(tmp_path, max_shard_size=LAYOUTS[new])
    assert files(tmp_path) == before
    assert not list(tmp_path.glob(".sav*"))


@pytest.mark.parametrize(("old", "new"), [("one file", "one file"), ("one file", "shards"), ("shards", "one file")])
@pytest.mark.parametrize(
    ("name", "number", "after", "expected"),
    [
        ("os.fsync", 1, True, 1.0),
        ("os.link", 2, True, 1.0),
        ("Path.rename", 1, False, 1.0),
        ("Path.rename", 1, True, 2.0),
        ("os.replace", 1, True, 2.0),
        ("os.replace", 2, False, 2.0),
        ("os.replace", 2, True, 2.0),
        ("Path.unlink", 1, True, 2.0),
        ("shutil.rmtree", 1, False, 2.0),
    ],
)
def test_a_death_at_any_step_leaves_one_whole_save(old, new, name, number, after, expected, tmp_path, monkeypatch):
    """Whoever opens the folder next sees the old save or the new one; the next save removes what is left over."""
    model_of("Bert", 1.0).save_pretrained(tmp_path, max_shard_size=LAYOUTS[old])
    other = model_of("Bert", 2.0)

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        at_call(patch, name, number, die, after)
        status = in_a_child(lambda: other.save_pretrained(tmp_path, max_shard_size=LAYOUTS[new]))
    assert status in (-signal.SIGKILL, 1)  # nothing to unlink where both saves have the same files
    model = minitrans.AutoModel.from_pretrained(tmp_path)
    assert not model.load_report.needs_attention
    assert numbers(model) == values_in(tmp_path) == {expected if status != 1 else 2.0}
    assert not (tmp_path / saving.NOTE).exists()
    model_of("Bert", 3.0).save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", MODEL]


def test_a_save_that_died_is_ended_for_a_tokenizer_too(tmp_path, monkeypatch):
    words = tmp_path / "vocab.txt"
    words.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "one", "two"]))
    tokenizer = minitrans.BertTokenizer.from_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    tokenizer.add_tokens(["three"])
    with monkeypatch.context() as patch:
        at_call(patch, "os.replace", 1, lambda: os.kill(os.getpid(), signal.SIGKILL), after=True)
        assert in_a_child(lambda: tokenizer.save_pretrained(tmp_path)) == -signal.SIGKILL
    assert len(minitrans.AutoTokenizer.from_pretrained(tmp_path)) == 8


def unsettled(folder: Path, /, **other: Any) -> None:
    """Leave a folder as a process that died in it would have, with another config.json and no vocab.txt."""
    model_of("Bert", 1.0).save_pretrained(folder)
    (folder / "vocab.txt").write_text("words")
    writing = folder / ".saving-x"
    (writing / "new").mkdir(parents=True)
    (writing / "new" / "config.json").write_text(json.dumps({"model_type": "swin"}))
    note = {"folder": writing.name, "inode": writing.stat().st_ino, "gone": ["vocab.txt", "../vocab.txt"], **other}
    (folder / saving.NOTE).write_text(json.dumps(note))


def test_a_note_counts_where_it_was_written(tmp_path):
    unsettled(tmp_path, gone=["vocab.txt"])
    assert minitrans.AutoConfig.from_pretrained(tmp_path).model_type == "swin"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", MODEL]


@pytest.mark.parametrize("note", [{}, {"inode": 1}, {"inode": None}, {"folder": "../elsewhere"}, {"folder": 3}, None])
def test_a_note_from_elsewhere_moves_and_removes_nothing(note, tmp_path):
    """What comes in a folder of somebody else's, least of all outside of it."""
    (tmp_path / "vocab.txt").write_text("secret")
    (tmp_path / "elsewhere").mkdir()
    unsettled(tmp_path / "first", **(note or {}))
    if note is None:
        (tmp_path / "first" / saving.NOTE).write_text("[" * 99999)
    folder = shutil.copytree(tmp_path / "first", tmp_path / "copy") if note == {} else tmp_path / "first"
    before = files(folder)
    assert numbers(minitrans.AutoModel.from_pretrained(folder)) == {1.0}
    assert files(folder) == before
    model_of("Bert", 2.0).save_pretrained(folder)
    assert sorted(files(folder)) == ["config.json", MODEL, "vocab.txt"]
    assert values_in(folder) == {2.0}
    assert (tmp_path / "vocab.txt").read_text() == "secret"


def test_what_cannot_be_ended_is_said(tmp_path, monkeypatch):
    unsettled(tmp_path)

    def refused(*_: Any) -> None:
        raise PermissionError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "replace", refused)
    with pytest.raises(OSError, match=r"died while it saved into .*Read-only file system.*open the folder") as caught:
        minitrans.AutoModel.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value)


# A full disk


def raised_in_a_child(job: Callable[[], Any]) -> str:
    """What a job raises in a process of its own, as "class: sentence"."""
    reading, writing = os.pipe()

    def told() -> None:
        try:
            job()
        except Exception as error:
            kind = "OSError" if isinstance(error, OSError) else type(error).__name__
            os.write(writing, f"{kind}: {error}".encode())

    in_a_child(told)
    os.close(writing)
    with open(reading, "rb") as stream:
        return stream.read().decode()


def limited_files(job: Callable[[], Any], room: int) -> Callable[[], Any]:
    """A job in a process that may write no more than so many bytes into a file."""

    def run() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
        job()

    return run


@contextmanager
def small_disk(place: Path) -> Iterator[bool]:
    """A file system of 2 MB at `place`, if this process may mount one: whether that is so."""
    place.mkdir()
    options = ["-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)]
    try:
        is_there = subprocess.run(["mount", *options], capture_output=True).returncode == 0
    except FileNotFoundError:
        is_there = False
    try:
        yield is_there
    finally:
        if is_there:
            subprocess.run(["umount", str(place)], check=True)


def words(count: int) -> Any:
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{index}" for index in range(count))]
    return minitrans.BertTokenizer({token: index for index, token in enumerate(tokens)})


# What is saved, and again when there is room for so many bytes only -> the file that does not fit.
SAVED: dict[str, tuple[Callable[[], Any], dict[str, Any], int, str]] = {
    "a model": (lambda: model_of("Bert", 1.0), {}, 12_000, "/model.safetensors"),
    "a model's configuration": (lambda: model_of("Bert", 1.0), {}, 0, "/config.json|config.json in"),
    "shards": (lambda: model_of("Bert", 1.0), {"max_shard_size": "20KB"}, 12_000, "/model-0000"),
    "a configuration": (lambda: minitrans.SwinConfig(), {}, 0, "config.json in"),
    "a tokenizer": (lambda: words(20_000), {}, 40_000, "tokenizer.json"),
    "a vocabulary": (lambda: words(20_000), {"legacy_format": True}, 40_000, "vocab.txt"),
    "an image processor": (lambda: minitrans.ViTImageProcessor(), {}, 0, "preprocessor_config.json"),
}


@pytest.mark.parametrize("name", SAVED)
def test_a_full_disk_is_said_with_the_file_and_changes_nothing(name, tmp_path):
    """On a real one where it can be mounted, and where a process may write no larger files, as anywhere."""
    make, options, room, file = SAVED[name]
    thing = make()
    for folder in (tmp_path / "new", tmp_path / "old"):
        if folder.name == "old":
            thing.save_pretrained(folder, **options)
        before = files(tmp_path)
        message = raised_in_a_child(limited_files(lambda to=folder: thing.save_pretrained(to, **options), room))
        assert re.match(rf"OSError: .*({file}).* could not be written \(File too large\), and nothing has", message)
        assert "\n" not in message
        assert files(tmp_path) == before
        assert [path.name for path in tmp_path.rglob(".sav*")] == []
    with small_disk(tmp_path / "disk") as is_there:
        if is_there:
            folder = tmp_path / "disk" / "saved"
            thing.save_pretrained(folder, **options)
            state = os.statvfs(folder)
            free = state.f_bavail * state.f_frsize - room
            (tmp_path / "disk" / "others").write_bytes(bytes(free // state.f_frsize * state.f_frsize))
            before = files(folder)
            with pytest.raises(
                OSError, match=rf"({file}).* could not be written \(No space left on device\)"
            ) as caught:
                thing.save_pretrained(folder, **options)
            assert caught.value.errno == errno.ENOSPC
            assert files(folder) == before
            assert [path.name for path in folder.rglob(".sav*")] == []


def test_an_error_that_is_not_of_writing_stays_as_it_is(tmp_path):
    for error in (KeyError("x"), ValueError("of the content"), FileNotFoundError(2, "No such file", "/else/where")):
        with pytest.raises(type(error)) as caught, saving.atomic_folder(tmp_path / "a"):
            raise error
        assert caught.value is error
    assert list(tmp_path.iterdir()) == []


NO_FOLDERS: dict[str, tuple[Any, type[Exception], str]] = {
    "None": (None, TypeError, "is None; it must be a path"),
    "a number": (3, TypeError, "is 3; it must be a path"),
    "bytes": (b"a", TypeError, "is b'a'; it must be a path"),
    "nothing": ("", ValueError, "is '', which is no folder's name"),
    "a zero byte": ("a\0b", ValueError, r"is 'a\\x00b', which is no folder's name"),
    "half a character": ("\ud800", ValueError, r"is '\\ud800', which is no folder's name"),
    "too long": ("x" * 300, OSError, r"^x+ could not be written \(File name too long\)"),
    "a part too long": (f"{'x' * 300}/y", OSError, r"x/y could not be written \(File name too long\)"),
    "a file": ("file", NotADirectoryError, "file is a file, or a link to none; give the folder"),
    "below a file": ("file/a/b", NotADirectoryError, r"could not be written \(Not a directory\)"),
    "a link to nothing": ("link", NotADirectoryError, "link is a file, or a link to none; give the folder"),
    "where a folder has the file's name": (
        "taken",
        IsADirectoryError,
        r"^taken/\w+\.\w+ could not be written \(Is a dir",
    ),
}


@pytest.mark.parametrize("name", NO_FOLDERS)
def test_what_is_no_folder_to_save_into(name, tmp_path, monkeypatch):
    place, error, words_of_it = NO_FOLDERS[name]
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("mine")
    Path("link").symlink_to("nowhere")
    for taken in ("config.json", "tokenizer.json", "preprocessor_config.json"):
        Path("taken", taken).mkdir(parents=True)
    things = [model_of("Bert", 1.0), minitrans.SwinConfig(), words(3), minitrans.ViTImageProcessor()]
    before = sorted(map(str, tmp_path.rglob("*")))
    for thing in things:
        with pytest.raises(error, match=words_of_it) as caught:
            thing.save_pretrained(place)
        assert "\n" not in str(caught.value)
        assert sorted(map(str, tmp_path.rglob("*"))) == before


WRONG: dict[str, tuple[str, list[Any], type[Exception], str]] = {
    "variant": ("variant", ["a/b", "../../x", "a\0", "a b", "ü/"], ValueError, "variant is .*as in 'fp16'"),
    "a long variant": ("variant", ["x" * 250], OSError, r"x\.safetensors could not be written \(File name too long\)"),
    "a shard's size": (
        "max_shard_size", [None, "abc", 0, -1, "0GB", "-1GB", "5KiB", True, "1e9", float("nan"), "1" * 400, [5]],
        ValueError, "max_shard_size is .*; it must be a number of bytes"),
    "no map": ("state_dict", [[], 3, "a", [("a", torch.ones(1))]], TypeError, "state_dict is a .*; it must map names"),
    "a name": ("state_dict", [{1: torch.ones(1)}, {None: torch.ones(1)}], TypeError, "the key .* are text"),
    "half a name": ("state_dict", [{"a\ud800": torch.ones(1)}], ValueError, "holds half a character"),
    "no tensor": ("state_dict", [{"a": 3}, {"a": [1.0]}, {"a": None}], ValueError, "holds dense tensors of floats"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_options_of_saving_leave_nothing(name, tmp_path):
    option, values, error, words_of_it = WRONG[name]
    for value in values:
        with pytest.raises(error, match=words_of_it) as caught:
            model_of("Bert", 1.0).save_pretrained(tmp_path / "saved", **{option: value})
        assert "\n" not in str(caught.value)
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", ["20KB", "20 kb", 20_000, 2e4, np.int64(20_000), "0.02MB"])
def test_sizes_of_shards(size, tmp_path):
    model_of("Bert", 1.0).save_pretrained(tmp_path / "given", max_shard_size=size)
    model_of("Bert", 1.0).save_pretrained(tmp_path / "text", max_shard_size="20KB")
    assert sorted(files(tmp_path / "given")) == sorted(files(tmp_path / "text"))
    assert len(files(tmp_path / "given")) > 4


@pytest.mark.parametrize(
    ("unit", "size"), [("kb", 1e3), ("MB", 1e6), (" GB", 1e9), ("TB", 1e12), ("", 1), (None, 1)], ids=str
)
def test_units_of_sizes_of_shards(unit, size, tmp_path):
    """A file has as many of the tensors, of 40 bytes each, as it has room for."""
    model, state = model_of("Bert", 1.0), {f"name{number}": torch.ones(10) for number in range(4)}
    for room, count in ((80, 2), (79, 4)):
        given = room if unit is None else f"{room / size:.14f}{unit}"
        model.save_pretrained(tmp_path, state_dict=state, max_shard_size=given)
        found = list(tmp_path.glob("*.safetensors"))
        assert len(found) == count, (given, found)


def test_the_least_size_of_a_shard(tmp_path):
    model_of("Bert", 1.0).save_pretrained(tmp_path, max_shard_size=1)
    assert values_in(tmp_path) == {1.0}
    for size in ("0.9", 0.9, "0.0009KB"):
        with pytest.raises(ValueError, match=f"max_shard_size is {size!r}; it must be a number of bytes"):
            model_of("Bert", 2.0).save_pretrained(tmp_path, max_shard_size=size)


def test_tensors_that_lie_across_memory_or_are_trained_are_saved_as_they_are(tmp_path):
    model = families.make(minitrans, "BertModel")
    weight = model.pooler.dense.weight
    weight.data = weight.data.T.contiguous().T
    assert not weight.is_contiguous()
    for options in ({}, {"state_dict": dict(model.named_parameters())}):
        model.save_pretrained(tmp_path, **options)
        for name, tensor in load_file(tmp_path / MODEL).items():
            assert torch.equal(tensor, model.get_parameter(name)), name


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
@pytest.mark.parametrize("shard", ["5GB", "10KB"])
def test_saved_files_are_read_by_whom_the_umask_lets(umask, shard, tmp_path):
    outer = os.umask(umask)
    try:
        model_of("Bert", 1.0).save_pretrained(tmp_path / "saved", max_shard_size=shard)
    finally:
        os.umask(outer)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "saved").iterdir()}
    assert len(modes) >= 2
    assert set(modes.values()) == {0o666 & ~umask}, modes


def test_only_what_the_dead_left_is_removed(tmp_path):
    """A save that goes on in another thread or process keeps its folder; one of a dead process goes."""
    (tmp_path / ".saving-old").mkdir()
    (tmp_path / ".saving-old" / MODEL).write_bytes(b"x" * 1000)
    with saving.atomic_folder(tmp_path) as first:
        (first / "a.txt").write_text("first")
        assert not (tmp_path / ".saving-old").exists()
        assert in_a_child(lambda: (model_of("Bert", 1.0).save_pretrained(tmp_path), os._exit(0))) == 0
        assert (first / "a.txt").exists()
        with saving.atomic_folder(tmp_path) as second:
            (second / "a.txt").write_text("second")
        assert (first / "a.txt").exists()
    assert (tmp_path / "a.txt").read_text() == "first"
    assert sorted(files(tmp_path)) == ["a.txt", "config.json", MODEL]


def test_a_file_system_without_locks_or_links(tmp_path, monkeypatch):
    def refused(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", refused)
    monkeypatch.setattr(os, "link", refused)
    for value in (1.0, 2.0):
        model_of("Bert", value).save_pretrained(tmp_path)
        assert numbers(minitrans.AutoModel.from_pretrained(tmp_path)) == values_in(tmp_path) == {value}
    at_call(monkeypatch, "os.replace", 2, refused, after=False)
    with pytest.raises(OSError, match="not supported"):
        model_of("Bert", 3.0).save_pretrained(tmp_path)
    assert values_in(tmp_path) == {2.0}


def test_two_savers_do_not_mix(tmp_path):
    models = [model_of("Bert", float(value)) for value in range(1, 5)]
    threads = [
        threading.Thread(target=model.save_pretrained, args=(tmp_path,), kwargs={"max_shard_size": size})
        for model, size in zip(models, [*LAYOUTS.values()] * 2, strict=True)
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(values_in(tmp_path)) == 1
    assert not list(tmp_path.glob(".sav*"))


def test_a_process_that_is_forked_while_a_folder_is_read_keeps_nobody_from_saving(tmp_path):
    model_of("Bert", 1.0).save_pretrained(tmp_path)
    with saving.unchanged(tmp_path):
        child = multiprocessing.get_context("fork").Process(target=signal.pause)
        child.start()
    try:
        model_of("Bert", 2.0).save_pretrained(tmp_path)
    finally:
        child.kill()
        child.join()
    assert values_in(tmp_path) == {2.0}


# Layouts that follow each other


@pytest.mark.parametrize("variant", [None, "fp16"])
@pytest.mark.parametrize("old", LAYOUTS)
@pytest.mark.parametrize("new", LAYOUTS)
def test_another_layout_of_the_same_variant_replaces_the_old_one(old, new, variant, tmp_path):
    other = "bf16" if variant else "fp16"
    model_of("Bert", 3.0).save_pretrained(tmp_path, variant=other)
    model_of("Bert", 1.0).save_pretrained(tmp_path, variant=variant, max_shard_size=LAYOUTS[old])
    model_of("Bert", 2.0).save_pretrained(tmp_path, variant=variant, max_shard_size=LAYOUTS[new])
    for library in (minitrans, transformers):
        assert numbers(library.BertModel.from_pretrained(tmp_path, variant=variant)) == {2.0}
        found = library.BertModel.from_pretrained(tmp_path, variant=other)
        assert numbers(found) == {2.0, 3.0}  # its own weights, and the one configuration


# A configuration of one save and the weights of another

DECISIVE = {
    "Bert": {"hidden_act": "relu", "num_attention_heads": 4, "layer_norm_eps": 1e-5, "tie_word_embeddings": False},
    "DistilBert": {"activation": "relu", "n_heads": 4},
    "Swin": {"hidden_act": "relu", "layer_norm_eps": 1e-6},
    "Wav2Vec2": {"hidden_act": "relu", "num_attention_heads": 4, "conv_stride": [5, 2, 3], "layer_norm_eps": 1e-6},
}


def edit(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("family", "name"), [(family, name) for family, names in DECISIVE.items() for name in names])
def test_two_saves_in_one_folder_are_refused(family, name, layout, tmp_path, caplog):
    value = DECISIVE[family][name]
    one, other = tmp_path / "one", tmp_path / "other"
    model_of(family, 1.0).save_pretrained(one, max_shard_size=LAYOUTS[layout])
    model_of(family, 2.0, **{name: value}).save_pretrained(other)
    shutil.copy(other / "config.json", one)
    for kind in (minitrans.AutoModel, getattr(minitrans, f"{family}Model")):
        with pytest.raises(ValueError, match="of two saves, or the file was edited") as caught:
            kind.from_pretrained(one)
        assert "\n" not in str(caught.value)
        assert f"{name} = {value!r}" in str(caught.value)
        assert str(one) in str(caught.value)
    minitrans.AutoModel.from_pretrained(one, config=minitrans.AutoConfig.from_pretrained(one))
    said = [record.getMessage() for record in caplog.records if record.name == "minitrans"]
    assert f"The configuration given for {one} has {name} = {value!r}" in said[0]
    meant = minitrans.AutoModel.from_pretrained(one, **{name: value})
    meant.save_pretrained(one)
    caplog.clear()
    assert getattr(minitrans.AutoModel.from_pretrained(one).config, name) == value
    labelled = minitrans.AutoConfig.from_pretrained(one, id2label={0: "no", 1: "yes"})
    minitrans.AutoModel.from_pretrained(one, config=labelled)
    assert not [record for record in caplog.records if record.name == "minitrans"]


def test_shards_of_two_saves_are_refused(tmp_path):
    for value in (1.0, 2.0):
        model_of("Bert", value, made_with=0.0).save_pretrained(tmp_path / str(value), max_shard_size="20KB")
    shards = sorted(path.name for path in (tmp_path / "1.0").glob("*.safetensors"))
    shutil.copy(tmp_path / "2.0" / shards[1], tmp_path / "1.0")
    with pytest.raises(ValueError, match="of 2 saves"):
        minitrans.AutoModel.from_pretrained(tmp_path / "1.0")


HARMLESS = {
    "hidden_dropout_prob": 0.5, "initializer_range": 0.5, "id2label": {"0": "no", "1": "yes"}, "problem_type": "x",
    "architectures": ["BertForMaskedLM"], "output_hidden_states": True, "mine": [1, 2], "bos_token_id": 3,
    "transformers_version": "4.0", "chunk_size_feed_forward": 2, "use_cache": False, "classifier_dropout": 0.3,
    "dtype": "float64",
}  # fmt: skip


@pytest.mark.parametrize("name", HARMLESS)
def test_other_fields_may_be_edited_by_hand(name, tmp_path, caplog):
    model_of("Bert", 1.0).save_pretrained(tmp_path)
    edit(tmp_path, **{name: HARMLESS[name]})
    model = minitrans.AutoModel.from_pretrained(tmp_path)
    assert numbers(model) == {1.0}
    assert model.load_report.needs_attention is False
    said = [record.getMessage() for record in caplog.records if record.name == "minitrans"]
    assert len(said) == (name == "id2label")
    assert all("labels in config.json" in message and str(tmp_path) in message for message in said)
    model.save_pretrained(tmp_path)
    caplog.clear()
    minitrans.AutoModel.from_pretrained(tmp_path, num_labels=3)
    assert not caplog.records


@pytest.mark.parametrize("name", families.PUBLISHED)
def test_what_transformers_writes_over_a_configuration_or_a_folder(name, tmp_path, caplog):
    """Its configuration beside our weights, and its folder over ours, load as before, and nothing is said."""
    ours = families.make(minitrans, name)
    ours.save_pretrained(tmp_path)
    metadata = safe_open(next(tmp_path.glob("*.safetensors")), "pt").metadata()
    assert metadata["format"] == "pt"
    assert all(isinstance(value, str) for value in metadata.values())
    transformers.AutoConfig.from_pretrained(tmp_path).save_pretrained(tmp_path)
    again = getattr(minitrans, name).from_pretrained(tmp_path, strict=True)
    state = ours.published_state_dict()
    assert all(torch.equal(tensor, state[key]) for key, tensor in again.published_state_dict().items())
    theirs, info = getattr(transformers, name).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    theirs.save_pretrained(tmp_path)
    third = getattr(minitrans, name).from_pretrained(tmp_path)
    assert not third.load_report.missing
    assert all(torch.equal(tensor, state[key]) for key, tensor in third.published_state_dict().items())
    said = [record.getMessage() for record in caplog.records if record.name == "minitrans"]
    assert not any("config.json" in message for message in said)


@pytest.mark.parametrize("note", ["", "{", "[1]", "3", '{"hidden_act": "gelu", "of_another_version": 1}', "[" * 99999])
def test_a_note_that_is_none_is_no_hindrance(note, tmp_path):
    model_of("Bert", 1.0).save_pretrained(tmp_path)
    save_file(load_file(tmp_path / MODEL), tmp_path / MODEL, metadata={"format": "pt", "minitrans_config": note})
    assert numbers(minitrans.AutoModel.from_pretrained(tmp_path)) == {1.0}


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left"), r"answers could not be written: No space left; what is finished"),
        (OSError(errno.EFBIG, "File too large", "answers"), "answers could not be written: File too large"),
        (OSError(errno.ENOENT, "No such file", "input"), r"^\[Errno 2\] No such file: 'input'$"),
        (OSError("of a library"), "^of a library$"),
    ],
    ids=["no space", "at the place", "of another file", "without a number"],
)
def test_a_file_of_answers_is_written_whole_or_not_at_all(error, words, tmp_path):
    path = tmp_path / "answers"
    path.write_bytes(b"before")
    if error.filename == "answers":
        error.filename = str(path)

    def write(fails: bool) -> None:
        with saving.atomic_file(path) as stream:
            stream.write(b"whole")
            if fails:
                raise error

    with pytest.raises(OSError, match=words):
        write(True)
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("answers", b"before")]
    write(False)
    assert path.read_bytes() == b"whole"


# The order of what happens


def recorded(monkeypatch: pytest.MonkeyPatch, folder: Path) -> list[tuple[str, str]]:
    """What is flushed and moved below a folder, in its order; a temporary folder is called "…"."""
    events: list[tuple[str, str]] = []
    fsync, replace, rename, unlink = os.fsync, os.replace, Path.rename, Path.unlink

    def note(kind: str, path: str | Path) -> None:
        if Path(path).is_relative_to(folder):
            events.append((kind, re.sub(r"\.(saving|writing)-\w+", "…", Path(path).relative_to(folder).as_posix())))

    def flushed(descriptor: int) -> None:
        note("flush", os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    def replaced(source: Path, target: Path) -> None:
        note("move", target)
        replace(source, target)

    def renamed(source: Path, target: Path) -> Path:
        note("move", target)
        return rename(source, target)

    def removed(path: Path, missing_ok: bool = False) -> None:
        note("remove", path)
        unlink(path, missing_ok)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "replace", replaced)
    monkeypatch.setattr(Path, "rename", renamed)
    monkeypatch.setattr(Path, "unlink", removed)
    return events


def test_a_save_counts_when_all_of_it_is_on_the_disk_and_moves_the_weights_last(tmp_path, monkeypatch):
    (tmp_path / "old").write_text("")
    events = recorded(monkeypatch, tmp_path)
    with saving.atomic_folder(tmp_path, lambda filename: filename in ("large", "old")) as files:
        (files / "large").write_bytes(bytes(100))
        (files / "part" / "of it").mkdir(parents=True)
        (files / "part" / "of it" / "small").write_bytes(bytes(10))
        (files / "config").write_bytes(bytes(50))
    written = ["…/new", "…/new/config", "…/new/large", "…/new/part", "…/new/part/of it", "…/new/part/of it/small"]
    decided = events.index(("move", ".saved.json"))
    assert {("flush", path) for path in (*written, "…")} <= {*events[:decided]}
    assert events[decided - 2 :] == [
        ("flush", "…/.saved.json"), ("flush", "…"),
        ("move", ".saved.json"), ("flush", "."),
        ("move", "part/of it/small"), ("flush", "part/of it"),
        ("move", "config"), ("flush", "."),
        ("move", "large"), ("flush", "."),
        ("remove", "old"), ("flush", "."),
        ("remove", ".saved.json"),
    ]  # fmt: skip


def test_a_file_is_in_its_place_when_it_is_on_the_disk(tmp_path, monkeypatch):
    sizes, fsync = [], os.fsync
    events = recorded(monkeypatch, tmp_path)
    flushed = os.fsync

    def measured(descriptor: int) -> None:
        sizes.append(os.fstat(descriptor).st_size)
        flushed(descriptor)

    monkeypatch.setattr(os, "fsync", measured)
    for _ in range(2):  # into a new folder, and over itself
        with saving.atomic_file(tmp_path / "a" / "b" / "file") as stream:
            stream.write(bytes(10))
        moved = ("move", "a/b/file")
        assert events == [("flush", "a/b/…"), moved, ("flush", "a/b"), ("remove", "a/b/…")]
        assert sizes[0] == 10
        events.clear()
        sizes.clear()
    monkeypatch.setattr(os, "fsync", fsync)
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["file"]


def test_a_file_system_that_flushes_no_folders(tmp_path, monkeypatch):
    fsync = os.fsync

    def refused(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refused)
    model_of("Bert", 1.0).save_pretrained(tmp_path)
    assert values_in(tmp_path) == {1.0}
    with saving.atomic_file(tmp_path / "file") as stream:
        stream.write(b"whole")
    assert (tmp_path / "file").read_bytes() == b"whole"


@pytest.mark.parametrize("fails", [False, True])
def test_files_in_folders_below_are_replaced_and_come_back(fails, tmp_path, monkeypatch):
    """As sentence-transformers' checkpoints have them."""
    names = ["modules.json", "1_Pooling/config.json", "1_Pooling/of/the/kind.json", "2_Dense/config.json"]

    def save(content: str) -> None:
        with saving.atomic_folder(tmp_path) as folder:
            for name in names:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_text(content)

    def fail() -> None:
        raise OSError(errno.EIO, "Input/output error")

    save("old")
    if fails:
        at_call(monkeypatch, "os.replace", 4, fail, after=False)
        with pytest.raises(OSError, match="Input/output"):
            save("new")
    else:
        save("new")
    assert files(tmp_path) == dict.fromkeys(names, b"old" if fails else b"new")
    assert not list(tmp_path.glob(".sav*"))


def test_a_save_leaves_no_file_open(tmp_path):
    def opened() -> int:
        return len(os.listdir("/proc/self/fd"))

    model_of("Bert", 1.0).save_pretrained(tmp_path)
    before = opened()
    model_of("Bert", 2.0).save_pretrained(tmp_path, max_shard_size="20KB")
    with saving.atomic_file(tmp_path / "file") as stream:
        stream.write(b"whole")
    saving.sweep(tmp_path)
    assert opened() == before


# Locks


def test_a_lock_is_held_by_one_or_by_many_that_only_read(tmp_path):
    def held(**options: bool) -> bool | None:
        with saving.locked(tmp_path, waits=False, **options) as is_held:
            return is_held

    with saving.locked(tmp_path) as first:
        assert (first, held(), held(shared=True)) == (True, False, False)
    with saving.locked(tmp_path, shared=True) as first:
        assert (first, held(), held(shared=True)) == (True, False, True)
    assert held() is True


def test_what_has_no_lock_leaves_every_descriptor_open(tmp_path):
    with saving.locked(tmp_path / "none") as is_held:
        assert is_held is None
    for descriptor in range(3):
        os.fstat(descriptor)


def test_what_the_dead_were_writing_goes_and_what_is_written_stays(tmp_path):
    (tmp_path / "part").mkdir()
    for name in (".writing-dead", "part/.writing-dead", "part/.writing-living", "written"):
        (tmp_path / name).write_text("x")
    with saving.locked(tmp_path / "part" / ".writing-living"):
        saving.sweep(tmp_path)
        assert sorted(files(tmp_path)) == ["part/.writing-living", "written"]
    saving.sweep(tmp_path)
    assert sorted(files(tmp_path)) == ["written"]
