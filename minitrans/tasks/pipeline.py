"""`pipeline("text-classification", model=...)`: the tasks under the names, options and results of transformers.

Each class here says how a task's options and results are called there; the work is the task's.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from typing_extensions import override

from minitrans import hub
from minitrans.auto import AutoImageProcessor
from minitrans.processing.kinds import is_whole, shown
from minitrans.processing.speech import Wav2Vec2Processor
from minitrans.tasks.audio import AudioClassifier, FrameClassifier, SpeakerEncoder, Transcriber
from minitrans.tasks.base import PROCESSORS, Task, place
from minitrans.tasks.image import ImageClassifier, ImageVectors
from minitrans.tasks.names import ALIASES, made_for
from minitrans.tasks.options import COUNT, MAPPING, SWITCH, kept, one_of, or_none, read, single
from minitrans.tasks.text import (
    ChoiceTask,
    NextSentenceClassifier,
    Reranker,
    TextClassifier,
    TokenVectors,
    ZeroShotClassifier,
)
from minitrans.tasks.tokens import EntityRecognizer, MaskFiller, QuestionAnswerer, questions

logger = logging.getLogger("minitrans")

IGNORED = ("num_workers", "batch_size", "timeout", "padding", "truncation", "framework")  # change no result here
SHOWN = {"return_tensors": or_none(SWITCH)}  # how a result is given


class Pipeline:
    """A task, called as transformers' pipeline for it is: one input for its result, a list for a list of results.

    Anything else that one can go over gives its results one by one, as they are asked for. Options of the constructor
    hold for every call, and those of a call for that one. Beside transformers' there is `on_error`, as in `Task`.
    """

    kind: ClassVar[type[Task]]
    names: ClassVar[Mapping[str, str]] = {}  # transformers' option -> the task's
    shown: ClassVar[tuple[str, ...]] = ()  # options that say how a result is given
    defaults: ClassVar[Mapping[str, Any]] = {}
    default_model: ClassVar[str | None] = None

    def __init__(self, name: str, job: Any, options: Mapping[str, Any]) -> None:
        self.task, self.job, self.options = name, job, kept(options)
        self._settings(self.options)  # what is wrong with them is said now

    def __call__(self, inputs: Any, **options: Any) -> Any:
        """The result, or results; see the class."""
        options = {**self.options, **options}
        shown, job, common = self._settings(options)
        if job.is_one(inputs):
            return self._shown(inputs, job(self.read(inputs, job), **common), shown)
        several = job._several(inputs)
        if not hasattr(inputs, "__len__"):  # as it comes, and no result later than it need be
            job.read_ahead = options.get("batch_size") or 1
        sources: list[Any] = []
        results = job.stream(self._read(several, job, sources), **common)
        found = (self._shown(sources.pop(0), result, shown) for _, result in results)
        return list(found) if isinstance(inputs, (list, tuple)) else found

    predict = transform = __call__

    def _read(self, inputs: Iterable[Any], job: Any, sources: list[Any]) -> Iterator[Any]:
        for source in inputs:
            sources.append(source)
            yield self.read(source, job)

    def _settings(self, options: Mapping[str, Any]) -> tuple[dict[str, Any], Any, dict[str, Any]]:
        """How results are given, the task with its options, and the options that every task has.

        None stands for what an option is by default, as in transformers.
        """
        read("batch_size", options.get("batch_size"), or_none(COUNT))
        given = {name: value for name, value in options.items() if value is not None and name not in IGNORED}
        options = {**self.defaults, **given}
        common = {name: options.pop(name) for name in ("on_error",) if name in options}
        shown = {name: read(name, options.pop(name), SHOWN[name]) for name in self.shown if name in options}
        if unknown := options.keys() - {*self.names}:
            known = ", ".join([*self.names, *self.shown, "on_error"])
            raise TypeError(f"The pipeline {self.task} has no option {min(unknown)!r}; it has {known}.")
        options = self.converted({self.names[name]: value for name, value in options.items()})
        if "max_tokens" in options:  # a number above what the model reads cuts where the model ends
            options["max_tokens"] = min(read("max_tokens", options["max_tokens"], COUNT), self.job.most_tokens)
        return shown, self.job.with_options(**options), common

    def converted(self, options: dict[str, Any]) -> dict[str, Any]:
        """The task's options, where what they hold has another form there."""
        return options

    def read(self, source: Any, job: Any) -> Any:
        """An input as the task takes it."""
        return source

    def _shown(self, source: Any, result: Any, shown: Mapping[str, Any]) -> Any:
        return None if result is None else self.show(source, result, shown)

    def show(self, source: Any, result: Any, shown: Mapping[str, Any]) -> Any:
        """A result as transformers gives it, and as the options in `shown` say."""
        return result

    @property
    def model(self) -> Any:
        """The model."""
        return self.job.model

    @property
    def tokenizer(self) -> Any:
        """The tokenizer; None where there is none."""
        return getattr(self.job, "tokenizer", None)

    @property
    def feature_extractor(self) -> Any:
        """What prepares sound; None where there is none."""
        return getattr(self.job, "extractor", None)

    @property
    def image_processor(self) -> Any:
        """What prepares images; None where there is none."""
        return self.job.processor if self.kind.processing is AutoImageProcessor else None

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.job.device

    @property
    def dtype(self) -> torch.dtype:
        """In which dtype it does."""
        return self.job.model.dtype

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write the model and its processor, as both libraries open them."""
        self.job.model.save_pretrained(folder)
        self.job.processor.save_pretrained(folder)


def _tensor(values: np.ndarray, return_tensors: bool) -> Any:
    """An array (1, ...) as a tensor, or as lists."""
    return torch.from_numpy(np.ascontiguousarray(values))[None] if return_tensors else [values.tolist()]


class TextClassificationPipeline(Pipeline):
    """Texts, or {"text", "text_pair"} -> {"label", "score"}, with `top_k` a list; in a list for a single string."""

    kind = TextClassifier
    names: ClassVar = {"top_k": "top_k", "function_to_apply": "function_to_apply", "max_length": "max_tokens"}
    default_model = "distilbert/distilbert-base-uncased-finetuned-sst-2-english"

    @override
    def __call__(self, inputs: Any, **options: Any) -> Any:
        found = super().__call__(inputs, **options)
        return [found] if isinstance(inputs, str) and "top_k" not in options else found

    def _settings(self, options: Mapping[str, Any]) -> tuple[dict[str, Any], Any, dict[str, Any]]:
        best = isinstance(options.get("top_k", ""), str) and options.get("top_k", "") == ""
        _, job, common = super()._settings({**options, "top_k": 1} if best else options)
        return {"best": best}, job, common

    def read(self, source: Any, job: Any) -> Any:
        """[[text, pair]] is the older way to give a pair."""
        nested = isinstance(source, list) and len(source) == 1 and isinstance(source[0], list)
        return tuple(source[0]) if nested else source

    @override
    def show(self, source: Any, result: Any, shown: Mapping[str, Any]) -> Any:
        return result[0] if shown["best"] else result


class TokenClassificationPipeline(Pipeline):
    """Texts -> [{"entity", "score", "index", "word", "start", "end"}] of tokens, or "entity_group" of entities."""

    kind = EntityRecognizer
    names: ClassVar = {
        "aggregation_strategy": "aggregation_strategy", "ignore_labels": "ignore_labels", "stride": "overlap",
        "is_split_into_words": "is_split_into_words", "delimiter": "delimiter",
    }  # fmt: skip
    defaults: ClassVar = {"aggregation_strategy": "none"}
    default_model = "dbmdz/bert-large-cased-finetuned-conll03-english"

    def __call__(self, inputs: Any, **options: Any) -> Any:
        """As in transformers, the result for one list of words stands in a list."""
        found = super().__call__(inputs, **options)
        split = {**self.options, **options}.get("is_split_into_words") or False
        job = self.job.with_options(is_split_into_words=split)
        return [found] if job.is_split_into_words and job.is_one(inputs) else found

    @override
    def show(self, source: Any, result: Any, shown: Mapping[str, Any]) -> Any:
        return [
            {"entity" if "index" in item else "entity_group": item["label"],
             **{name: item[name] for name in ("score", "index", "word", "start", "end") if name in item}}
            for item in result
        ]  # fmt: skip


class FillMaskPipeline(Pipeline):
    """Texts with masks -> [{"score", "token", "token_str", "sequence"}], or a list of these for several masks."""

    kind = MaskFiller
    names: ClassVar = {"top_k": "top_k", "targets": "targets", "tokenizer_kwargs": "max_tokens"}

    def __call__(self, inputs: Any, **options: Any) -> Any:
        """The result for a list of one text does not stand in a list, as in transformers."""
        found = super().__call__(inputs, **options)
        return found[0] if isinstance(inputs, list) and len(inputs) == 1 else found

    @override
    def converted(self, options: dict[str, Any]) -> dict[str, Any]:
        return _with_length(options)

    @override
    def show(self, source: Any, result: Any, shown: Mapping[str, Any]) -> Any:
        tokenizer = self.job.tokenizer
        ids = tokenizer(self.job.read(source), verbose=False)["input_ids"]
        places = [place for place, index in enumerate(ids) if index == tokenizer.mask_token_id]
        one = len(result) == 1
        found = [
            [{"score": word["score"], "token": word["id"], "token_str": word["token"],
              "sequence": tokenizer.decode([*ids[:place], word["id"], *ids[place + 1 :]], skip_special_tokens=one)}
             for word in words]
            for place, words in zip(places, result, strict=True)
        ]  # fmt: skip
        return found[0] if one else found


def _with_length(options: dict[str, Any]) -> dict[str, Any]:
    """Options with the `max_length` of what is passed on to a tokenizer; other settings are refused."""
    if "max_tokens" not in options:
        return options
    passed = read("the tokenizer's options", options.pop("max_tokens"), MAPPING)
    length = passed.pop("max_length", None)
    if unknown := passed.keys() - {*IGNORED}:
        raise TypeError(
            f"Of a tokenizer's options, padding, truncation and max_length are taken, not {min(unknown)!r}."
        )
    return options if length is None else {**options, "max_tokens": length}


class QuestionAnsweringPipeline(Pipeline):
    """{"question", "context"}, or both by name -> {"score", "start", "end", "answer"}, or a list of `top_k`."""

    kind = QuestionAnswerer
    names: ClassVar = {
        "top_k": "top_k", "topk": "top_k", "max_answer_len": "longest_answer", "doc_stride": "overlap",
        "handle_impossible_answer": "handle_impossible_answer", "align_to_words": "align_to_words",
        "null_threshold": "null_threshold", "max_seq_len": "max_tokens",
    }  # fmt: skip
    defaults: ClassVar = {"max_answer_len": 15}
    default_model = "distilbert/distilbert-base-cased-distilled-squad"

    @override
    def __call__(self, inputs: Any = None, *, question: Any = None, context: Any = None, **options: Any) -> Any:
        if inputs is None and question is not None and context is not None:
            inputs = questions(question, context)
        elif inputs is None or question is not None or context is not None:
            raise TypeError("The pipeline question-answering takes question= and context=, or a dict of both.")
        return super().__call__(inputs, **options)

    @override
    def show(self, source: Any, result: Any, shown: Mapping[str, Any]) -> Any:
        found = result if isinstance(result, list) else [result]
        spans = [{name: item[name] for name in ("score", "start", "end", "answer")} for item in found]
        return spans[0] if len(spans) == 1 else spans


class FeatureExtractionPipeline(Pipeline):
    """Texts -> the last hidden states of their tokens, lists (1, N, C), or a tensor with `return_tensors`."""

    kind = TokenVectors
    names: ClassVar = {"tokenize_kwargs": "max_tokens"}
    shown = ("return_tensors",)
    default_model = "distilbert/distilbert-base-cased"

    @override
    def converted(self, options: dict[str, Any]) -> dict[str, Any]:
        return _with_length(options)

    @override
    def show(self, source: Any, result: Any, shown: Mapping[str, Any]) -> Any:
        return _tensor(result, shown.get("return_tensors", False))


class ZeroShotClassificationPipeline(Pipeline):
    """Texts and `candidate_labels` -> {"sequence", "labels", "scores"}, best first."""

    kind = ZeroShotClassifier
    names: ClassVar = {
        "candidate_labels": "candidate_labels", "hypothesis_template": "hypothesis_template",
        "multi_label": "multi_label",
    }  # fmt: skip

    def __init__(self, name: str, job: Any, options: Mapping[str, Any]) -> None:
        self.task, self.job, self.options = name, job, kept(options)  # labels may come with a call

    def __call__(
        self, inputs: Any = None, candidate_labels: Any = None, *, sequences: Any = None, **options: Any
    ) -> Any:
        """`sequences` is the other name of what is classified."""
        named = {} if candidate_labels is None else {"candidate_labels": candidate_labels}
        return super().__call__(sequences if inputs is None else inputs, **named, **options)

    def _settings(self, options: Mapping[str, Any]) -> tuple[dict[str, Any], Any, dict[str, Any]]:
        return super()._settings({"candidate_labels": (), **options})

    @override
    def show(self, source: Any, result: Any, shown: Mapping[str, Any]) -> Any:
        columns = {f"{name}s": [item[name] for item in result] for name in ("label", "score")}
        return {"sequence": self.job.read(source), **columns}


class ImageClassificationPipeline(Pipeline):
    """Images -> [{"label", "score"}] of the `top_k` best classes."""

    kind = ImageClassifier
    names: ClassVar = {"top_k": "top_k", "function_to_apply": "function_to_apply"}
    defaults: ClassVar = {"top_k": 5}

    def __call__(self, inputs: Any = None, *, images: Any = None, **options: Any) -> Any:
        """`images` is the older name of what is classified."""
        return super().__call__(images if inputs is None else inputs, **options)


class ImageFeatureExtractionPipeline(Pipeline):
    """Images -> the last hidden states, lists (1, N, C) or with `pool` (1, C); a tensor with `return_tensors`."""

    kind = ImageVectors
    names: ClassVar = {"pool": "pool", "image_processor_kwargs": "image_processor_kwargs"}
    shown = ("return_tensors",)
    show = FeatureExtractionPipeline.show


class AudioPipeline(Pipeline):
    """What all pipelines for sound share: an array by itself has the checkpoint's rate, as in transformers."""

    @override
    def __call__(self, inputs: Any, **options: Any) -> Any:
        return super().__call__(self.read(inputs, self.job), **options)

    @override
    def read(self, source: Any, job: Any) -> Any:
        return (source, job.rate) if hasattr(source, "ndim") and not hasattr(source, "get_all_samples") else source


TIMES = one_of(None, False, "word", "char")[0], "'word' or 'char', of which a CTC checkpoint gives times, or None"


class AutomaticSpeechRecognitionPipeline(AudioPipeline):
    """Sounds -> {"text"}, and with `return_timestamps` "word" or "char" "chunks" [{"text", "timestamp"}]."""

    kind = Transcriber
    names: ClassVar = {
        "chunk_length_s": "chunk_seconds", "stride_length_s": "stride_seconds", "return_timestamps": "characters",
    }  # fmt: skip
    defaults: ClassVar = {"chunk_length_s": 0}
    default_model = "facebook/wav2vec2-base-960h"

    def _settings(self, options: Mapping[str, Any]) -> tuple[dict[str, Any], Any, dict[str, Any]]:
        times = read("return_timestamps", options.get("return_timestamps"), TIMES)
        if times == "char" and getattr(self.job.processor, "decoder", None):
            raise ValueError("An n-gram model weighs words: return_timestamps='word' gives their times.")
        _, job, common = super()._settings(options)
        return {"times": times}, job, common

    def converted(self, options: dict[str, Any]) -> dict[str, Any]:
        """0 seconds are a clip as a whole."""
        length = single(options["chunk_seconds"])
        whole = isinstance(length, (int, float)) and length == 0
        times = options.get("characters")
        return {**options, "chunk_seconds": float("inf") if whole else length, "characters": times == "char"}

    def show(self, source: Any, result: Any, shown: Mapping[str, Any]) -> Any:
        """What else a mapping holds comes back in lists, as in transformers."""
        times, more = shown["times"], {}
        if isinstance(source, Mapping) and "sampling_rate" in source:
            used = ("raw", "array", "path", "sampling_rate")
            more = {name: [value] for name, value in source.items() if name not in used}
        key, name = {"char": ("characters", "character")}.get(times or "", ("words", "word"))
        chunks = [{"text": item[name], "timestamp": (item["start"], item["end"])} for item in result.get(key, ())]
        return {"text": result["text"], **({"chunks": chunks} if times else {}), **more}


class AudioClassificationPipeline(AudioPipeline):
    """Sounds -> [{"label", "score"}], best first, of `top_k` classes or of all."""

    kind = AudioClassifier
    names: ClassVar = {"top_k": "top_k", "function_to_apply": "function_to_apply"}
    default_model = "superb/wav2vec2-base-superb-ks"

    def converted(self, options: dict[str, Any]) -> dict[str, Any]:
        """For sound, transformers takes a softmax of a single class too."""
        config = self.job.model.config
        if options.get("function_to_apply") is None and config.num_labels == 1 and config.problem_type is None:
            options = {**options, "function_to_apply": "softmax"}
        return options


class TextRankingPipeline(Pipeline):
    """(query, [documents]), or a dict of both -> [{"index", "score", "text"}] of the `top_k` best documents."""

    kind = Reranker
    names: ClassVar = {"top_k": "top_k", "max_length": "max_tokens"}


class MultipleChoicePipeline(Pipeline):
    """(text, [choices]), or a dict of both -> [{"index", "score", "text"}] of the choices, best first."""

    kind = ChoiceTask
    names: ClassVar = {"max_length": "max_tokens"}


class NextSentencePipeline(Pipeline):
    """(text, text), or {"text", "text_pair"} -> [{"label", "score"}]: "next" or "random", best first."""

    kind = NextSentenceClassifier
    names: ClassVar = {"max_length": "max_tokens"}


class SpeakerVectorPipeline(AudioPipeline):
    """Sounds -> vectors of who speaks, lists (1, C), or a tensor with `return_tensors`."""

    kind = SpeakerEncoder
    shown = ("return_tensors",)
    show = FeatureExtractionPipeline.show


class FrameClassificationPipeline(AudioPipeline):
    """Sounds -> stretches [{"label", "score", "start", "end"}] of each class, such as who speaks when."""

    kind = FrameClassifier
    names: ClassVar = {"threshold": "threshold"}


PIPELINES: dict[str, type[Pipeline]] = {
    "text-classification": TextClassificationPipeline,
    "token-classification": TokenClassificationPipeline,
    "fill-mask": FillMaskPipeline,
    "question-answering": QuestionAnsweringPipeline,
    "feature-extraction": FeatureExtractionPipeline,
    "zero-shot-classification": ZeroShotClassificationPipeline,
    "text-ranking": TextRankingPipeline,
    "multiple-choice": MultipleChoicePipeline,
    "next-sentence-prediction": NextSentencePipeline,
    "image-classification": ImageClassificationPipeline,
    "image-feature-extraction": ImageFeatureExtractionPipeline,
    "automatic-speech-recognition": AutomaticSpeechRecognitionPipeline,
    "audio-classification": AudioClassificationPipeline,
    "audio-xvector": SpeakerVectorPipeline,
    "audio-frame-classification": FrameClassificationPipeline,
}


def pipeline(
    task: str | None = None,
    model: Any = None,
    config: Any = None,
    tokenizer: Any = None,
    feature_extractor: Any = None,
    image_processor: Any = None,
    *,
    processor: Any = None,
    revision: str | None = None,
    use_fast: bool = True,  # there is one implementation
    token: str | bool | None = None,
    device: Any = None,
    device_map: Any = None,
    dtype: Any = None,
    torch_dtype: Any = None,
    trust_remote_code: bool | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    **options: Any,
) -> Pipeline:
    """A callable that does a whole task, with the names, arguments and results of transformers' `pipeline`.

    `task` is one of `PIPELINES` ("sentiment-analysis" and "ner" are other names of the first two), by default what the
    checkpoint was made for. `model` is a folder, a hub id, or a loaded model, beside which its `tokenizer`,
    `feature_extractor`, `image_processor` or `processor` is given, loaded or as a folder or id. `device` is a torch
    device or the number of a GPU, -1 for the CPU; by default the first GPU, or the CPU where there is none. `dtype`,
    `revision`, `token` and what `model_kwargs` holds are options of `from_pretrained`, `options` those of the task.

    Raises ValueError or TypeError, with one sentence, for a task or an option that there is not, and where results
    would depend on weights that the checkpoint does not hold.

    >>> from minitrans import pipeline
    >>> classify = pipeline("sentiment-analysis", "distilbert/distilbert-base-uncased-finetuned-sst-2-english")
    >>> classify("A good film.")
    [{'label': 'POSITIVE', 'score': 0.99...}]
    """
    if trust_remote_code:
        raise ValueError("trust_remote_code=True: minitrans never runs code from a checkpoint; leave it out.")
    name = ALIASES.get(task, task) if isinstance(task, str) else task
    if name is not None and not (isinstance(name, str) and name in PIPELINES):
        raise ValueError(f"There is no task {task!r}; there are {', '.join([*PIPELINES, *ALIASES])}.")
    if model is None:
        model = PIPELINES[name].default_model if name else None
        if model is None:
            raise ValueError(f"No model was given for {task}; pass model= with a folder, a hub id or a loaded model.")
        logger.warning("No model was given: %s is used.", model)
    loading = {"dtype": dtype, "torch_dtype": torch_dtype, "device_map": device_map, "config": config}
    loading = {key: value for key, value in loading.items() if value is not None}
    loading |= read("model_kwargs", {} if model_kwargs is None else model_kwargs, MAPPING)
    own = {"revision": revision, "token": token}
    given = {"tokenizer": tokenizer, "feature_extractor": feature_extractor, "image_processor": image_processor}
    if not isinstance(model, (str, os.PathLike, hub.Repository)):
        if not hasattr(model, "load_report"):
            raise TypeError(f"model is {shown(model)}; it must be a folder, a hub id or a model of minitrans.")
        name = name or made_for(model.config.model_type, [type(model).__name__], type(model).__name__)
        kind = PIPELINES[name].kind
        job = kind(model, _processor(kind, None, {**given, "processor": processor}))
        if device is not None:
            model.to(_place(device))
        return PIPELINES[name](name, job, options)
    repository, loading = hub.open_with(model, {**loading, **{k: v for k, v in own.items() if v is not None}})
    if isinstance(config, (str, os.PathLike)):
        from minitrans.auto import AutoConfig

        loading["config"] = AutoConfig.from_pretrained(config)
    if name is None:
        found = repository.json("config.json")
        name = made_for(found.get("model_type"), found.get("architectures"), repository.name)
    kind = PIPELINES[name].kind
    if device_map is None:
        loading.setdefault("device", _place(device))
    loaded = kind.load_model(repository, **loading)
    prepared = _processor(kind, repository, {**given, "processor": processor})
    return PIPELINES[name](name, kind(loaded, prepared), options)


def _place(device: Any) -> torch.device:
    """A device as torch has it; None is the first GPU or else the CPU, as for any number where there is no GPU."""
    number = 0 if device is None else single(device)
    if not is_whole(number):
        return place(device)
    return place(torch.device("cuda", number) if number >= 0 and torch.cuda.is_available() else "cpu")


def _processor(kind: type[Task], repository: hub.Repository | None, given: dict[str, Any]) -> Any:
    """What a task prepares its inputs with: what is given, loaded where that is a name, or the repository's own."""
    wanted, _ = PROCESSORS[kind.processing]
    autos: dict[str, Any] = {name: auto for auto, (name, _) in PROCESSORS.items()}
    loaded = {
        name: autos[name].from_pretrained(value) if isinstance(value, (str, os.PathLike)) else value
        for name, value in given.items()
        if value is not None
    }
    if wanted in loaded:
        return loaded[wanted]
    whole = loaded.get("processor")
    if wanted == "processor" and ("tokenizer" in loaded or "feature_extractor" in loaded):
        parts: dict[str, Any] = {name: loaded.get(name) for name in ("feature_extractor", "tokenizer")}
        for name, part in parts.items():
            if part is None and repository is not None:
                parts[name] = autos[name].from_pretrained(repository)
        if all(part is not None for part in parts.values()):
            return Wav2Vec2Processor(**parts)
    if whole is not None:
        return getattr(whole, wanted, whole)
    if wanted == "image_processor" and "feature_extractor" in loaded:  # as it was once called
        return loaded["feature_extractor"]
    if repository is None:
        both = "feature_extractor= and tokenizer=" if wanted == "processor" else f"{wanted}="
        raise ValueError(f"Beside a loaded model its {both} is needed: loaded, or as a folder or hub id.")
    load: Callable[..., Any] = kind.processing.from_pretrained
    return load(repository)
