"""config.json -> dataclass, with every value checked.

A model's configuration is a dataclass whose fields carry the published names and defaults. Keys that the dataclass
does not know are kept in `extra` and saved back; a known key with a value that the package cannot honour raises,
because wrong numbers are worse than an error.
"""

from __future__ import annotations

import copy
import json
import math
import os
import re
import reprlib
import sys
import types
from collections.abc import Callable, Iterable
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar, Union, get_args, get_origin, get_type_hints

from typing_extensions import override

from minitrans import hub
from minitrans.saving import atomic_file

# No product of three of these overflows, and no model that was ever made is larger.
Size = Annotated[int, (1, 10**6)]
Words = Annotated[int, (1, 10**7)]  # of a vocabulary, positions of a text
Pixels = Annotated[int, (1, 10_000)]  # of an edge: two of them multiply
Count = Annotated[int, (0, 10_000)]  # of layers and the like: an absurd one would be built for hours
Depth = Annotated[int, (1, 10_000)]  # of a stage, in layers
Rate = Annotated[float, (0.0, 1.0)]
Positive = Annotated[float, (0.0, math.inf)]
Ratio = Annotated[float, (0.0, 1000.0)]
Labels = dict | None
MOST_LABELS = 10**6
# Fields that weights do not depend on: how a model starts and is trained, what is masked or cut off around it.
BESIDE = re.compile(
    r"drop|^mask_|^initializer_range|_token_id$|^use_cache|^apply_spec_augment|^ctc_|^num_negatives|^contrastive_|"
    r"^diversity_|^sinusoidal_|^out_(features|indices)$"
)

# What scripts pass beside the fields: other names of them, and a note of theirs that is kept.
PASSED_ON = (
    "num_labels",
    "torch_dtype",
    "name_or_path",
    "_attn_implementation",
    "finetuning_task",
    "trust_remote_code",
)

C = TypeVar("C", bound="PreTrainedConfig")
B = TypeVar("B", bound="BackboneConfig")


@dataclass(init=False, eq=False)
class PreTrainedConfig(hub.Saved):
    """What every model's configuration has; a model adds its own fields.

    Build one from keyword arguments (`BertConfig(hidden_size=128, num_labels=3)`), from a dict, or from a checkpoint.
    Raises ValueError where a value is of the wrong type, out of its range, or not honoured by this package.
    """

    model_type: ClassVar[str] = ""
    attribute_map: ClassVar[dict[str, str]] = {}  # other name -> field name
    # Key -> the values that are computed here, and why only these are accepted.
    honoured: ClassVar[dict[str, tuple]] = {
        "is_encoder_decoder": (False,),
        "quantization_config": (None,),
        "compression_config": (None,),
    }
    not_honoured: ClassVar[dict[str, str]] = dict.fromkeys(
        ("quantization_config", "compression_config"),
        "minitrans does not read quantised weights; load the checkpoint that this one was made from",
    )

    # What a configuration remembers and no file does: where it came from, and which attention was asked for.
    _name_or_path: ClassVar[str] = ""
    _attn_implementation: ClassVar[Any] = None

    architectures: list[str] | None = None
    transformers_version: str | None = None
    id2label: Labels = None
    label2id: Labels = None
    problem_type: str | None = None
    dtype: Any = None
    chunk_size_feed_forward: Count = 0  # how a feed-forward block is computed, not what
    is_encoder_decoder: bool = False
    tie_word_embeddings: bool = True
    output_hidden_states: bool = False
    output_attentions: bool = False
    return_dict: bool = True
    extra: dict[str, Any] = field(default_factory=dict)

    def __init__(self, /, **values: Any) -> None:
        values = {self.attribute_map.get(key, key): value for key, value in values.items()}
        values.pop("model_type", None)
        torch_dtype = values.pop("torch_dtype", None)
        values["dtype"] = values.pop("dtype", None) or torch_dtype
        for name in ("name_or_path", "attn_implementation"):
            given = [values.pop(key) for key in (name, f"_{name}") if key in values]
            if given:
                object.__setattr__(self, f"_{name}", given[0])
        labels = {key: values.pop(key, None) for key in ("num_labels", "id2label", "label2id")}
        for spec in fields(self):
            default = spec.default if spec.default is not MISSING else None
            if spec.default_factory is not MISSING:
                default = spec.default_factory()
            setattr(self, spec.name, default if spec.name == "extra" else values.pop(spec.name, default))
        self.extra = values
        self._set_labels(**labels)
        self.validate()

    def _set_labels(self, num_labels: int | None, id2label: Labels, label2id: Labels) -> None:
        num_labels = _python_numbers(num_labels)
        count = 2 if num_labels is None else num_labels
        if type(count) is not int or not 1 <= count <= MOST_LABELS:
            raise ValueError(f"num_labels is {count!r}; it must be a whole number from 1 to {MOST_LABELS}.")
        numbers = _map(label2id, _label, _index)
        names = _map(id2label, _index, _label)
        if not names and num_labels in (None, len(numbers)):
            names = {index: label for label, index in numbers.items()}
        if not names or num_labels not in (None, len(names)):  # the number wins, as in transformers
            names, numbers = {index: f"LABEL_{index}" for index in range(count)}, {}
        self.id2label = names
        self.label2id = numbers or {label: index for index, label in names.items()}

    def __getattr__(self, name: str) -> Any:
        extra = self.__dict__.get("extra", {})
        if name in type(self).attribute_map:
            return getattr(self, type(self).attribute_map[name])
        if name in extra:
            return extra[name]
        raise AttributeError(f"{type(self).__name__} has no field {name!r}.")

    def __setattr__(self, name: str, value: Any) -> None:
        name = type(self).attribute_map.get(name, name)
        if name == "num_labels":
            if value != self.num_labels:
                self._set_labels(value, None, None)
        elif name == "torch_dtype":
            self.dtype = value
        elif name in LABELS:
            object.__setattr__(self, name, None if value is None else _map(value, *LABELS[name]))
        elif name in type(self).__dataclass_fields__ or hasattr(type(self), name):
            object.__setattr__(self, name, _python_numbers(value))
        else:
            self.extra[name] = value

    def update(self, values: dict[str, Any]) -> None:
        """Set several fields and check them; ValueError, and nothing changed, where one cannot be."""
        before = copy.deepcopy(self.__dict__)
        try:
            for name, value in values.items():
                setattr(self, name, value)
            self.validate()
        except ValueError:
            self.__dict__ = before
            raise

    @property
    def num_labels(self) -> int:
        """How many classes a classification head has."""
        return len(self.id2label or ())

    @property
    def use_return_dict(self) -> bool:
        """The older name of `return_dict`."""
        return self.return_dict

    @property
    def torch_dtype(self) -> Any:
        """The older name of `dtype`."""
        return self.dtype

    @property
    def name_or_path(self) -> str:
        """The folder or hub id that the configuration was read from; no file keeps it."""
        return self._name_or_path

    @name_or_path.setter
    def name_or_path(self, value: str | Path) -> None:
        object.__setattr__(self, "_name_or_path", str(value))

    def get_text_config(self, *args: Any, **kwargs: Any) -> PreTrainedConfig:
        """The configuration of the part that reads text: this one, as no model here has several parts."""
        return self

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]  # it can change

    def validate(self) -> None:
        """Check every field's type and range, and that what it asks for is computed here; ValueError otherwise."""
        hints = get_type_hints(type(self), include_extras=True)
        for spec in fields(self):
            if spec.name == "dtype":  # checked by whoever reads it, as that takes torch
                continue
            _check(f"{type(self).__name__}.{spec.name}", getattr(self, spec.name), hints[spec.name])
        _as_json(self.extra)
        for name, allowed in {**PreTrainedConfig.honoured, **self.honoured}.items():
            value = getattr(self, name, allowed[0])
            if value not in allowed:
                reason = self.not_honoured.get(name, f"minitrans computes {', '.join(map(repr, allowed))} only")
                raise ValueError(f"{type(self).__name__}.{name} is {reprlib.repr(value)}: {reason}.")

    def decisive(self) -> dict[str, Any]:
        """What belongs to a model's weights, as JSON has it: all that decides tensors and numbers, and the labels."""
        common = {spec.name for spec in fields(PreTrainedConfig)} - {"id2label", "tie_word_embeddings"}
        names = {spec.name for spec in fields(self)} - common
        values = {name: value for name, value in self.to_dict().items() if name in names and not BESIDE.search(name)}
        return json.loads(json.dumps({**values, "model_type": self.model_type}))

    def differing(self, values: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
        """The fields of `decisive` that are others than `values`, what it was once, and not by `overrides`."""
        given = {self.attribute_map.get(name, name) for name in overrides}
        given |= {"id2label"} if given & {"num_labels", "label2id"} else set()
        now = {name: value for name, value in self.decisive().items() if name not in given}
        return {name: value for name, value in now.items() if value != values.get(name, value)}

    @classmethod
    def from_dict(cls: type[C], values: dict[str, Any], /, **overrides: Any) -> C:
        """Build from the content of a config.json; `overrides` win. TypeError for an override that is not a field."""
        if overrides.pop("trust_remote_code", False) and values.get("auto_map"):
            raise ValueError(
                "trust_remote_code=True: the checkpoint names code of its own (auto_map), and minitrans never runs "
                "code from a checkpoint; leave it out to load it as the family that its model_type says."
            )
        unknown = cls._unknown(values, overrides)
        if unknown:
            raise TypeError(f"from_pretrained has no option {unknown[0]!r}, and {cls.__name__} no such field.")
        overrides = {cls.attribute_map.get(key, key): value for key, value in overrides.items()}
        values = {cls.attribute_map.get(key, key): value for key, value in values.items()}
        if "num_labels" in overrides and "id2label" not in overrides:
            if len(values.get("id2label") or ()) != overrides["num_labels"]:
                values = {key: value for key, value in values.items() if key not in ("id2label", "label2id")}
        elif "id2label" in overrides:
            values = {key: value for key, value in values.items() if key not in ("label2id", "num_labels")}
        if "dtype" in overrides:
            values = {key: value for key, value in values.items() if key != "torch_dtype"}
        return cls(**{**values, **overrides})

    @classmethod
    def from_pretrained(cls: type[C], pretrained_model_name_or_path: hub.Source, **options: Any) -> C:
        """Read config.json of a folder or hub id, or a JSON file by its own path.

        Hub options are those of `minitrans.hub.open_repository`; the rest override fields. `return_unused_kwargs=True`
        returns the configuration and a dict of those that are not fields.
        """
        return cls.read(*hub.open_with(pretrained_model_name_or_path, options, "config.json"))

    @classmethod
    def from_json_file(cls: type[C], json_file: str | os.PathLike[str]) -> C:
        """Read a file like config.json; FileNotFoundError or ValueError with one sentence where it cannot be."""
        if not Path(json_file).is_file():
            raise FileNotFoundError(f"There is no file {json_file}.")
        return cls.from_pretrained(json_file)

    @classmethod
    def read(cls: type[C], repository: hub.Repository, overrides: dict[str, Any]) -> C:
        """Read config.json of a repository; `overrides` win. ValueError where it is of another model_type."""
        values = repository.json("config.json")
        found = values.get("model_type", cls.model_type)
        if found != cls.model_type:
            raise ValueError(
                f"{repository.name} is a {found!r} checkpoint, but {cls.__name__} reads {cls.model_type!r}."
            )
        split = overrides.pop("return_unused_kwargs", False)
        unused = {name: overrides.pop(name) for name in cls._unknown(values, overrides)} if split else {}
        config = cls.from_dict(values, **{"name_or_path": repository.name, **overrides})
        return (config, unused) if split else config  # type: ignore[return-value]

    @classmethod
    def _unknown(cls, values: dict[str, Any], overrides: dict[str, Any]) -> list[str]:
        """Those of `overrides` that are neither fields, keys of a config.json nor options."""
        known = {spec.name for spec in fields(cls)} | {*cls.attribute_map, *values, *PASSED_ON}
        return sorted(overrides.keys() - (known - {"extra", "model_type"}))

    def to_dict(self) -> dict[str, Any]:
        """All fields and every unknown key, as they stand in config.json: lists, and the dtype as text."""
        names = [spec.name for spec in fields(self) if spec.name not in ("extra", "dtype")]
        values = {**self.extra, **{name: getattr(self, name) for name in names}, "model_type": self.model_type}
        optional = {"dtype": self.__dict__["dtype"], "transformers_version": values.pop("transformers_version")}
        return _as_json({**values, **{name: value for name, value in optional.items() if value is not None}})

    def to_diff_dict(self) -> dict[str, Any]:
        """`to_dict` without what configurations of all kinds have and this one does not change."""
        common, model = PreTrainedConfig().to_dict(), type(self)().to_dict()
        del common["tie_word_embeddings"]  # not all kinds have it
        return {
            name: value
            for name, value in self.to_dict().items()
            if name not in common or value != common[name] or value != model.get(name, value)
        }

    def to_json_string(self, use_diff: bool = True) -> str:
        """`to_diff_dict`, or `to_dict`, as JSON text, keys sorted; TypeError or ValueError for what is none."""
        values = self.to_diff_dict() if use_diff else self.to_dict()
        for name, value in values.items():
            try:
                json.dumps({name: value}, sort_keys=True, ensure_ascii=False).encode()
            except (TypeError, ValueError) as error:
                kind = TypeError if isinstance(error, TypeError) else ValueError
                raise kind(
                    f"{type(self).__name__}.{name:.80} is {reprlib.repr(value)}, which JSON cannot hold ({error}); "
                    "give it another value, or take it out."
                ) from error
        return json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False) + "\n"

    def to_json_file(self, json_file_path: str | Path, use_diff: bool = True) -> None:
        """Write `to_json_string` into a file, all of it or nothing."""
        text = self.to_json_string(use_diff)
        with atomic_file(Path(json_file_path)) as stream:
            stream.write(text.encode())

    def __repr__(self) -> str:
        try:
            return f"{type(self).__name__} {self.to_json_string()}"
        except (TypeError, ValueError):
            return f"{type(self).__name__} {reprlib.repr(self.__dict__)}"

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__repr__" not in cls.__dict__:  # else `dataclass` writes one
            cls.__repr__ = PreTrainedConfig.__repr__  # type: ignore[method-assign]

    @override
    def write_files(self, folder: Path) -> None:
        (folder / "config.json").write_text(self.to_json_string(use_diff=False), encoding="utf-8")


def _as_json(value: Any, depth: int = 1) -> Any:
    """A copy as a file gives it back: lists for tuples, Python's numbers, text for paths and torch's dtypes."""
    if depth > hub.DEEPEST:
        raise ValueError(f"A configuration holds values of more than {hub.DEEPEST} levels; make them flatter.")
    if isinstance(value, dict):
        return {key: _as_json(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_json(item, depth + 1) for item in value]
    value = _python_numbers(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return str(value).removeprefix("torch.") if type(value).__module__ == "torch" else value


def _python_numbers(value: Any) -> Any:
    """A value with Python's numbers for numpy's and torch's, alone or in a list."""
    if isinstance(value, (list, tuple)):
        return type(value)(map(_python_numbers, value)) if type(value) in (list, tuple) else value
    return value.tolist() if hasattr(value, "tolist") and not isinstance(value, type) else value


def _index(value: Any) -> int:
    index = int(value)
    if not isinstance(value, str) and index != value:
        raise ValueError
    return index


def _label(value: Any) -> str:
    """A class's name; published programs write whole numbers where a data set has these for names."""
    return value if isinstance(value, str) else str(_index(None if isinstance(value, bool) else value))


# Fields that map labels -> what their keys and their values become.
LABELS = {"id2label": (_index, _label), "label2id": (_label, _index)}


def _map(values: Labels, key: Callable[[Any], Any], item: Callable[[Any], Any]) -> dict:
    """The entries of a map of labels as they should be; ValueError where they cannot."""
    try:
        return {key(name): item(value) for name, value in (values or {}).items()}
    except (ValueError, TypeError, AttributeError, OverflowError):
        raise ValueError(
            "id2label and label2id must map whole numbers to names and names to numbers, but one is "
            f"{reprlib.repr(values)}."
        ) from None


class _Dtype:
    """The field `dtype`: text inside and in files, a torch dtype to whoever reads it; None where there is none.

    Torch is imported when somebody asks, since tokenizers read configurations without it.
    """

    def __get__(self, config: PreTrainedConfig | None, owner: type) -> Any:
        name = None if config is None else config.__dict__.get("dtype")
        if name is None or name == "auto":
            return name
        import torch

        if not isinstance(dtype := getattr(torch, name, None), torch.dtype):
            raise ValueError(f"{owner.__name__}.dtype is {name!r}; it must be a torch dtype, such as 'bfloat16'.")
        return dtype

    def __set__(self, config: PreTrainedConfig, value: Any) -> None:
        config.__dict__["dtype"] = None if value is None else str(value).removeprefix("torch.")


PreTrainedConfig.dtype = _Dtype()
PretrainedConfig = PreTrainedConfig  # the older published name


def pair(size: int | list[int]) -> tuple[int, int]:
    """(height, width) of a size that may be one number; ValueError for a list of another length."""
    if isinstance(size, int):
        return size, size
    if len(size) != 2:
        raise ValueError(f"A size is {size}; it must be one number or (height, width).")
    return size[0], size[1]


@dataclass(init=False, eq=False)
class BackboneConfig(PreTrainedConfig):
    """The configuration of a vision model of several stages, each of twice the channels, that can be asked for.

    `out_features` names the stages ("stem", "stage1", ...) and `out_indices` counts them, from the end where negative;
    one follows from the other, and without both it is the last stage.
    """

    embed_dim: Size = 96
    depths: list[Depth] = field(default_factory=lambda: [2, 2, 6, 2])
    out_features: list[str] | None = None
    out_indices: list[int] | None = None

    @property
    def stage_names(self) -> list[str]:
        """The names of the maps that a backbone can return."""
        return ["stem", *(f"stage{index + 1}" for index in range(len(self.depths)))]

    @property
    def stage_sizes(self) -> list[int]:
        """The channels of each stage."""
        return [self.embed_dim * 2**index for index in range(len(self.depths))]

    @property
    def hidden_size(self) -> int:
        """The channels of the last stage."""
        return self.stage_sizes[-1]

    @property
    def num_layers(self) -> int:
        """How many stages there are."""
        return len(self.depths)

    def validate(self) -> None:
        """Check every field, and complete the stages asked for; ValueError where there is no such stage."""
        super().validate()
        if not self.depths:
            raise ValueError(f"{type(self).__name__}.depths is empty; it must have a number for each stage.")
        _check(f"{type(self).__name__}.hidden_size, embed_dim doubled from stage to stage,", self.hidden_size, Size)
        self.verify_out_features_out_indices()

    def verify_out_features_out_indices(self) -> None:
        """Complete the stages that were asked for by name or by index; ValueError where there is no such stage."""
        stages, features, indices = self.stage_names, self.out_features, self.out_indices
        if features is None:
            for index in indices or ():
                if not -len(stages) <= index < len(stages):
                    raise ValueError(f"out_indices holds {index}; the stages are 0 to {len(stages) - 1}.")
            features = [stages[-1]] if indices is None else [stages[index] for index in indices]
        for name in features:
            if name not in stages:
                raise ValueError(f"out_features holds {name!r}; the stages are {', '.join(stages)}.")
        ordered = [name for name in stages if name in features]
        if list(features) != ordered or not features:
            raise ValueError(f"The stages asked for are {features}; name some, each once, in the model's order.")
        positions = [stages.index(name) for name in features]
        if indices is not None and [index % len(stages) for index in indices] != positions:
            raise ValueError(f"out_features {features} are not the stages of out_indices {indices}; give one of them.")
        self._put_stages(ordered, positions if indices is None else list(indices))

    def _put_stages(self, features: list[str] | None, indices: list[int] | None) -> None:
        object.__setattr__(self, "out_features", features)
        object.__setattr__(self, "out_indices", indices)

    def set_output_features_output_indices(
        self, out_features: list[str] | None, out_indices: list[int] | None
    ) -> None:
        """Choose the stages by name, by index or both; ValueError, and nothing changed, for an unknown one."""
        before = self.out_features, self.out_indices
        self._put_stages(out_features, out_indices)
        try:
            self.verify_out_features_out_indices()
        except ValueError:
            self._put_stages(*before)
            raise

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in ("out_features", "out_indices") or "out_indices" not in self.__dict__:  # not all are set yet
            super().__setattr__(name, value)
        else:
            self.set_output_features_output_indices(**{"out_features": None, "out_indices": None, name: value})

    @classmethod
    def from_dict(cls: type[B], values: dict[str, Any], /, **overrides: Any) -> B:
        """Build from a config.json; stages asked for in `overrides`, by name or index, replace both in `values`."""
        chosen = {"out_features", "out_indices"}
        if chosen & set(overrides):
            values = {key: value for key, value in values.items() if key not in chosen}
        return super().from_dict(values, **overrides)

    def to_dict(self) -> dict[str, Any]:
        """All fields, every unknown key and what follows from the fields, as they stand in config.json."""
        derived = {"hidden_size": self.hidden_size, "num_layers": self.num_layers, "stage_names": self.stage_names}
        return {**super().to_dict(), **derived}


_SPELLING = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}


def _fits(value: Any, hint: Any) -> bool:
    """Whether a JSON value has a type; 1 is a float, True is not an int, tuples pass as lists."""
    if get_origin(hint) is Annotated:
        kind, (low, high) = get_args(hint)
        return _fits(value, kind) and low <= value <= high
    if get_origin(hint) in (Union, types.UnionType):
        return any(_fits(value, option) for option in get_args(hint))
    if get_origin(hint) in (list, tuple):
        return isinstance(value, (list, tuple)) and all(_fits(item, get_args(hint)[0]) for item in value)
    if get_origin(hint) is dict or hint is dict:
        return isinstance(value, dict)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return hint is Any or isinstance(value, hint)


def _spell(hint: Any) -> str:
    if get_origin(hint) is Annotated:
        kind, (low, high) = get_args(hint)
        return f"{_spell(kind)} {f'from {low:g} to {high:g}' if high < math.inf else f'of at least {low:g}'}"
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_spell(option) for option in get_args(hint))
    if get_origin(hint) in (list, tuple):
        return f"a list, each item {_spell(get_args(hint)[0])}"
    return _SPELLING.get(hint, getattr(hint, "__name__", str(hint)))


def checked(name: str, value: Any, hint: Any) -> Any:
    """A value of the type that a hint asks for, its numbers Python's; ValueError where it is another."""
    value = _python_numbers(value)
    _check(name, value, hint)
    return value


def _check(name: str, value: Any, hint: Any) -> None:
    if not _fits(value, hint):
        raise ValueError(f"{name} is {value!r:.200}; it must be {_spell(hint)}.")
