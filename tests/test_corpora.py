"""Whole corpora: every kind of file in and out, and nothing lost or done twice whoever is killed."""

import importlib
import json
import os
import re
import resource
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import soundfile
import test_tasks_audio
import test_tasks_text
import torch
import transformers
from PIL import Image
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

import minitrans
from minitrans import corpora
from minitrans.cli import main
from minitrans.corpora.tables import Shard, table
from minitrans.tasks.base import prefetched, progress

COUNT = 60
TEXTS = [f"Sentence number {number}, of {'many ' * (number % 7)}words." for number in range(COUNT)]


@pytest.fixture(scope="module")
def model(minilm: Path, tmp_path_factory: Any) -> Path:
    """A random tiny BERT whose tokens' mean is a text's vector."""
    return test_tasks_text.checkpoint(minilm, tmp_path_factory.mktemp("model"), "BertModel")


@pytest.fixture(scope="module")
def vectors(model: Path) -> np.ndarray:
    """Those of TEXTS, in memory."""
    return minitrans.Embedder.from_pretrained(model).encode(TEXTS)


def load(model: Path) -> Any:
    return partial(minitrans.Embedder.from_pretrained, str(model))


@pytest.fixture
def lines(tmp_path: Path) -> str:
    path = tmp_path / "texts.txt"
    path.write_text("".join(f"{text}\n" for text in TEXTS))
    return str(path)


def command(*words: Any) -> int:
    return main([str(word) for word in words])


def read(folder: Path) -> pa.Table:
    """All parts of a job, as any engine reads them, by the order of their rows."""
    return pq.read_table(folder).sort_by([("file", "ascending"), ("row", "ascending")])


def objects(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in sorted(folder.glob("part-*.jsonl")) for line in path.open()]


def matrix(table: pa.Table) -> np.ndarray:
    return np.array(table["vector"].to_pylist())


def whole(folder: Path, vectors: np.ndarray, rows: int = COUNT) -> None:
    """Every row is there once, with its vector, and nothing else is left in the folder."""
    table = read(folder)
    assert table["row"].to_pylist() == list(range(rows))
    assert table["error"].null_count == rows
    assert np.abs(matrix(table) - vectors).max() <= 1e-5
    assert {path.name.partition("-")[0] for path in folder.iterdir()} <= {"part", "_job.json"}


# Every file in


def tables(folder: Path) -> dict[str, Path]:
    """TEXTS with their numbers as "id" in each format."""
    paths = {ending: folder / f"a.{ending}" for ending in ("jsonl", "csv", "tsv", "parquet")}
    paths["jsonl"].write_text("".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(TEXTS)))
    frame = pandas.DataFrame({"id": [str(i) for i in range(COUNT)], "text": TEXTS, "other": 'a "quoted"\nline, two'})
    frame.to_csv(paths["csv"], index=False, lineterminator="\r\n")
    frame.to_csv(paths["tsv"], index=False, sep="\t")
    frame.to_parquet(paths["parquet"], row_group_size=25)
    return paths


@pytest.mark.parametrize("ending", ["jsonl", "csv", "tsv", "parquet"])
@pytest.mark.parametrize("rows", [7, 30, 1000])
def test_tables(model: Path, vectors: np.ndarray, ending: str, rows: int, tmp_path: Path) -> None:
    path, output = tables(tmp_path)[ending], tmp_path / "out"
    assert command("run", model, path, "--output", output, "--rows", rows, "--keep", "id") == 0
    whole(output, vectors)
    table = read(output)
    assert table["id"].to_pylist() == [str(number) for number in range(COUNT)]
    assert len(list(output.glob("part-*"))) == -(-COUNT // rows)
    assert table.schema.field("vector").type == pa.list_(pa.float32(), 32)


def test_json_lines_that_are_texts_alone(model: Path, vectors: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps(text) + "\n" for text in TEXTS))
    done = corpora.run(load(model), path, tmp_path / "out")
    assert (done.rows, done.failed) == (COUNT, 0)
    whole(tmp_path / "out", vectors)
    done = corpora.run(load(model), path, tmp_path / "kept", keep=["id"])
    assert done.failed == COUNT
    assert all("is not a JSON object" in error for error in read(tmp_path / "kept")["error"].to_pylist())


@pytest.mark.parametrize("ending", ["", "\n"])
@pytest.mark.parametrize("rows", [1, 20, 59, 60, 61])
def test_lines(model: Path, vectors: np.ndarray, ending: str, rows: int, tmp_path: Path) -> None:
    """Cut anywhere, with the last line ended or not, and a mark of UTF-8 at the beginning."""
    path, output = tmp_path / "texts.txt", tmp_path / "out"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(TEXTS).encode() + ending.encode())
    done = corpora.run(load(model), path, output, rows=rows)
    assert (done.rows, done.failed, done.missing) == (COUNT, 0, {})
    whole(output, vectors)


def test_only_the_first_line_has_a_mark_of_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_text("\ufeffone\n\ufefftwo\nthree\n", "utf-8")
    [(first, count, offset)] = table(str(path)).cut(5)
    assert (first, count, offset) == (0, 3, 0)
    shard = Shard(0, str(path), first, count, offset)
    assert list(table(str(path)).read(shard, ["text"], 5)) == [[["one", "\ufefftwo", "three"]]]


@pytest.mark.parametrize("name", ["texts", "texts.log", "texts.TXT"])
def test_a_file_of_any_name_is_lines_of_text(model: Path, vectors: np.ndarray, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("\n".join(TEXTS))
    done = corpora.run(load(model), tmp_path / name, tmp_path / "out")
    assert (done.rows, done.failed) == (COUNT, 0)
    whole(tmp_path / "out", vectors)


def test_folders_and_patterns(model: Path, tmp_path: Path, caplog: Any) -> None:
    """Each file once, in their order; nothing hidden, of another kind, or in the folder of the results."""
    folder = tmp_path / "in"
    (folder / "deeper").mkdir(parents=True)
    names = ["b.txt", "a.txt", "deeper/odd\nname.txt", os.fsdecode(b"deeper/\xff.txt"), ".hidden.txt", "photo.png"]
    for name in names:
        (folder / name).write_text("one\ntwo\n")
    (folder / "empty.txt").touch()
    output = folder / "answers"
    for _ in range(2):
        sources = [str(folder), str(folder / "*.txt"), str(folder / "a.txt")]
        done = corpora.run(load(model), sources, output, form="jsonl")
        assert (done.rows, done.failed) == (8, 0)
    found = [(row["file"].removeprefix(f"{folder}/"), row["row"]) for row in objects(output)]
    order = ["a.txt", "b.txt", "deeper/odd\nname.txt", "deeper/\\xff.txt"]
    assert found == [(name, row) for name in order for row in (0, 1)]
    assert "2 files of other kinds" in caplog.text


def test_images(tmp_path: Path) -> None:
    torch.manual_seed(0)
    swin = transformers.SwinConfig(image_size=32, embed_dim=12, depths=[1, 1], num_heads=[1, 2], window_size=4)
    for name in ("SwinForImageClassification", "SwinModel"):
        getattr(transformers, name)(swin).save_pretrained(tmp_path / name)
        ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path / name)
    photos = tmp_path / "photos"
    photos.mkdir()
    rng = np.random.default_rng(0)
    for number in range(5):
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(photos / f"{number}.png")
    (photos / "3.png").write_bytes(b"no image")
    files = [str(photos / f"{number}.png") for number in (0, 1, 2, 4)]
    assert command("run", tmp_path / "SwinModel", photos, "--output", tmp_path / "vectors", "--rows", 2) == 1
    table = pq.read_table(tmp_path / "vectors")
    expected = minitrans.ImageVectors.from_pretrained(tmp_path / "SwinModel")(files, pool=True)
    sound = table.filter(pa.compute.is_null(table["error"]))
    assert np.abs(matrix(sound) - np.stack(expected)).max() <= 1e-5
    assert sound["file"].to_pylist() == files
    assert "3.png" in str(table["error"].to_pylist()[3])
    # The same images as rows of a table.
    column = [{"bytes": Path(file).read_bytes(), "path": None} for file in files]
    pq.write_table(pa.table({"image": column}), tmp_path / "images.parquet")
    folder = tmp_path / "SwinForImageClassification"
    assert command("run", folder, tmp_path / "images.parquet", "--output", tmp_path / "classes", "--top-k", 1) == 0
    classes = minitrans.ImageClassifier.from_pretrained(folder)(files, top_k=1)
    assert [row["answer"][0]["label"] for row in objects(tmp_path / "classes")] == [row[0]["label"] for row in classes]


@pytest.mark.parametrize("form", ["srt", "vtt"])
def test_subtitles(form: str, tmp_path: Path, capsys: Any) -> None:
    """A file for each sound, of the name that it has in its folder."""
    folder = test_tasks_audio.checkpoint(tmp_path / "ctc", **test_tasks_audio.LAYER_NORM)
    (tmp_path / "in" / "deep").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("a.wav", "b.wav", "b.flac", "deep/a.wav"):
        noise = rng.normal(size=16000).cumsum()
        soundfile.write(tmp_path / "in" / name, noise / np.abs(noise).max(), 16000)
    (tmp_path / "in" / "bad.wav").write_bytes(b"no sound")
    output = tmp_path / "out"
    assert command("run", folder, tmp_path / "in", f"--{form}", "--output", output) == 1
    assert "1 of 5 rows have an error" in capsys.readouterr().err
    written = sorted(path.relative_to(output).as_posix() for path in output.rglob(f"*.{form}"))
    assert written == [f"a.{form}", f"b.flac.{form}", f"b.wav.{form}", f"deep/a.{form}"]
    assert command("run", folder, tmp_path / "in" / "a.wav", f"--{form}") == 0
    assert (output / f"a.{form}").read_text() == capsys.readouterr().out
    row = next(row for row in objects(output) if row["file"].endswith("in/a.wav"))
    expected = minitrans.Transcriber.from_pretrained(folder)(tmp_path / "in" / "a.wav")
    assert row["answer"]["text"] == expected["text"]
    job = partial(minitrans.Transcriber.from_pretrained, str(folder))
    (tmp_path / "in" / "b.wav.mp3").touch()
    with pytest.raises(
        ValueError, match=rf"Two sounds would both have b\.wav\.{form} of their own; do them in two jobs"
    ):
        corpora.run(job, str(tmp_path / "in"), tmp_path / "twice", form=form)
    (tmp_path / "there" / "deep").mkdir(parents=True)
    (tmp_path / "there" / "deep" / f"a.{form}").write_text("mine")
    (tmp_path / "in" / "b.wav.mp3").unlink()
    with pytest.raises(FileExistsError, match=rf"deep/a\.{form} is there already; choose another folder"):
        corpora.run(job, str(tmp_path / "in"), tmp_path / "there", form=form)
    assert [path.read_text() for path in (tmp_path / "there").rglob("*") if path.is_file()] == ["mine"]
    assert not (tmp_path / "twice").exists()


# Every answer out

HEADS: dict[str, tuple[str, list[Any], dict[str, Any]]] = {
    "SequenceClassification": ("TextClassifier", TEXTS[:5], {"num_labels": 3}),
    "TokenClassification": ("EntityRecognizer", TEXTS[:5], {"num_labels": 3}),
    "MaskedLM": ("MaskFiller", [f"[MASK] {text} [MASK]" for text in TEXTS[:5]], {}),
    "QuestionAnswering": ("QuestionAnswerer", [("What?", text) for text in TEXTS[:5]], {}),
    "MultipleChoice": ("ChoiceTask", [(text, ["yes", "no", "maybe"]) for text in TEXTS[:5]], {}),
    "NextSentencePrediction": ("NextSentenceClassifier", [(text, "It is.") for text in TEXTS[:5]], {}),
}


def plain(value: Any) -> Any:
    """Without the nulls with which Parquet fills what an answer does not have, and an answer alone as it is."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    return {key: item for key, item in value.items() if item is not None} if isinstance(value, dict) else value


def same(found: Any, expected: Any) -> None:
    """Equal but for the rounding of the numbers in them."""
    rounded = partial(json.loads, parse_float=lambda number: round(float(number), 4))
    assert rounded(json.dumps(found)) == rounded(json.dumps(expected))


@pytest.mark.parametrize("head", HEADS)
def test_answers(minilm: Path, head: str, tmp_path: Path) -> None:
    """Those of the task in memory, in both formats, from lines and from columns of a table."""
    name, inputs, values = HEADS[head]
    folder = test_tasks_text.checkpoint(minilm, tmp_path / "model", f"BertFor{head}", **values)
    expected = getattr(minitrans, name).from_pretrained(folder)(inputs)
    question = ["--question", "What?"] if head == "QuestionAnswering" else []
    parts = [[item] if isinstance(item, str) else [*item] for item in inputs]
    cells = [part[1:] if question else [part[0], *part[1]] if isinstance(part[-1], list) else part for part in parts]
    (tmp_path / "texts.txt").write_text("".join("\t".join(row) + "\n" for row in cells))
    columns = {f"column{place}": list(values) for place, values in enumerate(zip(*parts, strict=True))}
    pq.write_table(pa.table(columns), tmp_path / "texts.parquet")
    named = [f"--column={name}" for name in columns]
    for number, words in enumerate(([tmp_path / "texts.txt", *question], [tmp_path / "texts.parquet", *named])):
        output = tmp_path / f"json{number}"
        assert command("run", folder, *words, "--output", output) == 0
        same([row["answer"] for row in objects(output)], expected)
        output = tmp_path / f"parquet{number}"
        assert command("run", folder, *words, "--output", output, "--format", "parquet", "--rows", 2) == 0
        found = plain(read(output)["answer"].to_pylist())
        single = [[answer] if isinstance(answer, dict) else answer for answer in expected]
        same(found, single)


def test_vectors_of_tokens(model: Path, tmp_path: Path, lines: str) -> None:
    """Parquet's lists of lists, of any length."""
    assert command("run", model, lines, "--task", "feature-extraction", "--output", tmp_path / "out") == 0
    table = read(tmp_path / "out")
    assert table.schema.field("vectors").type == pa.list_(pa.list_(pa.float32(), 32))
    expected = minitrans.TokenVectors.from_pretrained(model)(TEXTS)
    for found, states in zip(table["vectors"].to_pylist(), expected, strict=True):
        assert np.abs(np.array(found) - states).max() <= 1e-5


def test_half_the_bytes(model: Path, vectors: np.ndarray, lines: str, tmp_path: Path) -> None:
    assert command("run", model, lines, "--float16", "--output", tmp_path / "out") == 0
    table = read(tmp_path / "out")
    assert table.schema.field("vector").type == pa.list_(pa.float16(), 32)
    assert np.array_equal(matrix(table).astype(np.float16), vectors.astype(np.float16))
    huge = minitrans.Embedder.from_pretrained(model)
    with torch.no_grad():
        huge.model.encoder.layer[-1].output.LayerNorm.weight.mul_(1e6)
    done = corpora.run(huge, lines, tmp_path / "huge", float16=True)
    table = read(tmp_path / "huge")
    assert done.failed == COUNT
    assert table["vector"].null_count == COUNT
    assert "float16 ends at 65504" in table["error"][0].as_py()


def test_numbers_that_json_does_not_have(minilm: Path, lines: str, tmp_path: Path) -> None:
    """NaN costs its row's answer, not the file that the others are in."""
    folder = test_tasks_text.checkpoint(minilm, tmp_path / "model", "BertForSequenceClassification", num_labels=2)
    task = minitrans.TextClassifier.from_pretrained(folder)
    torch.nn.init.constant_(task.model.classifier.bias, float("nan"))
    done = corpora.run(task, lines, tmp_path / "out", form="jsonl")
    assert (done.rows, done.failed) == (COUNT, COUNT)
    for number, row in enumerate(objects(tmp_path / "out")):
        assert (row["file"], row["row"]) == (lines, number)
        assert "cannot be written as JSON" in row["error"]


def test_the_command_says_how_many_rows_failed(model: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\ncaf\xe9\ntwo\n")
    assert command("run", model, tmp_path / "a.txt", "--output", tmp_path / "out") == 1
    assert f"1 of 3 rows have an error in {tmp_path / 'out'} and no result, such as " in capsys.readouterr().err
    (tmp_path / "b.txt").write_text("one\ntwo\n")
    assert command("run", model, tmp_path / "b.txt", "--output", tmp_path / "good") == 0
    assert "error" not in capsys.readouterr().err


# One bad row


@pytest.fixture
def usual_depth() -> Iterator[None]:
    """Python's own limit of recursion, which what other tests import may have raised."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(1000)
    yield
    sys.setrecursionlimit(before)


def test_bad_rows(model: Path, vectors: np.ndarray, tmp_path: Path, monkeypatch: Any, usual_depth: None) -> None:
    """Each costs its own answer, and stands where it stood with what is wrong."""
    monkeypatch.setattr("minitrans.corpora.tables.LONGEST", 2000)
    good = json.dumps({"text": TEXTS[0], "id": 1}).encode()
    bad = {
        b"not json": "Expecting value",
        b'{"id": 7}': "there is no column 'text' among 'id'",
        b'{"text": null, "id": 7}': "'text' holds nothing",
        b'{"text": 5, "id": 7}': "takes a text",
        b'{"text": "caf\xe9", "id": 7}': "not UTF-8",
        b'{"text": "\\ud800", "id": 7}': "not UTF-8",
        b'{"text": "' + b"long " * 999 + b'", "id": 7}': "longer than 2000 bytes",
        b"[1, 2]": "not a JSON object",
        b"": "Expecting value",
        b"[" * 1500: "recursion",
    }
    rows = [*bad, good]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(rows))
    done = corpora.run(load(model), tmp_path / "a.jsonl", tmp_path / "out", rows=4, keep=["id"])
    assert done.failed == len(bad)
    table = read(tmp_path / "out")
    assert table["row"].to_pylist() == list(range(len(rows)))
    for error, expected in zip(table["error"].to_pylist(), bad.values(), strict=False):
        assert expected in error, error
    assert np.abs(np.array(table["vector"][-1].as_py()) - vectors[0]).max() <= 1e-5
    assert table["vector"].null_count == len(bad)
    assert table["id"].to_pylist()[-1] == "1"
    assert corpora.run(load(model), tmp_path / "a.jsonl", tmp_path / "out", rows=4, keep=["id"]).failed == len(bad)


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_numbers_that_are_none_in_kept_columns(model: Path, form: str, ending: str, tmp_path: Path) -> None:
    path, output = tmp_path / f"a.{ending}", tmp_path / "out"
    rows = [{"text": "one", "n": float("nan"), "m": [1.0, float("inf")]}, {"text": "two", "n": 0.5, "m": [2.0]}]
    if ending == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    keep = ("--keep", "n", "--keep", "m")
    assert command("run", model, path, "--output", output, *keep, "--format", form) == 0
    if form == "jsonl":
        assert [(row["n"], row["m"]) for row in objects(output)] == [(None, [1.0, None]), (0.5, [2.0])]
    elif ending == "jsonl":
        assert read(output).select(["n", "m"]).to_pylist() == [
            {"n": None, "m": "[1.0, null]"},
            {"n": "0.5", "m": "[2.0]"},
        ]
    else:
        assert pc.is_nan(read(output)["n"]).to_pylist() == [True, False]
        assert read(output)["m"].to_pylist() == [row["m"] for row in rows]


def test_answers_in_the_folder_of_the_model(model: Path, lines: str, vectors: np.ndarray, tmp_path: Path) -> None:
    copied = tmp_path / "model"
    shutil.copytree(model, copied)
    for _ in range(2):
        assert command("run", copied, lines, "--output", copied / "vectors") == 0
        whole(copied / "vectors", vectors)


def test_bad_texts_in_other_tables(model: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\ncaf\xe9\nthree")
    (tmp_path / "b.csv").write_bytes(b'text,id\none,1\ncaf\xe9,2\n\nthree,3,4\n"four\nlines",5\n')
    column = pa.array([b"one", b"caf\xe9", None], pa.binary()).view(pa.binary())
    texts = pa.StringArray.from_buffers(3, *column.buffers()[1:], column.buffers()[0])
    pq.write_table(pa.table({"text": texts}), tmp_path / "c.parquet")
    files = [str(tmp_path / name) for name in ("a.txt", "b.csv", "c.parquet")]
    done = corpora.run(load(model), files, tmp_path / "out", form="jsonl")
    errors = [row.get("error", "") for row in objects(tmp_path / "out")]
    assert [bool(error) for error in errors] == [False, True, False, False, True, True, False, False, True, True]
    assert all("not UTF-8" in errors[place] for place in (1, 4, 8))
    assert "3 fields stand below 2 names" in errors[5]
    assert done.failed == 5
    assert "a.txt, row 1: It is not UTF-8" in str(done.first)


# What is wrong with a whole job gets one sentence, before anything is written


def mistakes(model: Path, here: Path) -> dict[str, list[Any]]:
    """A command for each sentence."""
    pq.write_table(pa.table({"text": ["a"], "n": [1]}), here / "a.parquet")
    pq.write_table(pa.table({"text": ["a"], "n": ["1"]}), here / "b.parquet")
    pq.write_table(pa.table({"body": ["a"]}), here / "c.parquet")
    pq.write_table(pa.table([["a"], ["b"]], ["text", "text"]), here / "twice.parquet")
    (here / "cut.parquet").write_bytes((here / "a.parquet").read_bytes()[:-9])
    (here / "open.csv").write_text('text\n"one\ntwo\nthree\n')
    (here / "texts.txt").write_text("one\ntwo\n")
    (here / "nothing").mkdir()
    (here / "full").mkdir()
    (here / "full" / "part-000000.parquet").touch()
    (here / "spoilt").mkdir()
    (here / "spoilt" / "_job.json").write_text("[]")
    text, out = here / "texts.txt", ["--output", here / "out"]
    return {
        "no file or folder gone.txt": ["gone.txt", *out],
        "has no column 'text'; it has 'body'": [here / "c.parquet", *out],
        "has no column 'body'; it has 'text'": [text, "--column", "body", *out],
        "'n' is string in": [here / "a.parquet", here / "b.parquet", "--keep", "n", *out],
        "more than one column 'text'": [here / "twice.parquet", *out],
        "cut.parquet cannot be read as Parquet": [here / "cut.parquet", *out],
        "open.csv cannot be read as CSV": [here / "open.csv", *out],
        "lies in the folder of the results": [here, "--output", here],
        "part-000000.parquet and no _job.json": [text, "--output", here / "full"],
        "does not say what was begun": [text, "--output", here / "spoilt"],
        "is a file; name a folder": [text, "--output", text],
        "not in standard input": ["-", *out],
        "workers is 0": [text, "--workers", "0", *out],
        "rows is -1": [text, "--rows", "-1", *out],
        "budget is 0": [text, "--batch", "0", *out],
        "device is 'moon'": [text, "--device", "moon", *out],
        "float16 is for vectors in Parquet": [text, "--float16", "--format", "jsonl", *out],
        "Subtitles are made of speech": [text, "--format", "srt", *out],
        "contradict each other": [text, "--json", "--format", "parquet", *out],
        "has a column 'error' of its own": [here / "a.parquet", "--keep", "error", *out],
        "--workers is for whole corpora": [text, "--workers", "2"],
        "--rows is for whole corpora": [text, "--rows", "0"],
        "--workers means nothing to --features": [text, "--features", "stage1", "--workers", "2", *out],
        "--question and several of --column contradict each other": [
            text,
            "--task",
            "question-answering",
            "--question",
            "Who?",
            "--column",
            "a",
            "--column",
            "b",
            *out,
        ],
        "There is no file for Embedder in": [here / "nothing", *out],
    }


def test_mistakes_get_one_sentence(model: Path, tmp_path: Path, capsys: Any) -> None:
    for sentence, words in mistakes(model, tmp_path).items():
        assert command("run", model, *words) == 1, sentence
        said = capsys.readouterr()
        assert sentence in said.err
        assert said.err.startswith("minitrans: ")
        assert "should not have happened" not in said.err
        assert (said.err.count("\n"), said.out) == (1, "")
        assert not (tmp_path / "out").exists()


def test_what_only_a_program_can_ask_for(model: Path, lines: str, tmp_path: Path, monkeypatch: Any) -> None:
    for form in ("xml", "", 5):
        with pytest.raises(ValueError, match=f"form is {form!r}; it must be one of parquet, jsonl, srt, vtt"):
            corpora.run(load(model), lines, tmp_path / "out", form=form)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(ImportError, match=r'Parquet needs pyarrow: pip install "minitrans\[corpora\]"'):
        corpora.run(load(model), tmp_path / "a.parquet", tmp_path / "out", form="jsonl")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r'This needs Ray: pip install "minitrans\[ray\]"'):
        corpora.run(load(model), lines, tmp_path / "out", form="jsonl", ray="local")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("option", "wrong"),
    [(name, wrong) for name in ("workers", "rows", "budget") for wrong in (0, -1, 1.5, "2", True, float("nan"))]
    + [("float16", "no"), ("show_progress", "no"), ("keep", 3), ("keep", None), ("column", 3), ("column", [3])],
)
def test_options_that_cannot_be(model: Path, lines: str, tmp_path: Path, option: str, wrong: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{option} is {re.escape(repr(wrong))}; it must be"):
        corpora.run(load(model), lines, tmp_path / "out", **{option: wrong})
    assert not (tmp_path / "out").exists()


def test_what_can_be_gone_over_once(minilm: Path, tmp_path: Path) -> None:
    """Settings, columns and sources count as lists do, for each worker and in a job that goes on."""
    folder = test_tasks_text.checkpoint(minilm, tmp_path / "m", "BertForTokenClassification", num_labels=2)
    tagger = minitrans.EntityRecognizer.from_pretrained(folder)
    texts = ["one two", "three", "four five six"]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"t": text, "n": 1}) + "\n" for text in texts))
    for out, again in (("listed", list), ("once", iter), ("once", iter)):
        done = corpora.run(
            tagger, again([tmp_path / "a.jsonl"]), tmp_path / out, column=again(["t"]), keep=again(["n"]),
            rows=np.int64(2), ignore_labels=again(["LABEL_0"]), aggregation_strategy="none",
        )  # fmt: skip
        assert (done.rows, done.failed) == (3, 0)
    once, listed = objects(tmp_path / "once"), objects(tmp_path / "listed")
    assert [row["n"] for row in once] == [1] * 3
    assert [row["answer"] for row in once] == [row["answer"] for row in listed]
    rows = corpora.Mapper(tagger, iter(["t"]), ignore_labels=iter(["LABEL_0"]), aggregation_strategy="none")
    for _ in range(2):
        same(rows({"t": texts})["answer"], [row["answer"] for row in listed])


@pytest.mark.parametrize("ending", ["txt", "jsonl", "csv", "tsv", "parquet"])
@pytest.mark.parametrize("left", [0, 20, 59])
def test_a_table_that_has_become_shorter(ending: str, left: int, tmp_path: Path) -> None:
    """Between the beginning of a job and a shard of it; the sentence names the row that is not there."""
    path = tmp_path / f"a.{ending}"
    tables(tmp_path)
    (tmp_path / "a.txt").write_text("".join(f"{text}\n" for text in TEXTS))
    (_, rows, offset), *others = table(str(path)).cut(COUNT)
    assert (rows, others) == (COUNT, [])
    if ending == "parquet":
        pq.write_table(pq.read_table(path).slice(0, left), path)
    else:
        *_, (_, _, end) = islice(table(str(path)).cut(1), left + 1)
        os.truncate(path, end)
    with pytest.raises(OSError, match=rf"a\.{ending} ends before its row {left}: it has changed since the job began"):
        list(table(str(path)).read(Shard(0, str(path), 0, rows, offset), ["text"], 7))


def test_another_job(model: Path, minilm: Path, lines: str, tmp_path: Path, vectors: np.ndarray) -> None:
    """Is not begun in the folder of this one, which stays as it is."""
    output, other = tmp_path / "out", tmp_path / "other.txt"
    other.write_text("one\n")
    corpora.run(load(model), lines, output)
    moved = tmp_path / "moved"
    shutil.copytree(model, moved)
    assert corpora.run(load(moved), lines, output).failed == 0  # the same model, elsewhere
    changed = test_tasks_text.checkpoint(minilm, tmp_path / "changed", "BertModel", num_hidden_layers=1)
    for key, call in {
        "sources": lambda: corpora.run(load(model), [lines, str(other)], output),
        "keep": lambda: corpora.run(load(model), lines, output, keep=["text"]),
        "settings": lambda: corpora.run(load(model), lines, output, max_tokens=5),
        "format": lambda: corpora.run(load(model), lines, output, form="jsonl"),
        "rows of a shard": lambda: corpora.run(load(model), lines, output, rows=9),
        "loading": lambda: corpora.run(partial(load(model), dtype="bfloat16"), lines, output),
        "model": lambda: corpora.run(load(changed), lines, output),
        "task": lambda: corpora.run(partial(minitrans.TokenVectors.from_pretrained, str(model)), lines, output),
    }.items():
        with pytest.raises(ValueError, match="holds another job") as caught:
            call()
        assert f"{key!r}" in str(caught.value), caught.value
    whole(output, vectors)
    Path(lines).write_text("one\n")
    with pytest.raises(ValueError, match="'sources'"):
        corpora.run(load(model), lines, output)


def test_a_part_that_is_broken_is_made_again(model: Path, lines: str, vectors: np.ndarray, tmp_path: Path) -> None:
    """And nothing else is; a file that is being written where nobody lives is removed."""
    output = tmp_path / "out"
    corpora.run(load(model), lines, output, rows=20)
    parts = sorted(output.glob("part-*"))
    parts[0].write_bytes(parts[0].read_bytes()[:-20])
    parts[1].unlink()
    before = parts[2].stat()
    (output / ".writing-dead").write_text("half")
    corpora.run(load(model), lines, output, rows=20)
    whole(output, vectors)
    assert parts[2].stat() == before


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_what_is_finished_is_counted_and_not_done_again(model: Path, form: str, tmp_path: Path) -> None:
    """With its rows that failed; a part of either format that has lost a row is made again, whole."""
    path, output = tmp_path / "a.txt", tmp_path / "out"
    path.write_bytes(b"one\ncaf\xe9\ncaf\xe9\ntwo\nthree\n")
    for _ in range(2):
        done = corpora.run(load(model), path, output, form=form, rows=3)
        assert (done.rows, done.failed) == (5, 2)
        parts = sorted(output.glob("part-*"))
        assert len(parts) == 2
        before = [part.stat() for part in parts]
    done = corpora.run(load(model), path, output, form=form, rows=3)
    assert (done.rows, done.failed, done.first) == (5, 2, None)
    assert [part.stat() for part in parts] == before
    whole = parts[0].read_bytes()
    if form == "jsonl":
        parts[0].write_bytes(whole[: whole[:-1].rindex(b"\n") + 1])
    else:
        pq.write_table(pq.read_table(parts[0])[:2], parts[0])
    assert corpora.run(load(model), path, output, form=form, rows=3).failed == 2
    assert parts[0].read_bytes() == whole
    assert parts[1].stat() == before[1]


def test_the_rate_leaves_out_what_was_finished(model: Path, lines: str, tmp_path: Path, monkeypatch: Any) -> None:
    bars: list[Any] = []
    monkeypatch.setattr(corpora, "progress", lambda *given: bars.append(progress(*given)) or bars[-1])
    corpora.run(load(model), lines, tmp_path / "out", rows=8)
    for part in sorted((tmp_path / "out").glob("part-*"))[:2]:
        part.unlink()
    corpora.run(load(model), lines, tmp_path / "out", rows=8, show_progress=True)
    assert [(bar.total, bar.initial) for bar in bars] == [(COUNT, 0), (COUNT, COUNT - 16)]
    assert bars[1].n == COUNT


def test_what_makes_no_other_job(model: Path, lines: str, tmp_path: Path) -> None:
    """Options that say nothing, where it is computed, and the token, which nobody finds in the folder."""
    output = tmp_path / "out"
    for options in ({}, {"token": "hf_secret", "device": "cpu"}, {"token": None, "frozen": False, "dtype": None}):
        assert corpora.run(partial(load(model), **options), lines, output).failed == 0
    for options in ({"frozen": True}, {"dtype": "bfloat16"}):
        with pytest.raises(ValueError, match=r"holds another job, with \{\} for 'loading' and not"):
            corpora.run(partial(load(model), **options), lines, output)
    corpora.run(partial(load(model), token="hf_secret"), lines, tmp_path / "other")
    assert "hf_secret" not in (tmp_path / "other" / "_job.json").read_text()


def test_sources_in_their_order(model: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """Folders and files by their names, whatever order the disk has; the error names the file that is new."""
    for name in ("c", "a", "e", "b", "d"):
        (tmp_path / "in" / name).mkdir(parents=True)
        (tmp_path / "in" / name / "x.txt").write_text("one\n")
    corpora.run(load(model), tmp_path / "in", tmp_path / "out", form="jsonl")
    assert [Path(row["file"]).parent.name for row in objects(tmp_path / "out")] == [*"abcde"]
    for number, found in enumerate((sorted, partial(sorted, reverse=True))):
        monkeypatch.setattr("glob.glob", lambda *_, found=found, **__: found(map(str, tmp_path.glob("in/*/x.txt"))))
        corpora.run(load(model), tmp_path / "in" / "*" / "x.txt", tmp_path / f"{number}", form="jsonl")
        rows = objects(tmp_path / f"{number}")
        assert [Path(row["file"]).parent.name for row in rows] == [*"abcde"]
    (tmp_path / "in" / "f.txt").write_text("two\n")
    with pytest.raises(ValueError, match=r"holds another job, with \[\] for 'sources' and not \[\[") as caught:
        corpora.run(load(model), tmp_path / "in", tmp_path / "out", form="jsonl")
    assert "x.txt" not in str(caught.value)  # but the beginning of the one that is new
    with pytest.raises(
        FileNotFoundError, match=r"There is no file for Embedder in no source; of folders it takes \.txt"
    ):
        corpora.run(load(model), [], tmp_path / "none")


def test_empty_tables(model: Path, tmp_path: Path) -> None:
    """A file without a byte has no rows, and needs no columns."""
    for ending in ("jsonl", "csv", "tsv", "txt"):
        (tmp_path / f"a.{ending}").touch()
    (tmp_path / "b.jsonl").write_text('{"text": "one", "n": 1}\n')
    files = [tmp_path / name for name in ("a.jsonl", "a.csv", "a.tsv", "b.jsonl")]
    done = corpora.run(load(model), files, tmp_path / "out", keep=["n"])
    assert (done.rows, done.failed, done.missing) == (1, 0, {})
    (tmp_path / "a.csv").write_text("other\n")
    with pytest.raises(ValueError, match="has no column 'text'; it has 'other'"):
        corpora.run(load(model), files, tmp_path / "header", keep=["n"])


def test_two_at_a_time(model: Path, lines: str, tmp_path: Path) -> None:
    from minitrans.saving import locked

    (tmp_path / "out").mkdir()
    with locked(tmp_path / "out"), pytest.raises(ValueError, match="Another process is at work"):
        corpora.run(load(model), lines, tmp_path / "out")


def test_a_table_that_is_broken_inside(model: Path, lines: str, tmp_path: Path, capsys: Any) -> None:
    """Costs its own shards, is named, and is tried again."""
    path, output = tmp_path / "a.parquet", tmp_path / "out"
    pq.write_table(pa.table({"text": TEXTS * 50}), path, compression="none", use_dictionary=False)
    sound = path.read_bytes()
    path.write_bytes(sound[:40] + b"\xff" * 4000 + sound[4040:])
    stamp = path.stat()
    assert command("run", model, path, lines, "--output", output) == 1
    said = capsys.readouterr().err.splitlines()
    assert any("part-000000.parquet is missing" in line and "a.parquet cannot be read" in line for line in said), said
    assert read(output)["file"].to_pylist() == [lines] * COUNT
    path.write_bytes(sound)
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert command("run", model, path, lines, "--output", output) == 0
    assert len(read(output)) == 51 * COUNT


def test_a_full_disk(model: Path, lines: str, vectors: np.ndarray, tmp_path: Path) -> None:
    """Is said in a sentence; what is finished stays, and the next run ends the job."""
    said, output = tmp_path / "said", tmp_path / "out"
    words = ["run", model, lines, "--output", output, "--rows", 20]
    child = os.fork()
    if child == 0:
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))  # bytes of a file
            sys.stderr = said.open("w")
            status = command(*words)
            sys.stderr.close()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    assert f"{output}/part-000000.parquet could not be written: File too large" in said.read_text()
    assert said.read_text().count("\n") == 1
    assert not output.exists()
    assert command(*words) == 0
    whole(output, vectors)


# Several workers


@pytest.fixture(scope="module")
def alone(model: Path, tmp_path_factory: Any) -> tuple[str, np.ndarray]:
    """A file of texts, and their vectors as one process writes them."""
    folder = tmp_path_factory.mktemp("alone")
    (folder / "texts.txt").write_text("".join(f"{text}\n" for text in TEXTS))
    corpora.run(load(model), folder / "texts.txt", folder / "out", rows=8)
    return str(folder / "texts.txt"), matrix(read(folder / "out"))


def test_processes(model: Path, alone: Any, tmp_path: Path) -> None:
    """Two give the bits of one, here from a loaded task; a mistake of all is one sentence."""
    lines, expected = alone
    done = corpora.run(minitrans.Embedder.from_pretrained(model), lines, tmp_path / "out", workers=2, rows=8)
    assert (done.rows, done.failed, done.missing) == (COUNT, 0, {})
    whole(tmp_path / "out", expected)
    assert np.array_equal(matrix(read(tmp_path / "out")), expected)
    with pytest.raises(ValueError, match="device is 'moon'"):
        corpora.run(partial(load(model), device="moon"), lines, tmp_path / "moon", workers=2, rows=8)


DEADLY = """
import os, signal, minitrans
class Deadly(minitrans.Embedder):
    def parts(self, text):
        return os.kill(os.getpid(), signal.SIGKILL) if "number 30," in text else super().parts(text)
"""


def test_a_shard_that_kills_its_workers(model: Path, alone: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """Is given up and named; all others are done."""
    (tmp_path / "deadly.py").write_text(DEADLY)
    monkeypatch.syspath_prepend(tmp_path)
    task = partial(importlib.import_module("deadly").Deadly.from_pretrained, str(model))
    lines, expected = alone
    done = corpora.run(task, lines, tmp_path / "out", workers=2, rows=8)
    assert list(done.missing) == ["part-000003.parquet"]
    assert "3 workers ended with signal 9" in done.missing["part-000003.parquet"]
    table = read(tmp_path / "out")
    left = [number for number in range(COUNT) if number not in range(24, 32)]
    assert table["row"].to_pylist() == left
    assert np.array_equal(matrix(table), expected[left])


@pytest.mark.ray
def test_ray(cluster: None, model: Path, alone: Any, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    """Two actors end what one process began, with its bits; the bar moves, and a bad row is survived."""
    lines, expected = alone
    output, bad = tmp_path / "out", tmp_path / "bad.txt"
    bad.write_bytes(b"one\ncaf\xe9\n")
    monkeypatch.chdir(model.parent)  # not where the cluster is, to which relative names mean nothing
    job = partial(corpora.run, load(Path(model.name)), [lines, str(bad)], output, rows=8)
    job()
    for path in sorted(output.glob("part-*"))[1::2]:
        path.unlink()
    done = job(ray=True, workers=2, show_progress=True)
    assert (done.rows, done.failed, done.missing) == (COUNT + 2, 1, {})
    assert f"{COUNT + 2}/{COUNT + 2}" in capsys.readouterr().err
    table = read(output)
    assert sorted(table["row"].to_pylist()) == sorted([0, 1, *range(COUNT)])
    texts = table.filter(pa.compute.equal(table["file"], lines))
    assert np.array_equal(matrix(texts), expected)


@pytest.mark.ray
@pytest.mark.parametrize(("address", "options"), [(True, {"include_dashboard": False}), ("host:6379", {})])
def test_a_cluster_of_its_own_opens_no_dashboard(
    address: Any, options: Any, model: Path, lines: str, tmp_path: Path, monkeypatch: Any
) -> None:
    """One that runs already has its own, or none."""
    import ray

    asked: list[Any] = []

    def init(where: str, **given: Any) -> None:
        asked.append((where, {key: value for key, value in given.items() if "log" not in key}))
        raise ConnectionError("no cluster")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(ConnectionError):
        corpora.run(load(model), lines, tmp_path / "out", ray=address)
    assert asked == [("local" if address is True else address, options)]


@pytest.mark.ray
@pytest.mark.parametrize("workers", [None, 1, 2])
def test_actors_of_ray(cluster: None, model: Path, lines: str, tmp_path: Path, monkeypatch: Any, workers: Any) -> None:
    """As many as were asked for, or one for each machine."""
    import ray

    sizes, strategy = [], ray.data.ActorPoolStrategy
    monkeypatch.setattr(ray.data, "ActorPoolStrategy", lambda size: sizes.append(size) or strategy(size=size))
    done = corpora.run(load(model), lines, tmp_path / "out", ray=True, workers=workers)
    assert (done.rows, done.failed, sizes) == (COUNT, 0, [workers or 1])


# Ahead of the model


@pytest.mark.parametrize("given", [None, "7"])
def test_few_compiled_products_are_kept(given: Any, model: Path, lines: str, tmp_path: Path, monkeypatch: Any) -> None:
    """oneDNN reads how many when it first computes: what the user says, or what keeps memory from growing."""
    names, found = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"), []
    for name in names:
        monkeypatch.setenv(name, given or "")
        if given is None:
            monkeypatch.delenv(name)

    class Recorder(minitrans.Embedder):
        @classmethod
        def from_pretrained(cls, *inputs: Any, **options: Any) -> Any:
            found.extend(map(os.environ.get, names))
            return super().from_pretrained(*inputs, **options)

    corpora.run(partial(Recorder.from_pretrained, str(model)), lines, tmp_path / "out")
    assert found == [given or "16"] * 2


def test_prefetched() -> None:
    """The same items in the same order; errors travel; the thread ends with its reader."""
    made = []

    def items(error: Exception | None = None) -> Iterator[int]:
        for number in range(50):
            made.append(number)
            yield number
        if error:
            raise error

    assert list(prefetched(items(), 2)) == list(prefetched(items(), 0)) == list(range(50))
    found = []
    with pytest.raises(KeyError, match="here"):
        found += prefetched(items(KeyError("here")), 3)
    reader = prefetched(items(KeyError("here")), 3)
    made.clear()
    assert [next(reader) for _ in range(4)] == [0, 1, 2, 3]
    time.sleep(0.05)
    assert len(made) <= 8
    reader.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_answers_are_the_same_ahead(model: Path, vectors: np.ndarray, count: int) -> None:
    task = minitrans.Embedder.from_pretrained(model)
    task.prefetch, task.read_ahead = count, 7
    plain = minitrans.Embedder.from_pretrained(model)
    plain.read_ahead = 7
    assert np.array_equal(np.stack(task(TEXTS)), np.stack(plain(TEXTS)))
    answers = [answer for _, answer in task.stream([*TEXTS[:20], 5, *TEXTS[20:]], on_error="skip")]
    assert answers.pop(20) is None
    assert np.abs(np.stack(answers) - vectors).max() <= 1e-5
    with pytest.raises(TypeError, match="takes a text"):
        list(task.stream([*TEXTS, 5]))


# For engines with a map of their own

BATCH = {"text": [*TEXTS[:3], None], "id": [1, 2, 3, 4]}


def test_mapper(model: Path, vectors: np.ndarray) -> None:
    embed = corpora.Mapper(load(model))
    columns = embed({"text": np.array(BATCH["text"], object), "id": np.arange(4)})
    assert np.abs(columns["vector"][:3] - vectors[:3]).max() <= 1e-5
    assert np.isnan(columns["vector"][3]).all()
    assert columns["error"][:3] == [""] * 3
    assert "takes a text" in columns["error"][3]
    found = datasets.Dataset.from_dict(BATCH).map(embed, batched=True, batch_size=2)
    assert np.abs(np.array(found["vector"])[:3] - vectors[:3]).max() <= 1e-5
    assert found["id"][:] == BATCH["id"]
    frames = list(embed(iter([pandas.DataFrame(BATCH), pandas.DataFrame(BATCH).iloc[:0]])))  # Spark's mapInPandas
    assert [len(frame) for frame in frames] == [4, 0]
    assert np.abs(np.stack(frames[0]["vector"][:3]) - vectors[:3]).max() <= 1e-5
    assert frames[0]["vector"][3] is None
    with pytest.raises(TypeError, match="task is 'a name'"):
        corpora.Mapper("a name")


# The page about it


def snippets() -> list[str]:
    """The Python of docs/corpora.md."""
    page = Path(__file__).parent.parent / "docs" / "corpora.md"
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def run_snippet(index: int, minilm: Path, folder: Path, monkeypatch: Any) -> dict[str, Any]:
    """What a snippet defines, after the first, in a folder with the table that they read."""
    monkeypatch.chdir(folder)
    pq.write_table(pa.table({"text": TEXTS[:5]}), "texts.parquet")
    places = {"sentence-transformers/all-MiniLM-L6-v2": minilm}
    places |= {name: folder / name for name in ("texts.parquet", "vectors-by-ray")}  # a cluster lives elsewhere
    names: dict[str, Any] = {}
    for snippet in [snippets()[0], *[snippets()[index]] * bool(index)]:
        for name, place in places.items():
            snippet = snippet.replace(f'"{name}"', f'"{place}"')
        exec(snippet, names)
    return names


def test_snippets(minilm: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    names = run_snippet(1, minilm, tmp_path, monkeypatch)
    assert capsys.readouterr().out == "5 0 {}\n"
    assert np.abs(matrix(read(tmp_path / "vectors")) - np.array(names["texts"]["vector"])).max() <= 1e-5


@pytest.mark.ray
def test_snippet_of_ray(cluster: None, minilm: Path, tmp_path: Path, monkeypatch: Any) -> None:
    run_snippet(2, minilm, tmp_path, monkeypatch)
    table = pq.read_table(tmp_path / "vectors-by-ray")
    assert sorted(table["text"].to_pylist()) == sorted(TEXTS[:5])
    assert matrix(table).shape == (5, 384)
