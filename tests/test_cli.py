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
import pytest
import soundfile
import test_tasks_audio
import test_tasks_text
import torch
import transformers
from PIL import Image
from safetensors.numpy import load_file
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

import minitrans
from minitrans.cli import main

TEXTS = ["In a hole in the ground there lived a hobbit.", "Rubber [MASK] boots.", "Dún Laoghaire"]


@pytest.fixture(scope="module")
def checkpoints(minilm: Path, tmp_path_factory: Any) -> dict[str, Path]:
    """A random tiny checkpoint of every kind, by the end of its architecture's name."""
    folders = {}
    for head in ("SequenceClassification", "TokenClassification", "MaskedLM", "QuestionAnswering", "MultipleChoice"):
        folders[head] = tmp_path_factory.mktemp(head)
        test_tasks_text.checkpoint(minilm, folders[head], f"BertFor{head}", num_labels=2 if "Q" in head else 3)
    for head in ("CTC", "SequenceClassification"):
        folders[f"Wav2Vec2For{head}"] = tmp_path_factory.mktemp(head)
        test_tasks_audio.checkpoint(folders[f"Wav2Vec2For{head}"], f"Wav2Vec2For{head}", **test_tasks_audio.LAYER_NORM)
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
    return lambda text: monkeypatch.setattr("sys.stdin", io.StringIO(text))


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
        assert " ".join(cues.splitlines()[2::4]).replace("  ", " ") == expected["text"]
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

        class Typed(io.StringIO):
            def isatty(self) -> bool:
                return True

            def __next__(self) -> str:
                seen.append(capsys.readouterr().out)
                return super().__next__()

        monkeypatch.setattr("sys.stdin", Typed("one\ntwo\n"))
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
    maps = ["--output", here / "maps.safetensors"]
    return {
        "nowhere": ["run", here / "nowhere", "text"],
        "config.json": ["run", here / "empty", "text"],
        "gpt2": ["run", here / "gpt", "text"],
        "model_type 'gpt2'; minitrans knows bert": ["info", here / "gpt"],
        "model.safetensors": ["run", here / "cut", "text"],
        "There is no file gone.txt": ["run", minilm, "gone.txt"],
        "There is no file some/thing": ["run", minilm, "some/thing"],
        "latin.txt is not UTF-8": ["run", minilm, here / "latin.txt"],
        "budget of a batch is 0": ["run", minilm, "a text", "--batch", "0"],
        "dtype is 'int7'": ["run", minilm, "a text", "--dtype", "int7"],
        "device is 'moon'": ["run", minilm, "a text", "--device", "moon"],
        "BertForMultipleChoice, and run does Model, ForSequence": ["run", folders["MultipleChoice"], "a text"],
        "pass --question": ["run", folders["QuestionAnswering"], "a text"],
        r"no [MASK] in 'a text'": ["run", folders["MaskedLM"], "a text"],
        "--srt is for": ["run", minilm, "a text", "--srt"],
        "one sound at a time": ["run", ctc, sound, sound, "--vtt"],
        "takes files, not standard input": ["run", swin],
        "no audio file gone.wav": ["run", ctc, sound, "gone.wav"],
        "There is no file gone.png": ["run", swin, "gone.png"],
        "could not be read as audio": ["run", ctc, image],
        "cannot be read as an image": ["run", swin, sound],
        "belong together": ["run", swin, image, "--features", "stage1"],
        "together: which": ["run", swin, image, *maps],
        "'stage9'": ["run", swin, image, "--features", "stage9", *maps],
        "is there already": ["run", swin, image, "--features", "stage1", "--output", image],
        "has no class for AutoBackbone": ["run", minilm, image, "--features", "stage1", *maps],
        "For the maps of its stages pass --features": ["run", folders["SwinModel"], image],
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

    monkeypatch.setattr("minitrans.cli._job", interrupted)
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
