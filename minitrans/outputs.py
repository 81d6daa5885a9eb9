"""What models return: fields read by attribute, by key and by position, usable as pytrees."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils import _pytree

from minitrans.sequences import Sequences


@dataclass(eq=False)
class ModelOutput(Mapping):
    """A mapping of the fields that are not None, in their order.

    `output.logits`, `output["logits"]` and `output[0]` all work, and so do slices, `len`, `**output` and
    `output.to_tuple()`.
    """

    def __init_subclass__(cls) -> None:
        _pytree.register_pytree_node(
            cls,
            lambda output: (list(output.values()), list(output.keys())),
            lambda values, keys: cls(**dict(zip(keys, values, strict=True))),
            serialized_type_name=f"minitrans.outputs.{cls.__name__}",
        )

    def keys(self) -> list[str]:  # type: ignore[override]
        """The names of the fields that are not None."""
        return [spec.name for spec in fields(self) if getattr(self, spec.name) is not None]

    def to_tuple(self) -> tuple[Any, ...]:
        """The fields that are not None."""
        return tuple(getattr(self, name) for name in self.keys())

    def __getitem__(self, key: str | int | slice) -> Any:
        if not isinstance(key, str):
            return self.to_tuple()[key]
        if key not in self.keys():
            raise KeyError(f"{type(self).__name__} has no {key!r} here; it has {', '.join(self.keys())}.")
        return getattr(self, key)

    def __setitem__(self, key: str, value: Any) -> None:
        if key not in self.__dataclass_fields__:
            raise KeyError(f"{type(self).__name__} has no field {key!r}.")
        setattr(self, key, value)

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.keys())


States = tuple[Tensor, ...] | None


@dataclass(eq=False)
class BaseModelOutput(ModelOutput):
    """Hidden states (B, N, C) of the last layer."""

    last_hidden_state: Tensor
    hidden_states: States = None
    attentions: States = None


@dataclass(eq=False)
class BaseModelOutputWithPooling(ModelOutput):
    """Hidden states (B, N, C) of the last layer and one vector (B, C) per sequence."""

    last_hidden_state: Tensor
    pooler_output: Tensor | None = None
    hidden_states: States = None
    attentions: States = None


@dataclass(eq=False)
class LogitsOutput(ModelOutput):
    """Scores before softmax, and the loss where labels were given."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: States = None
    attentions: States = None


@dataclass(eq=False)
class PreTrainingOutput(ModelOutput):
    """Scores over the vocabulary (B, N, V) and for "B follows A" (B, 2)."""

    loss: Tensor | None = None
    prediction_logits: Tensor | None = None
    seq_relationship_logits: Tensor | None = None
    hidden_states: States = None
    attentions: States = None


@dataclass(eq=False)
class QuestionAnsweringOutput(ModelOutput):
    """Scores (B, N) of each token as the answer's first and last."""

    loss: Tensor | None = None
    start_logits: Tensor | None = None
    end_logits: Tensor | None = None
    hidden_states: States = None
    attentions: States = None


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


@dataclass(eq=False)
class ImageModelOutput(ModelOutput):
    """A vision model's last map as rows (B, H·W, C), their mean (B, C), and the maps between.

    `hidden_states` are rows (B, H·W, C) after the embeddings and after each stage, `reshaped_hidden_states` the same
    as maps (B, C, H, W).
    """

    last_hidden_state: Tensor
    pooler_output: Tensor | None = None
    hidden_states: States = None
    attentions: States = None
    reshaped_hidden_states: States = None


@dataclass(eq=False)
class ImageLogitsOutput(ModelOutput):
    """Scores (B, K) of an image's classes before softmax, and the loss where labels were given."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: States = None
    attentions: States = None
    reshaped_hidden_states: States = None


@dataclass(eq=False)
class ReconstructionOutput(ModelOutput):
    """Pixels (B, channels, height, width) as a model would restore them, and the loss where patches were masked."""

    loss: Tensor | None = None
    reconstruction: Tensor | None = None
    hidden_states: States = None
    attentions: States = None
    reshaped_hidden_states: States = None


@dataclass(eq=False)
class BackboneOutput(ModelOutput):
    """Normalised maps (B, C, H, W) of the stages asked for; hidden states are the maps of all, not normalised."""

    feature_maps: tuple[Tensor, ...]
    hidden_states: States = None
    attentions: States = None


class Feature(NamedTuple):
    """A map of a backbone: its stage, its channels, and the pixels (or height, width) that a position stands for."""

    stage: str
    channels: int
    stride: int | tuple[int, int]


@dataclass(eq=False)
class EncodedImages:
    """What a vision model hands to a head: its last map (B, H, W, C), the mean (B, C), and what it was given.

    `kept` holds the hidden states and attentions that were asked for, by their names in the outputs.
    """

    grid: Tensor
    pooled: Tensor | None
    kept: Mapping[str, States]
    pixel_values: Tensor
    bool_masked_pos: Tensor | None


@dataclass(eq=False)
class AudioModelOutput(ModelOutput):
    """Hidden states (B, N, C) of the last layer, and the normalised frames (B, N', C') that the encoder was given."""

    last_hidden_state: Tensor
    extract_features: Tensor
    hidden_states: States = None
    attentions: States = None


@dataclass(eq=False)
class XVectorOutput(ModelOutput):
    """What a speaker classifier compares (B, K), and the vector (B, K) that stands for the speaker."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    embeddings: Tensor | None = None
    hidden_states: States = None
    attentions: States = None


@dataclass(eq=False)
class ContrastiveOutput(ModelOutput):
    """States and the quantised frames that they should find (B, N, C), the codes in use, and the losses."""

    loss: Tensor | None = None
    projected_states: Tensor | None = None
    projected_quantized_states: Tensor | None = None
    codevector_perplexity: Tensor | None = None
    hidden_states: States = None
    attentions: States = None
    contrastive_loss: Tensor | None = None
    diversity_loss: Tensor | None = None


@dataclass(eq=False)
class EncodedAudio(Encoded):
    """As `Encoded`, and the frames (T', C') that the encoder was given, where they lie, which of them were masked.

    `sequences` and `frames` differ where an adapter follows the encoder. `masked` (T',) is None where not given.
    """

    features: Tensor
    frames: Sequences
    masked: Tensor | None
