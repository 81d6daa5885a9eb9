"""The command line: what each kind of checkpoint prints, and one sentence for every mistake."""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import sklearn
import soundfile
import test_tasks_audio
import test_tasks_text
import torch
import transformers
from PIL import Image, ImageDraw
from safetensors.numpy import load_file
from sentence_transformers import SentenceTransformer
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

import minitrans
from minitrans import cli
from minitrans.cli import main

TEXT_HEADS = (
    "SequenceClassification", "TokenClassification", "MaskedLM", "QuestionAnswering", "MultipleChoice",
    "NextSentencePrediction",
)  # fmt: skip
TEXTS = ["In a hole in the ground there lived a hobbit.", "Rubber [MASK] boots.", "Dún Laoghaire"]


@pytest.fixture(scope="module")
def checkpoints(minilm: Path, tmp_path_factory: Any) -> dict[str, Path]:
    """A random tiny checkpoint of every kind, by the end of its architecture's name."""
    folders = {}
    for head in TEXT_HEADS:
        folders[head] = tmp_path_factory.mktemp(head)
        test_tasks_text.checkpoint(minilm, folders[head], f"BertFor{head}", num_labels=2 if "Q" in head else 3)
    folders["Ranker"] = tmp_path_factory.mktemp("Ranker")
    test_tasks_text.checkpoint(minilm, folders["Ranker"], "BertForSequenceClassification", num_labels=1)
    for head in ("CTC", "SequenceClassification", "AudioFrameClassification", "XVector"):
        folders[f"Wav2Vec2For{head}"] = tmp_path_factory.mktemp(head)
        values = {**test_tasks_audio.LAYER_NORM, "tdnn_dim": [24] * 5, "xvector_output_dim": 16}
        test_tasks_audio.checkpoint(folders[f"Wav2Vec2For{head}"], f"Wav2Vec2For{head}", **values)
    torch.manual_seed(0)
    swin = transformers.SwinConfig(image_size=32, embed_dim=12, depths=[1, 1], num_heads=[1, 2], window_size=4)
    for name in ("SwinForImageClassification", "SwinModel"):
        folders[name] = tmp_path_factory.mktemp(name)
        getattr(transformers, name)(swin).save_pretrained(folders[name])
        ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folders[name])
    return folders


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that puts text where standard input is read."""
    return lambda text: monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))


@pytest.fixture
def image(tmp_path: Path) -> str:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(tmp_path / "i.png")
    return str(tmp_path / "i.png")


@pytest.fixture
def sound(tmp_path: Path) -> str:
    noise = np.random.default_rng(0).normal(size=32000).cumsum()
    soundfile.write(tmp_path / "s.wav", noise / np.abs(noise).max(), 16000)
    return str(tmp_path / "s.wav")


def printed(capsys: Any, *arguments: Any) -> str:
    """What a command that succeeds prints; nothing may stand in it but the answers."""
    assert main([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out


def objects(capsys: Any, *arguments: Any) -> list[Any]:
    return [json.loads(line) for line in printed(capsys, *arguments, "--json").splitlines()]


def close(answer: Any, expected: Any) -> None:
    """Equal but for the rounding of the numbers in them."""
    if isinstance(expected, (list, tuple, np.ndarray)):
        assert len(answer) == len(expected)
        for one, other in zip(answer, expected, strict=True):
            close(one, other)
    elif isinstance(expected, dict):
        assert list(answer) == list(expected)
        close(list(answer.values()), list(expected.values()))
    else:
        assert answer == (expected if isinstance(expected, str) else pytest.approx(expected, rel=1e-4, abs=1e-6))


class TestRun:
    def test_vectors(self, minilm: Path, capsys: Any) -> None:
        expected = minitrans.Embedder.from_pretrained(minilm).encode(TEXTS)
        rows = [
            [float(value) for value in line.split()] for line in printed(capsys, "run", minilm, *TEXTS).splitlines()
        ]
        assert np.abs(np.array(rows) - expected).max() <= 1e-5
        answers = objects(capsys, "run", minilm, *TEXTS)
        assert [answer["input"] for answer in answers] == TEXTS
        assert np.abs(np.array([answer["output"] for answer in answers]) - expected).max() <= 1e-5

    @pytest.mark.parametrize(
        ("head", "task"),
        [
            ("SequenceClassification", "TextClassifier"),
            ("TokenClassification", "EntityRecognizer"),
            ("MaskedLM", "MaskFiller"),
        ],
    )
    def test_texts(self, checkpoints: dict[str, Path], head: str, task: str, capsys: Any) -> None:
        texts = [f"{text} [MASK]" for text in TEXTS]
        expected = getattr(minitrans, task).from_pretrained(checkpoints[head])(texts)
        answers = objects(capsys, "run", checkpoints[head], *texts)
        assert [answer["input"] for answer in answers] == texts
        close([answer["output"] for answer in answers], expected)
        lines = printed(capsys, "run", checkpoints[head], *texts)
        for item in expected[0] if head != "MaskedLM" else expected[0][0]:
            assert f"{item['score']:.4f}" in lines

    def test_questions(self, checkpoints: dict[str, Path], capsys: Any) -> None:
        folder, question = checkpoints["QuestionAnswering"], "Who lived there?"
        answer = minitrans.QuestionAnswerer.from_pretrained(folder)((question, TEXTS[0]))
        (line,) = objects(capsys, "run", folder, TEXTS[0], "--question", question)
        assert line["input"] == [question, TEXTS[0]]
        close(line["output"], answer)
        fields = printed(capsys, "run", folder, TEXTS[0], "--question", question).rstrip("\n").split("\t")
        assert fields == [answer["answer"], f"{answer['score']:.4f}", str(answer["start"]), str(answer["end"])]

    def test_images(self, checkpoints: dict[str, Path], image: str, capsys: Any) -> None:
        folder = checkpoints["SwinForImageClassification"]
        expected = minitrans.ImageClassifier.from_pretrained(folder)(image)
        (line,) = objects(capsys, "run", folder, image)
        close(line, {"input": image, "output": expected})
        text = "  ".join(f"{item['label']} {item['score']:.4f}" for item in expected)
        assert printed(capsys, "run", folder, image) == f"{text}\t{image}\n"

    @pytest.mark.parametrize("kind", ["SwinForImageClassification", "SwinModel"])
    def test_features(self, checkpoints: dict[str, Path], kind: str, image: str, tmp_path: Path, capsys: Any) -> None:
        path = tmp_path / "maps.safetensors"
        command = ("run", checkpoints[kind], image, "--features", "stem,stage2", "--output")
        assert printed(capsys, *command, path) == f"{image}/stem\t12 8 8\n{image}/stage2\t24 4 4\n"
        assert {name: values.shape for name, values in load_file(path).items()} == {
            f"{image}/stem": (12, 8, 8), f"{image}/stage2": (24, 4, 4),
        }  # fmt: skip
        assert objects(capsys, *command, tmp_path / "more.safetensors") == [
            {f"{image}/stem": [12, 8, 8], f"{image}/stage2": [24, 4, 4]}
        ]

    def test_sounds(self, checkpoints: dict[str, Path], sound: str, capsys: Any) -> None:
        folder = checkpoints["Wav2Vec2ForCTC"]
        expected = minitrans.Transcriber.from_pretrained(folder)(sound)
        assert expected["words"]
        assert printed(capsys, "run", folder, sound, sound) == f"{expected['text']}\n" * 2
        close(objects(capsys, "run", folder, sound), [{"input": sound, "output": expected}])
        cues = printed(capsys, "run", folder, sound, "--srt")
        assert cues.startswith("1\n00:00:0")
        assert " ".join(cues.splitlines()[2::4]).split() == expected["text"].split()
        assert printed(capsys, "run", folder, sound, "--vtt").startswith("WEBVTT\n\n00:00:0")
        folder = checkpoints["Wav2Vec2ForSequenceClassification"]
        classes = minitrans.AudioClassifier.from_pretrained(folder)(sound)
        close(objects(capsys, "run", folder, sound), [{"input": sound, "output": classes}])

    def test_where_texts_come_from(self, minilm: Path, tmp_path: Path, stdin: Any, capsys: Any) -> None:
        (tmp_path / "texts.txt").write_text("one\n\nthree\n", encoding="utf-8")
        stdin("four\nDún Laoghaire")
        answers = objects(capsys, "run", minilm, tmp_path / "texts.txt", "-", "and five")
        assert [answer["input"] for answer in answers] == ["one", "", "three", "four", "Dún Laoghaire", "and five"]
        stdin("alone\n")
        assert [answer["input"] for answer in objects(capsys, "run", minilm)] == ["alone"]
        stdin("")
        assert printed(capsys, "run", minilm) == ""

    def test_typed_lines_are_answered_one_by_one(self, minilm: Path, monkeypatch: Any, capsys: Any) -> None:
        seen = []

        class Typed(io.BytesIO):
            def isatty(self) -> bool:
                return True

            def readline(self, size: int | None = -1) -> bytes:
                seen.append(capsys.readouterr().out)
                return super().readline(size)

        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(Typed(b"one\ntwo\n")))
        printed(capsys, "run", minilm, "--json")
        assert [json.loads(line)["input"] for line in seen[1:]] == ["one", "two"]

    def test_options_reach_the_model(self, minilm: Path, capsys: Any) -> None:
        (precise,) = objects(capsys, "run", minilm, TEXTS[0])
        (rough,) = objects(capsys, "run", minilm, TEXTS[0], "--dtype", "bfloat16", "--device", "cpu", "--batch", "8")
        difference = np.abs(np.array(precise["output"]) - rough["output"]).max()
        assert 1e-5 < difference < 0.02


class TestInfo:
    def test_json(self, minilm: Path, capsys: Any) -> None:
        (text,) = [printed(capsys, "info", minilm, "--json")]
        summary = json.loads(text)
        theirs = transformers.BertModel.from_pretrained(minilm)
        assert summary["class"] == "BertModel"
        assert summary["parameters"] == theirs.num_parameters()
        assert summary["dtype"] == "float32"
        assert summary["config"]["hidden_size"] == 384
        names = [item["name"] for item in summary["tensors"].values()]
        assert set(names) == set(theirs.state_dict()) - {"embeddings.position_ids", "embeddings.token_type_ids"}
        sizes = [np.prod(item["shape"]) for item in summary["tensors"].values()]
        assert sum(sizes) == theirs.num_parameters()
        assert summary["missing"] == []

    def test_text(self, minilm: Path, capsys: Any) -> None:
        lines = printed(capsys, "info", minilm)
        assert lines.startswith("BertModel, 22,713,216 parameters, float32\n")
        assert "  hidden_size: 384\n" in lines
        assert "<- encoder.layer.5.output.dense.weight\n" in lines


def mistakes(folders: dict[str, Path], minilm: Path, image: str, sound: str, here: Path) -> dict[str, list[Any]]:
    """A command for each sentence."""
    (here / "latin.txt").write_bytes("Dún Laoghaire".encode("latin-1"))
    (here / "empty").mkdir()
    (here / "gpt").mkdir()
    (here / "gpt" / "config.json").write_text('{"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}')
    shutil.copytree(minilm, here / "cut")
    (here / "cut" / "model.safetensors").write_bytes((minilm / "model.safetensors").read_bytes()[:999])
    swin, ctc = folders["SwinForImageClassification"], folders["Wav2Vec2ForCTC"]
    bert = folders["SequenceClassification"]
    maps = ["--output", here / "maps.safetensors"]
    return {
        "nowhere": ["run", here / "nowhere", "text"],
        "config.json": ["run", here / "empty", "text"],
        "gpt2": ["run", here / "gpt", "text"],
        "model_type 'gpt2'; minitrans knows bert": ["info", here / "gpt"],
        "model.safetensors": ["run", here / "cut", "text"],
        "There is no file gone.txt": ["run", minilm, "gone.txt"],
        "There is no file some/thing": ["run", minilm, "some/thing"],
        "latin.txt, line 1: It is not UTF-8": ["run", minilm, here / "latin.txt"],
        "budget is 0": ["run", minilm, "a text", "--batch", "0"],
        "dtype is 'int7'": ["run", minilm, "a text", "--dtype", "int7"],
        "device is 'moon'": ["run", minilm, "a text", "--device", "moon"],
        "holds no weights for classifier": ["run", minilm, "a text", "--task", "text-classification"],
        'a tuple (text, [choices]), or a mapping': ["run", folders["MultipleChoice"], "no tabs"],
        "pass --question": ["run", folders["QuestionAnswering"], "a text"],
        "pass --query": ["run", bert, "a text", "--task", "text-ranking"],
        "gives one number, this checkpoint 3 classes": ["run", bert, "a text", "--query", "what?"],
        "There are no candidate_labels": ["run", bert, "a text", "--task", "zero-shot-classification"],
        r"no [MASK] in 'a text'": ["run", folders["MaskedLM"], "a text"],
        "--srt is for": ["run", minilm, "a text", "--srt"],
        "--top-k means nothing to sentence-embedding; its own options are none": ["run", minilm, "x", "--top-k", "3"],
        "means nothing to text-classification; its own options are --top-k": ["run", bert, "x", "--no-answer"],
        "top_k is 0": ["run", bert, "x", "--top-k", "0"],
        "name a folder for them, --output DIR": ["run", ctc, sound, sound, "--vtt"],
        "takes files, not standard input": ["run", swin],
        "no audio file gone.wav": ["run", ctc, "gone.wav"],
        "There is no file gone.png": ["run", swin, "gone.png"],
        "could not be read as audio": ["run", ctc, image],
        "cannot be read as an image": ["run", swin, sound],
        "belong together": ["run", swin, image, "--features", "stage1"],
        "'stage9'": ["run", swin, image, "--features", "stage9", *maps],
        "is there already": ["run", swin, image, "--features", "stage1", "--output", image],
        "has no class for AutoBackbone": ["run", minilm, image, "--features", "stage1", *maps],
    }  # fmt: skip


def test_mistakes_get_one_sentence(
    checkpoints: dict[str, Path], minilm: Path, image: str, sound: str, tmp_path: Path, capsys: Any
) -> None:
    for sentence, command in mistakes(checkpoints, minilm, image, sound, tmp_path).items():
        assert main([str(argument) for argument in command]) == 1, sentence
        output = capsys.readouterr()
        assert sentence in output.err
        assert output.err.startswith("minitrans: ")
        assert output.err.count("\n") == 1, output.err
        assert output.out == ""
    assert not (tmp_path / "maps.safetensors").exists()


class TestOneBadInput:
    """It is named on stderr and costs its own answer; the others stand in order, and the exit status is 1."""

    def answered(self, capsys: Any, command: list[Any], bad: str) -> list[Any]:
        assert main([*map(str, command), "--json"]) == 1
        output = capsys.readouterr()
        assert output.err.count("\n") == 1
        assert output.err.startswith("minitrans: ")
        assert bad in output.err
        return [json.loads(line)["input"] for line in output.out.splitlines()]

    @pytest.mark.parametrize("place", [0, 1, 2])
    def test_images(self, checkpoints: dict[str, Path], image: str, tmp_path: Path, place: int, capsys: Any) -> None:
        (tmp_path / "bad.png").write_bytes(b"no image")
        for bad in (tmp_path / "bad.png", tmp_path / "gone.png"):
            files = [image, image]
            files.insert(place, str(bad))
            command = ["run", checkpoints["SwinForImageClassification"], *files]
            assert self.answered(capsys, command, bad.name) == [image, image]

    @pytest.mark.parametrize("head", ["CTC", "SequenceClassification"])
    def test_sounds(self, checkpoints: dict[str, Path], sound: str, head: str, tmp_path: Path, capsys: Any) -> None:
        (tmp_path / "bad.wav").write_bytes(b"no sound" * 9)
        flac = tmp_path / "half.flac"  # it opens, and breaks off while it is read
        soundfile.write(flac, np.random.default_rng(0).uniform(-1, 1, 300000), 16000)
        flac.write_bytes(flac.read_bytes()[: flac.stat().st_size // 2])
        for bad in ("bad.wav", "gone.wav", "half.flac"):
            command = ["run", checkpoints[f"Wav2Vec2For{head}"], sound, tmp_path / bad, sound]
            assert self.answered(capsys, command, bad) == [sound, sound]

    def test_texts(self, checkpoints: dict[str, Path], tmp_path: Path, capsys: Any) -> None:
        (tmp_path / "texts.txt").write_text("one [MASK]\nno mask\ntwo [MASK]\n")
        command = ["run", checkpoints["MaskedLM"], tmp_path / "texts.txt"]
        assert self.answered(capsys, command, "no mask") == ["one [MASK]", "two [MASK]"]
        command = ["run", checkpoints["MaskedLM"], "one [MASK]", "gone.txt", "two [MASK]"]
        assert self.answered(capsys, command, "gone.txt") == ["one [MASK]", "two [MASK]"]

    def test_feature_maps(self, checkpoints: dict[str, Path], image: str, tmp_path: Path, capsys: Any) -> None:
        path = tmp_path / "maps.safetensors"
        command = ["run", checkpoints["SwinModel"], "gone.png", image, "--features", "stem", "--output", path]
        assert main([str(argument) for argument in command]) == 1
        output = capsys.readouterr()
        assert "gone.png" in output.err
        assert list(load_file(path)) == [f"{image}/stem"]


def test_options_stand_anywhere(checkpoints: dict[str, Path], capsys: Any) -> None:
    """As other programs take them: before, between and after MODEL and INPUT."""
    folder, texts = checkpoints["SequenceClassification"], ["the sun", "is hot"]
    expected = objects(capsys, "run", folder, *texts, "--top-k", "2")
    for command in (
        ["--json", "--top-k", "2", folder, *texts],
        [folder, "--json", *texts, "--top-k", "2"],
        [folder, "--top-k=2", texts[0], "--json", texts[1]],
        [folder, texts[0], "--top-k", "2", texts[1], "--json"],
    ):
        assert printed(capsys, "run", *command).splitlines() == [json.dumps(line) for line in expected]
    with pytest.raises(SystemExit) as exit_:
        main(["--version"])
    assert exit_.value.code == 0
    assert capsys.readouterr().out == f"minitrans {minitrans.__version__}\n"


class TestOtherTasks:
    """Each of the tasks by `run`, with the answers of `pipeline` or of the task."""

    def test_text(self, checkpoints: dict[str, Path], minilm: Path, capsys: Any, stdin: Any) -> None:
        classes, choice = checkpoints["SequenceClassification"], checkpoints["MultipleChoice"]
        (line,) = objects(capsys, "run", choice, f"{TEXTS[0]}\tRubber\tboots")
        close(line["output"], minitrans.ChoiceTask.from_pretrained(choice)((TEXTS[0], ["Rubber", "boots"])))
        (line,) = objects(capsys, "run", classes, "--pairs", "one\ttwo", "--top-k", "1")
        close(line["output"], minitrans.TextClassifier.from_pretrained(classes)(("one", "two"), top_k=1))
        (line,) = objects(capsys, "run", classes, "--labels", "law,art", "--multi-label", TEXTS[0])
        zero = minitrans.pipeline("zero-shot-classification", classes, multi_label=True)(TEXTS[0], ["law", "art"])
        assert [item["label"] for item in line["output"]] == zero["labels"]
        close([item["score"] for item in line["output"]], zero["scores"])
        stdin("one\ntwo\n")
        (line,) = objects(capsys, "run", checkpoints["Ranker"], "--query", "what?", "--top-k", "1")
        close(line["output"], minitrans.Reranker.from_pretrained(checkpoints["Ranker"])(("what?", ["one", "two"]))[:1])
        rows = printed(capsys, "run", minilm, "--task", "feature-extraction", "one two").strip().splitlines()
        expected = minitrans.TokenVectors.from_pretrained(minilm)("one two")
        assert np.abs(np.array([row.split() for row in rows], float) - expected).max() <= 1e-4
        next_sentence = checkpoints["NextSentencePrediction"]
        (line,) = objects(capsys, "run", next_sentence, "one\ttwo")
        close(line["output"], minitrans.NextSentenceClassifier.from_pretrained(next_sentence)(("one", "two")))

    def test_options_of_texts(self, checkpoints: dict[str, Path], capsys: Any) -> None:
        fill, ner, asked = (checkpoints[head] for head in ("MaskedLM", "TokenClassification", "QuestionAnswering"))
        (line,) = objects(capsys, "run", fill, TEXTS[1], "--targets", "red", "--targets", "blue")
        close(line["output"], minitrans.MaskFiller.from_pretrained(fill)(TEXTS[1], targets=["red", "blue"]))
        for how in ("none", "average"):
            (line,) = objects(capsys, "run", ner, "--aggregation", how, TEXTS[0])
            close(line["output"], minitrans.EntityRecognizer.from_pretrained(ner)(TEXTS[0], aggregation_strategy=how))
        command = ("run", asked, "--question", "Who?", TEXTS[0], "--no-answer", "--threshold", "-99")
        assert objects(capsys, *command)[0]["output"]["answer"] == ""
        assert len(printed(capsys, "run", asked, "--question", "Who?", TEXTS[0], "--top-k", "3").splitlines()) == 3

    def test_lines_for_people(self, checkpoints: dict[str, Path], sound: str, capsys: Any) -> None:
        """Without --json: the same numbers, rounded, a line for each of what an input has, by tabs."""
        ranker, frames = checkpoints["Ranker"], checkpoints["Wav2Vec2ForAudioFrameClassification"]
        texts = ["one", "two three", "four"]
        (line,) = objects(capsys, "run", ranker, "--query", "what?", *texts)
        rows = [f"{item['score']:.4f}\t{item['index']}\t{item['text']}\n" for item in line["output"]]
        assert printed(capsys, "run", ranker, "--query", "what?", *texts) == "".join(rows)
        assert len(rows) == 3
        choices = [f"{TEXTS[0]}\tyes\tno", f"{TEXTS[2]}\tred\tblue"]
        found = objects(capsys, "run", checkpoints["MultipleChoice"], *choices)
        rows = [
            "".join(f"{item['score']:.4f}\t{item['index']}\t{item['text']}\n" for item in line["output"]) + "\n"
            for line in found
        ]
        assert printed(capsys, "run", checkpoints["MultipleChoice"], *choices) == "".join(rows)
        (line,) = objects(capsys, "run", frames, sound, "--threshold", "0.4")
        rows = [
            f"{item['start']:.2f}\t{item['end']:.2f}\t{item['label']}\t{item['score']:.4f}\t{sound}\n"
            for item in line["output"]
        ]
        assert printed(capsys, "run", frames, sound, "--threshold", "0.4") == "".join(rows)
        assert rows
        entities = ("run", checkpoints["TokenClassification"], *TEXTS, "--aggregation", "none")
        rows = [
            "".join(
                f"{item['start']}\t{item['end']}\t{item['label']}\t{item['score']:.4f}\t{item['text']}\n"
                for item in line["output"]
            )
            + "\n"
            for line in objects(capsys, *entities)
        ]
        assert printed(capsys, *entities) == "".join(rows)

    def test_the_best_five_classes_of_many(self, minilm: Path, tmp_path: Path, capsys: Any) -> None:
        folder = test_tasks_text.checkpoint(minilm, tmp_path, "BertForSequenceClassification", num_labels=7)
        (line,) = objects(capsys, "run", folder, "--pairs", "one\ttwo", "--top-k", "7")
        assert len(line["output"]) == 7
        best = "  ".join(f"{item['label']} {item['score']:.4f}" for item in line["output"][:5])
        assert printed(capsys, "run", folder, "--pairs", "one\ttwo", "--top-k", "7") == f"{best}\tone\ttwo\n"

    def test_images_and_sounds(self, checkpoints: dict[str, Path], image: str, sound: str, capsys: Any) -> None:
        vector = printed(capsys, "run", checkpoints["SwinModel"], image).split()
        pooled = minitrans.ImageVectors.from_pretrained(checkpoints["SwinModel"])(image, pool=True)
        assert np.abs(np.array(vector, float) - pooled).max() <= 1e-4
        speaker, frames = checkpoints["Wav2Vec2ForXVector"], checkpoints["Wav2Vec2ForAudioFrameClassification"]
        (line,) = objects(capsys, "run", speaker, sound)
        close(line["output"], minitrans.SpeakerEncoder.from_pretrained(speaker)(sound))
        (line,) = objects(capsys, "run", frames, sound, "--threshold", "0.4")
        close(line["output"], minitrans.FrameClassifier.from_pretrained(frames)(sound, threshold=0.4))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "COMMAND"),
        (["dance"], "invalid choice: 'dance'"),
        (["run"], "MODEL"),
        (["run", "model", "--json", "--srt"], "not allowed with"),
        (["run", "model", "--batch", "many"], "invalid int value"),
    ],
)
def test_unknown_usage(arguments: list[str], message: str, capsys: Any) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


def test_interrupt(monkeypatch: Any, minilm: Path) -> None:
    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("minitrans.cli._task", interrupted)
    assert main(["run", str(minilm), "a text"]) == 130


class TestProcess:
    def test_module_and_pipes(self, minilm: Path) -> None:
        command = [sys.executable, "-m", "minitrans", "run", str(minilm), "--json"]
        done = subprocess.run(command, input=f"{TEXTS[0]}\n", capture_output=True, text=True, check=True)
        assert json.loads(done.stdout)["input"] == TEXTS[0]
        assert done.stderr == ""

    def test_mistake(self, tmp_path: Path) -> None:
        command = [sys.executable, "-m", "minitrans", "info", str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert done.stderr.startswith("minitrans: ")
        assert "Traceback" not in done.stderr

    def test_reader_that_has_had_enough(self, minilm: Path, tmp_path: Path) -> None:
        (tmp_path / "texts.txt").write_text("a text\n" * 600)
        command = [sys.executable, "-m", "minitrans", "run", str(minilm), str(tmp_path / "texts.txt")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stdout.readline().startswith("-")
            process.stdout.close()
            assert process.stderr.read() == ""
            assert process.wait() == 0

    def test_installed(self) -> None:
        script = Path(sys.executable).with_name("minitrans")
        done = subprocess.run([script, "--help"], capture_output=True, text=True, check=True, env={**os.environ})
        for command in ("demo", "info", "run"):
            assert command in done.stdout


class TestEndToEnd:
    """What people have, through the command line, beside transformers: speech, photographs, pages, a real encoder."""

    def run(self, *command: Any) -> str:
        """What a process of its own prints."""
        words = [sys.executable, "-m", "minitrans", "run", *map(str, command)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    @pytest.mark.needs("espeak-ng")
    def test_speech(self, checkpoints: dict[str, Path], tmp_path: Path) -> None:
        for name in ("one", "two"):
            subprocess.run(["espeak-ng", "-w", tmp_path / f"{name}.wav", f"This is sentence {name}."], check=True)
        files = sorted(tmp_path.glob("*.wav"))
        folder = checkpoints["Wav2Vec2ForCTC"]
        lines = [json.loads(line) for line in self.run(folder, "--json", *files).splitlines()]
        for path, line in zip(files, lines, strict=True):
            text, words = test_tasks_audio.reference(folder, test_tasks_audio.samples(path))
            assert line["output"]["text"] == text
            test_tasks_audio.same_words(line["output"], words)
        self.run(folder, "--vtt", "--output", tmp_path / "subtitles", *files)
        assert sorted(path.name for path in (tmp_path / "subtitles").glob("*.vtt")) == ["one.vtt", "two.vtt"]

    def test_photographs_and_pages(self, checkpoints: dict[str, Path], tmp_path: Path) -> None:
        photographs = sorted(Path(sklearn.__file__).parent.glob("datasets/images/*.jpg"))
        page = Image.new("RGB", (320, 450), "white")
        ImageDraw.Draw(page).text((20, 20), "\n".join(["A page, with lines of text."] * 20), fill="black")
        page.save(tmp_path / "page.png")
        files, folder = [*photographs, tmp_path / "page.png"], checkpoints["SwinForImageClassification"]
        assert len(files) == 3
        model = transformers.SwinForImageClassification.from_pretrained(folder)
        processor = ViTImageProcessorPil.from_pretrained(folder)
        classify = transformers.pipeline("image-classification", model, image_processor=processor, device="cpu")
        lines = [json.loads(line) for line in self.run(folder, *files, "--json").splitlines()]
        for path, line in zip(files, lines, strict=True):
            expected = {item["label"]: item["score"] for item in classify(str(path))}
            assert {item["label"]: item["score"] for item in line["output"]} == pytest.approx(expected, rel=1e-3)

    def test_a_real_encoder(self, minilm: Path) -> None:
        rows = [[float(value) for value in line.split()] for line in self.run(minilm, *TEXTS).splitlines()]
        theirs = SentenceTransformer(str(minilm), device="cpu").encode(TEXTS)
        assert np.abs(np.array(rows) - theirs).max() <= 1e-5


# What can be wrong with the streams, the disk and the names


def shell(command: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """A command line of the shell, in which `minitrans` is this one."""
    command = command.replace("minitrans", f"{sys.executable} -m minitrans")
    return subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False, timeout=120, **options)


@pytest.mark.parametrize(
    ("streams", "status", "said"),
    [
        ("<&-", 1, "Standard input is closed"),
        ("<&- >/dev/null", 1, "Standard input is closed"),
        (">&-", 1, "Standard output is closed, and results would be lost"),
        (">/dev/full", 1, "No space left on device: 'standard output'"),
        ("2>&-", 0, ""),
        ("</dev/null >&- 2>&-", 1, ""),
        ("<&- 2>&-", 1, ""),
        ("</dev/null", 0, ""),
    ],
)
def test_closed_streams(minilm: Path, streams: str, status: int, said: str) -> None:
    text = "echo one text | " if "<" not in streams else ""
    done = shell(f"{text}minitrans run {minilm} {streams}")
    assert done.returncode == status, done.stderr
    assert said in done.stderr
    assert done.stderr.count("\n") == bool(said)
    assert len(done.stdout.splitlines()) == (streams == "2>&-")


def test_a_closed_output_is_not_needed_where_files_are_written(
    checkpoints: dict[str, Path], image: str, tmp_path: Path
) -> None:
    done = shell(f"minitrans run {checkpoints['SwinModel']} {image} --output {tmp_path / 'new'} <&- >&- 2>&-")
    assert done.returncode == 0
    assert len(pq.read_table(tmp_path / "new")["vector"][0]) == 24


def test_what_prints_where_output_is_closed_prints_nowhere(monkeypatch: Any) -> None:
    """Such as a library's message."""
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    with pytest.raises(ValueError, match="Standard output is closed"):
        cli._open_streams(needs_output=True)
    cli._open_streams(needs_output=False)
    for stream in (sys.stdout, sys.stderr):
        stream.write("a message")
        stream.flush()
        stream.close()


def test_lines_of_other_systems(minilm: Path, tmp_path: Path) -> None:
    for name, ending in (("unix", b"\n"), ("windows", b"\r\n")):
        (tmp_path / name).write_bytes(b"".join(line + ending for line in (b"one text", b"", b"another one")))
    read = [
        [json.loads(line)["input"] for line in shell(f"minitrans run {minilm} --json {given}").stdout.splitlines()]
        for name in ("unix", "windows")
        for given in (tmp_path / name, f"< {tmp_path / name}")
    ]
    assert read == [["one text", "", "another one"]] * 4


def test_an_encoding_without_the_character(minilm: Path) -> None:
    done = shell(f"minitrans run {minilm} --json 'eine Straße, 猫'", env={**os.environ, "PYTHONIOENCODING": "latin-1"})
    assert done.returncode == 1
    assert r"Standard output takes latin-1, which has no '\u732b'" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_long_text_is_no_name(minilm: Path, capsys: Any) -> None:
    text = "a text of very many words " * 400
    assert objects(capsys, "run", minilm, text)[0]["input"] == text


@pytest.mark.parametrize("length", [100, 243, 250, 300])
def test_long_names(checkpoints: dict[str, Path], image: str, tmp_path: Path, length: int, capsys: Any) -> None:
    if length <= 250:
        copy = tmp_path / f"{'x' * (length - 4)}.png"
        shutil.copyfile(image, copy)
        assert main(["run", str(checkpoints["SwinModel"]), str(copy), "--output", str(tmp_path / "new")]) == 0
        assert pq.read_table(tmp_path / "new")["file"].to_pylist() == [str(copy)]
    else:
        assert main(["run", str(checkpoints["SwinModel"]), "x" * length]) == 1
        assert "xxx" in capsys.readouterr().err
        assert main(["run", "x" * length, "a text"]) == 1
        assert "neither a folder here nor an id" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error", [RuntimeError("a bug\nof ours"), KeyError("x"), RecursionError("too deep"), MemoryError()]
)
def test_what_nobody_expected(minilm: Path, monkeypatch: Any, capsys: Any, error: Exception) -> None:
    def fail(*arguments: Any) -> None:
        raise error

    monkeypatch.setattr("minitrans.cli._task", fail)
    assert main(["run", str(minilm), "a text"]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"minitrans: This should not have happened ({type(error).__name__}")
    assert "report it" in said
    assert said.count("\n") == 1
    assert main(["run", str(minilm), "a text", "--debug"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("Traceback")
    assert "in fail" in said
    assert "minitrans: This should not have happened" in said


def test_debug_shows_where_a_mistake_was_found(tmp_path: Path, capsys: Any) -> None:
    for command in (["info", str(tmp_path)], ["run", str(tmp_path), "a text"]):
        assert main([*command, "--debug"]) == 1
        assert "Traceback" in capsys.readouterr().err
        assert main(command) == 1
        assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value"),
    [("dtype", "float8_e4m3fn"), ("dtype", "int8"), ("dtype", ""), ("dtype", "load"), ("device", "meta"),
     ("device", "nowhere"), ("device", ""), ("device", "cpu:x"), ("batch", "0"), ("batch", "-5")],
)  # fmt: skip
def test_options_that_cannot_be(minilm: Path, option: str, value: str, capsys: Any) -> None:
    assert main(["run", str(minilm), "a text", f"--{option}={value}"]) == 1
    said = capsys.readouterr().err
    assert option.replace("batch", "budget") in said
    assert said.count("\n") == 1
    assert "should not" not in said


LINES = {
    "unix": b"one\n\ntwo",
    "windows": b"one\r\n\r\ntwo\r\n",
    "carriage returns": b"a\rb\r\nc",
    "a mark of UTF-8": b"\xef\xbb\xbfone\ntwo\n",
    "separators of Unicode": "a\u2028b\x85c\x0cd\ne".encode(),
    "two marks": b"\xef\xbb\xbf\xef\xbb\xbfone\n\xef\xbb\xbftwo",
    "not UTF-8": b"one\ncaf\xe9\ntwo\n",
    "nothing": b"",
}


@pytest.mark.parametrize("name", LINES)
def test_the_lines_of_a_corpus(checkpoints: dict[str, Path], tmp_path: Path, name: str, capsys: Any) -> None:
    """A file has the same lines, and a bad one costs the same, with --output, without and on standard input."""
    folder, path = checkpoints["TokenClassification"], tmp_path / "texts.txt"
    path.write_bytes(LINES[name])
    command = ["run", str(folder), "--aggregation", "none"]
    status = main([*command, str(path), "--output", str(tmp_path / "out")])
    assert status == (name == "not UTF-8")
    rows = [json.loads(line) for part in (tmp_path / "out").glob("part*") for line in part.open(encoding="utf-8")]
    corpus = [row["answer"] for row in rows if "answer" in row]
    capsys.readouterr()
    assert main([*command, str(path), "--json"]) == status
    close([json.loads(line)["output"] for line in io.StringIO(capsys.readouterr().out)], corpus)
    done = subprocess.run(
        [sys.executable, "-m", "minitrans", *command, "--json"], input=LINES[name], capture_output=True, check=False
    )
    assert done.returncode == status
    close([json.loads(line)["output"] for line in done.stdout.split(b"\n")[:-1]], corpus)


def test_what_is_there_and_no_file(minilm: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    """A folder is no text, whatever its name looks like; what can be read is."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "word").mkdir()
    for name in ("word", "./word", str(tmp_path), ".", ".."):
        assert main(["run", str(minilm), name, "a text", "--json"]) == 1
        found = capsys.readouterr()
        assert f"{name} is a folder" in found.err
        assert [json.loads(line)["input"] for line in found.out.splitlines()] == ["a text"]
    assert printed(capsys, "run", minilm, "/dev/null") == ""
    read, write = os.pipe()
    os.write(write, b"piped\n")
    os.close(write)
    assert [answer["input"] for answer in objects(capsys, "run", minilm, f"/dev/fd/{read}")] == ["piped"]
    os.close(read)


@pytest.mark.parametrize(
    "option", ["features", "output", "ray", "device", "dtype", "labels", "query", "question", "aggregation"]
)
def test_options_that_are_empty(minilm: Path, tmp_path: Path, monkeypatch: Any, option: str, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    for more in ([], ["--output", "out"]):
        assert main(["run", str(minilm), "a text", *more, f"--{option}="]) == 1
        found = capsys.readouterr()
        assert found.err == f"minitrans: --{option} is empty; give it a value, or leave it out.\n"
        assert not found.out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("head", "option", "value", "sentence"),
    [
        *(("Wav2Vec2ForCTC", "chunk", value, "chunk_seconds is") for value in ("nan", "-inf", "0", "-1", "1e-9")),
        *(("Wav2Vec2ForAudioFrameClassification", "threshold", value, "threshold is") for value in ("nan", "-nan")),
        ("QuestionAnswering", "threshold", "nan", "null_threshold is nan"),
        *(("SequenceClassification", "top-k", value, "top_k is") for value in ("0", "-1")),
        *(("MaskedLM", "batch", value, "budget is") for value in ("0", "-1")),
    ],
)  # fmt: skip
def test_numbers_that_cannot_be(
    checkpoints: dict[str, Path], sound: str, head: str, option: str, value: str, sentence: str, capsys: Any
) -> None:
    inputs = [sound] if "Wav2Vec2" in head else ["a text [MASK]"]
    asked = ["--question", "Who?", "--no-answer"] if head == "QuestionAnswering" else []
    assert main(["run", str(checkpoints[head]), *inputs, *asked, f"--{option}={value}"]) == 1
    found = capsys.readouterr()
    assert found.err.startswith(f"minitrans: {sentence}")
    assert (found.err.count("\n"), found.out) == (1, "")


@pytest.mark.parametrize("value", ["inf", "1e308", "99999999"])
def test_chunks_longer_than_any_clip(checkpoints: dict[str, Path], sound: str, value: str, capsys: Any) -> None:
    whole = printed(capsys, "run", checkpoints["Wav2Vec2ForCTC"], sound)
    assert printed(capsys, "run", checkpoints["Wav2Vec2ForCTC"], sound, f"--chunk={value}") == whole


@pytest.mark.parametrize("words", [["--threads", "100000000"], ["--threads", "40000"], ["--threads", "0"],
                                   ["--seconds", "nan"], ["--seconds=-1"]])  # fmt: skip
def test_bench_of_nothing(minilm: Path, words: list[str], capsys: Any) -> None:
    assert main(["bench", str(minilm), *words]) == 1
    found = capsys.readouterr()
    assert f"{words[0].partition('=')[0].removeprefix('--')} is" in found.err
    assert (found.err.count("\n"), found.out) == (1, "")


def test_what_bench_is_told(minilm: Path, monkeypatch: Any, capsys: Any) -> None:
    """By default two threads and ten seconds a row, as its help says."""
    told: list[Any] = []
    monkeypatch.setattr("minitrans.bench.checkpoint", lambda *given: told.append(given) or {"model": "ü"})
    for words in ([], ["--threads", "3", "--seconds", "0.5"]):
        assert printed(capsys, "bench", minilm, "--json", *words) == '{"model": "ü"}\n'
    assert told == [(str(minilm), 2, 10), (str(minilm), 3, 0.5)]


def test_maps_of_a_file_whose_name_is_not_ascii(
    checkpoints: dict[str, Path], image: str, tmp_path: Path, capsys: Any
) -> None:
    shutil.copy(image, tmp_path / "ü.png")
    command = ["run", checkpoints["SwinModel"], tmp_path / "ü.png", "--features", "stem", "--json", "--output"]
    assert printed(capsys, *command, tmp_path / "maps") == f'{{"{tmp_path}/ü.png/stem": [12, 8, 8]}}\n'
