"""What models return: fields read by attribute, by key and by position, usable as pytrees."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils import _pytree

from minitrans.sequences import Sequences


class ModelOutput(dict):
    """A dict of the fields that are not None, in their order, which are attributes and positions too.

    `output.logits`, `output["logits"]` and `output[0]` all work, and so do slices, `len`, `**output` and
    `output.to_tuple()`. It is made of its fields, or again from its items: `type(output)({**output})`, or from an
    iterable of pairs. Attributes and items that are set agree; None takes a field out of the dict.
    """

    def __init_subclass__(cls) -> None:
        # TorchScript takes a class without methods, or with methods that it can compile, for one of its own; this
        # one it cannot compile, and torch.jit.trace sees a dict.
        cls.__init__ = ModelOutput.__init__  # type: ignore[method-assign]
        _pytree.register_pytree_node(
            cls,
            lambda output: (list(output.values()), list(output.keys())),
            lambda values, keys: cls(dict(zip(keys, values, strict=True))),
            serialized_type_name=f"minitrans.outputs.{cls.__name__}",
        )

    def __init__(self, *values: Any, **named: Any) -> None:
        super().__init__()
        fields = type(self).__dataclass_fields__  # type: ignore[attr-defined]
        if len(values) == 1 and not named and (items := _items(values[0])) is not None:
            named = {**dict.fromkeys(fields), **items}
        else:
            if len(values) > len(fields) or named.keys() - fields.keys():
                raise TypeError(f"{type(self).__name__} has the fields {', '.join(fields)}, and no others.")
            named = {**dict.fromkeys(fields), **dict(zip(fields, values, strict=False)), **named}
        for name, value in named.items():
            self._put(name, value)

    def to_tuple(self) -> tuple[Any, ...]:
        """The fields that are not None."""
        return tuple(self.values())

    def __getitem__(self, key: Any) -> Any:
        if not isinstance(key, str):
            return self.to_tuple()[key]
        if key not in self:
            raise KeyError(f"{type(self).__name__} has no {key!r} here; it has {', '.join(self)}.")
        return super().__getitem__(key)

    def _put(self, key: str, value: Any) -> None:
        object.__setattr__(self, key, value)
        if value is not None:
            super().__setitem__(key, value)
        elif key in self:
            super().__delitem__(key)

    def __setitem__(self, key: str, value: Any) -> None:
        self._put(key, value)
        order = [*type(self).__dataclass_fields__]  # type: ignore[attr-defined]
        for name in order[order.index(key) :] if key in order else ():  # the fields stay in their order
            if name in self:
                later = self[name]
                super().__delitem__(name)
                super().__setitem__(name, later)

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.items())})"

    def __reduce__(self) -> tuple:
        return type(self), (dict(self),)

    def _fixed(self, *values: Any, **named: Any) -> Any:
        raise TypeError(f"A {type(self).__name__} keeps its fields; take what you need into a dict: dict(output).")

    __delitem__ = pop = popitem = clear = setdefault = update = __ior__ = _fixed


def _items(value: Any) -> dict[str, Any] | None:
    """The items that a mapping or an iterable of (name, value) pairs stands for; None for anything else."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Tensor) or not isinstance(value, Iterable):
        return None
    pairs = value if isinstance(value, (list, tuple)) else list(value)
    named = [isinstance(pair, (list, tuple)) and len(pair) == 2 and isinstance(pair[0], str) for pair in pairs]
    if not any(named):
        return None if pairs or isinstance(value, (list, tuple)) else {}
    if not all(named):
        raise ValueError("An output is made of its fields or of (name, value) pairs, not of a mixture.")
    return dict(pairs)


States = tuple[Tensor, ...] | None


@dataclass(init=False, repr=False, eq=False)
class BaseModelOutput(ModelOutput):
    """Hidden states (B, N, C) of the last layer."""

    last_hidden_state: Tensor
    hidden_states: States
    attentions: States


@dataclass(init=False, repr=False, eq=False)
class BaseModelOutputWithPooling(ModelOutput):
    """Hidden states (B, N, C) of the last layer and one vector (B, C) per sequence."""

    last_hidden_state: Tensor
    pooler_output: Tensor | None
    hidden_states: States
    attentions: States


@dataclass(init=False, repr=False, eq=False)
class LogitsOutput(ModelOutput):
    """Scores before softmax, and the loss where labels were given."""

    loss: Tensor | None
    logits: Tensor
    hidden_states: States
    attentions: States


@dataclass(init=False, repr=False, eq=False)
class PreTrainingOutput(ModelOutput):
    """Scores over the vocabulary (B, N, V) and for "B follows A" (B, 2)."""

    loss: Tensor | None
    prediction_logits: Tensor
    seq_relationship_logits: Tensor
    hidden_states: States
    attentions: States


@dataclass(init=False, repr=False, eq=False)
class QuestionAnsweringOutput(ModelOutput):
    """Scores (B, N) of each token as the answer's first and last."""

    loss: Tensor | None
    start_logits: Tensor
    end_logits: Tensor
    hidden_states: States
    attentions: States


@dataclass(eq=False)
class Encoded:
    """What a backbone hands to a head: packed rows (T, C), where they belong, and what was asked to be kept.

    `pooled` is (B, C) where the backbone pools; hidden states (B, N, C) and attentions (B, H, N, N) are unpacked.
    """

    rows: Tensor
    sequences: Sequences
    pooled: Tensor | None
    hidden_states: States
    attentions: States
    grid: Tensor | None = None  # the rows as (B, N, C), where they were needed so before

    @property
    def last_hidden_state(self) -> Tensor:
        """The rows as (B, N, C), zeros where there was padding."""
        return self.sequences.unpack(self.rows) if self.grid is None else self.grid


@dataclass(init=False, repr=False, eq=False)
class ImageModelOutput(ModelOutput):
    """A vision model's last map as rows (B, H·W, C), their mean (B, C), and the maps between.

    `hidden_states` are rows (B, H·W, C) after the embeddings and after each stage, `reshaped_hidden_states` the same
    as maps (B, C, H, W).
    """

    last_hidden_state: Tensor
    pooler_output: Tensor | None
    hidden_states: States
    attentions: States
    reshaped_hidden_states: States


@dataclass(init=False, repr=False, eq=False)
class ImageLogitsOutput(ModelOutput):
    """Scores (B, K) of an image's classes before softmax, and the loss where labels were given."""

    loss: Tensor | None
    logits: Tensor
    hidden_states: States
    attentions: States
    reshaped_hidden_states: States


@dataclass(init=False, repr=False, eq=False)
class ReconstructionOutput(ModelOutput):
    """Pixels (B, channels, height, width) as a model would restore them, and the loss where patches were masked."""

    loss: Tensor | None
    reconstruction: Tensor
    hidden_states: States
    attentions: States
    reshaped_hidden_states: States


@dataclass(init=False, repr=False, eq=False)
class BackboneOutput(ModelOutput):
    """Normalised maps (B, C, H, W) of the stages asked for; hidden states are the maps of all, not normalised."""

    feature_maps: tuple[Tensor, ...]
    hidden_states: States
    attentions: States


class StageInfo(NamedTuple):
    """A map of a backbone: its stage, its channels, and the pixels (or height, width) that a position stands for."""

    stage: str
    channels: int
    stride: int | tuple[int, int]


@dataclass(eq=False)
class EncodedImages:
    """What a vision model hands to a head: its last map (B, H, W, C), the mean (B, C), and what it was given.

    `rows` are the map as it is returned, (B, H·W, C); `intermediates` are the hidden states and attentions that were
    asked for, by their names in the outputs.
    """

    grid: Tensor
    pooled: Tensor | None
    intermediates: Mapping[str, States]
    pixel_values: Tensor
    bool_masked_pos: Tensor | None
    rows: Tensor | None = None


@dataclass(init=False, repr=False, eq=False)
class AudioModelOutput(ModelOutput):
    """Hidden states (B, N, C) of the last layer, and the normalised frames (B, N', C') that the encoder was given."""

    last_hidden_state: Tensor
    extract_features: Tensor
    hidden_states: States
    attentions: States


@dataclass(init=False, repr=False, eq=False)
class XVectorOutput(ModelOutput):
    """What a speaker classifier compares (B, K), and the vector (B, K) that stands for the speaker."""

    loss: Tensor | None
    logits: Tensor
    embeddings: Tensor
    hidden_states: States
    attentions: States


@dataclass(init=False, repr=False, eq=False)
class ContrastiveOutput(ModelOutput):
    """States and the quantised frames that they should find (B, N, C), the codes in use, and the losses."""

    loss: Tensor | None
    projected_states: Tensor
    projected_quantized_states: Tensor
    codevector_perplexity: Tensor
    hidden_states: States
    attentions: States
    contrastive_loss: Tensor | None
    diversity_loss: Tensor | None


@dataclass(eq=False)
class EncodedAudio(Encoded):
    """`Encoded`, and the frames (T', C') that the encoder was given, where they lie, which of them were masked.

    `sequences` and `frames` differ where an adapter follows the encoder. `masked` (T',) is None where not given.
    """

    extracted: Tensor = None  # type: ignore[assignment]  # the fields before it have defaults
    frames: Sequences = None  # type: ignore[assignment]
    masked: Tensor | None = None
    extracted_grid: Tensor | None = None  # those as (B, N', C'), where they were needed so before

    @property
    def extract_features(self) -> Tensor:
        """The extracted frames as (B, N', C'), zeros where there was padding."""
        return self.frames.unpack(self.extracted) if self.extracted_grid is None else self.extracted_grid
