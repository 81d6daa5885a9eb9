"""Task heads for sound, put on a backbone as those of `minitrans.heads`."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from minitrans import heads, ops
from minitrans.audio_layers import mean_of_first
from minitrans.config import PreTrainedConfig
from minitrans.heads import IGNORED, Count, Head, Labels, cross_entropy, whole
from minitrans.hub import Repository
from minitrans.layers import Linear, is_plain
from minitrans.names import Module
from minitrans.outputs import ContrastiveOutput, Encoded, EncodedAudio, LogitsOutput, XVectorOutput
from minitrans.sequences import wants_static_shapes
from minitrans.weights import PickleCheckpoint, SafetensorsCheckpoint, open_checkpoint, tensors_of

LANGUAGE = re.compile(r"\.layers\.\d+\.adapter\.|^lm_head\.")  # see `CTC.language_tensors`


class AudioHead(Head):
    """What all heads for sound can do."""

    def freeze_feature_extractor(self) -> None:
        """The older name of `freeze_feature_encoder`."""
        self.freeze_feature_encoder()

    def freeze_feature_encoder(self) -> None:
        """Train everything but the convolutions that make frames of samples."""
        self.base_model.freeze_feature_encoder()  # type: ignore[operator]

    def freeze_base_model(self) -> None:
        """Train the head only."""
        self.base_model.requires_grad_(False)


def _check_adapter_size(config: PreTrainedConfig) -> None:
    if config.add_adapter and config.output_hidden_size != config.hidden_size:
        raise ValueError(
            f"This head takes frames of {config.hidden_size} channels, the adapter makes {config.output_hidden_size} "
            "(output_hidden_size); set add_adapter=False."
        )


class CTC(AudioHead):
    """Scores of every token, the blank among them, for each frame: (B, N, V) (Graves et al. 2006).

    Frames past the end of a clip predict the blank, `pad_token_id`, with probability 1. A checkpoint of many languages
    holds what is special to each in an adapter file; `target_lang` is the one loaded.
    """

    repository: Repository | None = None
    target_lang: str | None = None

    @override
    def build(self, config: PreTrainedConfig) -> None:
        if config.vocab_size is None or config.pad_token_id is None or config.pad_token_id >= config.vocab_size:
            raise ValueError(
                f"A CTC head needs a vocabulary that holds the blank, but vocab_size is {config.vocab_size} and "
                f"pad_token_id {config.pad_token_id}; set them in the configuration."
            )
        size = config.output_hidden_size if config.add_adapter else config.hidden_size
        self.lm_head = Linear(size, config.vocab_size)

    @classmethod
    def load(
        cls,
        repository: Repository,
        config: PreTrainedConfig | None = None,
        *model_args: Any,
        target_lang: str | None = None,
        **options: Any,
    ) -> Any:
        """`from_pretrained` on an open repository; `target_lang` is the language whose adapter is loaded too."""
        loaded = super().load(repository, config, *model_args, **options)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.repository = repository
        if target_lang is not None:
            model.load_adapter(target_lang)
        return loaded

    @torch.no_grad()
    def load_adapter(  # type: ignore[override]
        self, target_lang: str | Path, force_load: bool = True, **options: Any
    ) -> None:
        """Take a language's weights, and the size of its vocabulary, from `adapter.<language>.safetensors` or `.bin`.

        A language that is loaded already is loaded again unless `force_load=False`. A folder is a LoRA, as for every
        model. Raises FileNotFoundError where the checkpoint has no such file, ValueError where the file does not fit.
        """
        if Path(target_lang).is_dir():
            super().load_adapter(target_lang, **options)
            return
        if target_lang == self.target_lang and not force_load:
            return
        if self.repository is None or self.config.adapter_attn_dim is None:
            raise ValueError(
                f"The language {target_lang!r} needs a model that from_pretrained made and that has adapter_attn_dim; "
                f"it is {self.config.adapter_attn_dim} here."
            )
        files = [f"adapter.{target_lang}.{ending}" for ending in ("safetensors", "bin")]
        path = self.repository.file(*files)
        kind = PickleCheckpoint if path.suffix == ".bin" else SafetensorsCheckpoint
        with kind([path]) as checkpoint:
            tensors = {name: checkpoint.floats(name) for name in checkpoint.shapes}
        vocabulary = checkpoint.shapes.get("lm_head.bias", (self.config.vocab_size,))[0]
        shapes = {
            name: (vocabulary, *tensor.shape[1:]) if name.startswith("lm_head.") else tuple(tensor.shape)
            for name, tensor in self.language_tensors().items()
        }
        if shapes != checkpoint.shapes:
            wrong = sorted(set(shapes.items()) ^ set(checkpoint.shapes.items()))
            raise ValueError(f"{path} is not an adapter for this model: they differ in {wrong[0][0]} {wrong[0][1]}.")
        if not all(tensor.isfinite().all() for tensor in tensors.values()):
            raise ValueError(f"{path} holds NaN or infinite numbers.")
        if vocabulary != self.config.vocab_size:
            self.lm_head = Linear(self.lm_head.in_features, vocabulary).to(self.device, self.dtype)
            self.config.vocab_size = vocabulary
        for name, tensor in self.language_tensors().items():
            tensor.copy_(tensors[name])
        self.target_lang = str(target_lang)

    def language_tensors(self) -> dict[str, Tensor]:
        """The tensors that a language has for itself, under their published names."""
        return {self.outside(path): tensor for path, tensor in tensors_of(self).items() if LANGUAGE.search(path)}

    def _get_adapters(self) -> dict[str, Tensor]:
        """The published name of `language_tensors`; ValueError for a model without adapters."""
        if self.config.adapter_attn_dim is None:
            raise ValueError(f"{type(self).__name__} has no adapters of languages: adapter_attn_dim is None.")
        return self.language_tensors()

    def init_adapter_layers(self) -> None:
        """Start the tensors that a language has for itself anew, to train a new language."""
        for path in tensors_of(self):
            if LANGUAGE.search(path):
                self.initialise(path)

    @property
    def accepts_loss_kwargs(self) -> bool:
        """Whether the losses of several batches add up to that of one large batch: where it is a sum over clips."""
        return self.config.ctc_loss_reduction == "sum"

    @override
    def compute(self, encoded: Encoded, labels: Labels = None, num_items_in_batch: Count = None) -> LogitsOutput:
        rows, sequences = self.lm_head(self.dropout(encoded.rows)), encoded.sequences
        logits = sequences.unpack(rows)
        loss = None if labels is None else self.loss(logits, sequences.lengths, labels)
        if sequences.ragged:
            silence = torch.full_like(rows[:1], torch.finfo(rows.dtype).min)
            silence[:, self.config.pad_token_id] = 0
            logits = torch.where(sequences.unpack(torch.ones_like(rows[:, :1])) == 0, silence, logits)
        return LogitsOutput(loss, logits, encoded.hidden_states, encoded.attentions)

    def loss(self, logits: Tensor, lengths: Tensor, labels: Tensor) -> Tensor:
        """The loss of scores (B, N, V), `lengths` (B,) frames of each, for tokens (B, U) but −100 and blanks."""
        if labels.dim() != 2 or len(labels) != len(logits):
            raise ValueError(f"labels has the shape {tuple(labels.shape)}; it must be ({len(logits)}, tokens).")
        blank = self.config.pad_token_id
        real = (labels != IGNORED) & (labels != blank)
        targets = whole(labels)[real]
        ops.check_ids(targets, self.config.vocab_size, "labels", "vocabulary")
        return F.ctc_loss(
            F.log_softmax(logits, dim=-1, dtype=torch.float32).transpose(0, 1),
            targets,
            lengths.long(),
            real.sum(1),
            blank=blank,
            reduction=self.config.ctc_loss_reduction,
            zero_infinity=self.config.ctc_zero_infinity,
        )


class LayerSum(AudioHead):
    """A head on a weighted sum of what goes in and out of the layers, where `use_weighted_layer_sum` asks for it."""

    takes_adapter: ClassVar[bool] = False

    @override
    def build(self, config: PreTrainedConfig) -> None:
        count = config.num_hidden_layers + 1
        self.layer_weights = nn.Parameter(torch.empty(count)) if config.use_weighted_layer_sum else None
        if config.add_adapter and (config.use_weighted_layer_sum or not self.takes_adapter):
            raise ValueError(f"{type(self).__name__} is computed from the layers' frames; set add_adapter=False.")

    @override
    @torch.no_grad()
    def initialise(self, path: str) -> None:
        super().initialise(path)
        if path == "layer_weights" and self.layer_weights is not None:
            self.layer_weights.fill_(1 / len(self.layer_weights))

    def encode(self, output_hidden_states: bool | None = None, **inputs: Any) -> Encoded:
        """What the backbone computes, `rows` being the sum."""
        if self.layer_weights is None:
            return super().encode(output_hidden_states=output_hidden_states, **inputs)
        encoded = super().encode(output_hidden_states=True, **inputs)
        asked = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        shares = self.layer_weights.softmax(0)
        total = sum(share * grid for share, grid in zip(shares, encoded.hidden_states or (), strict=True))
        hidden_states = encoded.hidden_states if asked else None
        return replace(encoded, rows=encoded.sequences.pack(total), hidden_states=hidden_states)


class SequenceClassification(LayerSum, heads.SequenceClassification):
    """One score per class for the whole clip (B, K), from the mean over its frames."""

    older_class: ClassVar[Any] = None  # what reads a checkpoint whose head is of the older form

    @classmethod
    def load(
        cls, repository: Repository, config: PreTrainedConfig | None = None, *model_args: Any, **options: Any
    ) -> Any:
        """`from_pretrained` on an open repository; a head of the older form is loaded as `older_class`."""
        names = options.get("state_dict")
        if names is None:
            with open_checkpoint(repository, options.get("variant")) as checkpoint:
                names = checkpoint.shapes
        if cls.older_class is not None and "classifier.dense.weight" in names:
            return cls.older_class.load(repository, config, *model_args, **options)
        return super().load(repository, config, *model_args, **options)

    @override
    def build(self, config: PreTrainedConfig) -> None:
        super().build(config)
        self.projector = Linear(config.hidden_size, config.classifier_proj_size)
        self.classifier = Linear(config.classifier_proj_size, config.num_labels)

    def summary(self, encoded: Encoded) -> Tensor:
        """One vector (B, C) per clip."""
        return encoded.sequences.mean(self.projector(encoded.rows))


class TwoLayers(Module):
    """Vectors (B, C) -> scores (B, K): dropout, a dense layer, tanh, dropout, a dense layer."""

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        self.dense = Linear(config.hidden_size, config.hidden_size)
        self.output = Linear(config.hidden_size, config.num_labels)
        self.dropout = nn.Dropout(getattr(config, "final_dropout", 0.0))

    def forward(self, rows: Tensor) -> Tensor:
        """(B, C) -> (B, K)."""
        return self.output(self.dropout(torch.tanh(self.dense(self.dropout(rows)))))


class SpeechClassification(AudioHead, heads.SequenceClassification):
    """One score per class for the whole clip (B, K), as emotion checkpoints had it before transformers had a head.

    The frames' mean, sum or maximum, as `pooling_mode` of the configuration says (the mean where it does not), goes
    through two layers, of which some checkpoints call the last `out_proj`.
    """

    spellings: ClassVar[dict[str, str]] = {"classifier.output": "classifier.out_proj"}

    @override
    def build(self, config: PreTrainedConfig) -> None:
        self.pooling_mode = getattr(config, "pooling_mode", "mean")
        if self.pooling_mode not in ("mean", "sum", "max"):
            raise ValueError(f"pooling_mode is {self.pooling_mode!r}; it must be 'mean', 'sum' or 'max'.")
        _check_adapter_size(config)
        self.classifier = TwoLayers(config)  # type: ignore[assignment]

    @override
    def summary(self, encoded: Encoded) -> Tensor:
        rows, sequences = encoded.rows, encoded.sequences
        if self.pooling_mode == "max":
            grid, real = sequences.unpack(rows), sequences.unpack(torch.ones_like(rows[:, :1]))
            return torch.where(real != 0, grid, float("-inf")).amax(1)
        mean = sequences.mean(rows)
        return mean if self.pooling_mode == "mean" else mean * sequences.lengths[:, None]


class FrameClassification(LayerSum, heads.TokenClassification):
    """One score per class for each frame (B, N, K); labels are classes (B, N) or one-hot (B, N, K)."""

    @override
    def build(self, config: PreTrainedConfig) -> None:
        super().build(config)
        self.classifier = Linear(config.hidden_size, config.num_labels)

    accepts_loss_kwargs = False  # one-hot labels hold more items than there are frames

    @override
    def compute(self, encoded: Encoded, labels: Labels = None) -> LogitsOutput:  # type: ignore[override]
        if labels is not None and labels.dim() == 3:
            if labels.shape[2] != self.config.num_labels:
                raise ValueError(f"labels are one-hot for {labels.shape[2]} classes, not {self.config.num_labels}.")
            labels = labels.int().argmax(2) if labels.dtype == torch.bool else labels.argmax(2)
        return super().compute(encoded, labels)


class XVector(LayerSum):
    """A vector for the speaker (B, K) from the mean and deviation over time of what time-delay layers see.

    "X-vectors: Robust DNN embeddings for speaker recognition" (Snyder et al. 2018); labels are speakers, compared by
    an additive margin (Wang et al. 2018).
    """

    takes_adapter = True
    accepts_loss_kwargs = True

    @override
    def build(self, config: PreTrainedConfig) -> None:
        super().build(config)
        _check_adapter_size(config)
        self.projector = Linear(config.hidden_size, config.tdnn_dim[0])
        sizes = zip([config.tdnn_dim[0], *config.tdnn_dim], config.tdnn_kernel, config.tdnn_dim, strict=False)
        dilations = config.tdnn_dilation
        self.tdnn = nn.ModuleList(TimeDelay(*size, dilation) for size, dilation in zip(sizes, dilations, strict=True))
        self.feature_extractor = Linear(2 * config.tdnn_dim[-1], config.xvector_output_dim)
        self.classifier = Linear(config.xvector_output_dim, config.xvector_output_dim)
        self.objective = AdditiveMargin(config.xvector_output_dim, config.num_labels)

    @override
    @torch.no_grad()
    def initialise(self, path: str) -> None:
        super().initialise(path)
        if path == "objective.weight":
            self.objective.weight.normal_()  # the speakers' directions are evenly spread

    @override
    def compute(self, encoded: Encoded, labels: Labels = None, num_items_in_batch: Count = None) -> XVectorOutput:
        rows, sequences = self.projector(encoded.rows), encoded.sequences
        if wants_static_shapes():
            vectors = self.statistics_padded(sequences.unpack(rows), sequences.lengths)
        else:
            vectors = torch.stack([self.statistics(clip) for clip in rows.split(sequences.lengths.tolist())])
        embeddings = self.feature_extractor(vectors)
        logits = self.classifier(embeddings)
        loss = None if labels is None else self.objective(logits, labels.flatten(), num_items_in_batch)
        return XVectorOutput(loss, logits, embeddings, encoded.hidden_states, encoded.attentions)

    def statistics(self, rows: Tensor) -> Tensor:
        """Mean and standard deviation (2C,) over time of the last layer for one clip's frames (N, C)."""
        needed = 2 + self.lost_frames()
        if len(rows) < needed:
            raise ValueError(f"A clip of {len(rows)} frames has no deviation over time; at least {needed} are needed.")
        rows = self.time_delays(rows)
        return torch.cat([rows.mean(0), rows.std(0)])

    def statistics_padded(self, rows: Tensor, counts: Tensor) -> Tensor:
        """`statistics` (B, 2C) of clips (B, N, C), of which the first `counts` (B,) frames are real."""
        rows, counts = self.time_delays(rows), counts - self.lost_frames()
        mean = mean_of_first(rows, counts)
        variance = mean_of_first((rows - mean).square(), counts) * (counts / (counts - 1))[:, None, None]
        return torch.cat([mean, variance.sqrt()], 2).squeeze(1).to(rows.dtype)

    def lost_frames(self) -> int:
        """How many frames fewer the last layer gives."""
        return sum((k - 1) * d for k, d in zip(self.config.tdnn_kernel, self.config.tdnn_dilation, strict=True))

    def time_delays(self, rows: Tensor) -> Tensor:
        """Frames (..., N, C) through the time-delay layers."""
        for layer in self.tdnn:
            rows = layer(rows)
        return rows


class TimeDelay(Module):
    """A linear map of neighbouring frames, then ReLU: a dilated convolution whose weight is a matrix."""

    def __init__(self, size: int, kernel: int, output: int, dilation: int) -> None:
        super().__init__()
        self.size, self.dilation = kernel, dilation
        self.kernel = Linear(size * kernel, output)

    def forward(self, rows: Tensor) -> Tensor:
        """Frames (..., N, C) -> (..., N', C_out)."""
        layer = self.kernel
        if is_plain(layer, Linear):
            weight = layer.weight.unflatten(1, (self.size, -1))
            return ops.convolution(rows, weight, layer.bias, dilation=self.dilation, activation="relu")
        unfolded = rows.unfold(-2, (self.size - 1) * self.dilation + 1, 1)[..., :: self.dilation].mT
        return F.relu(layer(unfolded.flatten(-2)))


class AdditiveMargin(nn.Module):
    """The mean cross entropy of the cosines with the speakers' directions, the right one's less a margin."""

    scale, margin = 30.0, 0.4

    def __init__(self, size: int, speakers: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size, speakers))

    def forward(self, vectors: Tensor, labels: Tensor, count: Count = None) -> Tensor:
        """Vectors (B, K) and speakers (B,) -> the loss; `count` as in `cross_entropy`."""
        speakers = self.weight.shape[1]
        labels = whole(labels)
        if len(labels) != len(vectors):
            raise ValueError(f"There are {len(labels)} labels for {len(vectors)} clips; each has one speaker.")
        ops.check_ids(labels, speakers, "labels", "list of speakers")
        cosines = F.normalize(vectors, dim=1) @ F.normalize(self.weight, dim=0)
        right = F.one_hot(labels, speakers)
        return cross_entropy(self.scale * (cosines - self.margin * right), labels, count)


class Quantizer(Module):
    """Frames -> one code of each of G groups of V, the paper's section 2; training draws it (Jang et al. 2016)."""

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        self.groups, self.codes = config.num_codevector_groups, config.num_codevectors_per_group
        self.weight_proj = Linear(config.conv_dim[-1], self.groups * self.codes)
        self.codevectors = nn.Parameter(torch.empty(1, self.groups * self.codes, config.codevector_dim // self.groups))
        self.temperature = 2.0

    def forward(self, rows: Tensor, masked: Tensor | None) -> tuple[Tensor, Tensor]:
        """Frames (T, C), those that count (T,) -> their codes (T, D), and how many codes are in use (a perplexity)."""
        scores = self.weight_proj(rows).unflatten(1, (self.groups, self.codes))
        if self.training:
            chosen = F.gumbel_softmax(scores.float(), tau=self.temperature, hard=True).to(scores.dtype)
            shares = scores.float().softmax(-1)
        else:
            chosen = shares = F.one_hot(scores.argmax(-1), self.codes).to(scores.dtype)
        vectors = torch.einsum("tgv,gvd->tgd", chosen, self.codevectors.view(self.groups, self.codes, -1))
        used = (shares if masked is None else shares[masked]).mean(0)
        return vectors.flatten(1), torch.exp(-torch.xlogy(used, used).sum(-1)).sum()


class PreTraining(AudioHead):
    """States and quantised frames: the true one must be identified among sampled distractors (the paper's 3.2).

    `sampled_negative_indices` (B, N, K) are the distractors, as places in the flattened (B · N) frames; with them and
    `mask_time_indices` there is a loss.
    """

    targets = ("sampled_negative_indices",)

    @override
    def build(self, config: PreTrainedConfig) -> None:
        _check_adapter_size(config)
        self.quantizer = Quantizer(config)
        self.project_hid = Linear(config.hidden_size, config.proj_codevector_dim)
        self.project_q = Linear(config.codevector_dim, config.proj_codevector_dim)

    @override
    @torch.no_grad()
    def initialise(self, path: str) -> None:
        super().initialise(path)
        owner, _, leaf = path.rpartition(".")
        if owner in ("project_hid", "project_q"):
            module = self.get_submodule(owner)
            bound = module.in_features**-0.5  # type: ignore[operator]
            getattr(module, leaf).uniform_(-bound, bound)
        elif path == "quantizer.weight_proj.weight":
            self.quantizer.weight_proj.weight.normal_()
        elif path == "quantizer.codevectors":
            self.quantizer.codevectors.uniform_()

    def set_gumbel_temperature(self, temperature: float) -> None:
        """How evenly training draws codes; it falls from 2 to 0.5 in the paper."""
        self.quantizer.temperature = temperature

    @override
    def compute(self, encoded: EncodedAudio, sampled_negative_indices: Tensor | None = None) -> ContrastiveOutput:
        states, frames = self.project_hid(encoded.rows), encoded.frames
        codes, perplexity = self.quantizer(self.dropout(encoded.extracted), encoded.masked)
        codes = self.project_q(codes)
        loss = contrastive = diversity = None
        if sampled_negative_indices is not None:
            if encoded.masked is None or len(states) != len(codes):
                raise ValueError("A loss needs mask_time_indices, and a model without add_adapter.")
            contrastive = self.contrast(states, codes, encoded, sampled_negative_indices)
            total = self.quantizer.groups * self.quantizer.codes
            diversity = (total - perplexity) / total * encoded.masked.sum()
            loss = contrastive + self.config.diversity_loss_weight * diversity
        return ContrastiveOutput(
            loss,
            encoded.sequences.unpack(states),
            frames.unpack(codes),
            perplexity,
            encoded.hidden_states,
            encoded.attentions,
            contrastive,
            diversity,
        )

    def contrast(self, states: Tensor, codes: Tensor, encoded: EncodedAudio, indices: Tensor) -> Tensor:
        """Equation 3 over the masked frames; another frame with the same code as the right one does not count."""
        frames, masked = encoded.frames, encoded.masked
        if indices.dim() != 3 or tuple(indices.shape[:2]) != frames.shape:
            raise ValueError(
                f"sampled_negative_indices has the shape {tuple(indices.shape)}; it must be "
                f"({frames.shape[0]}, {frames.shape[1]}, n): n other frames for each."
            )
        others = frames.pack(indices)[masked].long()
        cells = frames.unpack(codes).flatten(0, 1)
        ops.check_ids(others, len(cells), "sampled_negative_indices", "batch of frames")
        right, wrong = codes[masked][:, None], cells[others]
        scores = F.cosine_similarity(states[masked][:, None].float(), torch.cat([right, wrong], 1).float(), dim=-1)
        same = F.pad((wrong == right).all(-1), (1, 0))
        scores = (scores / self.config.contrastive_logits_temperature).masked_fill(same, float("-inf"))
        return F.cross_entropy(scores, torch.zeros_like(others[:, 0]), reduction="sum")
