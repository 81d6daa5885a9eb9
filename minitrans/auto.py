"""The Auto classes: from a checkpoint to the class that reads it, one registry row per model_type or type name."""

from __future__ import annotations

import importlib
import os
import re
from typing import Any, ClassVar

from minitrans import hub
from minitrans.config import Config

# model_type -> the module of the family and the first part of its class names
FAMILIES = {
    "bert": ("minitrans.models.bert", "Bert"),
    "distilbert": ("minitrans.models.distilbert", "DistilBert"),
    "swin": ("minitrans.models.swin", "Swin"),
    "wav2vec2": ("minitrans.models.wav2vec2", "Wav2Vec2"),
}
# The module of each published processing class. A Fast class is the same here: there is one implementation.
PROCESSING = {
    "BertTokenizer": "minitrans.processing.text",
    "DistilBertTokenizer": "minitrans.processing.text",
    "PreTrainedTokenizerFast": "minitrans.processing.text",
    "LayoutLMv2Tokenizer": "minitrans.processing.document",
    "Wav2Vec2CTCTokenizer": "minitrans.processing.ctc",
    "ViTImageProcessor": "minitrans.processing.image",
    "LayoutLMv2ImageProcessor": "minitrans.processing.document",
    "Wav2Vec2FeatureExtractor": "minitrans.processing.audio",
    "Wav2Vec2Processor": "minitrans.processing.speech",
    "LayoutLMv2Processor": "minitrans.processing.document",
}
# Other names that stand in configuration files for one of them.
SPELLINGS = {
    "TokenizersBackend": "PreTrainedTokenizerFast",
    "ViTFeatureExtractor": "ViTImageProcessor",
    "LayoutLMv2FeatureExtractor": "LayoutLMv2ImageProcessor",
}


def published_class(name: str) -> Any:
    """The class of a published name, such as "BertForMaskedLM" or "ViTImageProcessor"; AttributeError for no such."""
    for module, family in FAMILIES.values():
        if re.match(rf"{family}(For|Model$|PreTrainedModel$|Config$|Backbone$)", name):
            return getattr(importlib.import_module(module), name)
    name = _processing_name(name)
    if name not in PROCESSING:
        raise AttributeError(f"minitrans has no class {name}.")
    return getattr(importlib.import_module(PROCESSING[name]), name)


def _processing_name(name: str) -> str:
    stem = name if name in PROCESSING else re.sub(r"(Fast|Pil)$", "", name)
    return SPELLINGS.get(stem, stem)


def _family(model_type: Any, source: str) -> tuple[str, str]:
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise ValueError(f"{source} says model_type {model_type!r}; minitrans knows {', '.join(sorted(FAMILIES))}.")
    return FAMILIES[model_type]


def config_class(model_type: Any, source: str) -> type[Config]:
    """The configuration class of a model_type; ValueError, with those known, for another."""
    module, family = _family(model_type, source)
    return getattr(importlib.import_module(module), f"{family}Config")


def read_config(repository: hub.Repository, overrides: dict[str, Any]) -> Config:
    """config.json of a repository as its family's dataclass."""
    values = repository.json("config.json")
    kind = config_class(values.get("model_type"), f"config.json of {repository.name}")
    return kind.from_dict(values, **{"name_or_path": repository.name, **overrides})


def architecture_class(config: Config) -> Any:
    """The class that config.json names as the checkpoint's architecture; the backbone where it names none known."""
    module, family = _family(config.model_type, type(config).__name__)
    name = (config.architectures or [""])[0]
    known = re.fullmatch(rf"{family}(For\w+|Model|Backbone)", name)
    found = getattr(importlib.import_module(module), name, None) if known else None
    return found or published_class(f"{family}Model")


class AutoConfig:
    """`AutoConfig.from_pretrained(name_or_path)` gives the configuration of any known family."""

    @classmethod
    def from_pretrained(cls, name_or_path: str | os.PathLike[str] | hub.Repository, **options: Any) -> Config:
        """Read config.json; hub options as in `minitrans.hub.open_repository`, the rest override fields."""
        return read_config(*hub.open_with(name_or_path, options))

    @classmethod
    def for_model(cls, model_type: str, **values: Any) -> Config:
        """The configuration of a family by its model_type."""
        return config_class(model_type, "for_model")(**values)


class AutoClass:
    """What all Auto classes of models share.

    `tasks` are the ends of the class names that serve this Auto class, the first that a family has wins; `input` is
    what such a class must take first, where a name's end does not say it.
    """

    tasks: ClassVar[tuple[str, ...]]
    input: ClassVar[str | None] = None

    def __init__(self) -> None:
        name = type(self).__name__
        raise TypeError(f"{name} is made by {name}.from_pretrained(...) or {name}.from_config(...).")

    @classmethod
    def _class_for(cls, config: Config) -> Any:
        if not isinstance(config, Config):
            raise TypeError(f"A configuration is made by AutoConfig, not of a {type(config).__name__}.")
        module_name, family = _family(config.model_type, type(config).__name__)
        module = importlib.import_module(module_name)
        for task in cls.tasks:
            found = getattr(module, f"{family}{task}", None)
            if found is not None and cls.input in (None, found.main_input_name):
                return found
        heads = ", ".join(name for name in vars(module) if name.startswith(f"{family}For"))
        raise ValueError(f"{family} has no class for {cls.__name__}; it has {heads}.")

    @classmethod
    def from_config(cls, config: Config, **options: Any) -> Any:
        """A model with random weights; options as in `PretrainedModel.from_config`."""
        return cls._class_for(config).from_config(config, **options)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str] | hub.Repository,
        *model_args: Any,
        config: Config | None = None,
        **options: Any,
    ) -> Any:
        """Load the checkpoint as the class for this task; options as in `PretrainedModel.from_pretrained`."""
        repository, options = hub.open_with(pretrained_model_name_or_path, options)
        found = config or read_config(repository, {})
        return cls._class_for(found).load(repository, config, *model_args, **options)


class AutoModel(AutoClass):
    """The backbone."""

    tasks = ("Model",)


class AutoModelForPreTraining(AutoClass):
    """The heads that a family was pre-trained with."""

    tasks = ("ForPreTraining", "ForMaskedLM")


class AutoModelForMaskedLM(AutoClass):
    """Scores of every word for each token."""

    tasks = ("ForMaskedLM",)


class AutoModelForNextSentencePrediction(AutoClass):
    """Whether one segment follows another."""

    tasks = ("ForNextSentencePrediction",)


class AutoModelForSequenceClassification(AutoClass):
    """Classes, or numbers, for whole texts."""

    tasks = ("ForSequenceClassification",)
    input = "input_ids"


class AutoModelForTokenClassification(AutoClass):
    """Classes for tokens."""

    tasks = ("ForTokenClassification",)


class AutoModelForQuestionAnswering(AutoClass):
    """The span of a text that answers a question."""

    tasks = ("ForQuestionAnswering",)


class AutoModelForMultipleChoice(AutoClass):
    """Which of several texts."""

    tasks = ("ForMultipleChoice",)


class AutoModelForImageClassification(AutoClass):
    """Classes for images."""

    tasks = ("ForImageClassification",)


class AutoModelForMaskedImageModeling(AutoClass):
    """Images with masked patches restored."""

    tasks = ("ForMaskedImageModeling",)


class AutoBackbone(AutoClass):
    """Maps of a vision model's stages."""

    tasks = ("Backbone",)


class AutoModelForCTC(AutoClass):
    """Scores of every token, and of none, for each frame of sound."""

    tasks = ("ForCTC",)


class AutoModelForAudioClassification(AutoClass):
    """Classes for whole clips."""

    tasks = ("ForSequenceClassification",)
    input = "input_values"


class AutoModelForAudioFrameClassification(AutoClass):
    """Classes for the frames of a clip."""

    tasks = ("ForAudioFrameClassification",)


class AutoModelForAudioXVector(AutoClass):
    """A vector for the speaker."""

    tasks = ("ForXVector",)


class AutoProcessing:
    """What all Auto classes of processors share: they find the published class that the checkpoint's files name.

    `sources` are (file, key, key in that, ...) to look for a class name in, `by_model_type` what stands for them where
    there is none.
    """

    sources: ClassVar[tuple[tuple[str, ...], ...]]
    by_model_type: ClassVar[dict[str, str]]

    def __init__(self) -> None:
        name = type(self).__name__
        raise TypeError(f"{name} is made by {name}.from_pretrained(...).")

    @classmethod
    def from_pretrained(cls, name_or_path: str | os.PathLike[str] | hub.Repository, **options: Any) -> Any:
        """Load the checkpoint's own class; hub options as in `minitrans.hub.open_repository`, the rest are settings.

        Raises ValueError, with those known, where the files name a class that minitrans does not have.
        """
        if options.pop("trust_remote_code", False):
            raise ValueError("trust_remote_code=True: minitrans never runs code from a checkpoint; leave it out.")
        options.pop("use_fast", None)  # there is one implementation
        repository, options = hub.open_with(name_or_path, options)
        return cls._class_for(repository).from_pretrained(repository, **options)

    @classmethod
    def _class_for(cls, repository: hub.Repository) -> Any:
        found = next(filter(None, (_look_up(repository, *source) for source in cls.sources)), None)
        known = set(cls.by_model_type.values())
        name = _processing_name(str(found))
        if found is None or name == "PreTrainedTokenizerFast":
            name = cls.by_model_type.get(_look_up(repository, "config.json", "model_type") or "", name)
        if name not in known | {"PreTrainedTokenizerFast"}:
            raise ValueError(
                f"{repository.name} names no class that {cls.__name__} knows ({found or 'none at all'}); it knows "
                f"{', '.join(sorted(known))}."
            )
        return published_class(name)


def _look_up(repository: hub.Repository, filename: str, *keys: str) -> str | None:
    """The text under `keys` in a JSON file, None where there is none."""
    value: Any = repository.json(filename) if repository.find(filename) else {}
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, str) else None


class AutoTokenizer(AutoProcessing):
    """Text -> indices, and back."""

    sources = (("tokenizer_config.json", "tokenizer_class"),)
    by_model_type: ClassVar[dict[str, str]] = {
        "bert": "BertTokenizer",
        "distilbert": "DistilBertTokenizer",
        "layoutlmv2": "LayoutLMv2Tokenizer",
        "wav2vec2": "Wav2Vec2CTCTokenizer",
    }


class AutoImageProcessor(AutoProcessing):
    """Images -> pixel values."""

    sources = (
        ("processor_config.json", "image_processor", "image_processor_type"),
        ("processor_config.json", "feature_extractor", "feature_extractor_type"),
        ("preprocessor_config.json", "image_processor_type"),
        ("preprocessor_config.json", "feature_extractor_type"),
    )
    by_model_type: ClassVar[dict[str, str]] = {"swin": "ViTImageProcessor", "layoutlmv2": "LayoutLMv2ImageProcessor"}


class AutoFeatureExtractor(AutoProcessing):
    """Sound -> input values; images too, as their processors were once called."""

    sources = AutoImageProcessor.sources
    by_model_type: ClassVar[dict[str, str]] = {
        **AutoImageProcessor.by_model_type,
        "wav2vec2": "Wav2Vec2FeatureExtractor",
    }


class AutoProcessor(AutoProcessing):
    """Everything that a checkpoint's raw input needs: for a model of one kind of input, its only processor."""

    sources = (
        ("processor_config.json", "processor_class"),
        ("preprocessor_config.json", "processor_class"),
        ("tokenizer_config.json", "processor_class"),
    )
    by_model_type: ClassVar[dict[str, str]] = {
        "bert": "BertTokenizer",
        "distilbert": "DistilBertTokenizer",
        "swin": "ViTImageProcessor",
        "layoutlmv2": "LayoutLMv2Processor",
        "wav2vec2": "Wav2Vec2Processor",
    }
