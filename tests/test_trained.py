"""The demo's trained checkpoints beside transformers, and right on what they were not trained on."""

import runpy
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from checkpoints import relative
from torch import Tensor

import minitrans
from minitrans.demo import CHECKPOINTS, digits, entities, speech

SCRIPTS = Path(__file__).parent.parent / "examples" / "train"
SENTENCES = entities.sentences(200, held_out=True)
PICTURES, DIGITS = digits.load(held_out=True)
CLIPS = speech.held_out(40)
FORMS: dict[str, dict[str, Any]] = {
    "as loaded": {}, "frozen": {"frozen": True}, "bfloat16": {"dtype": "bfloat16"},
    "frozen in bfloat16": {"frozen": True, "dtype": "bfloat16"},
}  # fmt: skip


def pictures_right(answers: list[Any]) -> float:
    return np.mean([answer[0]["label"] == str(digit) for answer, digit in zip(answers, DIGITS, strict=True)]).item()


def words_right(answers: list[Any]) -> float:
    wrong = sum(speech.word_errors(clip.text, answer["text"]) for clip, answer in zip(CLIPS, answers, strict=True))
    return 1 - wrong / sum(len(clip.words) for clip in CLIPS)


@dataclass
class Trained:
    head: str  # of the Auto class
    processor: str
    inputs: list[Any]  # of the processor
    task: type
    asked: list[Any]  # of the task
    score: Callable[[list[Any]], float]  # of the task's answers to all it is asked
    least: float
    pipeline: str
    piped: list[Any]  # inputs of the pipeline
    options: dict[str, Any]  # of a call of the pipeline
    processing: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)  # of the task


TEXTS = [text for text, _ in SENTENCES]
SAMPLES = [clip.samples for clip in CLIPS]
TRAINED = {
    "distilbert": Trained(
        "TokenClassification", "Tokenizer", TEXTS, minitrans.EntityRecognizer, TEXTS,
        lambda answers: entities.f1(SENTENCES, answers), 0.97,
        "ner", TEXTS[:40], {"aggregation_strategy": "average"}, {"padding": True},
        {"aggregation_strategy": "average"},
    ),
    "swin": Trained(
        "ImageClassification", "ImageProcessor", PICTURES, minitrans.ImageClassifier, PICTURES, pictures_right, 0.97,
        "image-classification", PICTURES[:40], {"top_k": 3},
    ),
    "wav2vec2": Trained(
        "CTC", "Processor", SAMPLES, minitrans.Transcriber, [(samples, speech.RATE) for samples in SAMPLES],
        words_right, 0.75, "automatic-speech-recognition",
        [{"raw": samples, "sampling_rate": speech.RATE} for samples in SAMPLES[:10]], {"return_timestamps": "word"},
        {"padding": True, "sampling_rate": speech.RATE},
    ),
}  # fmt: skip


@pytest.fixture(params=TRAINED)
def family(request: Any) -> str:
    return request.param


def logits(library: Any, family: str) -> Tensor:
    """One program, with either library; without the cells of padding."""
    this, folder = TRAINED[family], CHECKPOINTS / family
    processor = getattr(library, f"Auto{this.processor}").from_pretrained(folder)
    model = getattr(library, f"AutoModelFor{this.head}").from_pretrained(folder)
    batch = processor(this.inputs, return_tensors="pt", **this.processing)
    found, mask = model(**batch).logits.detach(), batch.get("attention_mask")
    if mask is None:
        return found
    if this.head == "CTC":
        mask = model._get_feature_vector_attention_mask(found.shape[1], mask)
    return found[mask.bool()]


def test_numbers(family: str) -> None:
    assert relative(logits(minitrans, family), logits(transformers, family)) < 1e-5


def test_answers(family: str) -> None:
    this = TRAINED[family]
    ours, theirs = (
        library.pipeline(this.pipeline, str(CHECKPOINTS / family), device="cpu")(list(this.piped), **this.options)
        for library in (minitrans, transformers)
    )
    (found, plan), (expected, their_plan) = map(torch.utils._pytree.tree_flatten, (ours, theirs))
    assert plan == their_plan
    assert len(found) > len(this.piped)
    for value, other in zip(found, expected, strict=True):
        assert value == (other if isinstance(other, (str, int)) else pytest.approx(float(other), abs=1e-4))


@pytest.mark.parametrize("form", FORMS)
def test_right_on_what_was_held_out(family: str, form: str) -> None:
    this = TRAINED[family]
    answers = this.task.from_pretrained(CHECKPOINTS / family, **FORMS[form])(list(this.asked), **this.settings)  # type: ignore
    assert this.score(answers) >= this.least


def test_word_times() -> None:
    answers = minitrans.Transcriber.from_pretrained(CHECKPOINTS / "wav2vec2")(
        [(c.samples, speech.RATE) for c in CLIPS]
    )
    for clip, answer in zip(CLIPS, answers, strict=True):
        if answer["text"] == clip.text:
            for (_, start, end), word in zip(clip.words, answer["words"], strict=True):
                assert abs(word["start"] - start) < 0.1
                assert abs(word["end"] - end) < 0.1


def test_nothing_held_out_is_trained_on() -> None:
    random = np.random.default_rng(0)
    said = {word for _ in range(2000) for word in speech.random_words(random)}
    assert not said & set(speech.HELD_OUT)
    names = [
        {text[start:end] for text, found in entities.sentences(4000, held_out) for _, start, end in found}
        for held_out in (False, True)
    ]
    assert len(names[1]) > 200
    assert not names[0] & names[1]
    assert len(PICTURES) + len(digits.load(held_out=False)[0]) == 1797


def test_size() -> None:
    sizes = {folder.name: sum(file.stat().st_size for file in folder.iterdir()) for folder in CHECKPOINTS.iterdir()}
    assert sizes.keys() == TRAINED.keys()
    assert max(sizes.values()) < 2**20


def test_scripts(family: str, tmp_path: Path, capsys: Any) -> None:
    """A few steps of what made the checkpoint: a folder with the same files, configuration and shapes of weights."""
    runpy.run_path(str(SCRIPTS / f"{family}.py"))["main"](["--steps", "3", "--output", str(tmp_path)])
    assert "held-out" in capsys.readouterr().out
    committed = CHECKPOINTS / family
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in committed.iterdir()}
    for name in (
        "config.json",
        "tokenizer_config.json",
        "vocab.json",
        "preprocessor_config.json",
        "processor_config.json",
    ):
        if (committed / name).exists():
            assert (tmp_path / name).read_text() == (committed / name).read_text(), name
    model = getattr(transformers, f"AutoModelFor{TRAINED[family].head}").from_pretrained(tmp_path)
    assert {name: tensor.shape for name, tensor in model.state_dict().items()} == {
        name: tensor.shape for name, tensor in type(model).from_pretrained(committed).state_dict().items()
    }
