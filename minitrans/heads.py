"""Task heads and their losses: one way to put a head on a backbone.

A head's class here says what it computes, and a class in a model's file puts it on that backbone:

    class BertForTokenClassification(heads.TokenClassification, BertPreTrainedModel):
        backbone_class, dropout_fields = BertModel, ("classifier_dropout", "hidden_dropout_prob")
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from minitrans.activations import Activation
from minitrans.config import PreTrainedConfig, pair
from minitrans.layers import LayerNorm, Linear, check_tensor, is_plain
from minitrans.names import Module
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
from minitrans.pretrained import NO_EFFECT, PreTrainedModel, with_first_rows
from minitrans.sequences import Sequences, is_tracing

if TYPE_CHECKING:
    O_co = TypeVar("O_co", covariant=True)

    class Computing(Protocol[O_co]):
        """What has a `compute`: to type checkers, a head's `forward` gives what that does."""

        @property
        def compute(self) -> Callable[..., O_co]:
            """The method."""
            ...


IGNORED = -100  # the label of a token without one, as in torch.nn.CrossEntropyLoss
Count = int | Tensor | None
Labels = Tensor | None

# The input after which the labels stand in the published signatures, by a model's main input.
LABELS_AFTER = {"input_ids": "inputs_embeds", "pixel_values": "pixel_values", "input_values": "attention_mask"}


class Head(PreTrainedModel):
    """A backbone and what stands on it.

    A subclass makes its modules in `build` and computes its output in `compute`, from packed rows. The backbone is an
    attribute of its family's name (`model.bert`), and is called where that does more than its own `encode`. Labels of
    tokens that the mask leaves out are ignored.
    """

    backbone_class: ClassVar[Any]
    backbone_options: ClassVar[Mapping[str, Any]] = {}
    dropout_fields: ClassVar[tuple[str, ...]] = ()  # the first of these configuration fields that is set
    targets: ClassVar[tuple[str, ...]] = ("labels",)
    labels_after: ClassVar[str | None] = None  # where not as `LABELS_AFTER` says
    not_taken: ClassVar[tuple[str, ...]] = NO_EFFECT  # inputs of the backbone that the head's signature leaves out
    parameters_in_order: ClassVar[tuple[str, ...]] = ()
    # Whether the loss is a mean of terms that `num_items_in_batch`, the number of them in several batches, may divide.
    accepts_loss_kwargs: Any = False

    def __init_subclass__(cls, **options: Any) -> None:
        backbone = cls.__dict__.get("backbone_class")
        if backbone is not None:
            cls.weights, cls.ties = backbone.head_weights, backbone.ties
        super().__init_subclass__(**options)
        if backbone is not None:
            _publish_forward(cls)

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        setattr(self, self.base_model_prefix, self.backbone_class(config, **self.backbone_options))
        rates = (getattr(config, name) for name in self.dropout_fields)
        self.dropout = nn.Dropout(next((rate for rate in rates if rate is not None), 0.0))
        self.build(config)
        self.post_init()

    def build(self, config: PreTrainedConfig) -> None:
        """Make the head's modules."""
        raise NotImplementedError

    # (what the backbone encoded, targets) -> the output; targets are None where not given.
    compute: Callable[..., ModelOutput]

    def encode(self, **inputs: Any) -> Any:
        """What the backbone computes; it is called where a hook, a subclass or a replacement is to count."""
        backbone = self.base_model
        if is_plain(backbone, self.backbone_class):
            return backbone.encode(**inputs)  # type: ignore[operator]
        form = {"return_dict": True} if isinstance(backbone, PreTrainedModel) else {}
        return self.backbone_class.encoded(self.config, backbone(**inputs, **form), **inputs)

    def _run(self, *inputs: Any, return_dict: bool | None = None, **options: Any) -> Any:
        """The backbone's inputs and the head's labels -> the head's output, a tuple where `return_dict=False`."""
        given = {**dict(zip(self.parameters_in_order, inputs, strict=False)), **options}
        if len(given) < len(inputs) + len(options):
            names = ", ".join(self.parameters_in_order)
            raise TypeError(
                f"{type(self).__name__} was given an input twice, or more than it takes in order: {names}."
            )
        given = self.without_effect(given, given.keys() - {*NO_EFFECT})
        targets = {name: given.pop(name, None) for name in self.targets}
        for name, labels in targets.items():
            if labels is not None:
                check_tensor(name, labels, self.device)
        if self.accepts_loss_kwargs:
            targets["num_items_in_batch"] = options.get("num_items_in_batch")
        return self.returned(self.compute(self.encode(**given), **targets), return_dict)

    if TYPE_CHECKING:  # `_publish_forward` makes it

        def forward(self: Computing[O_co], *inputs: Any, **options: Any) -> O_co:
            """What `compute` gives."""
            ...


def _publish_forward(cls: Any) -> None:
    """Give a head's `forward` the parameters it actually accepts, for help() and trainers that inspect signatures."""

    def forward(self: Head, *inputs: Any, **options: Any) -> Any:
        return self._run(*inputs, **options)

    def keyword(name: str, annotation: str) -> inspect.Parameter:
        return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)

    def label(name: str) -> inspect.Parameter:
        return inspect.Parameter(name, kinds.POSITIONAL_OR_KEYWORD, default=None, annotation="Tensor | None")

    kinds = inspect.Parameter
    parameters = list(inspect.signature(cls.backbone_class.forward).parameters.values())
    positional = [parameter for parameter in parameters if parameter.kind is kinds.POSITIONAL_OR_KEYWORD]
    after = cls.labels_after or LABELS_AFTER[cls.main_input_name]
    place = [parameter.name for parameter in positional].index(after) + 1
    rest = [parameter for parameter in positional[place:] if parameter.name not in cls.not_taken]
    positional = [*positional[:place], *map(label, cls.targets), *rest]
    keywords = [parameter for parameter in parameters if parameter.kind is kinds.KEYWORD_ONLY]
    if cls.accepts_loss_kwargs:
        keywords.append(keyword("num_items_in_batch", "int | Tensor | None"))
    cls.parameters_in_order = tuple(parameter.name for parameter in positional[1:])
    returned = inspect.signature(cls.compute).return_annotation
    signature = inspect.Signature([*positional, *keywords], return_annotation=returned)
    forward.__signature__ = signature  # type: ignore[attr-defined]
    forward.__doc__ = Head._run.__doc__
    cls.forward = forward


def _token_labels(labels: Tensor, sequences: Sequences, name: str = "labels") -> Tensor:
    """Labels (B, N) as those of the rows (T,); rows that hold no token are ignored."""
    if tuple(labels.shape) != sequences.shape:
        raise ValueError(f"{name} has the shape {tuple(labels.shape)}; the tokens have {sequences.shape}.")
    rows, real = sequences.pack(whole(labels)), sequences.real()
    return rows if real is None else rows.masked_fill(~real, IGNORED)


def _check_classes(labels: Tensor, classes: int) -> Tensor:
    """Labels of classes that exist as int64, checked on the CPU only."""
    labels = whole(labels)
    if labels.device.type == "cpu" and not is_tracing():
        wrong = labels[((labels < 0) & (labels != IGNORED)) | (labels >= classes)]
        if wrong.numel():
            raise ValueError(f"A label is {int(wrong[0])}; there are {classes} classes, 0 to {classes - 1}.")
    return labels


def whole(labels: Tensor) -> Tensor:
    """Labels of classes as int64; ValueError for real numbers."""
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(f"The labels are of {labels.dtype}; classes are whole numbers.")
    return labels.long()


def cross_entropy(logits: Tensor, labels: Tensor, count: Count = None) -> Tensor:
    """Mean cross entropy of scores (..., K) for classes (...), without those labelled −100.

    With `count` it is their sum over that number, which is the mean's share of several batches of that many.
    """
    rows, classes = logits.flatten(0, -2), _check_classes(labels.flatten(), logits.shape[-1])
    if len(rows) != len(classes):
        raise ValueError(f"The labels have the shape {tuple(labels.shape)}; {len(rows)} are needed, one for each row.")
    if count is None:
        return F.cross_entropy(rows, classes, ignore_index=IGNORED)
    return F.cross_entropy(rows, classes, ignore_index=IGNORED, reduction="sum") / count


def _mean(terms: Tensor, count: Count) -> Tensor:
    return terms.mean() if count is None else terms.sum() / count


def classification_loss(config: PreTrainedConfig, logits: Tensor, labels: Tensor, count: Count = None) -> Tensor:
    """Regression, single- or multi-label classification of scores (B, K), by `problem_type` or else by the labels.

    Without a `problem_type`, one class means regression (mean squared error), integer labels one class each (cross
    entropy), other labels many classes each (binary cross entropy). `count` as in `cross_entropy`.
    """
    whole = not labels.is_floating_point() and labels.dtype != torch.bool
    kind = config.problem_type
    if kind is None:
        kind = "single_label_classification" if whole else "multi_label_classification"
        kind = "regression" if config.num_labels == 1 else kind
    if kind == "single_label_classification":
        return cross_entropy(logits, labels, count)
    if labels.shape != logits.shape and (config.num_labels > 1 or labels.numel() != logits.numel()):
        raise ValueError(f"labels has the shape {tuple(labels.shape)} for scores {tuple(logits.shape)} ({kind}).")
    target = labels.view_as(logits).to(logits.dtype)
    if kind == "regression":
        return _mean(F.mse_loss(logits, target, reduction="none"), count)
    if kind == "multi_label_classification":
        return _mean(F.binary_cross_entropy_with_logits(logits, target, reduction="none"), count)
    raise ValueError(
        f"problem_type is {kind!r}; it must be 'regression', 'single_label_classification' or "
        "'multi_label_classification'."
    )


class SequenceClassification(Head):
    """One score per class for the whole sequence (B, K)."""

    accepts_loss_kwargs = True

    @override
    def build(self, config: PreTrainedConfig) -> None:
        self.classifier = Linear(config.hidden_size, self.scores(config))

    def scores(self, config: PreTrainedConfig) -> int:
        """How many scores the classifier gives for one summary."""
        return config.num_labels

    def summary(self, encoded: Encoded) -> Tensor:
        """One vector (B, C) per sequence."""
        assert encoded.pooled is not None  # classes with this head make their backbone pool
        return encoded.pooled

    @override
    def compute(self, encoded: Encoded, labels: Labels = None, num_items_in_batch: Count = None) -> LogitsOutput:
        logits = self.classifier(self.dropout(self.summary(encoded)))
        loss = None if labels is None else classification_loss(self.config, logits, labels, num_items_in_batch)
        return LogitsOutput(loss, logits, encoded.hidden_states, encoded.attentions)


class MultipleChoice(SequenceClassification):
    """One score per choice (B, choices); inputs have the shape (B, choices, N)."""

    @override
    def scores(self, config: PreTrainedConfig) -> int:
        return 1

    def encode(self, **inputs: Any) -> Encoded:
        """The choices side by side as one batch; `pooled` is (B, choices, C)."""
        tensors = {name: x for name, x in inputs.items() if isinstance(x, Tensor)}
        for name, x in tensors.items():
            check_tensor(name, x, self.device, anywhere=True)
            if x.dim() < 3:
                raise ValueError(f"{name} has the shape {tuple(x.shape)}; with choices it is (B, choices, N).")
        if not tensors:
            raise ValueError("A multiple-choice model takes inputs of the shape (B, choices, N), and got none.")
        flat = {name: x.flatten(0, 1) if isinstance(x, Tensor) else x for name, x in inputs.items()}
        encoded = super().encode(**flat)
        return replace(encoded, pooled=self.summary(encoded).unflatten(0, next(iter(tensors.values())).shape[:2]))

    @override
    def compute(self, encoded: Encoded, labels: Labels = None, num_items_in_batch: Count = None) -> LogitsOutput:
        pooled = encoded.pooled
        assert pooled is not None  # see `encode`
        logits = self.classifier(self.dropout(pooled.flatten(0, 1))).view(pooled.shape[:2])
        loss = None if labels is None else cross_entropy(logits, labels, num_items_in_batch)
        return LogitsOutput(loss, logits, encoded.hidden_states, encoded.attentions)


class NextSentencePrediction(Head):
    """Scores (B, 2) for "the second segment follows the first" and "it does not" (Devlin et al. 2019, 3.1)."""

    accepts_loss_kwargs = True

    @override
    def build(self, config: PreTrainedConfig) -> None:
        self.seq_relationship = Linear(config.hidden_size, 2)

    @override
    def compute(self, encoded: Encoded, labels: Labels = None, num_items_in_batch: Count = None) -> LogitsOutput:
        logits = self.seq_relationship(encoded.pooled)
        loss = None if labels is None else cross_entropy(logits, labels, num_items_in_batch)
        return LogitsOutput(loss, logits, encoded.hidden_states, encoded.attentions)


class TokenClassification(Head):
    """One score per class for each token (B, N, K)."""

    accepts_loss_kwargs = True

    @override
    def build(self, config: PreTrainedConfig) -> None:
        self.classifier = Linear(config.hidden_size, config.num_labels)

    @override
    def compute(self, encoded: Encoded, labels: Labels = None, num_items_in_batch: Count = None) -> LogitsOutput:
        rows, sequences = self.classifier(self.dropout(encoded.rows)), encoded.sequences
        loss = None if labels is None else cross_entropy(rows, _token_labels(labels, sequences), num_items_in_batch)
        return LogitsOutput(loss, sequences.unpack(rows), encoded.hidden_states, encoded.attentions)


def _place_loss(scores: Tensor, places: Tensor, inside: Tensor) -> Tensor:
    """Cross entropy of scores (B, N) for a place each (B,); one outside the text, as after truncation, is ignored."""
    length = scores.shape[1]
    if places.numel() != len(scores):
        raise ValueError(f"Positions have the shape {tuple(places.shape)}; each of {len(scores)} texts has one.")
    places = whole(places).reshape(-1, 1).clamp(0, length)
    places = places.masked_fill(~F.pad(inside, (0, 1)).gather(1, places), length).squeeze(1)
    return F.cross_entropy(scores, places, ignore_index=length)


class QuestionAnswering(Head):
    """Scores (B, N) of each token as the first and the last of the answer (Devlin et al. 2019, 4.2).

    Padding scores the lowest finite number, so that a softmax over the tokens leaves it out.
    """

    targets = ("start_positions", "end_positions")

    @override
    def build(self, config: PreTrainedConfig) -> None:
        if config.num_labels != 2:
            raise ValueError(
                f"A question-answering head has 2 outputs (start, end); num_labels is {config.num_labels}."
            )
        self.qa_outputs = Linear(config.hidden_size, 2)

    @override
    def compute(
        self, encoded: Encoded, start_positions: Tensor | None = None, end_positions: Tensor | None = None
    ) -> QuestionAnsweringOutput:
        rows, sequences = self.qa_outputs(self.dropout(encoded.rows)), encoded.sequences
        inside = sequences.unpack(torch.ones_like(rows[..., 0])) != 0
        grid = sequences.unpack(rows).masked_fill(~inside[..., None], torch.finfo(rows.dtype).min)
        start, end = (scores.contiguous() for scores in grid.unbind(-1))
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = (_place_loss(start, start_positions, inside) + _place_loss(end, end_positions, inside)) / 2
        return QuestionAnsweringOutput(loss, start, end, encoded.hidden_states, encoded.attentions)


class Predictions(Module):
    """Scores of every word of the vocabulary for each row (Devlin et al. 2019, 3.1); the decoder's weight is tied."""

    def __init__(self, hidden_size: int, vocab_size: int, activation: str, eps: float) -> None:
        super().__init__()
        self.dense = Linear(hidden_size, hidden_size)
        self.activation = Activation(activation)
        self.norm = LayerNorm(hidden_size, eps=eps)
        self.decoder = Linear(hidden_size, vocab_size)

    def forward(self, rows: Tensor) -> Tensor:
        """(T, C) -> (T, V)."""
        return self.decoder(self.norm(self.activation(self.dense(rows))))


class MaskedLM(Head):
    """Scores of every word of the vocabulary for each token (B, N, V)."""

    accepts_loss_kwargs = True

    @override
    def build(self, config: PreTrainedConfig) -> None:
        self.predictions = Predictions(config.hidden_size, config.vocab_size, config.hidden_act, config.layer_norm_eps)
        if "predictions.decoder.bias" in self.ties:  # a second name of the decoder's bias, which is tied to it
            self.predictions.bias = nn.Parameter(torch.empty(config.vocab_size))

    def get_output_embeddings(self) -> nn.Linear:
        """The layer that scores the vocabulary."""
        return self.predictions.decoder

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Put another layer that scores the vocabulary in; it is not tied to the word vectors."""
        self.config.tie_word_embeddings = False
        self.predictions.decoder = new_embeddings  # type: ignore[assignment]

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Module:
        """Resize the word vectors; scores of new words that are not tied to them start likewise, biases at 0."""
        table = super().resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)
        count = len(table.weight)  # type: ignore[arg-type]
        for module in (self.predictions, self.predictions.decoder):
            for name, parameter in list(module.named_parameters(recurse=False)):
                if parameter is not table.weight:
                    setattr(module, name, with_first_rows(parameter, self.new_rows(parameter, count, mean_resizing)))
        self.predictions.decoder.out_features = count
        self.tie_weights()
        return table

    @override
    def compute(self, encoded: Encoded, labels: Labels = None, num_items_in_batch: Count = None) -> LogitsOutput:
        rows, sequences = self.predictions(encoded.rows), encoded.sequences
        loss = None if labels is None else cross_entropy(rows, _token_labels(labels, sequences), num_items_in_batch)
        return LogitsOutput(loss, sequences.unpack(rows), encoded.hidden_states, encoded.attentions)


class PreTraining(MaskedLM):
    """Masked words and next sentence together; the loss is their sum where both labels are given."""

    targets = ("labels", "next_sentence_label")
    accepts_loss_kwargs = False  # its two means are of different numbers

    @override
    def build(self, config: PreTrainedConfig) -> None:
        super().build(config)
        self.seq_relationship = Linear(config.hidden_size, 2)

    @override
    def compute(  # type: ignore[override]
        self, encoded: Encoded, labels: Labels = None, next_sentence_label: Labels = None
    ) -> PreTrainingOutput:
        words = super().compute(encoded, None if next_sentence_label is None else labels)
        follows = self.seq_relationship(encoded.pooled)
        loss = words.get("loss")
        if loss is not None and next_sentence_label is not None:
            loss = loss + cross_entropy(follows, next_sentence_label)
        return PreTrainingOutput(loss, words["logits"], follows, encoded.hidden_states, encoded.attentions)


class ImageClassification(Head):
    """One score per class for the whole image (B, K)."""

    accepts_loss_kwargs = True
    not_taken = ("bool_masked_pos",)

    @override
    def build(self, config: PreTrainedConfig) -> None:
        self.classifier = Linear(config.hidden_size, config.num_labels)

    @override
    def compute(
        self, encoded: EncodedImages, labels: Labels = None, num_items_in_batch: Count = None
    ) -> ImageLogitsOutput:
        logits = self.classifier(encoded.pooled)
        loss = None if labels is None else classification_loss(self.config, logits, labels, num_items_in_batch)
        return ImageLogitsOutput(loss, logits, **encoded.intermediates)


class MaskedImageModeling(Head):
    """The pixels of the image, masked patches restored (SimMIM, Xie et al. 2021); the loss is over the masked ones."""

    targets = ()

    @override
    def build(self, config: PreTrainedConfig) -> None:
        channels = config.encoder_stride**2 * config.num_channels
        self.decoder = nn.Sequential(
            nn.Conv2d(config.hidden_size, channels, 1), nn.PixelShuffle(config.encoder_stride)
        )

    @override
    def compute(self, encoded: EncodedImages) -> ReconstructionOutput:
        restored = self.decoder(encoded.grid.permute(0, 3, 1, 2))
        loss = None if encoded.bool_masked_pos is None else self.loss(restored, encoded)
        return ReconstructionOutput(loss, restored, **encoded.intermediates)

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
