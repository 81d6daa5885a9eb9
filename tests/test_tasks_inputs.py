"""What every task takes and refuses: forms of input, heads without weights, padding, bad inputs."""

import copy
import io
import json
import logging
import os
import pickle
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import test_tasks_audio
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from test_tasks_text import TEXTS, checkpoint
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

import minitrans
from minitrans.tasks.base import progress

RATE = 16000
TEXT_TASKS: dict[str, str] = {
    "TextClassifier": "BertForSequenceClassification",
    "EntityRecognizer": "BertForTokenClassification",
    "MaskFiller": "BertForMaskedLM",
    "Embedder": "BertModel",
    "TokenVectors": "BertModel",
    "QuestionAnswerer": "BertForQuestionAnswering",
    "ChoiceTask": "BertForMultipleChoice",
    "NextSentenceClassifier": "BertForNextSentencePrediction",
}
SOUND_TASKS = {
    "AudioClassifier": "Wav2Vec2ForSequenceClassification",
    "Transcriber": "Wav2Vec2ForCTC",
    "SpeakerEncoder": "Wav2Vec2ForXVector",
    "FrameClassifier": "Wav2Vec2ForAudioFrameClassification",
}
IMAGE_TASKS = {"ImageClassifier": "SwinForImageClassification", "ImageVectors": "SwinModel"}
HEADS = {**TEXT_TASKS, **SOUND_TASKS, **IMAGE_TASKS}


@pytest.fixture(scope="module")
def folders(minilm: Path, tmp_path_factory: Any) -> dict[str, Path]:
    """A random tiny checkpoint for each task; "Wav2Vec2Model" too, for whose head there is nothing."""
    found = {}
    for head in set(TEXT_TASKS.values()):
        found[head] = checkpoint(minilm, tmp_path_factory.mktemp(head), head)
    for head in (*SOUND_TASKS.values(), "Wav2Vec2Model"):
        values = {**test_tasks_audio.LAYER_NORM, "tdnn_dim": [24] * 5, "xvector_output_dim": 16}
        found[head] = test_tasks_audio.checkpoint(tmp_path_factory.mktemp(head), head, **values)
    torch.manual_seed(0)
    swin = transformers.SwinConfig(image_size=32, embed_dim=12, depths=[1, 1], num_heads=[1, 2], window_size=4)
    for head in IMAGE_TASKS.values():
        found[head] = tmp_path_factory.mktemp(head)
        getattr(transformers, head)(swin).save_pretrained(found[head])
        ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(found[head])
    return found


def loaded(folders: dict[str, Path], task: str) -> Any:
    return getattr(minitrans, task).from_pretrained(folders[HEADS[task]])


class Column(Sequence):
    """As a dataset's column: rows one by one, and no list."""

    def __init__(self, rows: list[Any]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        return self.rows[index]


def same(one: Any, other: Any) -> None:
    """Equal, and numbers to the last digits."""
    if isinstance(other, dict):
        assert one.keys() == other.keys()
        for key in other:
            same(one[key], other[key])
    elif isinstance(other, (list, tuple, np.ndarray)):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            same(left, right)
    elif isinstance(other, (float, np.floating)):
        assert one == pytest.approx(float(other), rel=1e-3, abs=1e-5)
    else:
        assert one == other


def three_of(task: str) -> list[Any]:
    """Three of what a task takes, of several lengths."""
    generator = np.random.default_rng(0)
    if task in SOUND_TASKS:
        return [(generator.normal(size=size).astype(np.float32), RATE) for size in (9000, 16000, 12000)]
    if task in IMAGE_TASKS:
        shape = 40, 52, 3
        return [Image.fromarray(generator.integers(0, 256, shape, dtype=np.uint8)) for _ in range(3)]
    return {
        "MaskFiller": ["He paid the [MASK].", "[MASK] boots.", "In a hole in the [MASK] there lived a hobbit."],
        "QuestionAnswerer": [{"question": "Who lived there?", "context": text} for text in TEXTS[:3]],
        "ChoiceTask": [(text, ["It is so.", "It is not so at all."]) for text in TEXTS[:3]],
        "NextSentenceClassifier": [(text, "And so it was.") for text in TEXTS[:3]],
    }.get(task, TEXTS[:3])


def numbers(answer: Any) -> list[float]:
    """Every number of an answer."""
    if isinstance(answer, dict):
        return [x for key in sorted(answer) for x in numbers(answer[key])]
    if isinstance(answer, (list, tuple)):
        return [x for part in answer for x in numbers(part)]
    if hasattr(answer, "__dataclass_fields__"):
        return numbers(vars(answer))
    if isinstance(answer, (np.ndarray, torch.Tensor)):
        return np.asarray(answer, np.float64).ravel().tolist()
    return [float(answer)] if isinstance(answer, (float, np.floating)) else []


BUDGET = {torch.bfloat16: 0.05, torch.float16: 0.01, torch.float64: 1e-5}  # of the largest number


@pytest.mark.parametrize("task", HEADS)
@pytest.mark.parametrize("dtype", BUDGET)
def test_every_task_in_other_dtypes(folders: dict[str, Path], task: str, dtype: torch.dtype) -> None:
    """What comes out is of the same form and types, and its numbers are near those in float32."""
    kind = getattr(minitrans, task)
    exact = kind.from_pretrained(folders[HEADS[task]])
    rough = kind.from_pretrained(folders[HEADS[task]], dtype=dtype)
    assert rough.model.dtype == dtype
    options = {"EntityRecognizer": {"ignore_labels": []}, "QuestionAnswerer": {"top_k": 5}}.get(task, {})
    answers, expected = rough(three_of(task), **options), exact(three_of(task), **options)
    assert len(answers) == len(expected) == 3
    for found, wanted in zip(answers, expected, strict=True):
        assert type(found) is type(wanted)
        found, wanted = np.array(numbers(found)), np.array(numbers(wanted))
        assert np.isfinite(found).all()
        if found.shape == wanted.shape or dtype == torch.float64:
            assert np.abs(np.sort(found) - np.sort(wanted)).max(initial=0) <= BUDGET[dtype] * np.abs(wanted).max(
                initial=1
            )
    if task not in ("TokenVectors", "SpeakerEncoder", "Transcriber", "ImageVectors"):  # which give what they get
        every = torch.tensor(numbers(answers), dtype=torch.float64)
        assert dtype == torch.float64 or (every.to(dtype).double() != every).any()


@pytest.mark.parametrize("output_value", ["token_embeddings", None])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_vectors_of_tokens_in_other_dtypes_are_float32_too(
    folders: dict[str, Path], output_value: str | None, dtype: torch.dtype
) -> None:
    exact, rough = (
        minitrans.Embedder.from_pretrained(folders[HEADS["Embedder"]], dtype=kind).encode(
            three_of("Embedder"), output_value=output_value
        )
        for kind in (torch.float32, dtype)
    )
    for found, wanted in zip(rough, exact, strict=True):
        found, wanted = (x if output_value else x["token_embeddings"] for x in (found, wanted))
        assert found.dtype == torch.float32
        assert (found - wanted).abs().max() <= BUDGET[dtype] * wanted.abs().max()


COUNTS = [
    *((task, "top_k") for task in ("MaskFiller", "QuestionAnswerer", "TextClassifier")),
    ("QuestionAnswerer", "longest_answer"),
    *((task, "max_tokens") for task in ("EntityRecognizer", "MaskFiller", "QuestionAnswerer", "TextClassifier")),
]


@pytest.mark.parametrize(("task", "option"), COUNTS)
@pytest.mark.parametrize("wrong", [0, -1, 1.0, "3", True])
def test_numbers_that_count_nothing(folders: dict[str, Path], task: str, option: str, wrong: Any) -> None:
    run = loaded(folders, task)
    example = three_of(task)[0]
    run(example, **{option: 1 if option != "max_tokens" else 40})
    with pytest.raises(ValueError, match=f"{option} is {wrong!r}; it must be a whole number of at least 1"):
        run(example, **{option: wrong})


# What each pass through a backbone calls once.
FIRST = {task: "layers.0" if task in SOUND_TASKS else "embeddings.norm" for task in HEADS}


@pytest.mark.parametrize("task", HEADS)
@pytest.mark.parametrize(("budget", "batches"), [(1, 3), (10**9, 1)])
def test_the_model_is_asked_once_a_batch_and_an_input_read_once(
    folders: dict[str, Path], task: str, budget: int, batches: int
) -> None:
    job, asked, read = loaded(folders, task), [], []
    job.model.base_model.get_submodule(FIRST[task]).register_forward_hook(lambda *_: asked.append(1))

    def once() -> Iterator[Any]:
        for number, example in enumerate(three_of(task)):
            read.append(number)
            yield example

    assert len(list(job.stream(once(), budget=budget))) == 3
    assert read == [0, 1, 2]
    choices = 2 if task == "ChoiceTask" and batches > 1 else 1  # each is a piece of its own
    assert len(asked) == batches * choices


@pytest.mark.parametrize("task", HEADS)
def test_the_shape_of_results_is_known_before(folders: dict[str, Path], task: str) -> None:
    """Of arrays; None stands for a length that differs."""
    run = loaded(folders, task)
    for options in ({}, {"pool": True}) if task == "ImageVectors" else ({},):
        job, found = run.with_options(**options), run(three_of(task)[0], **options)
        assert (job.shape is not None) is isinstance(found, np.ndarray)
        if job.shape is not None:
            assert found.dtype == np.float32
            assert len(job.shape) == found.ndim
            assert all(known in (None, length) for known, length in zip(job.shape, found.shape, strict=True))
            assert job.shape[-1] == found.shape[-1]


class TestBar:
    @pytest.mark.parametrize("task", HEADS)
    def test_counts_each_input_once(self, folders: dict[str, Path], task: str, capsys: Any) -> None:
        """Sounds by their seconds, whatever pieces they are cut into."""
        run, inputs = loaded(folders, task), three_of(task)
        if task in SOUND_TASKS:
            inputs = [(np.tile(samples, 4), rate) for samples, rate in inputs]
        options = {"chunk_seconds": 1.0} if task == "Transcriber" else {}
        run(inputs, show_progress=True, budget=1, **options)
        total = 2 + 4 + 3 if task in SOUND_TASKS else 3
        assert re.search(rf"100%\|.*\| {total}/{total} \[.*{run.unit}", capsys.readouterr().err)
        run(iter(inputs), show_progress=True, **options)
        assert re.search(rf"\r{total}{run.unit} \[", capsys.readouterr().err)
        for quiet in (None, False):
            run(inputs, show_progress=quiet, **options)
        run(inputs[0], **options)
        assert not capsys.readouterr().err

    @pytest.mark.parametrize(
        ("terminal", "show", "seen"),
        [(True, None, [False, False, True]), (False, None, [False] * 3), (True, False, [False] * 3),
         (False, True, [True, True, True]), (True, True, [True, True, True])],
    )  # fmt: skip
    def test_shows_on_a_terminal_after_two_seconds(
        self, terminal: bool, show: bool | None, seen: list[bool], monkeypatch: Any, capsys: Any
    ) -> None:
        """Or at once, or never, where one says so."""
        clock = [100.0]
        monkeypatch.setattr("tqdm.std.time", lambda: clock[0])
        monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
        found = []
        with progress(9, "text", show) as bar:
            for clock[0] in (100.5, 101.99, 102.5):
                bar.update(1)
                found.append(bool(capsys.readouterr().err))
        assert found == seen


class TestLoading:
    def test_what_the_log_said_while_it_was_held(self, folders: dict[str, Path], caplog: Any) -> None:
        """Once, in the same words as without a task; and after a checkpoint that is refused the log speaks again."""
        folder = folders["BertForMaskedLM"]
        with caplog.at_level(logging.WARNING, "minitrans"):
            minitrans.BertModel.from_pretrained(folder)
            expected = [*caplog.messages]
            caplog.clear()
            minitrans.TokenVectors.from_pretrained(folder)
            assert caplog.messages == expected
            assert len(expected) == 1
            caplog.clear()
            for _ in range(2):
                with pytest.raises(ValueError, match="would guess at random"):
                    minitrans.TextClassifier.from_pretrained(folder)
            assert not caplog.records
            logging.getLogger("minitrans").warning("It is heard.")
            assert caplog.messages == ["It is heard."]

    @pytest.mark.parametrize(("count", "rest"), [(8, ""), (9, " and 1 more"), (11, " and 3 more")])
    def test_the_first_eight_are_named(
        self, folders: dict[str, Path], count: int, rest: str, tmp_path: Path, caplog: Any
    ) -> None:
        folder = shutil.copytree(folders["BertForSequenceClassification"], tmp_path / "m")
        state = load_file(folder / "model.safetensors")
        missing = sorted(name for name in state if ".attention." in name)[:count]
        save_file({name: state[name] for name in state if name not in missing}, folder / "model.safetensors")
        with pytest.raises(ValueError, match="holds no weights for") as caught:
            minitrans.TextClassifier.from_pretrained(folder)
        listed, _, end = str(caught.value).partition(" of BertForSequenceClassification")
        names = listed.partition("no weights for ")[2].removesuffix(rest).split(", ")
        assert len(names) == 8
        assert {*names} <= {*missing}
        assert listed.endswith(f"{names[-1]}{rest}")
        assert end.startswith(": TextClassifier would guess")

    def test_a_task_without_options(self, folders: dict[str, Path]) -> None:
        run = loaded(folders, "SpeakerEncoder")
        with pytest.raises(TypeError, match=r"^SpeakerEncoder has no option 'chunk_seconds'; it has none\.$"):
            run.with_options(chunk_seconds=3)


class TestRandomHeads:
    """A task whose answers would rest on what is in no file refuses, with the names."""

    @pytest.mark.parametrize("task", [task for task in TEXT_TASKS if TEXT_TASKS[task] != "BertModel"])
    def test_texts(self, folders: dict[str, Path], task: str) -> None:
        with pytest.raises(
            ValueError, match=rf"holds no weights for .*\.(weight|bias).*: {task} would guess at random"
        ):
            getattr(minitrans, task).from_pretrained(folders["BertModel"])

    @pytest.mark.parametrize("task", SOUND_TASKS)
    def test_sounds(self, folders: dict[str, Path], task: str, caplog: Any) -> None:
        with pytest.raises(ValueError, match=f"holds no weights for .*: {task} would guess at random"):
            getattr(minitrans, task).from_pretrained(folders["Wav2Vec2Model"])
        assert not caplog.records  # the error says it all

    def test_images(self, folders: dict[str, Path]) -> None:
        with pytest.raises(ValueError, match=r"holds no weights for classifier\.weight, classifier\.bias"):
            minitrans.ImageClassifier.from_pretrained(folders["SwinModel"])

    @pytest.mark.parametrize("missing", ["wav2vec2.encoder.layers.1.final_layer_norm.weight", "classifier.bias"])
    def test_a_single_tensor(self, folders: dict[str, Path], missing: str, tmp_path: Path) -> None:
        folder = shutil.copytree(folders["Wav2Vec2ForSequenceClassification"], tmp_path / "m")
        state = transformers.Wav2Vec2ForSequenceClassification.from_pretrained(folder).state_dict()
        del state[missing]
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ValueError, match=f"holds no weights for {missing} of"):
            minitrans.AudioClassifier.from_pretrained(folder)
        with pytest.raises(ValueError, match=f"holds no weights for {missing} of"):
            minitrans.pipeline("audio-classification", folder)

    def test_other_sizes(self, folders: dict[str, Path]) -> None:
        options = {"num_labels": 5, "ignore_mismatched_sizes": True}
        with pytest.raises(ValueError, match=r"no weights for classifier\.weight, classifier\.bias"):
            minitrans.TextClassifier.from_pretrained(folders["BertForSequenceClassification"], **options)

    @pytest.mark.parametrize(
        ("task", "missing"),
        [
            ("Transcriber", "wav2vec2.masked_spec_embed"),  # as in facebook/wav2vec2-base-960h
            ("AudioClassifier", "wav2vec2.masked_spec_embed"),
            ("SpeakerEncoder", "objective.weight"),
            ("SpeakerEncoder", "classifier.weight"),
            ("MaskFiller", "cls.predictions.decoder.bias"),
            ("MaskFiller", "cls.predictions.decoder.weight"),
            ("Embedder", "pooler.dense.weight"),
        ],
    )
    def test_a_tensor_that_no_answer_rests_on(
        self, folders: dict[str, Path], task: str, missing: str, tmp_path: Path
    ) -> None:
        folder = shutil.copytree(folders[HEADS[task]], tmp_path / "m")
        state = load_file(folder / "model.safetensors")
        state.pop(missing, None)
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        example = TEXTS[0] + "[MASK]" if task in TEXT_TASKS else (np.random.default_rng(0).normal(size=9000), RATE)
        same(getattr(minitrans, task).from_pretrained(folder)(example), loaded(folders, task)(example))

    def test_what_no_answer_rests_on_may_be_missing(self, folders: dict[str, Path]) -> None:
        """The pooler of a sentence encoder, and a backbone's own norms."""
        minitrans.Embedder.from_pretrained(folders["BertForMaskedLM"])
        minitrans.TokenVectors.from_pretrained(folders["BertForMaskedLM"])
        minitrans.FeatureMaps.from_pretrained(folders["SwinModel"], out_features=["stage1"])


class TestOldEmotionHead:
    """Dense, tanh, dense over the mean, sum or maximum of the frames, as such checkpoints were trained."""

    @pytest.fixture(params=["output", "out_proj"])
    def parts(self, request: Any, tmp_path: Path) -> tuple[Path, Any, torch.nn.Linear, torch.nn.Linear]:
        torch.manual_seed(0)
        values = {**test_tasks_audio.SIZES, **test_tasks_audio.LAYER_NORM, "num_labels": 5}
        config = transformers.Wav2Vec2Config(**values)
        backbone = transformers.Wav2Vec2Model(config).eval()
        dense, output = torch.nn.Linear(32, 32), torch.nn.Linear(32, 5)
        state = {f"wav2vec2.{name}": tensor.contiguous() for name, tensor in backbone.state_dict().items()}
        for name, layer in (("dense", dense), (request.param, output)):
            state |= {f"classifier.{name}.weight": layer.weight, f"classifier.{name}.bias": layer.bias}
        save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
        config.architectures = ["Wav2Vec2ForSpeechClassification"]
        config.save_pretrained(tmp_path)
        transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(tmp_path)
        return tmp_path, backbone, dense, output

    @pytest.mark.parametrize("mode", ["mean", "sum", "max", None])
    def test_scores(self, parts: tuple[Path, Any, Any, Any], mode: str | None, tmp_path: Path) -> None:
        folder, backbone, dense, output = parts
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **({"pooling_mode": mode} if mode else {})}))
        clips = [np.random.default_rng(0).normal(size=size).astype(np.float32) for size in (4000, 9000)]
        extractor = transformers.Wav2Vec2FeatureExtractor.from_pretrained(folder)
        task = minitrans.AudioClassifier.from_pretrained(folder)
        answers = task([(clip, RATE) for clip in clips])
        for clip, answer in zip(clips, answers, strict=True):
            with torch.inference_mode():
                states = backbone(extractor(clip, sampling_rate=RATE, return_tensors="pt").input_values)[0]
                pooled = {"sum": states.sum(1), "max": states.amax(1)}.get(mode or "", states.mean(1))
                shares = output(torch.tanh(dense(pooled)))[0].softmax(-1).tolist()
            expected = {f"LABEL_{index}": share for index, share in enumerate(shares)}
            assert {item["label"]: item["score"] for item in answer} == pytest.approx(expected, rel=1e-3)
        task.model.save_pretrained(tmp_path / "again")
        shutil.copy(folder / "preprocessor_config.json", tmp_path / "again")
        same(minitrans.AudioClassifier.from_pretrained(tmp_path / "again")((clips[0], RATE)), answers[0])

    def test_an_unknown_pooling(self, parts: tuple[Path, Any, Any, Any]) -> None:
        folder = parts[0]
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "pooling_mode": "median"}))
        with pytest.raises(ValueError, match="pooling_mode is 'median'; it must be 'mean', 'sum' or 'max'"):
            minitrans.AudioClassifier.from_pretrained(folder)

    def test_a_newer_head_beside_the_old_setting(self, folders: dict[str, Path], tmp_path: Path) -> None:
        folder = shutil.copytree(folders["Wav2Vec2ForSequenceClassification"], tmp_path / "m")
        config = json.loads((folder / "config.json").read_text())
        clip = (np.random.default_rng(0).normal(size=8000).astype(np.float32), RATE)
        expected = minitrans.AudioClassifier.from_pretrained(folder)(clip)
        (folder / "config.json").write_text(json.dumps({**config, "pooling_mode": "max"}))
        same(minitrans.AudioClassifier.from_pretrained(folder)(clip), expected)


def examples(task: str) -> list[Any]:
    """Inputs of unequal lengths for a task on texts."""
    texts = [f"{text} [MASK]" for text in TEXTS if text]
    if task == "ChoiceTask":
        return [(text, texts[:count]) for count, text in enumerate(texts, 1)]
    return (
        list(zip(texts, texts[::-1], strict=True)) if task in ("QuestionAnswerer", "NextSentenceClassifier") else texts
    )


@pytest.mark.parametrize("task", TEXT_TASKS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_the_side_of_the_padding_changes_no_answer(
    folders: dict[str, Path], task: str, side: str, tmp_path: Path
) -> None:
    folder = shutil.copytree(folders[TEXT_TASKS[task]], tmp_path / "m")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "padding_side": side}))
    padded, plain = getattr(minitrans, task).from_pretrained(folder), loaded(folders, task)
    assert padded.tokenizer.padding_side == side
    inputs = examples(task)
    for source, together in zip(inputs, padded(inputs), strict=True):
        same(together, plain(source))
        same(padded(source), together)


@pytest.mark.parametrize("task", ["TextClassifier", "ImageClassifier", "AudioClassifier"])
def test_a_model_in_training_draws_nothing(folders: dict[str, Path], task: str) -> None:
    noise = np.random.default_rng(0).normal(size=9000)
    example = {"TextClassifier": TEXTS[0], "ImageClassifier": np.zeros((40, 40, 3), np.uint8)}.get(task, (noise, RATE))
    run = loaded(folders, task)
    expected = run(example)
    run.model.train()
    frozen = next(module for module in run.model.modules() if isinstance(module, torch.nn.Linear))
    frozen.eval()
    same([run(example) for _ in range(3)], [expected] * 3)
    assert run.model.training
    assert not frozen.training
    same(pickle.loads(pickle.dumps(run))(example), expected)
    same(copy.deepcopy(run)(example), expected)


class TestTexts:
    @pytest.mark.parametrize("task", ["TextClassifier", "EntityRecognizer", "Embedder", "TokenVectors"])
    def test_forms(self, folders: dict[str, Path], task: str) -> None:
        run, texts = loaded(folders, task), TEXTS[:2]
        expected = run(texts)
        for several in (
            tuple(texts) if task in ("EntityRecognizer", "Embedder") else iter(texts), Column(texts), np.array(texts),
            np.array(texts, object), (text for text in texts), dict.fromkeys(texts).keys(),
            [{"text": text} for text in texts], Column([{"text": text, "label": 1, "idx": 7} for text in texts]),
            [{"text": text, "text_pair": None} for text in texts], [np.str_(text) for text in texts],
        ):  # fmt: skip
            same(run(several), expected)
        same(run({"text": texts[0]}), expected[0])

    def test_a_file_of_text_is_its_lines(self, folders: dict[str, Path]) -> None:
        run = loaded(folders, "TextClassifier")
        same(run(io.StringIO("\n".join(TEXTS[:2]))), run([f"{TEXTS[0]}\n", TEXTS[1]]))
        for one in (np.array("a text"), torch.tensor(3.0)):
            with pytest.raises(TypeError, match="is not several"):
                run(one)

    @pytest.mark.parametrize("task", ["TextClassifier", "Embedder", "TokenVectors"])
    def test_both_sides_of_the_longest(self, folders: dict[str, Path], task: str, caplog: Any) -> None:
        run = loaded(folders, task)
        assert run.max_tokens == 64
        caplog.clear()
        with caplog.at_level(logging.WARNING, "minitrans"):
            run(["a " * 62] * 2)
            assert not caplog.records
            run(["a " * 62, "a " * 63, "a"])
        assert caplog.messages == ["1 of 3 texts are longer than 64 tokens and were cut."]
        assert run.with_options(max_tokens=64).max_tokens == 64
        with pytest.raises(ValueError, match=r"^max_tokens is 65; the model reads 64 tokens at most\.$"):
            run.with_options(max_tokens=65)

    @pytest.mark.parametrize("task", ["TextClassifier", "TokenVectors"])
    def test_texts_may_be_cut_on_the_left(self, folders: dict[str, Path], task: str, tmp_path: Path) -> None:
        """However long they are."""
        folder = shutil.copytree(folders[TEXT_TASKS[task]], tmp_path / "m")
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "truncation_side": "left"}))
        run, plain = getattr(minitrans, task).from_pretrained(folder), loaded(folders, task)
        words = ["one", "two", "three", "four", "five", "six", "seven"] * 90
        last = transformers.AutoTokenizer.from_pretrained(folder)(" ".join(words), truncation=True, max_length=64)
        assert plain.tokenizer.decode(last["input_ids"][1:-1]) == " ".join(words[-62:])
        same(run(" ".join(words)), plain(" ".join(words[-62:])))

    def test_pairs(self, folders: dict[str, Path]) -> None:
        classify, pair = loaded(folders, "TextClassifier"), {"text": TEXTS[0], "text_pair": TEXTS[1]}
        expected = classify((TEXTS[0], TEXTS[1]))
        same(classify(pair), expected)
        same(classify([pair, {**pair, "label": 0}, (TEXTS[0], TEXTS[1])]), [expected] * 3)
        with pytest.raises(TypeError, match=r"MaskFiller takes a text .*, not a pair of texts"):
            loaded(folders, "MaskFiller")(pair)

    @pytest.mark.parametrize("task", ["TextClassifier", "MaskFiller", "Embedder", "EntityRecognizer"])
    @pytest.mark.parametrize(
        ("inputs", "message"),
        [
            (
                SimpleNamespace(columns=["review"], shape=(2, 1)),
                r"is a table; \w+ takes one of its columns, .*'review'",
            ),
            ({"sentence": "a text"}, "not a mapping with 'sentence'"),
            ({"text": "a text", "text_pairs": "another"}, "not a mapping with 'text', 'text_pairs'"),
            ({}, "not a mapping with nothing in it"),
            (b"a text", "not a bytes: b'a text'"),
            ([b"a text"], "not a bytes: b'a text'"),
            (["a text", None], "not a NoneType: None"),
            (["a text", float("nan")], "not a float: nan"),
            (np.zeros(3), "not a float64"),
            (7, "7 of type int is not several"),
            ([["a", "b"]], r"not a list: \['a', 'b'\]"),
            ([("a", "b", "c")], r"not a tuple: \('a', 'b', 'c'\)"),
        ],
    )
    def test_refused(self, folders: dict[str, Path], task: str, inputs: Any, message: str) -> None:
        with pytest.raises(TypeError, match=message) as caught:
            loaded(folders, task)(inputs)
        assert task in str(caught.value)


def audio_decoder(clip: np.ndarray) -> Any:
    """What datasets gives for a sound where torchcodec is installed."""
    samples = SimpleNamespace(data=torch.from_numpy(np.stack([clip, clip])), sample_rate=RATE)
    return SimpleNamespace(get_all_samples=lambda: samples)


class TestSounds:
    @pytest.mark.parametrize("task", SOUND_TASKS)
    def test_forms(self, folders: dict[str, Path], task: str, tmp_path: Path) -> None:
        run = loaded(folders, task)
        clip = np.random.default_rng(0).normal(size=24000).cumsum()
        clip = (clip / np.abs(clip).max()).astype(np.float32)
        soundfile.write(tmp_path / "clip.wav", clip, RATE, subtype="FLOAT")
        expected, content = run((clip, RATE)), (tmp_path / "clip.wav").read_bytes()
        row = {"array": clip, "sampling_rate": RATE}
        for one in (
            row, {"raw": clip, "sampling_rate": RATE}, {**row, "path": "nowhere.wav"}, {"audio": row, "text": "said"},
            {"array": torch.from_numpy(clip), "sampling_rate": RATE}, {"array": clip.tolist(), "sampling_rate": RATE},
            {"bytes": content, "path": "nowhere.wav"}, {"bytes": None, "path": str(tmp_path / "clip.wav")},
            content, bytearray(content), tmp_path / "clip.wav", str(tmp_path / "clip.wav"), audio_decoder(clip),
            {"audio": audio_decoder(clip)}, (clip, float(RATE)), io.BytesIO(content), memoryview(content),
        ):  # fmt: skip
            same(run(one), expected)
            same(run([one]), [expected])
            same(run(Column([one, one])), [expected] * 2)
        same(run((tmp_path / "clip.wav", tmp_path / "clip.wav")), [expected] * 2)
        same(run(np.array([str(tmp_path / "clip.wav")])), [expected])

    @pytest.mark.parametrize("task", SOUND_TASKS)
    @pytest.mark.parametrize(
        ("inputs", "message"),
        [
            (np.zeros(9000, np.float32), "an array does not say its rate"),
            (torch.zeros(9000), "an array does not say its rate"),
            ([np.zeros(9000, np.float32)], "an array does not say its rate"),
            ([0.0] * 9000, "not a float: 0.0"),
            ({"array": np.zeros(9000)}, "not a mapping with 'array'"),
            ({"sampling_rate": RATE}, "not a mapping with 'sampling_rate'"),
            ({"array": np.zeros(9000), "sampling_rate": RATE, "stride": (1, 1)}, "no stride"),
            (SimpleNamespace(columns=["file"], shape=(2, 1)), r"is a table.*'file'"),
            ((RATE, np.zeros(9000)), "not a int: 16000"),
            (None, "None of type NoneType is not several"),
        ],
    )
    def test_refused(self, folders: dict[str, Path], task: str, inputs: Any, message: str) -> None:
        with pytest.raises(TypeError, match=message) as caught:
            loaded(folders, task)(inputs)
        assert task in str(caught.value)

    def test_broken(self, folders: dict[str, Path]) -> None:
        run = loaded(folders, "Transcriber")
        with pytest.raises(ValueError, match="A recording of 72 bytes could not be read as audio"):
            run(b"no sound" * 9)
        with pytest.raises(FileNotFoundError, match="it is an address: nothing is downloaded here"):
            run("https://example.org/a.wav")

    def test_an_open_file_is_read_from_where_it_stands(self, folders: dict[str, Path], tmp_path: Path) -> None:
        run, clip = loaded(folders, "AudioClassifier"), np.random.default_rng(0).normal(size=9000) / 9
        soundfile.write(tmp_path / "clip.wav", clip, RATE, subtype="FLOAT")
        stream = io.BytesIO(b"before" + (tmp_path / "clip.wav").read_bytes())
        stream.seek(6)
        same(run(stream), run(tmp_path / "clip.wav"))
        assert stream.tell() == 6
        same(run([stream, stream]), [run(tmp_path / "clip.wav")] * 2)

    def test_seconds_are_whole(self, folders: dict[str, Path]) -> None:
        run = loaded(folders, "AudioClassifier")
        assert run.total([(np.zeros(15000), 8000), (np.zeros(8000), 8000), (np.zeros(7999), 8000)]) == 2
        run.on_error = "skip"
        assert run.total(["gone.wav", (np.zeros(8000), 8000), 5, (np.zeros(9000), 3)]) == 1


class TestImages:
    @pytest.mark.parametrize("task", IMAGE_TASKS)
    def test_forms(self, folders: dict[str, Path], task: str, tmp_path: Path) -> None:
        run = loaded(folders, task)
        pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        image, stream = Image.fromarray(pixels), io.BytesIO()
        image.save(tmp_path / "i.png")
        image.save(stream, "png")
        expected = run(image)
        for one in (
            pixels, torch.from_numpy(pixels), stream.getvalue(), bytearray(stream.getvalue()), tmp_path / "i.png",
            {"image": image, "label": 3}, {"bytes": stream.getvalue(), "path": None},
            {"path": str(tmp_path / "i.png")}, {"image": {"bytes": stream.getvalue(), "path": None}},
            io.BytesIO(stream.getvalue()), memoryview(stream.getvalue()),
        ):  # fmt: skip
            same(run(one), expected)
            same(run([one, one]), [expected] * 2)
            same(run(Column([one])), [expected])
        same(run(np.stack([pixels, pixels])), [expected] * 2)
        same(run(np.array([str(tmp_path / "i.png")])), [expected])

    @pytest.mark.parametrize("task", IMAGE_TASKS)
    @pytest.mark.parametrize(
        ("inputs", "error", "message"),
        [
            ({"picture": 1}, TypeError, "not a mapping with 'picture'"),
            ([3], TypeError, "not a int: 3"),
            (np.zeros(3), TypeError, "not a float64"),
            (SimpleNamespace(columns=["file"], shape=(2, 1), ndim=2), TypeError, r"is a table.*'file'"),
            (b"no image", OSError, "8 bytes cannot be read as an image"),
            ([["a.png"]], TypeError, "not a list"),
        ],
    )
    def test_refused(
        self, folders: dict[str, Path], task: str, inputs: Any, error: type[Exception], message: str
    ) -> None:
        with pytest.raises(error, match=message):
            loaded(folders, task)(inputs)


class TestOneBadInput:
    """It costs its own answer where it is skipped, and stops the job where it is not."""

    def cases(self, task: str, folder: Path) -> tuple[list[Any], Any, str]:
        """Good inputs, a bad one, and what names it."""
        if task in IMAGE_TASKS:
            for name, shade in (("a.png", 10), ("b.png", 200)):
                Image.new("RGB", (40, 40), (shade, 50, 90)).save(folder / name)
            (folder / "bad.png").write_bytes(b"no image")
            return [folder / "a.png", folder / "b.png"], folder / "bad.png", "bad.png"
        if task in SOUND_TASKS:
            noise = np.random.default_rng(0).uniform(-1, 1, (2, 20000)).astype(np.float32)
            return [(noise[0], RATE), (noise[1], RATE)], (np.full(9000, np.nan), RATE), "input 1"
        return examples(task)[:2], 5, "input 1"

    @pytest.mark.parametrize("task", HEADS)
    def test_skipped(self, folders: dict[str, Path], task: str, tmp_path: Path, caplog: Any) -> None:
        run = loaded(folders, task)
        good, bad, name = self.cases(task, tmp_path)
        expected = run(good)
        with caplog.at_level(logging.WARNING, "minitrans"):
            answers = run([good[0], bad, good[1]], on_error="skip")
        assert answers[1] is None
        same([answers[0], answers[2]], expected)
        (record,) = [record for record in caplog.records if "was skipped" in record.getMessage()]
        assert name in record.getMessage()
        assert run([bad, bad], on_error="skip") == [None, None]
        with pytest.raises((TypeError, ValueError, OSError)):
            run([good[0], bad, good[1]])

    @pytest.mark.parametrize("task", ["TextClassifier", "ImageClassifier", "AudioClassifier"])
    def test_as_they_come(self, folders: dict[str, Path], task: str, tmp_path: Path) -> None:
        run = loaded(folders, task)
        good, bad, _ = self.cases(task, tmp_path)

        def inputs() -> Iterator[Any]:
            yield from (good[0], bad, good[1])

        pairs = list(run.stream(inputs(), on_error="skip"))
        assert [source is bad for source, _ in pairs] == [False, True, False]
        assert [answer is None for _, answer in pairs] == [False, True, False]
        with pytest.raises(ValueError, match="on_error is 'ignore'; it must be 'raise' or 'skip'"):
            run(good, on_error="ignore")

    @pytest.mark.parametrize("length", [199, 200, 201, 300])
    def test_is_named_by_its_first_200_characters(self, folders: dict[str, Path], length: int, caplog: Any) -> None:
        run, text = loaded(folders, "MaskFiller"), "ab" * 150
        with caplog.at_level(logging.WARNING, "minitrans"):
            assert run(["[MASK]", text[:length], {"text": "no mask"}], on_error="skip")[1:] == [None, None]
        named, numbered = caplog.messages
        assert named.startswith(f"{text[: min(length, 200)]} was skipped: There is no [MASK] in ")
        assert numbered.startswith("input 2 was skipped: ")

    def test_what_only_the_model_refuses(self, folders: dict[str, Path]) -> None:
        """A batch that fails is tried one by one."""
        run = loaded(folders, "TextClassifier")
        run.tokenizer.add_tokens(["zzz"])  # an id that the model has no vector for
        answers = run(["one", "zzz", "two"], on_error="skip")
        assert [answer is None for answer in answers] == [False, True, False]
        with pytest.raises(ValueError, match="input_ids holds 30522, outside the vocabulary of 30522 rows"):
            run(["one", "zzz", "two"])

    def test_a_missing_library_is_no_bad_input(self, folders: dict[str, Path], monkeypatch: Any) -> None:
        monkeypatch.setitem(sys.modules, "soundfile", None)
        with pytest.raises(ImportError, match="soundfile"):
            loaded(folders, "AudioClassifier")([b"RIFF"], on_error="skip")


# What each option may not be, by what it may.
NO_COUNT = [0, -1, 1.5, "9", True, float("nan"), float("inf"), [3], np.ones(2), {}]
NO_SWITCH = ["no", "", None, 2, [True], np.ones(2)]
NO_NUMBER = ["0.5", None, float("nan"), True, [0.5], 1j, np.ones(2)]
NO_TEXTS = [3, None, b"a", ["a", 3], ["a", None], np.ones(2)]
NO_SECONDS = [0, -1, float("nan"), -float("inf"), "5", None, True, [5.0]]
NO_TEMPLATE = [None, 3, b"{}", "", "x", "{", "{} {}", "{label}", "{0:9999999}", "{:>9999999}", "{!r}", "{0.a}", ["{}"]]
NO_STRIDE = [-0.1, float("nan"), "a", "ab", [0.1], (0.1, 0.1, 0.1), (None, 0.1), ("a", 0.1), np.ones(3)]
NOT: dict[str, list[Any]] = {
    **dict.fromkeys(("max_tokens", "top_k", "longest_answer"), NO_COUNT),
    **dict.fromkeys(
        ("is_split_into_words", "handle_impossible_answer", "align_to_words", "multi_label", "characters", "pool"),
        NO_SWITCH,
    ),
    **dict.fromkeys(("null_threshold", "threshold"), NO_NUMBER),
    "overlap": NO_COUNT[1:],
    "ignore_labels": NO_TEXTS, "candidate_labels": NO_TEXTS, "targets": [x for x in NO_TEXTS if x is not None],
    "delimiter": [3, None, b" ", ["-"]], "hypothesis_template": NO_TEMPLATE,
    "function_to_apply": ["tanh", 3, ["softmax"], {}, np.array(["softmax"])],
    "aggregation_strategy": ["last", 3, ["simple"], {}, np.array(["simple"])],
    "chunk_seconds": NO_SECONDS, "stride_seconds": NO_STRIDE, "image_processor_kwargs": [3, "a", [1], {3: 4}],
}  # fmt: skip
# What an option may be too, and the plain value that it stands for.
ALSO: dict[str, list[tuple[Any, Any]]] = {
    "top_k": [(np.int64(2), 2), (np.array(2), 2), (torch.tensor(2), 2), (np.uint8(1), 1), (10**30, 10**9)],
    "max_tokens": [(np.int32(12), 12), (torch.tensor(12), 12)],
    "overlap": [(np.int64(0), 0), (np.int16(3), 3)],
    "longest_answer": [(np.int64(2), 2), (10**400, 10**9)],
    "null_threshold": [(np.float32(0.5), 0.5), (1, 1.0), (-float("inf"), -1e9)],
    "threshold": [(np.float32(0.5), 0.5), (torch.tensor(0.25), 0.25), (0, 0.0)],
    "ignore_labels": [("LABEL_0", ["LABEL_0"]), (np.array(["LABEL_0"]), ["LABEL_0"]), ({"LABEL_0"}, ["LABEL_0"])],
    "candidate_labels": [(np.array(["a", "b"]), ["a", "b"]), ("a, b", ["a", "b"]), ({"a": 1, "b": 2}, ["a", "b"])],
    "targets": [(np.array(["man"]), ["man"]), ("man", ["man"]), ({"man"}, ["man"])],
    "aggregation_strategy": [("MAX", "max"), (None, "none")],
    "function_to_apply": [("Sigmoid", "sigmoid")],
    "multi_label": [(np.bool_(True), True), (1, True)],
    "align_to_words": [(np.bool_(False), False), (0, False)],
    "hypothesis_template": [("It is {0}, {0}.", "It is {0}, {0}.")],
    "chunk_seconds": [(np.float32(0.5), 0.5), (1e308, float("inf"))],
    "stride_seconds": [(np.array([0.25, 0.25]), (0.25, 0.25)), (torch.tensor(0.25), 0.25), ([0.0, 0], 0)],
}
EVERY = [*HEADS, "ZeroShotClassifier", "Reranker"]
OPTIONS = [(task, option) for task in EVERY for option in getattr(minitrans, task).options]


def made(folders: dict[str, Path], task: str) -> Any:
    """A task, with labels where it needs them."""
    if task in HEADS:
        return loaded(folders, task)
    folder = folders["BertForSequenceClassification"]
    options = {} if task == "ZeroShotClassifier" else {"num_labels": 1, "ignore_mismatched_sizes": True}
    model = minitrans.AutoModelForSequenceClassification.from_pretrained(folder, **options)
    run = getattr(minitrans, task)(model, minitrans.AutoTokenizer.from_pretrained(folder))
    return run.with_options(candidate_labels=["a", "b"]) if task == "ZeroShotClassifier" else run


def three(task: str) -> list[Any]:
    return [("Who?", TEXTS[:3])] * 3 if task == "Reranker" else three_of(task)


class TestOptions:
    """What an option may be is said in one place, for every task and wherever it is given."""

    def test_all_are_tried(self) -> None:
        assert {option for _, option in OPTIONS} == {*NOT}
        assert {*ALSO} <= {*NOT}

    @pytest.mark.parametrize(("task", "option"), OPTIONS)
    def test_what_it_may_not_be(self, folders: dict[str, Path], task: str, option: str) -> None:
        run = made(folders, task)
        example = three(task)[0]
        for wrong in NOT[option]:
            for call in (
                lambda wrong=wrong: run(example, **{option: wrong}),
                lambda wrong=wrong: run([example] * 2, on_error="skip", **{option: wrong}),
                lambda wrong=wrong: setattr(run, option, wrong),
            ):
                with pytest.raises(ValueError, match=rf"^{option} is .*; it must be [^\n]*\.$"):
                    call()

    @pytest.mark.parametrize(("task", "option"), [item for item in OPTIONS if item[1] in ALSO])
    def test_what_it_may_be_too(self, folders: dict[str, Path], task: str, option: str) -> None:
        run = made(folders, task)
        more = {"stride_seconds": {"chunk_seconds": 0.6}, "null_threshold": {"handle_impossible_answer": True}}
        for given, plain in ALSO[option]:
            options = more.get(option, {})
            same(run(three(task), **options, **{option: given}), run(three(task), **options, **{option: plain}))

    @pytest.mark.parametrize("task", EVERY)
    @pytest.mark.parametrize(
        ("option", "values"),
        [("budget", NO_COUNT), ("show_progress", ["no", 3, [1]]), ("on_error", [None, "ignore", ["skip"], 1])],
    )
    def test_of_every_call(self, folders: dict[str, Path], task: str, option: str, values: list[Any]) -> None:
        run = made(folders, task)
        for wrong in values:
            for inputs in (three(task), three(task)[0]):
                with pytest.raises(ValueError, match=rf"^{option} is .*; it must be "):
                    run(inputs, **{option: wrong})
        same(run(three(task), budget=np.int64(9), show_progress=np.bool_(False)), run(three(task)))

    @pytest.mark.parametrize("task", ["EntityRecognizer", "MaskFiller", "QuestionAnswerer"])
    def test_chunks_overlap_by_less_than_one(self, folders: dict[str, Path], task: str) -> None:
        """And every token is judged once, by however many they overlap."""
        run = made(folders, task)
        most = 60 if task == "QuestionAnswerer" else 61
        masks = " ".join(["[MASK]"] * 150)
        for overlap in (0, 1, 30, most):
            found = run(("Who?", masks) if task == "QuestionAnswerer" else masks, overlap=overlap)
            assert task != "MaskFiller" or len(found) == 150
        for overlap in (most + 1, 64, 10**9):
            with pytest.raises(
                ValueError, match=f"overlap is {overlap}; it must be less than a chunk, which is {most + 1}"
            ):
                run(three(task), overlap=overlap)
        with pytest.raises(ValueError, match="overlap is 9; it must be less than a chunk"):
            run(three(task), overlap=9, max_tokens=11)


class TestOnce:
    """What can be gone over once is gone over once, and counts as a list does."""

    @pytest.mark.parametrize(
        "again", [iter, lambda values: (value for value in values), lambda values: map(str, values)]
    )
    @pytest.mark.parametrize("task", ["EntityRecognizer", "Reranker", "ChoiceTask"])
    def test_inputs(self, folders: dict[str, Path], task: str, again: Any) -> None:
        run, words = made(folders, task), list(dict.fromkeys(TEXTS[0].split()))  # equal ones have no order
        form = {"EntityRecognizer": lambda values: values, "Reranker": lambda values: ("Who?", values)}.get(
            task, lambda values: {"text": "So", "choices": values}
        )
        options = {"is_split_into_words": True, "ignore_labels": []} if task == "EntityRecognizer" else {}
        (expected,) = run([form(words)], **options)
        assert expected
        same(run([form(again(words))], **options), [expected])
        found = run([form(again(words)), 5, form(again(words))], on_error="skip", **options)
        same([found[0], found[2]], [expected] * 2)
        assert found[1] is None
        if task != "EntityRecognizer":
            same(run(form(again(words))), expected)

    @pytest.mark.parametrize(
        ("task", "option", "values"),
        [("EntityRecognizer", "ignore_labels", ["LABEL_0"]), ("MaskFiller", "targets", ["man", "dog"]),
         ("ZeroShotClassifier", "candidate_labels", ["a", "b", "c"])],
    )  # fmt: skip
    def test_options(self, folders: dict[str, Path], task: str, option: str, values: list[str]) -> None:
        run, inputs = made(folders, task), three(task)
        more = {"aggregation_strategy": "none"} if task == "EntityRecognizer" else {}
        expected = run(inputs, **more, **{option: values})
        same(run(inputs, **more, **{option: iter(values)}), expected)
        job = run.with_options(**more, **{option: iter(values)})
        same([job(inputs), job(inputs)], [expected] * 2)
        setattr(run, option, iter(values))
        same([run(inputs, **more), run(inputs, **more)], [expected] * 2)

    @pytest.mark.parametrize("task", ["Transcriber", "AudioClassifier", "ImageClassifier"])
    def test_files_that_cannot_be_set_back(self, folders: dict[str, Path], task: str, tmp_path: Path) -> None:
        run = loaded(folders, task)
        read, write = os.pipe()
        os.close(write)
        closed = (tmp_path / "a").open("wb+")
        closed.close()
        with open(read, "rb") as pipe:
            for stream in (pipe, closed):
                with pytest.raises(OSError, match=r"cannot be read and set back \(.*\); give the bytes that it holds"):
                    run([stream])


class TestParts:
    """A model and what prepares its inputs: loaded ones that go together."""

    @pytest.mark.parametrize("task", EVERY)
    def test_refused(self, folders: dict[str, Path], task: str) -> None:
        kind, run = getattr(minitrans, task), made(folders, task)
        for wrong in ("no", None, 3):
            with pytest.raises(ValueError, match=rf"^frozen is {wrong!r}; it must be True or False"):
                kind.from_pretrained(folders[HEADS.get(task, "BertForSequenceClassification")], frozen=wrong)
        model, processor = run.model, run.processor
        odd = [None, 3, ["a"], processor] if task in ("Embedder", "Reranker") else [None, "m", 3, ["a"], processor]
        for wrong in odd:
            with pytest.raises(TypeError, match=rf"^model is .*; {task} takes a loaded model of minitrans"):
                kind(wrong, processor)
        for wrong in (None, "m", 3, model):
            with pytest.raises(
                TypeError, match=rf"^{task} prepares its inputs with a \w+ beside the model, which .* is"
            ):
                kind(model, wrong)
        swin, bert = (minitrans.AutoModel.from_pretrained(folders[name]) for name in ("SwinModel", "BertModel"))
        for other in (bert if task in IMAGE_TASKS else swin, *([] if kind.auto is minitrans.AutoModel else [bert])):
            with pytest.raises(ValueError, match=rf"^{task} takes a |has no class for {kind.auto.__name__}"):
                kind(other, processor)
        model.to("meta")
        with pytest.raises(ValueError, match="device is 'meta', which holds no weights"):
            kind(model, processor)

    @pytest.mark.parametrize("device", ["meta", torch.device("meta"), "nope", "", "cuda:99", 1.5, True, [0], b"x"])
    def test_devices(self, folders: dict[str, Path], device: Any) -> None:
        """A device that cannot compute is refused, and the model stays where it is."""
        embedder, name = loaded(folders, "Embedder"), TEXT_TASKS["TextClassifier"]
        model = minitrans.AutoModelForSequenceClassification.from_pretrained(folders[name])
        for call in (
            lambda: embedder.encode("a", device=device),
            lambda: embedder.to(device),
            lambda: minitrans.TextClassifier.from_pretrained(folders[name], device=device),
            lambda: minitrans.pipeline("text-classification", folders[name], device=device),
            lambda: minitrans.pipeline("text-classification", model, tokenizer=str(folders[name]), device=device),
        ):
            with pytest.raises((ValueError, TypeError), match=r"^device is [^\n]*$"):
                call()
        assert (embedder.device.type, model.device.type) == ("cpu", "cpu")
        assert embedder.encode("a", device="cpu").shape == (32,)
