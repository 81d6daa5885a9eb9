"""Task heads and their losses: one way to put a head on a backbone.

A model file lists its heads as rows: which class here, which configuration field holds the dropout, which options the
backbone takes. `published` makes the classes that everybody knows from them.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minitrans import ops
from minitrans.config import Config, pair
from minitrans.layers import LayerNorm, Linear, channels_first
from minitrans.outputs import (
    Encoded,
    EncodedImages,
    ImageLogitsOutput,
    LogitsOutput,
    ModelOutput,
    PreTrainingOutput,
    QuestionAnsweringOutput,
    ReconstructionOutput,
)
from minitrans.pretrained import PretrainedModel, with_first_rows
from minitrans.sequences import Sequences, traced

IGNORED = -100  # the label of a token without one, as in torch.nn.CrossEntropyLoss


class Head(PretrainedModel):
    """A backbone and what stands on it.

    A subclass makes its modules in `build` and computes its output in `answer`, from packed rows. The backbone is an
    attribute of its family's name (`model.bert`). Labels of tokens that the mask leaves out are ignored.
    """

    backbone_class: ClassVar[type[PretrainedModel]]
    backbone_options: ClassVar[Mapping[str, Any]] = {}
    dropout_fields: ClassVar[tuple[str, ...]] = ()  # the first of these configuration fields that is set
    targets: ClassVar[tuple[str, ...]] = ("labels",)

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        setattr(self, self.base_model_prefix, self.backbone_class(config, **self.backbone_options))
        rates = (getattr(config, name) for name in self.dropout_fields)
        self.dropout = nn.Dropout(next((rate for rate in rates if rate is not None), 0.0))
        self.build(config)
        self.post_init()

    def initialise(self, path: str) -> None:
        """As every model's; the backbone knows how its own tensors start."""
        inner = path.removeprefix(f"{self.base_model_prefix}.")
        if inner == path:
            super().initialise(path)
        else:
            self.base_model.initialise(inner)  # type: ignore[operator]

    def build(self, config: Config) -> None:
        """Make the head's modules."""
        raise NotImplementedError

    def answer(self, encoded: Encoded, **targets: Tensor | None) -> ModelOutput:
        """The output for what the backbone encoded; targets are None where not given."""
        raise NotImplementedError

    def encode(self, *inputs: Any, **options: Any) -> Encoded:
        """What the backbone computes."""
        return self.base_model.encode(*inputs, **options)  # type: ignore[operator]

    def forward(self, *inputs: Any, return_dict: bool | None = None, **options: Any) -> Any:
        """The backbone's inputs and the head's labels -> the head's output, a tuple where `return_dict=False`."""
        targets = {name: options.pop(name, None) for name in self.targets}
        output = self.answer(self.encode(*inputs, **options), **targets)
        return self.returned(output, return_dict)


@dataclass(frozen=True)
class Row:
    """One head of a family: the class, where its dropout is configured, what its backbone is built with."""

    head: type[Head]
    dropout: tuple[str, ...] = ()
    backbone: Mapping[str, Any] = field(default_factory=dict)


def published(backbone: type[PretrainedModel], rows: Mapping[str, Row]) -> dict[str, type[Head]]:
    """The published classes of a family by name, such as "BertForMaskedLM", from its rows by task."""
    classes = {}
    for task, row in rows.items():
        name, own = f"{backbone.__name__.removesuffix('Model')}For{task}", row.head.forward
        classes[name] = type(
            name,
            (row.head,),
            {
                "__doc__": f"{backbone.__name__} with a head: {row.head.__doc__}",
                "__module__": backbone.__module__,
                "config_class": backbone.config_class,
                "base_model_prefix": backbone.base_model_prefix,
                "head_weights": backbone.head_weights,
                "ties": backbone.ties,
                "main_input_name": backbone.main_input_name,
                "backbone_class": backbone,
                "backbone_options": row.backbone,
                "dropout_fields": row.dropout,
                "forward": own if own is not Head.forward else _forward_with_signature(backbone, row.head),
            },
        )
    return classes


def _forward_with_signature(backbone: type[PretrainedModel], head: type[Head]) -> Any:
    """`Head.forward` with the parameters that it takes in fact, for help() and for trainers that look at them."""

    def forward(self: Head, *inputs: Any, **options: Any) -> Any:
        return head.forward(self, *inputs, **options)

    signature = inspect.signature(backbone.encode)  # type: ignore[attr-defined]
    parameters = list(signature.parameters.values())
    types = {**dict.fromkeys(head.targets, "Tensor | None"), "return_dict": "bool | None"}
    labels = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for name, annotation in types.items()
    ]
    named = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD)
    positional = [parameter for parameter in parameters if parameter.kind not in named]
    keywords = [parameter for parameter in parameters if parameter.kind in named]
    forward.__signature__ = signature.replace(parameters=[*positional, *labels, *keywords])  # type: ignore[attr-defined]
    forward.__doc__ = head.forward.__doc__
    return forward


def _token_labels(labels: Tensor, sequences: Sequences, name: str = "labels") -> Tensor:
    """Labels (B, N) as those of the rows (T,); rows that hold no token are ignored."""
    if tuple(labels.shape) != sequences.shape:
        raise ValueError(f"{name} has the shape {tuple(labels.shape)}; the tokens have {sequences.shape}.")
    rows, real = sequences.pack(_whole(labels)), sequences.real()
    return rows if real is None else rows.masked_fill(~real, IGNORED)


def _check_classes(labels: Tensor, classes: int) -> Tensor:
    """Labels of classes that exist as int64, checked on the CPU only."""
    labels = _whole(labels)
    if labels.device.type == "cpu" and not traced():
        wrong = labels[((labels < 0) & (labels != IGNORED)) | (labels >= classes)]
        if wrong.numel():
            raise ValueError(f"A label is {int(wrong[0])}; there are {classes} classes, 0 to {classes - 1}.")
    return labels


def _whole(labels: Tensor) -> Tensor:
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(f"The labels are of {labels.dtype}; classes are whole numbers.")
    return labels.long()


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross entropy of scores (M, K) for classes (M,), without those labelled −100."""
    return F.cross_entropy(logits, _check_classes(labels, logits.shape[-1]), ignore_index=IGNORED)


def classification_loss(config: Config, logits: Tensor, labels: Tensor) -> Tensor:
    """Regression, single- or multi-label classification of scores (B, K), by `problem_type` or else by the labels.

    Without a `problem_type`, one class means regression (mean squared error), integer labels one class each (cross
    entropy), other labels many classes each (binary cross entropy).
    """
    whole = not labels.is_floating_point() and labels.dtype != torch.bool
    kind = config.problem_type
    if kind is None:
        kind = "single_label_classification" if whole else "multi_label_classification"
        kind = "regression" if config.num_labels == 1 else kind
    if kind == "single_label_classification":
        return cross_entropy(logits.view(-1, config.num_labels), labels.view(-1))
    if labels.numel() != logits.numel():
        raise ValueError(f"labels has the shape {tuple(labels.shape)} for scores {tuple(logits.shape)} ({kind}).")
    target = labels.view_as(logits).to(logits.dtype)
    if kind == "regression":
        return F.mse_loss(logits, target)
    if kind == "multi_label_classification":
        return F.binary_cross_entropy_with_logits(logits, target)
    raise ValueError(
        f"problem_type is {kind!r}; it must be 'regression', 'single_label_classification' or "
        "'multi_label_classification'."
    )


class SequenceClassification(Head):
    """one score per class for the whole sequence (B, K)."""

    def build(self, config: Config) -> None:
        """See `Head`."""
        self.classifier = Linear(config.hidden_size, self.scores(config))

    def scores(self, config: Config) -> int:
        """How many scores the classifier gives for one summary."""
        return config.num_labels

    def summary(self, encoded: Encoded) -> Tensor:
        """One vector (B, C) per sequence."""
        assert encoded.pooled is not None  # the rows that use this head ask the backbone to pool
        return encoded.pooled

    def answer(self, encoded: Encoded, labels: Tensor | None = None) -> LogitsOutput:  # type: ignore[override]
        """See `Head`."""
        logits = self.classifier(self.dropout(self.summary(encoded)))
        loss = None if labels is None else classification_loss(self.config, logits, labels)
        return LogitsOutput(loss, logits, encoded.hidden_states, encoded.attentions)


class MultipleChoice(SequenceClassification):
    """one score per choice (B, choices); inputs have the shape (B, choices, N)."""

    def scores(self, config: Config) -> int:
        """How many scores the classifier gives for one summary."""
        return 1

    def encode(self, *inputs: Any, **options: Any) -> Encoded:
        """The choices side by side as one batch; `pooled` is (B, choices, C)."""
        tensors = [x for x in (*inputs, *options.values()) if isinstance(x, Tensor)]
        if not tensors or tensors[0].dim() < 3:
            raise ValueError("A multiple-choice model takes inputs of the shape (B, choices, N).")
        flat = [x.flatten(0, 1) if isinstance(x, Tensor) else x for x in inputs]
        named = {name: x.flatten(0, 1) if isinstance(x, Tensor) else x for name, x in options.items()}
        encoded = super().encode(*flat, **named)
        return replace(encoded, pooled=self.summary(encoded).unflatten(0, tensors[0].shape[:2]))

    def answer(self, encoded: Encoded, labels: Tensor | None = None) -> LogitsOutput:  # type: ignore[override]
        """See `Head`."""
        logits = self.classifier(self.dropout(encoded.pooled)).squeeze(-1)
        loss = None if labels is None else cross_entropy(logits, labels.view(-1))
        return LogitsOutput(loss, logits, encoded.hidden_states, encoded.attentions)


class NextSentencePrediction(Head):
    """scores (B, 2) for "the second segment follows the first" and "it does not" (Devlin et al. 2019, 3.1)."""

    def build(self, config: Config) -> None:
        """See `Head`."""
        self.seq_relationship = Linear(config.hidden_size, 2)

    def answer(self, encoded: Encoded, labels: Tensor | None = None) -> LogitsOutput:  # type: ignore[override]
        """See `Head`."""
        logits = self.seq_relationship(encoded.pooled)
        loss = None if labels is None else cross_entropy(logits, labels.view(-1))
        return LogitsOutput(loss, logits, encoded.hidden_states, encoded.attentions)


class TokenClassification(Head):
    """one score per class for each token (B, N, K)."""

    def build(self, config: Config) -> None:
        """See `Head`."""
        self.classifier = Linear(config.hidden_size, config.num_labels)

    def answer(self, encoded: Encoded, labels: Tensor | None = None) -> LogitsOutput:  # type: ignore[override]
        """See `Head`."""
        rows, sequences = self.classifier(self.dropout(encoded.rows)), encoded.sequences
        loss = None if labels is None else cross_entropy(rows, _token_labels(labels, sequences))
        return LogitsOutput(loss, sequences.unpack(rows), encoded.hidden_states, encoded.attentions)


def _place_loss(scores: Tensor, places: Tensor, inside: Tensor) -> Tensor:
    """Cross entropy of scores (B, N) for a place each (B,); one outside the text, as after truncation, is ignored."""
    length = scores.shape[1]
    places = _whole(places).view(-1, 1).clamp(0, length)
    places = places.masked_fill(~F.pad(inside, (0, 1)).gather(1, places), length).squeeze(1)
    return F.cross_entropy(scores, places, ignore_index=length)


class QuestionAnswering(Head):
    """scores (B, N) of each token as the first and the last of the answer (Devlin et al. 2019, 4.2).

    Padding scores the lowest finite number, so that a softmax over the tokens leaves it out.
    """

    targets = ("start_positions", "end_positions")

    def build(self, config: Config) -> None:
        """See `Head`."""
        if config.num_labels != 2:
            raise ValueError(
                f"A question-answering head has 2 outputs (start, end); num_labels is {config.num_labels}."
            )
        self.qa_outputs = Linear(config.hidden_size, 2)

    def answer(  # type: ignore[override]
        self, encoded: Encoded, start_positions: Tensor | None = None, end_positions: Tensor | None = None
    ) -> QuestionAnsweringOutput:
        """See `Head`."""
        rows, sequences = self.qa_outputs(self.dropout(encoded.rows)), encoded.sequences
        inside = sequences.unpack(torch.ones_like(rows[:, 0])) != 0
        grid = sequences.unpack(rows).masked_fill(~inside[..., None], torch.finfo(rows.dtype).min)
        start, end = grid.unbind(-1)
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = (_place_loss(start, start_positions, inside) + _place_loss(end, end_positions, inside)) / 2
        return QuestionAnsweringOutput(loss, start, end, encoded.hidden_states, encoded.attentions)


class Predictions(nn.Module):
    """Scores of every word of the vocabulary for each row (Devlin et al. 2019, 3.1); the decoder's weight is tied."""

    def __init__(self, hidden_size: int, vocab_size: int, activation: str, eps: float) -> None:
        super().__init__()
        self.activation = ops.ACTIVATIONS[activation]
        self.dense = Linear(hidden_size, hidden_size)
        self.norm = LayerNorm(hidden_size, eps=eps)
        self.decoder = Linear(hidden_size, vocab_size)

    def forward(self, rows: Tensor) -> Tensor:
        """(T, C) -> (T, V)."""
        return self.decoder(self.norm(self.activation(self.dense(rows))))


class MaskedLM(Head):
    """scores of every word of the vocabulary for each token (B, N, V)."""

    def build(self, config: Config) -> None:
        """See `Head`."""
        self.predictions = Predictions(config.hidden_size, config.vocab_size, config.hidden_act, config.layer_norm_eps)
        if "predictions.bias" in self.head_weights:  # a second name of the decoder's bias, which is tied to it
            self.predictions.bias = nn.Parameter(torch.empty(config.vocab_size))

    def get_output_embeddings(self) -> nn.Linear:
        """The layer that scores the vocabulary."""
        return self.predictions.decoder

    def resize_token_embeddings(self, new_num_tokens: int, *args: Any, **options: Any) -> nn.Embedding:
        """As every model's; the scores of new words start at 0 where they are not tied to the word vectors."""
        table = super().resize_token_embeddings(new_num_tokens, *args, **options)
        for module in (self.predictions, self.predictions.decoder):
            for name, parameter in list(module.named_parameters(recurse=False)):
                rows = with_first_rows(parameter, parameter.new_zeros(table.num_embeddings, *parameter.shape[1:]))
                setattr(module, name, rows)
        self.predictions.decoder.out_features = table.num_embeddings
        self.tie_weights()
        return table

    def answer(self, encoded: Encoded, labels: Tensor | None = None) -> ModelOutput:  # type: ignore[override]
        """See `Head`."""
        rows, sequences = self.predictions(encoded.rows), encoded.sequences
        loss = None if labels is None else cross_entropy(rows, _token_labels(labels, sequences))
        return LogitsOutput(loss, sequences.unpack(rows), encoded.hidden_states, encoded.attentions)


class PreTraining(MaskedLM):
    """masked words and next sentence together; the loss is their sum where both labels are given."""

    targets = ("labels", "next_sentence_label")

    def build(self, config: Config) -> None:
        """See `Head`."""
        super().build(config)
        self.seq_relationship = Linear(config.hidden_size, 2)

    def answer(  # type: ignore[override]
        self, encoded: Encoded, labels: Tensor | None = None, next_sentence_label: Tensor | None = None
    ) -> PreTrainingOutput:
        """See `Head`."""
        words = super().answer(encoded, None if next_sentence_label is None else labels)
        follows = self.seq_relationship(encoded.pooled)
        loss = words.get("loss")
        if loss is not None and next_sentence_label is not None:
            loss = loss + cross_entropy(follows, next_sentence_label.view(-1))
        return PreTrainingOutput(loss, words["logits"], follows, encoded.hidden_states, encoded.attentions)


class ImageClassification(Head):
    """one score per class for the whole image (B, K)."""

    def build(self, config: Config) -> None:
        """See `Head`."""
        self.classifier = Linear(config.hidden_size, config.num_labels)

    def forward(  # type: ignore[override]
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        *,
        return_dict: bool | None = None,
        **states: bool | None,
    ) -> Any:
        """Images and the labels of their classes; otherwise as the backbone, without masks."""
        inputs = {"pixel_values": pixel_values, "interpolate_pos_encoding": interpolate_pos_encoding}
        return super().forward(labels=labels, return_dict=return_dict, **inputs, **states)

    def answer(self, encoded: EncodedImages, labels: Tensor | None = None) -> ModelOutput:  # type: ignore[override]
        """See `Head`."""
        logits = self.classifier(encoded.pooled)
        loss = None if labels is None else classification_loss(self.config, logits, labels)
        return ImageLogitsOutput(loss, logits, **encoded.kept)


class MaskedImageModeling(Head):
    """the pixels of the image, masked patches restored (SimMIM, Xie et al. 2021); the loss is over the masked ones."""

    targets = ()

    def build(self, config: Config) -> None:
        """See `Head`."""
        self.decoder = nn.Conv2d(config.hidden_size, config.encoder_stride**2 * config.num_channels, 1)

    def answer(self, encoded: EncodedImages) -> ModelOutput:  # type: ignore[override]
        """See `Head`."""
        restored = F.pixel_shuffle(self.decoder(channels_first(encoded.grid)), self.config.encoder_stride)
        loss = None if encoded.bool_masked_pos is None else self.loss(restored, encoded)
        return ReconstructionOutput(loss, restored, **encoded.kept)

    def loss(self, restored: Tensor, encoded: EncodedImages) -> Tensor:
        """The mean absolute difference over the pixels of masked patches."""
        pixels, (down, across) = encoded.pixel_values, pair(self.config.patch_size)
        if restored.shape != pixels.shape:
            raise ValueError(
                f"Images of {tuple(pixels.shape[2:])} pixels are restored as {tuple(restored.shape[2:])}, which gives "
                f"no loss; resize them, or correct encoder_stride, which is {self.config.encoder_stride}."
            )
        masked = encoded.bool_masked_pos.view(-1, 1, pixels.shape[2] // down, pixels.shape[3] // across)  # type: ignore
        masked = masked.repeat_interleave(down, 2).repeat_interleave(across, 3)
        total = (F.l1_loss(restored, pixels, reduction="none") * masked).sum()
        return total / (masked.sum() + 1e-5) / self.config.num_channels
