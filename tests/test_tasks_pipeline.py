"""`pipeline` against transformers' own on tiny checkpoints: what it lacks against the definitions."""

import json
import logging
import math
import re
import shutil
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import test_tasks_audio
import torch
import transformers
from PIL import Image
from test_tasks_text import LABELS, TEXTS, checkpoint
from transformers import AutoTokenizer
from transformers import pipeline as reference
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

import minitrans
from minitrans import pipeline

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

RATE = 16000
SAID = [text for text in TEXTS if text]
WORDS = ["In", "a", "hole", "in", "the", "ground", "there", "lived", "a", "hobbit", "."]
NLI = {"num_labels": 3, "id2label": {0: "ENTAILMENT", 1: "neutral", 2: "CONTRADICTION"}}
HEADS: dict[str, dict[str, Any]] = {
    "BertForSequenceClassification": {"num_labels": 3, "id2label": {0: "bad", 1: "so-so", 2: "good"}},
    "BertForTokenClassification": {"id2label": dict(enumerate(LABELS))},
    "BertForMaskedLM": {},
    "BertForQuestionAnswering": {},
    "BertForMultipleChoice": {},
    "BertForNextSentencePrediction": {},
    "BertModel": {},
}


@pytest.fixture(scope="module")
def folders(minilm: Path, tmp_path_factory: Any) -> dict[str, Path]:
    """A random tiny checkpoint of each kind by its architecture."""
    found = {}
    for head, values in HEADS.items():
        values = {**values, "label2id": {label: index for index, label in values.get("id2label", {}).items()} or None}
        found[head] = checkpoint(minilm, tmp_path_factory.mktemp(head), head, **values)
    names = {"label2id": {label: index for index, label in NLI["id2label"].items()}}
    folder = tmp_path_factory.mktemp("nli")
    found["NLI"] = checkpoint(minilm, folder, "BertForSequenceClassification", **NLI, **names)
    found["Ranker"] = checkpoint(minilm, tmp_path_factory.mktemp("r"), "BertForSequenceClassification", num_labels=1)
    for head in ("CTC", "SequenceClassification", "AudioFrameClassification", "XVector"):
        folder = found[f"Wav2Vec2For{head}"] = tmp_path_factory.mktemp(head)
        values = {"num_labels": 7, "tdnn_dim": [24] * 5, "xvector_output_dim": 16, "return_attention_mask": True}
        test_tasks_audio.checkpoint(folder, f"Wav2Vec2For{head}", **test_tasks_audio.LAYER_NORM, **values)
    folder, values = tmp_path_factory.mktemp("one"), {"num_labels": 1, "return_attention_mask": True}
    found["One sound"] = folder
    test_tasks_audio.checkpoint(folder, "Wav2Vec2ForSequenceClassification", **test_tasks_audio.LAYER_NORM, **values)
    torch.manual_seed(0)
    swin = transformers.SwinConfig(
        image_size=32,
        embed_dim=12,
        depths=[1, 1],
        num_heads=[1, 2],
        window_size=4,
        num_labels=8,
        initializer_range=0.4,
    )
    for name in ("SwinForImageClassification", "SwinModel"):
        folder = found[name] = tmp_path_factory.mktemp(name)
        getattr(transformers, name)(swin).save_pretrained(folder)
        ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return found


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    """Noise that changes slowly, of three lengths."""
    generator = np.random.default_rng(0)
    made = [generator.normal(size=size).cumsum() for size in (16000, 9000, 70000)]
    return [(clip / np.abs(clip).max()).astype(np.float32) for clip in made]


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    generator = np.random.default_rng(0)
    sizes = ((30, 52), (64, 64), (47, 31))
    coarse = [Image.fromarray(generator.integers(0, 256, (6, 6, 3), dtype=np.uint8)) for _ in sizes]
    return [image.resize(size, Image.Resampling.BICUBIC) for image, size in zip(coarse, sizes, strict=True)]


def same(ours: Any, theirs: Any, tolerance: float = 1e-4) -> None:
    """Equal types, keys and words, and numbers to `tolerance`."""
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        for key in theirs:
            same(ours[key], theirs[key], tolerance)
    elif isinstance(theirs, (list, tuple)):
        assert type(ours) is type(theirs)
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            same(one, other, tolerance)
    elif isinstance(theirs, torch.Tensor):
        assert ours.shape == theirs.shape
        assert float((ours - theirs).abs().max()) <= tolerance * float(theirs.abs().max())
    elif isinstance(theirs, (float, np.floating)):
        assert ours == pytest.approx(float(theirs), rel=tolerance, abs=1e-5)
    else:
        assert ours == theirs


class Column(Sequence):
    """A column of a dataset: rows one by one, no list."""

    def __init__(self, rows: list[Any]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        return self.rows[index]


PAIRED = {"text": TEXTS[0], "text_pair": TEXTS[1]}
# architecture, task, options of the constructor, arguments of the call
TEXT_CALLS: list[tuple[str, str, dict[str, Any], tuple[Any, ...], dict[str, Any]]] = [
    ("BertForSequenceClassification", "text-classification", {}, (TEXTS[0],), {}),
    ("BertForSequenceClassification", "sentiment-analysis", {}, (SAID,), {}),
    ("BertForSequenceClassification", "text-classification", {}, (PAIRED,), {}),
    ("BertForSequenceClassification", "text-classification", {}, ([PAIRED, {"text": TEXTS[1]}],), {"top_k": 2}),
    ("BertForSequenceClassification", "text-classification", {}, ([[TEXTS[:2]]],), {}),
    ("BertForSequenceClassification", "text-classification", {}, ([[TEXTS[:2]], [TEXTS[2:4]]],), {"top_k": 1}),
    ("BertForSequenceClassification", "text-classification", {"top_k": None}, (TEXTS[0],), {}),
    ("BertForSequenceClassification", "text-classification", {"top_k": None}, (SAID,), {}),
    ("BertForSequenceClassification", "text-classification", {}, (TEXTS[0],), {"top_k": 1}),
    ("BertForSequenceClassification", "text-classification", {}, (SAID,), {"top_k": 1}),
    ("BertForSequenceClassification", "text-classification", {"top_k": 3}, (SAID,), {"function_to_apply": "none"}),
    ("BertForSequenceClassification", "text-classification", {"function_to_apply": "sigmoid"}, (SAID,), {}),
    ("BertForSequenceClassification", "text-classification", {}, (SAID,), {"truncation": True, "max_length": 8}),
    ("BertForSequenceClassification", "text-classification", {"truncation": True, "max_length": 512}, (SAID,), {}),
    ("Ranker", "text-classification", {}, (SAID,), {}),
    ("BertForTokenClassification", "token-classification", {}, (TEXTS[0],), {}),
    ("BertForTokenClassification", "ner", {}, (SAID,), {"ignore_labels": []}),
    ("BertForTokenClassification", "ner", {}, (SAID,), {"aggregation_strategy": "simple", "ignore_labels": ["MISC"]}),
    *[("BertForTokenClassification", "ner", {"aggregation_strategy": strategy}, (SAID,), {})
      for strategy in ("none", "simple", "first", "average", "max")],
    *[("BertForTokenClassification", "ner", {"aggregation_strategy": strategy}, ([WORDS, ["Rubber", "boots"]],),
       {"is_split_into_words": True}) for strategy in ("none", "simple", "max")],
    ("BertForTokenClassification", "ner", {}, (WORDS,), {"is_split_into_words": True, "delimiter": "--"}),
    ("BertForMaskedLM", "fill-mask", {}, ("He paid the [MASK].",), {}),
    ("BertForMaskedLM", "fill-mask", {}, (["He paid the [MASK]."],), {}),
    ("BertForMaskedLM", "fill-mask", {"top_k": 2}, (["He paid the [MASK].", "[MASK] boots and [MASK]."],), {}),
    ("BertForMaskedLM", "fill-mask", {}, ("He paid the [MASK].",), {"targets": ["fine", "price", "hobbits", "zzyzx"]}),
    ("BertForMaskedLM", "fill-mask", {}, ("[MASK] [MASK]",), {"targets": "fine", "top_k": 3}),
    ("BertModel", "feature-extraction", {}, (TEXTS[0],), {}),
    ("BertModel", "feature-extraction", {"return_tensors": True}, (TEXTS[0],), {}),
    ("BertModel", "feature-extraction", {}, (SAID,), {"return_tensors": True}),
    ("BertModel", "feature-extraction", {}, (TEXTS[4],), {"tokenize_kwargs": {"truncation": True, "max_length": 7}}),
    ("NLI", "zero-shot-classification", {}, (TEXTS[0], ["fiction", "law", "travel"]), {}),
    ("NLI", "zero-shot-classification", {}, (SAID,), {"candidate_labels": "fiction, law ,travel"}),
    ("NLI", "zero-shot-classification", {"multi_label": True}, (SAID[:1], ["fiction", "law"]), {}),
    ("NLI", "zero-shot-classification", {}, (TEXTS[0], "law"), {"hypothesis_template": "It is about {}"}),
    ("BertForSequenceClassification", "zero-shot-classification", {}, (TEXTS[0], ["fiction", "law"]), {}),
]  # fmt: skip


@pytest.mark.parametrize(("head", "task", "made", "inputs", "called"), TEXT_CALLS)
def test_texts(
    folders: dict[str, Path],
    head: str,
    task: str,
    made: dict[str, Any],
    inputs: tuple[Any, ...],
    called: dict[str, Any],
) -> None:
    theirs = reference(task, model=str(folders[head]), device="cpu", **made)(*inputs, **called)
    same(pipeline(task, model=folders[head], device="cpu", **made)(*inputs, **called), theirs)


IMAGE_CALLS: list[tuple[str, str, dict[str, Any]]] = [
    ("SwinForImageClassification", "image-classification", {}),
    ("SwinForImageClassification", "image-classification", {"top_k": 2}),
    ("SwinForImageClassification", "image-classification", {"top_k": 50, "function_to_apply": "none"}),
    ("SwinForImageClassification", "image-classification", {"function_to_apply": "sigmoid"}),
    ("SwinModel", "image-feature-extraction", {}),
    ("SwinModel", "image-feature-extraction", {"pool": True}),
    ("SwinModel", "image-feature-extraction", {"return_tensors": True}),
    ("SwinModel", "image-feature-extraction", {"image_processor_kwargs": {"size": {"height": 48, "width": 40}}}),
]


@pytest.mark.parametrize(("head", "task", "options"), IMAGE_CALLS)
def test_images(
    folders: dict[str, Path],
    pictures: list[Image.Image],
    head: str,
    task: str,
    options: dict[str, Any],
    tmp_path: Path,
) -> None:
    model = getattr(transformers, head).from_pretrained(folders[head]).eval()
    processor = ViTImageProcessorPil.from_pretrained(folders[head])
    theirs, ours = reference(task, model, image_processor=processor, device="cpu"), pipeline(task, folders[head])
    same(ours(pictures, **options), theirs(pictures, **options))
    same(ours(pictures[0], **options), theirs(pictures[0], **options))
    pictures[1].save(tmp_path / "i.png")
    same(ours(str(tmp_path / "i.png"), **options), theirs(str(tmp_path / "i.png"), **options))


SOUND_CALLS: list[tuple[str, str, dict[str, Any]]] = [
    ("Wav2Vec2ForCTC", "automatic-speech-recognition", {}),
    ("Wav2Vec2ForCTC", "automatic-speech-recognition", {"return_timestamps": "word"}),
    ("Wav2Vec2ForCTC", "automatic-speech-recognition", {"return_timestamps": "char"}),
    ("Wav2Vec2ForSequenceClassification", "audio-classification", {}),
    ("One sound", "audio-classification", {}),
    ("One sound", "audio-classification", {"function_to_apply": "sigmoid"}),
    ("Wav2Vec2ForSequenceClassification", "audio-classification", {"top_k": 2}),
    ("Wav2Vec2ForSequenceClassification", "audio-classification", {"top_k": None, "function_to_apply": "sigmoid"}),
]


@pytest.mark.parametrize(("head", "task", "options"), SOUND_CALLS)
def test_sounds(
    folders: dict[str, Path], clips: list[np.ndarray], head: str, task: str, options: dict[str, Any]
) -> None:
    theirs, ours = reference(task, str(folders[head]), device="cpu"), pipeline(task, str(folders[head]))
    expected = theirs([clip.copy() for clip in clips], **options)
    same(ours(list(clips), **options), expected, 1e-3)
    same(ours(clips[0], **options), expected[0], 1e-3)
    same(ours(torch.from_numpy(clips[1]), **options), expected[1], 1e-3)
    for key in ("raw", "array"):
        row = {key: clips[2], "sampling_rate": RATE}
        same(ours(row, **options), expected[2], 1e-3)
    if head.endswith("CTC"):
        row = {"raw": clips[0], "sampling_rate": RATE, "id": 5}
        same(ours(dict(row), **options), theirs(dict(row), **options), 1e-3)


@pytest.mark.parametrize("times", ["word", "char"])
@pytest.mark.parametrize(
    "options",
    [
        {"chunk_length_s": 1.0},
        {"chunk_length_s": 1.3},
        {"chunk_length_s": 1.0, "stride_length_s": 0.25},
        {"chunk_length_s": 1.1, "stride_length_s": [0.1, 0.3]},
        {"chunk_length_s": 0.9, "stride_length_s": (0.2, 0)},
    ],
)
def test_chunks(clips: list[np.ndarray], tmp_path: Path, times: str, options: dict[str, Any]) -> None:
    """Without normalisation, which transformers does chunk by chunk and minitrans by the whole clip."""
    values = {**test_tasks_audio.LAYER_NORM, "do_normalize": False, "return_attention_mask": True}
    folder = test_tasks_audio.checkpoint(tmp_path, **values)
    theirs = reference("automatic-speech-recognition", str(folder), device="cpu")
    ours = pipeline("automatic-speech-recognition", folder, return_timestamps=times)
    for clip in clips:
        same(ours(clip, **options), theirs(clip.copy(), return_timestamps=times, **options))


def spans(folder: Path, question: str, text: str, longest: int) -> tuple[list[tuple[float, int, int]], float, float]:
    """All answers of whole words by their best spans, by transformers' logits; the null's score and its margin."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = transformers.BertForQuestionAnswering.from_pretrained(folder).eval()
    row = tokenizer(question, text, return_tensors="pt")
    with torch.inference_mode():
        output = model(**row)
    begin, end = output.start_logits[0].double(), output.end_logits[0].double()
    places = [place for place, owner in enumerate(row.sequence_ids(0)) if owner == 1]
    kept = [0, *places]
    first, last = (logits[kept].softmax(0) for logits in (begin, end))
    words = [row.word_to_chars(0, row.token_to_word(0, place), sequence_index=1) for place in places]
    found: dict[tuple[int, int], tuple[float, float]] = {}
    for i, j in product(range(len(places)), repeat=2):
        if i <= j < i + longest:
            key = words[i].start, words[j].end
            score = float(first[i + 1] * last[j + 1]), float(begin[places[i]] + end[places[j]])
            found[key] = max(found.get(key, (0.0, -math.inf)), score)
    ranked = sorted(((score, *key) for key, (score, _) in found.items()), reverse=True)
    best = max(logits for _, logits in found.values())
    return ranked, float(first[0] * last[0]), float(begin[0] + end[0]) - best


SPEECH = "automatic-speech-recognition"
ASKED = [("Who lives in the hole?", SAID[0]), ("When does the ferry leave?", SAID[2]), ("What dries faster?", SAID[3])]


class TestQuestionAnswering:
    @pytest.mark.parametrize("longest", [1, 3, 15])
    def test_against_the_definition(self, folders: dict[str, Path], longest: int) -> None:
        folder = folders["BertForQuestionAnswering"]
        answer = pipeline("question-answering", folder)
        for question, text in ASKED:
            ranked, *_ = spans(folder, question, text, longest)
            best, start, end = ranked[0]
            expected = {"score": best, "start": start, "end": end, "answer": text[start:end]}
            same(answer(question=question, context=text, max_answer_len=longest), expected)
            same(answer({"question": question, "context": text}, max_answer_len=longest), expected)
            several = answer(question=question, context=text, max_answer_len=longest, top_k=4)
            same([(item["score"], item["start"], item["end"]) for item in several], ranked[:4])
            assert [text[item["start"] : item["end"]] for item in several] == [item["answer"] for item in several]

    def test_no_answer_by_its_margin(self, folders: dict[str, Path]) -> None:
        folder = folders["BertForQuestionAnswering"]
        answer = pipeline("question-answering", folder, handle_impossible_answer=True)
        for question, text in ASKED:
            ranked, null, margin = spans(folder, question, text, 15)
            for threshold in (margin - 0.01, margin + 0.01):
                found = answer(question=question, context=text, null_threshold=threshold)
                if threshold < margin:
                    same(found, {"score": null, "start": 0, "end": 0, "answer": ""})
                else:
                    assert found["score"] == pytest.approx(ranked[0][0], rel=1e-4)
            ordered = answer(question=question, context=text, top_k=3)
            expected = sorted([(null, 0, 0), *ranked], reverse=True)[:3]
            same([(item["score"], item["start"], item["end"]) for item in ordered], expected)

    def test_inputs(self, folders: dict[str, Path]) -> None:
        answer = pipeline("question-answering", folders["BertForQuestionAnswering"])
        question, text = ASKED[0]
        expected = answer(question=question, context=text)
        assert answer([{"question": question, "context": text}]) == [expected]
        assert answer(question=[question], context=[text]) == [expected]
        both = answer(question=question, context=[text, SAID[1]])
        same(both[0], expected)
        assert len(answer(question=[question, "Why?"], context=text)) == 2
        with pytest.raises(ValueError, match="2 questions and 1 contexts"):
            answer(question=["one", "two"], context=[text])
        with pytest.raises(TypeError, match="question= and context="):
            answer(question=question)
        with pytest.raises(TypeError, match='a mapping with "question" and "context"'):
            answer({"question": question, "text": text})


def logits(folder: Path, head: str, *texts: Any) -> torch.Tensor:
    """transformers' own for one text or pair."""
    model = getattr(transformers, head).from_pretrained(folder).eval()
    with torch.inference_mode():
        row = AutoTokenizer.from_pretrained(folder)(*texts, return_tensors="pt")
        if head.endswith("MultipleChoice"):
            row = {name: value[None] for name, value in row.items()}
        return model(**row).logits[0]


class TestWhatTransformersLacks:
    def test_ranking(self, folders: dict[str, Path]) -> None:
        rank = pipeline("text-ranking", folders["Ranker"])
        scores = [
            float(logits(folders["Ranker"], "BertForSequenceClassification", "ink", text).sigmoid()) for text in SAID
        ]
        order = sorted(range(len(SAID)), key=lambda index: -scores[index])
        expected = [{"index": index, "score": scores[index], "text": SAID[index]} for index in order]
        same(rank(("ink", SAID)), expected)
        same(rank([{"query": "ink", "documents": SAID}], top_k=2), [expected[:2]])
        for wrong in ("ink", ("ink", "paper"), {"query": "ink"}, ("ink", [5])):
            with pytest.raises(TypeError, match=r'takes a tuple \(query, \[documents\]\), or a mapping with "query"'):
                rank(wrong)

    def test_multiple_choice(self, folders: dict[str, Path]) -> None:
        choose = pipeline("multiple-choice", folders["BertForMultipleChoice"])
        for count in (2, 3, 5):
            scores = [
                logits(folders["BertForMultipleChoice"], "BertForMultipleChoice", TEXTS[0], text)
                for text in SAID[:count]
            ]
            shares = torch.cat(scores).softmax(0).tolist()
            order = sorted(range(count), key=lambda index: -shares[index])
            expected = [{"index": index, "score": shares[index], "text": SAID[index]} for index in order]
            same(choose((TEXTS[0], SAID[:count])), expected)
            same(choose({"text": TEXTS[0], "choices": SAID[:count]}), expected)

    def test_next_sentence(self, folders: dict[str, Path]) -> None:
        folder = folders["BertForNextSentencePrediction"]
        follows = pipeline("next-sentence-prediction", folder)
        shares = logits(folder, "BertForNextSentencePrediction", TEXTS[0], TEXTS[1]).softmax(-1).tolist()
        expected = [{"label": label, "score": score} for label, score in zip(("next", "random"), shares, strict=True)]
        expected.sort(key=lambda item: -item["score"])
        same(follows((TEXTS[0], TEXTS[1])), expected)
        same(follows([{"text": TEXTS[0], "text_pair": TEXTS[1]}]), [expected])
        for parameter in follows.model.cls.seq_relationship.parameters():  # the other class is the likelier one then
            parameter.data.neg_()
        turned = [{**each, "score": share} for each, share in zip(expected, sorted(shares), strict=True)]
        same(follows((TEXTS[0], TEXTS[1])), turned[::-1])
        with pytest.raises(TypeError, match="not a single text"):
            follows(TEXTS[0])

    def test_speaker_vectors(self, folders: dict[str, Path], clips: list[np.ndarray]) -> None:
        folder = folders["Wav2Vec2ForXVector"]
        model = transformers.Wav2Vec2ForXVector.from_pretrained(folder).eval()
        extractor = transformers.Wav2Vec2FeatureExtractor.from_pretrained(folder)
        heard = pipeline("audio-xvector", folder)
        for clip, found in zip(clips, heard(list(clips)), strict=True):
            with torch.inference_mode():
                expected = model(**extractor(clip, sampling_rate=RATE, return_tensors="pt")).embeddings
            same(torch.tensor(found), expected, 1e-3)
            same(heard(clip, return_tensors=True), expected, 1e-3)

    @pytest.mark.parametrize("threshold", [0.5, 0.3])
    def test_speaker_changes(self, folders: dict[str, Path], clips: list[np.ndarray], threshold: float) -> None:
        folder = folders["Wav2Vec2ForAudioFrameClassification"]
        model = transformers.Wav2Vec2ForAudioFrameClassification.from_pretrained(folder).eval()
        extractor = transformers.Wav2Vec2FeatureExtractor.from_pretrained(folder)
        answers = pipeline("audio-frame-classification", folder, threshold=threshold)(list(clips))
        for clip, stretches in zip(clips, answers, strict=True):
            with torch.inference_mode():
                scores = model(**extractor(clip, sampling_rate=RATE, return_tensors="pt")).logits[0].sigmoid().numpy()
            holds = np.zeros(scores.shape, bool)
            for item in stretches:
                label = int(item["label"].removeprefix("LABEL_"))
                begin, end = round(item["start"] / 0.02), round(item["end"] / 0.02)
                assert item["score"] == pytest.approx(float(scores[begin:end, label].mean()), rel=1e-3)
                assert not holds[begin:end, label].any()
                holds[begin:end, label] = True
            sure = np.abs(scores - threshold) > 1e-4
            assert (holds == (scores > threshold))[sure].all()
            assert [item["start"] for item in stretches] == sorted(item["start"] for item in stretches)


class TestForms:
    def test_what_is_gone_over(self, folders: dict[str, Path]) -> None:
        classify = pipeline("text-classification", folders["BertForSequenceClassification"])
        expected = classify(SAID)
        read: list[str] = []

        def spoken() -> Iterator[str]:
            for text in SAID:
                read.append(text)
                yield text

        answers = classify(spoken())
        assert not isinstance(answers, list)
        same(next(answers), expected[0])
        assert len(read) == 1  # an answer does not wait for what comes later
        same(list(answers), expected[1:])
        same(list(classify(Column(SAID))), expected)
        same(list(classify(np.array(SAID))), expected)
        same(list(classify(Column([{"text": text, "label": 1} for text in SAID]))), expected)
        assert classify([]) == []

    @pytest.mark.parametrize("given", ["loaded", "folder"])
    def test_a_loaded_model(
        self, folders: dict[str, Path], clips: list[np.ndarray], pictures: list[Image.Image], given: str
    ) -> None:
        swin = "SwinForImageClassification"
        for head, task, parts, example in (
            ("BertForSequenceClassification", "text-classification", {"tokenizer": "AutoTokenizer"}, TEXTS[0]),
            (swin, "image-classification", {"image_processor": "AutoImageProcessor"}, pictures[0]),
            (swin, "image-classification", {"feature_extractor": "AutoFeatureExtractor"}, pictures[0]),
            ("Wav2Vec2ForSequenceClassification", "audio-classification",
             {"feature_extractor": "AutoFeatureExtractor"}, clips[0]),
            ("Wav2Vec2ForCTC", "automatic-speech-recognition", {"processor": "AutoProcessor"}, clips[0]),
            ("Wav2Vec2ForCTC", "automatic-speech-recognition",
             {"tokenizer": "AutoTokenizer", "feature_extractor": "AutoFeatureExtractor"}, clips[0]),
        ):  # fmt: skip
            folder = folders[head]
            model = getattr(minitrans, head).from_pretrained(folder)
            loaded = {name: getattr(minitrans, auto).from_pretrained(folder) for name, auto in parts.items()}
            options = loaded if given == "loaded" else {name: str(folder) for name in parts}
            by_parts = pipeline(task, model=model, **options)
            same(by_parts(example), pipeline(task, model=folder)(example))
            same(pipeline(model=model, **options)(example), by_parts(example))
            assert by_parts.model is model
            with pytest.raises(ValueError, match="Beside a loaded model"):
                pipeline(task, model=model)

    @pytest.mark.parametrize(
        ("head", "task", "parts"),
        [
            ("BertForMaskedLM", "fill-mask", {"tokenizer"}),
            ("SwinForImageClassification", "image-classification", {"image_processor"}),
            ("SwinModel", "image-feature-extraction", {"image_processor"}),
            ("Wav2Vec2ForSequenceClassification", "audio-classification", {"feature_extractor"}),
            ("Wav2Vec2ForCTC", "automatic-speech-recognition", {"feature_extractor", "tokenizer"}),
        ],
    )
    def test_its_parts(self, folders: dict[str, Path], head: str, task: str, parts: set[str]) -> None:
        """By the names of transformers, which has None for what a task does not need."""
        made = pipeline(task, folders[head], dtype="bfloat16")
        assert {name for name in ("tokenizer", "feature_extractor", "image_processor") if getattr(made, name)} == parts
        assert (made.task, made.device, made.dtype) == (task, torch.device("cpu"), torch.bfloat16)
        needed = {"tokenizer": "vocab_size", "feature_extractor": "sampling_rate", "image_processor": "image_mean"}
        assert all(hasattr(getattr(made, name), needed[name]) for name in parts)

    @pytest.mark.parametrize("given", ["loaded", "folder"])
    def test_a_part_of_another_checkpoint(
        self, folders: dict[str, Path], clips: list[np.ndarray], given: str, tmp_path: Path
    ) -> None:
        """What is given takes the place of the folder's own; a whole processor has the part that a task needs."""
        folder, other = folders["Wav2Vec2ForCTC"], shutil.copytree(folders["Wav2Vec2ForCTC"], tmp_path / "m")
        tokens = list(json.loads((folder / "vocab.json").read_text()))
        turned = {token: index for index, token in enumerate([*tokens[:5], *tokens[:4:-1]])}
        (other / "vocab.json").write_text(json.dumps(turned))
        text = (folder / "processor_config.json").read_text()
        (other / "processor_config.json").write_text(text.replace('"do_normalize": true', '"do_normalize": false'))
        expected = pipeline(SPEECH, folder)(clips[0])
        model = minitrans.Wav2Vec2ForCTC.from_pretrained(folder)

        def part(auto: str, source: Path) -> Any:
            return getattr(minitrans, auto).from_pretrained(source) if given == "loaded" else str(source)

        both = {"tokenizer": part("AutoTokenizer", other), "feature_extractor": part("AutoFeatureExtractor", other)}
        for name, own in both.items():
            made = pipeline(SPEECH, folder, **{name: own})
            job = made.job
            assert (job.tokenizer.get_vocab() == turned) is (name == "tokenizer")
            assert job.extractor.do_normalize is (name != "feature_extractor")
            with pytest.raises(
                ValueError, match="Beside a loaded model its feature_extractor= and tokenizer= is needed"
            ):
                pipeline(SPEECH, model, **{name: own})
        swapped = pipeline(SPEECH, folder, **both)
        assert swapped(clips[0]) != expected
        same(pipeline(SPEECH, model, **both)(clips[0]), swapped(clips[0]))
        same(pipeline(SPEECH, folder, processor=part("AutoProcessor", other))(clips[0]), swapped(clips[0]))
        head = "Wav2Vec2ForSequenceClassification"
        heard = pipeline("audio-classification", folders[head], processor=part("AutoProcessor", other))
        assert not heard.feature_extractor.do_normalize
        same(heard(clips[0]), pipeline("audio-classification", folders[head],
                                       feature_extractor=both["feature_extractor"])(clips[0]))  # fmt: skip

    @pytest.mark.parametrize("device", [-1, "cpu", torch.device("cpu"), 0, 3, None, np.int64(-1)])
    def test_a_loaded_model_on_a_device(self, folders: dict[str, Path], device: Any) -> None:
        """Without a GPU every number is the CPU."""
        folder = folders["BertForSequenceClassification"]
        model = minitrans.BertForSequenceClassification.from_pretrained(folder)
        for made in (pipeline("text-classification", model, tokenizer=str(folder), device=device),
                     pipeline("text-classification", folder, device=device)):  # fmt: skip
            assert made.device == torch.device("cpu")

    @pytest.mark.parametrize(("device", "index"), [(None, 0), (0, 0), (1, 1), (np.int64(1), 1)])
    def test_a_number_is_a_gpu(self, folders: dict[str, Path], device: Any, index: int, monkeypatch: Any) -> None:
        """The first one by default; here there is none, so torch refuses it by its number."""
        folder = folders["BertForSequenceClassification"]
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        with pytest.raises(ValueError, match=rf"^device is device\(type='cuda', index={index}\); it must be one that"):
            pipeline("text-classification", folder, device=device)
        assert pipeline("text-classification", folder, device=-1).device == torch.device("cpu")
        model = minitrans.BertForSequenceClassification.from_pretrained(folder)
        made = pipeline("text-classification", model, tokenizer=str(folder))  # a loaded one stays where it is
        assert made.device == torch.device("cpu")

    @pytest.mark.parametrize("form", [str, Path, minitrans.AutoConfig.from_pretrained], ids=["text", "path", "loaded"])
    def test_a_configuration_beside_the_folder(self, folders: dict[str, Path], form: Any, tmp_path: Path) -> None:
        folder = folders["BertForSequenceClassification"]
        values = json.loads((folder / "config.json").read_text())
        names = {"id2label": {"0": "a", "1": "b", "2": "c"}, "label2id": {"a": 0, "b": 1, "c": 2}}
        (tmp_path / "config.json").write_text(json.dumps({**values, **names}))
        config = transformers.AutoConfig.from_pretrained(tmp_path)
        model = transformers.BertForSequenceClassification.from_pretrained(folder, config=config)
        theirs = reference("text-classification", model, tokenizer=str(folder), device="cpu", top_k=None)
        same(pipeline("text-classification", folder, config=form(tmp_path), top_k=None)(SAID), theirs(SAID))

    @pytest.mark.parametrize("size", [None, 1, 2, 4])
    def test_as_many_are_read_as_a_batch_holds(self, folders: dict[str, Path], size: int | None) -> None:
        classify = pipeline("text-classification", folders["BertForSequenceClassification"], batch_size=size)
        read: list[str] = []
        answers = classify(read.append(text) or text for text in SAID)  # type: ignore[func-returns-value]
        next(answers)
        assert len(read) == (size or 1)
        assert len(list(answers)) == len(SAID) - 1

    @pytest.mark.parametrize("head", [name for name in HEADS if name != "BertModel"])
    def test_the_task_that_a_checkpoint_was_made_for(self, folders: dict[str, Path], head: str) -> None:
        made = pipeline(model=folders[head])
        assert type(made.model).__name__ == head

    def test_saved(self, folders: dict[str, Path], tmp_path: Path) -> None:
        first = pipeline("text-classification", folders["BertForSequenceClassification"])
        first.save_pretrained(tmp_path)
        same(pipeline(model=tmp_path)(TEXTS[0]), first(TEXTS[0]))
        same(reference("text-classification", str(tmp_path), device="cpu")(TEXTS[0]), first(TEXTS[0]))

    def test_one_bad_input(self, folders: dict[str, Path], clips: list[np.ndarray], tmp_path: Path) -> None:
        path = tmp_path / "clip.wav"
        soundfile.write(path, clips[0], RATE)
        hear = pipeline("audio-classification", folders["Wav2Vec2ForSequenceClassification"])
        first, second = hear([str(path), "gone.wav"], on_error="skip")
        same(first, hear(str(path)))
        assert second is None
        with pytest.raises(FileNotFoundError, match=r"gone\.wav"):
            hear([str(path), "gone.wav"])

    def test_which_model_is_used_is_said(self, caplog: Any) -> None:
        with pytest.raises(OSError, match="distilbert-base-uncased-finetuned-sst-2-english"):  # there is no hub
            pipeline("sentiment-analysis")
        name = "distilbert/distilbert-base-uncased-finetuned-sst-2-english"
        assert f"No model was given: {name} is used." in caplog.messages

    def test_refused(self, folders: dict[str, Path]) -> None:
        folder = folders["BertForSequenceClassification"]
        classify = pipeline("text-classification", folder)
        for call, message in (
            (lambda: pipeline("text-generation", folder), "There is no task 'text-generation'; there are text-class"),
            (lambda: pipeline("fill-mask"), "No model was given for fill-mask"),
            (lambda: pipeline(), "No model was given"),
            (lambda: pipeline("text-classification", folder, trust_remote_code=True), "never runs code"),
            (lambda: pipeline("text-classification", folders["BertModel"]), "classifier.weight, classifier.bias"),
            (lambda: pipeline("ner", folder, aggregation_strategy="middle"), "holds no weights|aggregation_strategy"),
            (lambda: classify("x", function_to_apply="tanh"), "function_to_apply is 'tanh'"),
            (lambda: classify("x", top_k=0), "top_k is 0"),
            (lambda: classify("x", max_length=0), "max_tokens is 0"),
            (lambda: pipeline("zero-shot-classification", folders["Ranker"]), "two classes or more; this one has one"),
            *[
                (
                    lambda times=times: pipeline(SPEECH, folders["Wav2Vec2ForCTC"], return_timestamps=times),
                    f"return_timestamps is {times!r}; it must be 'word' or 'char', of which a CTC checkpoint gives",
                )
                for times in (True, "words", 1)
            ],
        ):
            with pytest.raises(ValueError, match=message):
                call()
        for wrong in ("temperature", "tokenizer_kwargs"):
            with pytest.raises(TypeError, match=f"no option '{wrong}'; it has top_k, function_to_apply"):
                classify("x", **{wrong: 1})
        read = pipeline("feature-extraction", folders["BertModel"])
        assert np.shape(read(SAID[0], tokenize_kwargs={"max_length": 5, "truncation": True})) == (1, 5, 32)
        for wrong in ("stride", "add_special_tokens"):
            with pytest.raises(TypeError, match=f"padding, truncation and max_length are taken, not '{wrong}'"):
                read(SAID[0], tokenize_kwargs={wrong: 1})
        model = minitrans.BertForTokenClassification.from_pretrained(folders["BertForTokenClassification"])
        with pytest.raises(
            ValueError, match="takes a BertForSequenceClassification, not a BertForTokenClassification"
        ):
            pipeline("text-classification", model=model, tokenizer=str(folder))
        theirs = transformers.BertForSequenceClassification.from_pretrained(folder)
        with pytest.raises(TypeError, match="a folder, a hub id or a model of minitrans"):
            pipeline("text-classification", model=theirs, tokenizer=str(folder))

    def test_options_that_cannot_be(self, folders: dict[str, Path], clips: list[np.ndarray]) -> None:
        """One sentence each, whether they are given with the pipeline or with a call."""
        classes, words, count = folders["BertForSequenceClassification"], TEXTS[0], [0, -1, 1.5, "a", True, [3]]
        speech, split, asked = folders["Wav2Vec2ForCTC"], ["no", 3, [1]], {"question": "Who?", "context": TEXTS[0]}
        for task, folder, inputs, wrong in (
            ("text-classification", classes, words, {"max_length": count, "batch_size": count, "top_k": count}),
            ("ner", folders["BertForTokenClassification"], words,
             {"stride": [-1, 1.5, "a", True, 10**6], "ignore_labels": [3, [3]], "is_split_into_words": split}),
            ("fill-mask", folders["BertForMaskedLM"], "[MASK]",
             {"top_k": count, "targets": [3, [None]], "tokenizer_kwargs": [3, "a", [1]]}),
            ("question-answering", folders["BertForQuestionAnswering"], asked,
             {"top_k": count, "max_seq_len": count, "doc_stride": [-1, "a"], "null_threshold": ["a", float("nan")],
              "handle_impossible_answer": split}),
            ("feature-extraction", folders["BertModel"], words,
             {"return_tensors": split, "tokenize_kwargs": [3, "a"]}),
            ("automatic-speech-recognition", speech, clips[0],
             {"chunk_length_s": [-1, "a", float("nan"), -math.inf, True, [5, 5], np.ones(2)],
              "stride_length_s": ["a", [0.1], (1, 2, 3), -1, np.ones(3)],
              "return_timestamps": [["word"], np.ones(2)]}),
            ("audio-frame-classification", folders["Wav2Vec2ForAudioFrameClassification"], clips[0],
             {"threshold": ["a", float("nan"), True]}),
        ):  # fmt: skip
            made = pipeline(task, folder)
            for option, values in wrong.items():
                for value in values:
                    given = {"chunk_length_s": 1, option: value} if option == "stride_length_s" else {option: value}
                    for call in (
                        lambda made=made, inputs=inputs, given=given: made(inputs, **given),
                        lambda task=task, folder=folder, given=given: pipeline(task, folder, **given),
                    ):
                        with pytest.raises(ValueError, match=r"^[^\n]* is [^\n]*; it must be [^\n]*$"):
                            call()

    @pytest.mark.parametrize(
        ("options", "sentence"),
        [
            *(({"model": model}, "model is .*; it must be a folder, a hub id or a model of minitrans")
              for model in (["a"], 3, {"a": 1})),
            *(({"task": task}, "There is no task") for task in (3, ["ner"], {}, "", "x")),
            *(({"model_kwargs": odd}, "model_kwargs is .*; it must be a mapping") for odd in (3, [1], "a", {3: 4})),
            *(({"tokenizer": odd}, "tokenizer beside the model, which .* is not") for odd in (3, ["a"], {})),
        ],
    )  # fmt: skip
    def test_parts_that_cannot_be(self, folders: dict[str, Path], options: dict[str, Any], sentence: str) -> None:
        given = {"task": "text-classification", "model": folders["BertForSequenceClassification"], **options}
        with pytest.raises((ValueError, TypeError), match=sentence):
            pipeline(**given)

    def test_none_is_the_default(self, folders: dict[str, Path], pictures: list[Image.Image]) -> None:
        """As in transformers."""
        fill, ours = (
            make("fill-mask", str(folders["BertForMaskedLM"]), device="cpu") for make in (reference, pipeline)
        )
        same(ours("[MASK] boots", top_k=None), fill("[MASK] boots", top_k=None))
        ner, ours = (
            make("ner", str(folders["BertForTokenClassification"]), device="cpu") for make in (reference, pipeline)
        )
        options = {"ignore_labels": None, "stride": None, "aggregation_strategy": None}
        same(ours(SAID, **options), ner(SAID, **options))
        classify = pipeline("image-classification", folders["SwinForImageClassification"])
        same(classify(pictures[0], top_k=None), classify(pictures[0]))

    def test_what_can_be_gone_over_once(self, folders: dict[str, Path]) -> None:
        """An iterator as an option counts as a list, at every call."""
        for task, head, option, values, inputs in (
            ("ner", "BertForTokenClassification", "ignore_labels", ["O", "MISC"], SAID),
            ("fill-mask", "BertForMaskedLM", "targets", ["fine", "price"], ["[MASK] boots", "A [MASK]"]),
            ("zero-shot-classification", "NLI", "candidate_labels", ["law", "art"], SAID),
        ):
            expected = pipeline(task, folders[head], **{option: values})(inputs)
            made = pipeline(task, folders[head], **{option: iter(values)})
            same([made(inputs), made(inputs)], [expected] * 2)
            same(pipeline(task, folders[head])(inputs, **{option: iter(values)}), expected)
        answer = pipeline("question-answering", folders["BertForQuestionAnswering"])
        asked = [question for question, _ in ASKED]
        same(answer(question=iter(asked), context=SAID[0]), answer(question=asked, context=SAID[0]))
        for wrong in (3, b"a", {"a": "b"}):
            with pytest.raises(TypeError, match=r"question is .*; it must be a text or several"):
                answer(question=wrong, context=SAID[0])
            with pytest.raises(TypeError, match=r"context is .*; it must be a text or several"):
                answer(question="Why?", context=wrong)

    @pytest.mark.parametrize(
        "template",
        ["It is this.", "", "{", "{label}", "{} or {}", "{0.name}", "{:d}", "{{}}", "{0:9999999}", "{!r}", 5, ["{}"]],
        ids=repr,
    )
    def test_templates_without_a_place_for_a_label(self, folders: dict[str, Path], template: Any) -> None:
        classify = pipeline("zero-shot-classification", folders["NLI"])
        with pytest.raises(
            ValueError, match=re.escape(f"hypothesis_template is {template!r}; it must be text with {{}}")
        ):
            classify("a text", candidate_labels=["art", "law"], hypothesis_template=template)


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("BertForSequenceClassification", "TextClassifier"), ("BertForTokenClassification", "EntityRecognizer"),
        ("SwinForImageClassification", "ImageClassifier"), ("Wav2Vec2ForSequenceClassification", "AudioClassifier"),
        ("Wav2Vec2ForAudioFrameClassification", "FrameClassifier"),
    ],
)  # fmt: skip
def test_every_task_says_that_labels_do_not_count_from_0(name, task, folders, tmp_path, caplog):
    folder = shutil.copytree(folders[name], tmp_path / name)
    values = minitrans.AutoConfig.from_pretrained(folder).to_dict()
    names = {str(index + 1): f"L{index}" for index in range(len(values["id2label"]))}
    (folder / "config.json").write_text(json.dumps({**values, "id2label": names, "label2id": {}}))
    with caplog.at_level(logging.WARNING, "minitrans"):
        getattr(minitrans, task).from_pretrained(folder)
    assert caplog.text.count("id2label names the classes 1, 2") == 1
    assert "and not 0, so" in caplog.text
