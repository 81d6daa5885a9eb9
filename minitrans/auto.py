"""The Auto classes: from a checkpoint to the class that reads it, one registry row per model_type or type name."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any, ClassVar

from minitrans import hub
from minitrans.config import Config

# model_type -> the module of the family and the first part of its class names
FAMILIES = {
    "bert": ("minitrans.models.bert", "Bert"),
    "distilbert": ("minitrans.models.distilbert", "DistilBert"),
}


def published_class(name: str) -> Any:
    """The class of a published name, such as "BertForMaskedLM" or "DistilBertConfig"; AttributeError for no such."""
    for module, family in FAMILIES.values():
        if re.match(rf"{family}(For|Model$|Config$|Backbone$)", name):
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"minitrans has no class {name}.")


def _family(model_type: Any, source: str) -> tuple[str, str]:
    if model_type not in FAMILIES:
        raise ValueError(
            f"{source} says model_type {model_type!r}; minitrans knows {', '.join(sorted(FAMILIES))}."
        )
    return FAMILIES[model_type]


def config_class(model_type: Any, source: str) -> type[Config]:
    """The configuration class of a model_type; ValueError, with those known, for another."""
    module, family = _family(model_type, source)
    return getattr(importlib.import_module(module), f"{family}Config")


def read_config(repository: hub.Repository, overrides: dict[str, Any]) -> Config:
    """config.json of a repository as its family's dataclass."""
    values = repository.json("config.json")
    kind = config_class(values.get("model_type"), f"config.json of {repository.name}")
    return kind.from_dict(values, **overrides)


class AutoConfig:
    """`AutoConfig.from_pretrained(name_or_path)` gives the configuration of any known family."""

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **options: Any) -> Config:
        """Read config.json; hub options as in `minitrans.hub.open_repository`, the rest override fields."""
        return read_config(*hub.open_with(name_or_path, options))

    @classmethod
    def for_model(cls, model_type: str, **values: Any) -> Config:
        """The configuration of a family by its model_type."""
        return config_class(model_type, "for_model")(**values)


class _AutoModel:
    """`tasks` are the ends of the class names that serve this Auto class, the first that a family has wins."""

    tasks: ClassVar[tuple[str, ...]]

    def __init__(self) -> None:
        name = type(self).__name__
        raise TypeError(f"{name} is made by {name}.from_pretrained(...) or {name}.from_config(...).")

    @classmethod
    def _class_for(cls, config: Config) -> Any:
        module_name, family = _family(config.model_type, type(config).__name__)
        module = importlib.import_module(module_name)
        for task in cls.tasks:
            if hasattr(module, f"{family}{task}"):
                return getattr(module, f"{family}{task}")
        heads = ", ".join(f"{family}For{task}" for task in module.HEADS)
        raise ValueError(f"{family} has no class for {cls.__name__}; it has {heads}.")

    @classmethod
    def from_config(cls, config: Config, **options: Any) -> Any:
        """A model with random weights; options as in `PretrainedModel.from_config`."""
        return cls._class_for(config).from_config(config, **options)

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, *, config: Config | None = None, **options: Any) -> Any:
        """Load the checkpoint as the class for this task; options as in `PretrainedModel.from_pretrained`."""
        repository, options = hub.open_with(name_or_path, options)
        found = config or read_config(repository, {})
        return cls._class_for(found).load(repository, config, **options)


class AutoModel(_AutoModel):
    """The backbone."""

    tasks = ("Model",)


class AutoModelForPreTraining(_AutoModel):
    """The heads that a family was pre-trained with."""

    tasks = ("ForPreTraining", "ForMaskedLM")


class AutoModelForMaskedLM(_AutoModel):
    """Scores of every word for each token."""

    tasks = ("ForMaskedLM",)


class AutoModelForNextSentencePrediction(_AutoModel):
    """Whether one segment follows another."""

    tasks = ("ForNextSentencePrediction",)


class AutoModelForSequenceClassification(_AutoModel):
    """Classes, or numbers, for whole texts."""

    tasks = ("ForSequenceClassification",)


class AutoModelForTokenClassification(_AutoModel):
    """Classes for tokens."""

    tasks = ("ForTokenClassification",)


class AutoModelForQuestionAnswering(_AutoModel):
    """The span of a text that answers a question."""

    tasks = ("ForQuestionAnswering",)


class AutoModelForMultipleChoice(_AutoModel):
    """Which of several texts."""

    tasks = ("ForMultipleChoice",)
