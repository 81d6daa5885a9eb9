"""wav2vec 2.0: "A Framework for Self-Supervised Learning of Speech Representations" (Baevski et al. 2020).

Read from top to bottom: the configuration, the modules, the name table, the heads. Sound comes in as samples (B, n),
becomes packed rows of frames (T, C) clip by clip (`minitrans.audio_layers`), and leaves as (B, N, C).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import override

from minitrans import audio_heads, audio_layers, layers, ops
from minitrans.audio_layers import Convolution, Downsampling, FeatureEncoder, PositionalConvolution
from minitrans.config import Count, Positive, PreTrainedConfig, Rate, Size, Words
from minitrans.layers import FeedForward, Intermediates, LayerNorm, Linear, SelfAttention
from minitrans.names import Module
from minitrans.outputs import AudioModelOutput, EncodedAudio
from minitrans.pretrained import PreTrainedModel
from minitrans.sequences import Sequences, is_tracing, wants_grid, wants_static_shapes


@dataclass(init=False, eq=False)
class Wav2Vec2Config(PreTrainedConfig):
    """The fields of wav2vec 2.0's config.json and their published defaults (wav2vec2-base-960h)."""

    model_type: ClassVar[str] = "wav2vec2"
    honoured: ClassVar[dict[str, tuple]] = {
        "hidden_act": tuple(ops.ACTIVATIONS),
        "feat_extract_activation": tuple(ops.ACTIVATIONS),
        "feat_extract_norm": ("group", "layer"),
        "ctc_loss_reduction": ("sum", "mean", "none"),
    }

    vocab_size: Words | None = 32
    hidden_size: Size = 768
    num_hidden_layers: Count = 12
    num_attention_heads: Size = 12
    intermediate_size: Size = 3072
    hidden_act: str = "gelu"
    hidden_dropout: Rate = 0.1
    activation_dropout: Rate = 0.1
    attention_dropout: Rate = 0.1
    feat_proj_dropout: Rate = 0.0
    feat_quantizer_dropout: Rate = 0.0
    final_dropout: Rate = 0.1
    layerdrop: Rate = 0.1
    initializer_range: Positive = 0.02
    layer_norm_eps: Positive = 1e-5
    feat_extract_norm: str = "group"
    feat_extract_activation: str = "gelu"
    conv_dim: tuple[Size, ...] = (512, 512, 512, 512, 512, 512, 512)
    conv_stride: tuple[Size, ...] = (5, 2, 2, 2, 2, 2, 2)
    conv_kernel: tuple[Size, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_bias: bool = False
    num_conv_pos_embeddings: Size = 128
    num_conv_pos_embedding_groups: Size = 16
    do_stable_layer_norm: bool = False
    apply_spec_augment: bool = True
    mask_time_prob: Rate = 0.05
    mask_time_length: Size = 10
    mask_time_min_masks: Count = 2
    mask_feature_prob: Rate = 0.0
    mask_feature_length: Size = 10
    mask_feature_min_masks: Count = 0
    num_codevectors_per_group: Size = 320
    num_codevector_groups: Size = 2
    contrastive_logits_temperature: Positive = 0.1
    num_negatives: Size = 100
    codevector_dim: Size = 256
    proj_codevector_dim: Size = 256
    diversity_loss_weight: float = 0.1
    ctc_loss_reduction: str = "sum"
    ctc_zero_infinity: bool = False
    use_weighted_layer_sum: bool = False
    classifier_proj_size: Size = 256
    tdnn_dim: tuple[Size, ...] = (512, 512, 512, 512, 1500)
    tdnn_kernel: tuple[Size, ...] = (5, 3, 3, 1, 1)
    tdnn_dilation: tuple[Size, ...] = (1, 2, 3, 1, 1)
    xvector_output_dim: Size = 512
    pad_token_id: Count | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    add_adapter: bool = False
    adapter_kernel_size: Size = 3
    adapter_stride: Size = 2
    num_adapter_layers: Count = 3
    output_hidden_size: Size | None = None
    adapter_attn_dim: Size | None = None

    def validate(self) -> None:
        """Check every field, and that lists which belong together are of one length; ValueError otherwise."""
        super().validate()
        self.output_hidden_size = self.output_hidden_size or self.hidden_size
        for names in (("conv_dim", "conv_stride", "conv_kernel"), ("tdnn_dim", "tdnn_kernel", "tdnn_dilation")):
            if len({len(getattr(self, name)) for name in names}) > 1 or not getattr(self, names[0]):
                lists = ", ".join(f"{name} {list(getattr(self, name))}" for name in names)
                raise ValueError(f"A layer has one number in each of {lists}; make them equally long.")
        for whole, name in ((self.hidden_size, "num_conv_pos_embedding_groups"),
                            (self.codevector_dim, "num_codevector_groups")):  # fmt: skip
            if whole % getattr(self, name):
                raise ValueError(f"{name} is {getattr(self, name)}, which does not divide {whole} channels.")

    @property
    def num_feat_extract_layers(self) -> int:
        """How many convolutions make frames of samples."""
        return len(self.conv_dim)

    def to_dict(self) -> dict[str, Any]:
        """All fields, and how many convolutions there are, as they stand in config.json."""
        return {**super().to_dict(), "num_feat_extract_layers": self.num_feat_extract_layers}

    @property
    def inputs_to_logits_ratio(self) -> int:
        """How many samples lie between two frames."""
        return math.prod(self.conv_stride)


class DroppedFeedForward(FeedForward):
    """A feed-forward block with dropout after its activation."""

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__(config.hidden_size, config.intermediate_size, config.hidden_act)
        self.dropout = nn.Dropout(config.activation_dropout)

    @override
    def forward(self, rows: Tensor) -> Tensor:
        if not (self.dropout.training and self.dropout.p):
            return super().forward(rows)
        return self.down(self.dropout(self.activation(self.up(rows))))


class EncoderLayer(Module):
    """Self-attention, then a feed-forward block, each added to its input and normalised after.

    In training a layer may be left out (layer drop, Fan et al. 2019).
    """

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        size, eps = config.hidden_size, config.layer_norm_eps
        order = ("key", "value", "query")
        self.attention = SelfAttention(size, config.num_attention_heads, config.attention_dropout, order)
        self.attention_norm = LayerNorm(size, eps=eps)
        self.feed_forward = DroppedFeedForward(config)
        self.norm = LayerNorm(size, eps=eps)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.layerdrop = config.layerdrop

    def forward(self, rows: Tensor, sequences: Sequences, intermediates: Intermediates) -> Tensor:
        """Rows (T, C) -> (T, C)."""
        if not (self.training and self.layerdrop):
            return self.compute(rows, sequences, intermediates)
        dropped = torch.rand(()) < self.layerdrop
        if is_tracing():  # a graph has no way around a layer
            return torch.where(dropped.to(rows.device), rows, self.compute(rows, sequences, intermediates))
        return rows if dropped else self.compute(rows, sequences, intermediates)

    def compute(self, rows: Tensor, sequences: Sequences, intermediates: Intermediates) -> Tensor:
        """`forward` of a layer that is not left out."""
        rows = layers.add_norm(self.attention_norm, self.dropout(self.attention(rows, sequences, intermediates)), rows)
        return layers.add_norm(self.norm, self.dropout(self.feed_forward(rows)), rows)


class StableEncoderLayer(EncoderLayer):
    """`EncoderLayer` normalised before each part; last comes the adapter of a language, where there is one."""

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__(config)
        size = config.adapter_attn_dim
        self.adapter = None if size is None else AttentionAdapter(config.hidden_size, size)

    @override
    def compute(self, rows: Tensor, sequences: Sequences, intermediates: Intermediates) -> Tensor:
        mixed = self.attention(self.attention_norm(rows), sequences, intermediates)
        rows, normed = layers.residual_norm(self.norm, rows, self.dropout(mixed))
        rows = rows + self.dropout(self.feed_forward(normed))
        return rows if self.adapter is None else rows + self.adapter(rows)


class AttentionAdapter(FeedForward):
    """The few weights of a layer that differ from language to language (Pratap et al. 2023, section 4.1)."""

    def __init__(self, hidden_size: int, adapter_size: int) -> None:
        super().__init__(hidden_size, adapter_size, "relu")
        self.norm = LayerNorm(hidden_size)

    @override
    def forward(self, rows: Tensor) -> Tensor:
        return super().forward(self.norm(rows))


class Wav2Vec2PreTrainedModel(PreTrainedModel):
    """What every wav2vec 2.0 model is, and what an own head on it starts from."""

    config: Wav2Vec2Config
    config_class = Wav2Vec2Config
    base_model_prefix = "wav2vec2"
    main_input_name = "input_values"

    def _get_feat_extract_output_lengths(self, input_lengths: Any, add_adapter: bool | None = None) -> Any:
        """How many frames samples, a number or a tensor of them, become; published programs ask for it."""
        config = self.config
        frames = audio_layers.frames_of(input_lengths, config.conv_kernel, config.conv_stride)
        adapts = config.add_adapter if add_adapter is None else add_adapter
        for _ in range(config.num_adapter_layers if adapts else 0):
            frames = audio_layers.downsampled(frames, config.adapter_kernel_size, config.adapter_stride)
        return frames

    def _get_feature_vector_attention_mask(
        self, feature_vector_length: int, attention_mask: Tensor, add_adapter: bool | None = None
    ) -> Tensor:
        """Which of the frames (B, N) are of the samples that a mask (B, n) keeps, as bool."""
        counts = self._get_feat_extract_output_lengths(attention_mask.sum(1), add_adapter)
        return torch.arange(feature_vector_length, device=attention_mask.device) < counts[:, None]


class Wav2Vec2Model(Wav2Vec2PreTrainedModel):
    """Convolutions that make frames of samples, and a transformer encoder over the frames."""

    weights: ClassVar[dict[str, str]] = {
        "feature_encoder.layers.{}.conv": "feature_extractor.conv_layers.{}.conv",
        "feature_encoder.layers.{}.norm": "feature_extractor.conv_layers.{}.layer_norm",
        "projection_norm": "feature_projection.layer_norm",
        "projection": "feature_projection.projection",
        "positions": "encoder.pos_conv_embed.conv",
        # A weight norm stays in its two parts, which are what training changes.
        "positions.weight": "encoder.pos_conv_embed.conv.parametrizations.weight",
        "norm": "encoder.layer_norm",
        "layers.{}.attention.qkv.query": "encoder.layers.{}.attention.q_proj",
        "layers.{}.attention.qkv.key": "encoder.layers.{}.attention.k_proj",
        "layers.{}.attention.qkv.value": "encoder.layers.{}.attention.v_proj",
        "layers.{}.attention.out": "encoder.layers.{}.attention.out_proj",
        "layers.{}.attention_norm": "encoder.layers.{}.layer_norm",
        "layers.{}.feed_forward.up": "encoder.layers.{}.feed_forward.intermediate_dense",
        "layers.{}.feed_forward.activation": "encoder.layers.{}.feed_forward.intermediate_act_fn",
        "layers.{}.feed_forward.dropout": "encoder.layers.{}.feed_forward.intermediate_dropout",
        "layers.{}.feed_forward.down": "encoder.layers.{}.feed_forward.output_dense",
        "layers.{}.norm": "encoder.layers.{}.final_layer_norm",
        "layers.{}.adapter.norm": "encoder.layers.{}.adapter_layer.norm",
        "layers.{}.adapter.up": "encoder.layers.{}.adapter_layer.linear_1",
        "layers.{}.adapter.down": "encoder.layers.{}.adapter_layer.linear_2",
        "adapter.norm": "adapter.proj_layer_norm",
    }

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__(config)
        size, eps = config.hidden_size, config.layer_norm_eps
        self.feature_encoder = FeatureEncoder(
            config.conv_dim,
            config.conv_kernel,
            config.conv_stride,
            config.conv_bias,
            config.feat_extract_activation,
            config.feat_extract_norm,
        )
        self.projection_norm = LayerNorm(config.conv_dim[-1], eps=eps)
        self.projection = Linear(config.conv_dim[-1], size)
        self.projection_dropout = nn.Dropout(config.feat_proj_dropout)
        masks = config.mask_time_prob > 0 or config.mask_feature_prob > 0
        self.masked_spec_embed = nn.Parameter(torch.empty(size)) if masks else None
        self.positions = PositionalConvolution(
            size, config.num_conv_pos_embeddings, config.num_conv_pos_embedding_groups, config.feat_extract_activation
        )
        self.norm = LayerNorm(size, eps=eps)
        self.dropout = nn.Dropout(config.hidden_dropout)
        kind = StableEncoderLayer if config.do_stable_layer_norm else EncoderLayer
        self.layers = nn.ModuleList(kind(config) for _ in range(config.num_hidden_layers))
        self.adapter = None
        if config.add_adapter:
            self.adapter = Downsampling(
                size,
                config.output_hidden_size,  # type: ignore[arg-type]  # `validate` has set it
                config.adapter_kernel_size,
                config.adapter_stride,
                config.num_adapter_layers,
                config.layerdrop,
            )
        self.post_init()

    @override
    @torch.no_grad()
    def initialise(self, path: str) -> None:
        super().initialise(path)
        owner, _, leaf = path.rpartition(".")
        module = self.get_submodule(owner)
        tensor = getattr(module, leaf)
        if isinstance(module, Convolution):  # He et al. 2015
            inputs = math.prod(module.weight.shape[1:])
            if leaf == "weight":
                tensor.normal_(0.0, (2 / inputs) ** 0.5)
            else:
                tensor.uniform_(-(inputs**-0.5), inputs**-0.5)
        elif owner == "positions.weight":
            direction, magnitude = self.positions.weight.original1, self.positions.weight.original0
            if leaf == "original1":
                direction.normal_(0.0, 2 * (direction.shape[0] * direction.shape[2]) ** -0.5)
            magnitude.copy_(direction.norm(dim=(0, 1), keepdim=True))
        elif owner == "projection":
            tensor.uniform_(-(module.in_features**-0.5), module.in_features**-0.5)  # type: ignore[operator]
        elif path == "masked_spec_embed":
            tensor.uniform_()

    def freeze_feature_encoder(self) -> None:
        """Train everything but the convolutions that make frames of samples."""
        self.feature_encoder.requires_grad_(False)

    @staticmethod
    def encoded(
        config: Wav2Vec2Config,
        output: Any,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        mask_time_indices: Tensor | None = None,
        **_: Any,
    ) -> EncodedAudio:
        """What a model that was called as a module hands to a head."""
        last, extracted = output[0], getattr(output, "extract_features", output[0])
        counts = [len(clip) for clip in audio_layers.clips_of(input_values, attention_mask)]
        lengths = [audio_layers.frames_of(count, config.conv_kernel, config.conv_stride) for count in counts]
        frames = Sequences.from_lengths(lengths, extracted.shape[1], last.device)
        kernel, stride = config.adapter_kernel_size, config.adapter_stride
        for _layer in range(config.num_adapter_layers if config.add_adapter else 0):
            lengths = [audio_layers.downsampled(length, kernel, stride) for length in lengths]
        sequences = Sequences.from_lengths(lengths, last.shape[1], last.device)
        masked = None if mask_time_indices is None else frames.pack(mask_time_indices).bool()
        states = getattr(output, "hidden_states", None), getattr(output, "attentions", None)
        return EncodedAudio(
            sequences.pack(last),
            sequences,
            None,
            *states,
            extracted=frames.pack(extracted),
            frames=frames,
            masked=masked,
        )

    def encode(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        mask_time_indices: Tensor | None = None,
        *,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> EncodedAudio:
        """What `forward` computes, as packed rows: the heads' input."""
        intermediates = Intermediates(self.config, output_attentions, output_hidden_states)
        checkpointing = self.gradient_checkpointing and self.training and torch.is_grad_enabled()
        extracted, frames = self.convolve(input_values, attention_mask, checkpointing)
        layout = frames.as_grid() if wants_grid() else frames
        extracted = self.projection_norm(frames.convert(extracted, layout))
        extracted, extracted_grid = intermediates.leave(extracted, layout)
        rows = self.projection_dropout(self.projection(extracted))
        rows, masked = self.augment(layout.convert(rows, frames), frames, mask_time_indices)
        rows = frames.convert(rows, layout)
        rows = rows + self.positions(rows, layout)
        stable = self.config.do_stable_layer_norm
        rows = self.dropout(rows if stable else self.norm(rows))
        rows = layers.run_layers(self.layers, rows, layout, intermediates, checkpointing)
        rows = self.norm(rows) if stable else rows
        rows, extracted, sequences = layout.convert(rows, frames), layout.convert(extracted, frames), frames
        if self.adapter is not None:
            rows, sequences = self.adapter(rows, frames)
        rows, grid = intermediates.leave(rows, sequences)
        states = intermediates.hidden_states, intermediates.attentions
        return EncodedAudio(rows, sequences, None, *states, grid, extracted, frames, masked, extracted_grid)

    def convolve(
        self, input_values: Tensor, attention_mask: Tensor | None, checkpointing: bool
    ) -> tuple[Tensor, Sequences]:
        """Samples (B, n) -> the frames that the convolutions make of them, as rows (T, C), and where they lie."""
        audio_layers.check_samples(input_values, attention_mask, self)
        (batch, samples), encoder = input_values.shape, self.feature_encoder
        width, padded = encoder.frames(samples), encoder.batches_clips
        convolutions: Callable[..., Tensor] = encoder.forward_padded if padded else encoder
        compute = partial(layers.recompute, convolutions) if checkpointing else convolutions
        if wants_static_shapes():
            if attention_mask is None:
                counts = torch.full((batch,), samples, device=self.device)
                frames = Sequences.full(batch, width, self.device)
            else:
                counts = attention_mask.to(self.device).sum(1)
                frames = Sequences.padded(encoder.unbounded_frames(counts).clamp(min=0).int(), width)
            return compute(input_values, counts).flatten(0, 1), frames
        clips = audio_layers.clips_of(input_values, attention_mask)
        lengths = [encoder.frames(len(clip)) for clip in clips]
        if 0 in lengths:
            short = lengths.index(0)
            raise ValueError(
                f"Clip {short} has {len(clips[short])} samples; the first frame takes {encoder.samples(1)}."
            )
        frames = Sequences.from_lengths(lengths, width, self.device)
        if padded:
            counts = torch.tensor([len(clip) for clip in clips], device=self.device)
            return frames.pack(compute(input_values, counts)), frames
        return torch.cat([compute(clip) for clip in clips]), frames

    def augment(self, rows: Tensor, frames: Sequences, indices: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Rows (T, C) with frames, and in training channels, masked (SpecAugment), and which were asked for (T,).

        `indices` (B, N) says which frames; without it, training draws spans as the configuration says.
        """
        config, masked = self.config, None
        if indices is not None:
            layers.check_tensor("mask_time_indices", indices, rows.device, anywhere=True)
            if tuple(indices.shape) != frames.shape:
                raise ValueError(
                    f"mask_time_indices has the shape {tuple(indices.shape)}; the frames have {frames.shape}."
                )
            layers.check_mask("mask_time_indices", indices)
            masked = frames.pack(indices).bool()
        if not config.apply_spec_augment:
            return rows, masked
        chosen = masked
        if chosen is None and self.training and config.mask_time_prob > 0:
            chosen = frames.pack(
                audio_layers.span_mask(
                    frames.lengths,
                    frames.shape[1],
                    config.mask_time_prob,
                    config.mask_time_length,
                    config.mask_time_min_masks,
                )
            )
        if chosen is not None:
            if self.masked_spec_embed is None:
                raise ValueError("mask_time_indices needs a model with mask_time_prob or mask_feature_prob above 0.")
            rows = torch.where(chosen[..., None], self.masked_spec_embed.to(rows.dtype), rows)
        if self.training and config.mask_feature_prob > 0:
            channels = audio_layers.span_mask(
                torch.full_like(frames.lengths, rows.shape[1]),
                rows.shape[1],
                config.mask_feature_prob,
                config.mask_feature_length,
                config.mask_feature_min_masks,
            )
            clip = frames.pack(torch.arange(frames.shape[0], device=rows.device)[:, None].expand(frames.shape))
            rows = rows.masked_fill(channels[clip], 0.0)
        return rows, masked

    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        mask_time_indices: Tensor | None = None,
        *,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> AudioModelOutput:
        """Samples (B, n) at the checkpoint's rate -> hidden states (B, N, C), zeros beyond a clip's end.

        `attention_mask` (B, n) is 1 for samples and 0 for the padding after them: nothing that is computed for a clip
        sees its padding. Without it the whole row counts. `mask_time_indices` (B, N) replaces frames by the mask.
        Raises ValueError for shapes, lengths and numbers that the model cannot take.
        """
        encoded = self.encode(
            input_values,
            attention_mask,
            mask_time_indices=mask_time_indices,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
        )
        output = AudioModelOutput(
            encoded.last_hidden_state,
            encoded.extract_features,
            encoded.hidden_states,
            encoded.attentions,
        )
        return self.returned(output, return_dict)


def _compute_mask_indices(
    shape: tuple[int, int],
    mask_prob: float,
    mask_length: int,
    attention_mask: Tensor | None = None,
    min_masks: int = 0,
) -> np.ndarray:
    """Which frames (B, N) pre-training masks, as bool: random spans of `mask_length` (`span_mask`)."""
    batch, width = shape
    if mask_length < 1 or mask_length > width:
        raise ValueError(f"mask_length is {mask_length}; it must be from 1 to the {width} frames.")
    lengths = torch.full((batch,), width) if attention_mask is None else attention_mask.cpu().sum(-1)
    return audio_layers.span_mask(lengths, width, mask_prob, mask_length, min_masks).numpy()


def _sample_negative_indices(
    features_shape: tuple[int, int], num_negatives: int, mask_time_indices: np.ndarray | None = None
) -> np.ndarray:
    """For each masked frame `num_negatives` others of its clip's, (B, N, K) int32: places in the flattened frames."""
    batch, width = features_shape
    masked = np.ones(features_shape, dtype=bool) if mask_time_indices is None else np.asarray(mask_time_indices, bool)
    chosen = np.zeros((batch, width, num_negatives), dtype=np.int32)
    for clip in range(batch):
        places = np.flatnonzero(masked[clip])
        if len(places) > 1:
            others = np.random.randint(0, len(places) - 1, (len(places), num_negatives))
            others += others >= np.arange(len(places))[:, None]  # never the frame itself
            chosen[clip, places] = places[others] + clip * width
    return chosen


class Wav2Vec2ForPreTraining(audio_heads.PreTraining, Wav2Vec2PreTrainedModel):
    """wav2vec 2.0 as it was pre-trained: states and the quantised frames that they should find."""

    backbone_class, dropout_fields = Wav2Vec2Model, ("feat_quantizer_dropout",)
    labels_after = "mask_time_indices"


class Wav2Vec2ForCTC(audio_heads.CTC, Wav2Vec2PreTrainedModel):
    """wav2vec 2.0 that transcribes speech."""

    backbone_class, dropout_fields = Wav2Vec2Model, ("final_dropout",)


class Wav2Vec2ForSpeechClassification(audio_heads.SpeechClassification, Wav2Vec2PreTrainedModel):
    """wav2vec 2.0 that classifies whole clips, as emotion checkpoints did before transformers had a head for them."""

    backbone_class = Wav2Vec2Model


class Wav2Vec2ForSequenceClassification(audio_heads.SequenceClassification, Wav2Vec2PreTrainedModel):
    """wav2vec 2.0 that classifies whole clips."""

    backbone_class, older_class = Wav2Vec2Model, Wav2Vec2ForSpeechClassification


class Wav2Vec2ForAudioFrameClassification(audio_heads.FrameClassification, Wav2Vec2PreTrainedModel):
    """wav2vec 2.0 that classifies frames."""

    backbone_class = Wav2Vec2Model


class Wav2Vec2ForXVector(audio_heads.XVector, Wav2Vec2PreTrainedModel):
    """wav2vec 2.0 that gives a vector for the speaker."""

    backbone_class = Wav2Vec2Model
