"""The Auto classes: from a checkpoint to the class that reads it, one registry entry per model_type or type name."""

from __future__ import annotations

import importlib
import re
from typing import TYPE_CHECKING, Any, ClassVar, Literal, overload

from typing_extensions import override

from minitrans import _HOME, hub
from minitrans.config import PreTrainedConfig
from minitrans.processing.features import open_with

if TYPE_CHECKING:
    from minitrans.pretrained import PreTrainedModel
    from minitrans.processing.encoding import PreTrainedTokenizerBase
    from minitrans.processing.image import ViTImageProcessor
    from minitrans.weights import LoadReport

# model_type -> the module of the family and the first part of its class names
FAMILIES = {
    "bert": ("minitrans.models.bert", "Bert"),
    "distilbert": ("minitrans.models.distilbert", "DistilBert"),
    "swin": ("minitrans.models.swin", "Swin"),
    "wav2vec2": ("minitrans.models.wav2vec2", "Wav2Vec2"),
}
# Other names that stand in configuration files for one of them.
SPELLINGS = {
    "TokenizersBackend": "PreTrainedTokenizerFast",
    "Wav2Vec2Tokenizer": "Wav2Vec2CTCTokenizer",
    "ViTFeatureExtractor": "ViTImageProcessor",
    "LayoutLMv2FeatureExtractor": "LayoutLMv2ImageProcessor",
}


# What transformers' training programs use beside models and processors, and what works with those of this package.
TRANSFORMERS_OWN = re.compile(
    r"Trainer|Seq2SeqTrainer|TrainingArguments|HfArgumentParser|EvalPrediction|DataCollator\w*|\w*Callback"
    r"|TrainerCallback|get_\w*scheduler|get_\w+_schedule_with_warmup|SchedulerType"
)


def published_class(name: str) -> Any:
    """The class of a published name, such as "BertForMaskedLM" or "ViTImageProcessor"; AttributeError for no such."""
    if TRANSFORMERS_OWN.fullmatch(name):
        raise AttributeError(
            f"minitrans has no {name}; transformers' works with this package's models, tokenizers and processors: "
            f"from transformers import {name}."
        )
    name = _processing_name(name)
    if name not in _HOME:
        raise AttributeError(f"minitrans has no class {name}.")
    return getattr(importlib.import_module(_HOME[name]), name)


def _processing_name(name: str) -> str:
    stem = name if name == "PreTrainedTokenizerFast" else re.sub(r"(Fast|Pil)$", "", name)
    return SPELLINGS.get(stem, stem)


def _family(model_type: Any, source: str) -> tuple[str, str]:
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise ValueError(f"{source} says model_type {model_type!r}; minitrans knows {', '.join(sorted(FAMILIES))}.")
    return FAMILIES[model_type]


CONFIGS: dict[Any, type[PreTrainedConfig]] = {}  # model_type -> what AutoConfig.register was given


def config_class(model_type: Any, source: str) -> type[PreTrainedConfig]:
    """The configuration class of a model_type; ValueError, with those known, for another."""
    if isinstance(model_type, str) and model_type in CONFIGS:
        return CONFIGS[model_type]
    module, family = _family(model_type, source)
    return getattr(importlib.import_module(module), f"{family}Config")


def read_config(repository: hub.Repository, overrides: dict[str, Any]) -> PreTrainedConfig:
    """config.json of a repository as its family's dataclass."""
    values = repository.json("config.json")
    kind = config_class(values.get("model_type"), f"config.json of {repository.name}")
    return kind.read(repository, overrides)


def architecture_class(config: PreTrainedConfig) -> Any:
    """The class that config.json names as the checkpoint's architecture; the backbone where it names none known."""
    module, family = _family(config.model_type, type(config).__name__)
    name = (config.architectures or [""])[0]
    known = re.fullmatch(rf"{family}(For\w+|Model|Backbone)", name)
    found = getattr(importlib.import_module(module), name, None) if known else None
    return found or published_class(f"{family}Model")


class AutoConfig:
    """`AutoConfig.from_pretrained(name_or_path)` gives the configuration of any known family."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: hub.Source, **options: Any) -> PreTrainedConfig:
        """Read config.json; hub options as in `minitrans.hub.open_repository`, the rest override fields.

        The name is that of a folder, a hub id, or the path of a JSON file.
        """
        return read_config(*hub.open_with(pretrained_model_name_or_path, options, "config.json"))

    @classmethod
    def register(cls, model_type: str, config: type[PreTrainedConfig], exist_ok: bool = False) -> None:
        """Let a configuration class of your own be found by its model_type; ValueError where that is taken."""
        if config.model_type != model_type:
            raise ValueError(f"{config.__name__} has the model_type {config.model_type!r}, not {model_type!r}.")
        if (model_type in CONFIGS or model_type in FAMILIES) and not exist_ok:
            raise ValueError(f"There is a configuration for {model_type!r} already; exist_ok=True replaces it.")
        CONFIGS[model_type] = config

    @classmethod
    def for_model(cls, model_type: str, **values: Any) -> PreTrainedConfig:
        """The configuration of a family by its model_type."""
        return config_class(model_type, "for_model")(**values)


class AutoClass:
    """What all Auto classes of models share.

    `tasks` are the ends of the class names that serve this Auto class, the first that a family has wins; `input` is
    what such a class must take first, where a name's end does not say it.
    """

    tasks: ClassVar[tuple[str, ...]]
    input: ClassVar[str | None] = None
    registered: ClassVar[dict[type[PreTrainedConfig], Any]]

    def __init_subclass__(cls) -> None:
        cls.registered = {}

    @classmethod
    def register(cls, config_class: type[PreTrainedConfig], model_class: Any, exist_ok: bool = False) -> None:
        """Register a model class of your own for a configuration class; ValueError where they do not match."""
        if model_class.config_class is not config_class:
            raise ValueError(
                f"{model_class.__name__} has the config_class {model_class.config_class.__name__}, not "
                f"{config_class.__name__}."
            )
        _register(cls, config_class, model_class, exist_ok)

    def __init__(self) -> None:
        name = type(self).__name__
        raise TypeError(f"{name} is made by {name}.from_pretrained(...) or {name}.from_config(...).")

    @classmethod
    def _class_for(cls, config: PreTrainedConfig) -> Any:
        if not isinstance(config, PreTrainedConfig):
            raise TypeError(f"A configuration is made by AutoConfig, not of a {type(config).__name__}.")
        if type(config) in cls.registered:
            return cls.registered[type(config)]
        module_name, family = _family(config.model_type, type(config).__name__)
        module = importlib.import_module(module_name)
        for task in cls.tasks:
            found = getattr(module, f"{family}{task}", None)
            if found is not None and cls.input in (None, found.main_input_name):
                return found
        heads = ", ".join(name for name in vars(module) if name.startswith(f"{family}For"))
        raise ValueError(f"{family} has no class for {cls.__name__}; it has {heads}.")

    @classmethod
    def from_config(cls, config: PreTrainedConfig, **options: Any) -> PreTrainedModel:
        """A model with random weights; options as in `PreTrainedModel.from_config`."""
        return cls._class_for(config).from_config(config, **options)

    @overload
    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: hub.Source,
        *model_args: Any,
        config: PreTrainedConfig | None = None,
        output_loading_info: Literal[True],
        **options: Any,
    ) -> tuple[PreTrainedModel, LoadReport]: ...
    @overload
    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: hub.Source,
        *model_args: Any,
        config: PreTrainedConfig | None = None,
        output_loading_info: bool = False,
        **options: Any,
    ) -> PreTrainedModel: ...
    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: hub.Source,
        *model_args: Any,
        config: PreTrainedConfig | None = None,
        **options: Any,
    ) -> Any:
        """Load the checkpoint as the class for this task; options as in `PreTrainedModel.from_pretrained`.

        >>> from minitrans import AutoModelForSequenceClassification
        >>> name = "distilbert/distilbert-base-uncased-finetuned-sst-2-english"
        >>> type(AutoModelForSequenceClassification.from_pretrained(name)).__name__
        'DistilBertForSequenceClassification'
        """
        repository, options = hub.open_with(pretrained_model_name_or_path, options)
        found = read_config(repository, {}) if config is None else config
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
    """Maps of a vision model's stages.

    >>> import torch
    >>> from minitrans import AutoBackbone
    >>> from minitrans.demo import CHECKPOINTS
    >>> backbone = AutoBackbone.from_pretrained(CHECKPOINTS / "swin", out_features=["stage1", "stage2"])
    >>> [tuple(feature_map.shape) for feature_map in backbone(torch.zeros(1, 3, 8, 8)).feature_maps]
    [(1, 32, 8, 8), (1, 64, 4, 4)]
    """

    tasks = ("Backbone",)


class AutoModelForCTC(AutoClass):
    """Scores of every token, the blank among them, for each frame of sound."""

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


def _register(auto: Any, config_class: type[PreTrainedConfig], kind: Any, exist_ok: bool) -> None:
    """Enter a class of the caller's own for a configuration class; ValueError where there is one already."""
    known = config_class in auto.registered or CONFIGS.get(config_class.model_type) is not config_class
    if known and config_class.model_type in {*FAMILIES, *CONFIGS} and not exist_ok:
        raise ValueError(f"{auto.__name__} has a class for {config_class.__name__}; exist_ok=True replaces it.")
    auto.registered[config_class] = kind


class AutoProcessing:
    """What all Auto classes of processors share: they find the published class that the checkpoint's files name.

    `sources` are (file, key, key in that, ...) to look for a class name in, `by_model_type` what stands for them where
    there is none, `more` the other classes that may be named, and `files` those of which a name may be the path.
    """

    sources: ClassVar[tuple[tuple[str, ...], ...]]
    by_model_type: ClassVar[dict[str, str]]
    more: ClassVar[tuple[str, ...]] = ()
    files: ClassVar[tuple[str, ...]] = ("preprocessor_config.json",)
    registered: ClassVar[dict[type[PreTrainedConfig], tuple[Any, ...]]]

    def __init_subclass__(cls) -> None:
        cls.registered = {}

    def __init__(self) -> None:
        name = type(self).__name__
        raise TypeError(f"{name} is made by {name}.from_pretrained(...).")

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: hub.Source, **options: Any) -> Any:
        """Load the checkpoint's own class; hub options as in `minitrans.hub.open_repository`, the rest are settings.

        The name is that of a folder, a hub id, or the path of a file. A `config` says in place of config.json which
        model the checkpoint is of. Raises ValueError, with those known, where the files name a class that minitrans
        does not have.
        """
        trusted = options.get("trust_remote_code", False)
        repository, options = open_with(pretrained_model_name_or_path, options, *cls.files)
        if trusted:
            cls._refuse_code(repository)
        config = options.pop("config", None)
        if config is not None and not hasattr(config, "model_type"):  # transformers' configurations have one too
            raise TypeError(f"A configuration is made by AutoConfig, not of a {type(config).__name__}.")
        model_type = config.model_type if config is not None else _look_up(repository, "config.json", "model_type")
        kind = cls._class_for(repository, model_type)
        load = getattr(kind, "from_repository", None)  # of tokenizers, whose files may say more than the class
        return load(repository, options) if load else kind.from_pretrained(repository, **options)

    @classmethod
    def _refuse_code(cls, repository: hub.Repository) -> None:
        """Raise ValueError where the files name code of their own for this Auto class."""
        for filename in dict.fromkeys(source[0] for source in cls.sources):
            code = repository.json(filename).get("auto_map") if repository.find(filename) else None
            if code and (not isinstance(code, dict) or cls.__name__ in code):
                raise ValueError(
                    f"trust_remote_code=True: minitrans never runs code from a checkpoint, and {filename} of "
                    f"{repository.name} brings its own ({code}); without the option the class that it names is taken."
                )

    @classmethod
    def register(
        cls, config_class: type[PreTrainedConfig], *classes: Any, exist_ok: bool = False, **named: Any
    ) -> None:
        """Register a class of your own for a configuration class, and for its own name in files.

        `tokenizer_class`, `fast_tokenizer_class`, `image_processor_classes` and so on name it as in transformers; of
        several the last one counts where no file names another. Raises ValueError where there is one already.
        """
        for name, value in named.items():
            if not re.fullmatch(r"\w*(tokenizer|image_processor|feature_extractor|processor)_class(es)?", name):
                raise TypeError(f"register() got an unexpected keyword argument {name!r}.")
            classes += tuple(value.values()) if isinstance(value, dict) else (value,)
        given = [kind for kind in classes if kind is not None]
        if not given:
            raise ValueError(f"{cls.__name__}.register needs the class that implements {config_class.__name__}.")
        _register(cls, config_class, tuple(given), exist_ok)

    @classmethod
    def _class_for(cls, repository: hub.Repository, model_type: str | None) -> Any:
        """The class that the files name, or else the one for the model_type."""
        found = next(filter(None, (_look_up(repository, *source) for source in cls.sources)), None)
        for kind in (kind for kinds in cls.registered.values() for kind in kinds):
            if kind.__name__ == found:
                return kind
        if found is None and CONFIGS.get(model_type) in cls.registered:
            return cls.registered[CONFIGS[model_type]][-1]
        name = cls.by_model_type.get(model_type or "") if found is None else _processing_name(found)
        if name not in {*cls.by_model_type.values(), *cls.more}:
            name = cls._otherwise(repository, model_type)
        if name is None:
            known = sorted({*cls.by_model_type.values(), *cls.more})
            raise ValueError(
                f"{repository.name} names no class that {cls.__name__} knows ({found!r:.80}), and code in "
                f"a checkpoint is never run; it knows {', '.join(known)}."
            )
        return published_class(name)

    @classmethod
    def _otherwise(cls, repository: hub.Repository, model_type: str | None) -> str | None:
        """The name of the class that can do without one in the files."""
        return None


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
    more = ("PreTrainedTokenizerFast", "Wav2Vec2PhonemeCTCTokenizer")
    files = ("tokenizer.json", "vocab.txt")

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: hub.Source, *,
        tokenizer_type: str | None = None, **options: Any,
    ) -> PreTrainedTokenizerBase:  # fmt: skip
        """Load the checkpoint's tokenizer, or that of the model_type `tokenizer_type`, whatever the files say."""
        if tokenizer_type is None:
            return super().from_pretrained(pretrained_model_name_or_path, **options)
        if tokenizer_type not in cls.by_model_type:
            known = ", ".join(cls.by_model_type)
            raise ValueError(f"tokenizer_type is {tokenizer_type!r}; minitrans has tokenizers of {known}.")
        options.pop("config", None)
        kind = published_class(cls.by_model_type[tokenizer_type])
        return kind.from_pretrained(pretrained_model_name_or_path, **options)

    @classmethod
    def _otherwise(cls, repository: hub.Repository, model_type: str | None) -> str | None:
        """What a tokenizer.json says needs no class; a model of sound or of pages needs its own."""
        alone = model_type in (None, "bert", "distilbert", *CONFIGS) and repository.find("tokenizer.json")
        return "PreTrainedTokenizerFast" if alone else None


class AutoImageProcessor(AutoProcessing):
    """Images -> pixel values."""

    sources = (
        ("processor_config.json", "image_processor", "image_processor_type"),
        ("processor_config.json", "feature_extractor", "feature_extractor_type"),
        ("preprocessor_config.json", "image_processor_type"),
        ("preprocessor_config.json", "feature_extractor_type"),
    )
    by_model_type: ClassVar[dict[str, str]] = {"swin": "ViTImageProcessor", "layoutlmv2": "LayoutLMv2ImageProcessor"}

    if TYPE_CHECKING:

        @override
        @classmethod
        def from_pretrained(cls, pretrained_model_name_or_path: hub.Source, **options: Any) -> ViTImageProcessor: ...


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
    by_model_type: ClassVar[dict[str, str]] = {"layoutlmv2": "LayoutLMv2Processor", "wav2vec2": "Wav2Vec2Processor"}
    more = ("Wav2Vec2ProcessorWithLM",)
    files = (*AutoTokenizer.files, *AutoImageProcessor.files)

    @classmethod
    def _class_for(cls, repository: hub.Repository, model_type: str | None) -> Any:
        """The processor of a checkpoint that has both parts, else the class of the part that there is."""
        named = (
            any(_look_up(repository, *source) for source in cls.sources) or CONFIGS.get(model_type) in cls.registered
        )
        read = repository.find("tokenizer_config.json", "tokenizer.json", "vocab.txt", "vocab.json")
        seen = repository.find("preprocessor_config.json", "processor_config.json")
        if named or (read and seen and model_type in cls.by_model_type):
            return super()._class_for(repository, model_type)
        if read or not (seen or model_type in AutoFeatureExtractor.by_model_type):
            return AutoTokenizer._class_for(repository, model_type)
        return AutoFeatureExtractor._class_for(repository, model_type)
