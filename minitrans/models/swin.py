"""Swin: "Hierarchical Vision Transformer using Shifted Windows" (Liu et al. 2021).

Read from top to bottom: the configuration, the modules, the name table, the model and its heads, the backbone. An
image (B, channels, height, width) becomes a map of patch vectors (B, H, W, C) and stays one; between two stages H and
W are halved and C is doubled: by the model after a stage, as its published hidden states are, by the backbone before.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from minitrans import heads, layers, ops
from minitrans.config import BackboneConfig, Depth, Pixels, Positive, Rate, Ratio, Size, pair
from minitrans.layers import FeedForward, Intermediates, LayerNorm, Linear, QueryKeyValue, is_plain
from minitrans.names import Module
from minitrans.outputs import BackboneOutput, EncodedImages, ImageModelOutput, StageInfo, States
from minitrans.pretrained import PreTrainedModel
from minitrans.sequences import is_tracing


@dataclass(init=False, eq=False)
class SwinConfig(BackboneConfig):
    """The fields of Swin's config.json and their published defaults (swin-tiny-patch4-window7-224).

    Image and patch sizes are in pixels, one number or (height, width); windows are in patches.
    """

    model_type: ClassVar[str] = "swin"
    attribute_map: ClassVar[dict[str, str]] = {"num_attention_heads": "num_heads", "num_hidden_layers": "num_layers"}
    honoured: ClassVar[dict[str, tuple]] = {"hidden_act": tuple(ops.ACTIVATIONS), "pruned_heads": ({},)}

    image_size: Pixels | list[Pixels] = 224
    patch_size: Pixels | list[Pixels] = 4
    num_channels: Pixels = 3
    embed_dim: Size = 96
    depths: list[Depth] = field(default_factory=lambda: [2, 2, 6, 2])
    num_heads: list[Size] = field(default_factory=lambda: [3, 6, 12, 24])
    window_size: Pixels = 7
    mlp_ratio: Ratio = 4.0
    qkv_bias: bool = True
    hidden_dropout_prob: Rate = 0.0
    attention_probs_dropout_prob: Rate = 0.0
    drop_path_rate: Rate = 0.1
    hidden_act: str = "gelu"
    use_absolute_embeddings: bool = False
    initializer_range: Positive = 0.02
    layer_norm_eps: Positive = 1e-5
    encoder_stride: Pixels = 32

    def validate(self) -> None:
        """Check every field and how they fit together; ValueError where the package cannot compute it."""
        super().validate()
        if len(self.depths) != len(self.num_heads):
            raise ValueError(f"depths is {self.depths} and num_heads {self.num_heads}; both have one number a stage.")
        for size, count in zip(self.stage_sizes, self.num_heads, strict=True):
            if size % count:
                raise ValueError(f"num_heads is {self.num_heads}; {count} does not divide a stage's {size} channels.")


class MapIntermediates(Intermediates):
    """Maps (B, H, W, C) and attentions of the stages, kept where the configuration or the caller asks for them."""

    def __init__(self, *asked: Any) -> None:
        super().__init__(*asked)
        self.grids: list[torch.Size] = []

    def keep_map(self, x: Tensor) -> Tensor:
        """Keep a map (B, H, W, C) as rows (B, H·W, C), and give the map of these, on the way to the loss."""
        if self.states is None:
            return x
        rows = x.flatten(1, 2)
        self.states.append(rows)
        self.grids.append(x.shape[1:3])
        return rows.view(x.shape)

    @property
    def maps(self) -> States:
        """What was kept as maps (B, C, H, W); None where not asked for."""
        if self.states is None:
            return None
        return tuple(channels_first(x.unflatten(1, grid)) for x, grid in zip(self.states, self.grids, strict=True))

    @property
    def fields(self) -> dict[str, States]:
        """By the outputs' names: rows (B, H·W, C), attentions, and maps (B, C, H, W); None where not asked for."""
        states, weights = self.hidden_states, self.attentions
        return {"hidden_states": states, "attentions": weights, "reshaped_hidden_states": self.maps}


def channels_first(x: Tensor) -> Tensor:
    """(B, H, W, C) -> (B, C, H, W), contiguous."""
    return x.permute(0, 3, 1, 2).contiguous()


def drop_path(x: Tensor, rate: float) -> Tensor:
    """Zero for whole samples of the batch, with probability `rate`, the others scaled up (Huang et al. 2016)."""
    if rate == 0:
        return x
    noise = torch.rand(x.shape[0], *[1] * (x.dim() - 1), dtype=x.dtype, device=x.device) + (1 - rate)
    return x * noise.floor() / ((1 - rate) or 1)


def check_images(pixels: Tensor, channels: int, patch: tuple[int, int], like: Tensor) -> Tensor:
    """`pixels`, if they are images (B, channels, height, width) of at least one patch, as `like` in dtype and device.

    Raises ValueError otherwise, and for NaN or infinite numbers on the CPU.
    """
    layers.check_tensor("pixel_values", pixels, like.device, whole=False)
    shape = tuple(pixels.shape)
    if len(shape) != 4 or shape[1] != channels or 0 in shape:
        raise ValueError(
            f"pixel_values has the shape {shape}; it must be (B, {channels}, height, width) and not empty."
        )
    if shape[2] < patch[0] or shape[3] < patch[1]:
        raise ValueError(
            f"The images have {shape[2]} × {shape[3]} pixels, less than a patch of {patch[0]} × {patch[1]}."
        )
    layers.check_like("pixel_values", pixels, like)
    layers.check_finite("pixel_values", pixels)
    return pixels


def in_blocks(
    owner: nn.Module, x: Tensor, *steps: Callable[[Tensor], Tensor], width: int, whole: bool = False
) -> Tensor:
    """`x` (B, ...) after each of `steps`, which treat images one by one, with `width` values of each in between.

    A few images at a time, as `ops.in_row_blocks`; all at once where that is asked for by `whole`, or where a module
    of the `owner` has a hook, which is to see the batch and not its pieces.
    """

    def run(images: Tensor) -> Tensor:
        for step in steps:
            images = step(images)
        return images

    return run(x) if whole or is_tracing() or layers.has_hooks(owner) else ops.in_row_blocks(run, x, width)


class SwinEmbeddings(Module):
    """Each patch as a vector, normalised; the mask token where masked; positions added where the model has any."""

    def __init__(self, config: SwinConfig, use_mask_token: bool) -> None:
        super().__init__()
        size, self.patch, self.channels = config.embed_dim, pair(config.patch_size), config.num_channels
        self.grid = tuple(side // patch for side, patch in zip(pair(config.image_size), self.patch, strict=True))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, size)) if use_mask_token else None
        positions = torch.zeros(1, self.grid[0] * self.grid[1], size)
        self.position_embeddings = nn.Parameter(positions) if config.use_absolute_embeddings else None
        self.projection = nn.Conv2d(self.channels, size, self.patch, self.patch)
        self.norm = LayerNorm(size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, pixels: Tensor, masked: Tensor | None, interpolate: bool) -> Tensor:
        """Images (B, channels, height, width) and which patches are masked (B, H·W) -> (B, H, W, C)."""
        pixels = check_images(pixels, self.channels, self.patch, next(self.parameters()))
        x = in_blocks(self, pixels, self.project, width=pixels[0].numel())
        if masked is not None:
            if self.mask_token is None:
                raise ValueError("bool_masked_pos needs a mask token; make the model with use_mask_token=True.")
            layers.check_tensor("bool_masked_pos", masked, x.device, anywhere=True)
            if masked.shape != (shape := x.flatten(1, 2).shape[:2]):
                raise ValueError(f"bool_masked_pos is {tuple(masked.shape)}; these patches are {tuple(shape)}.")
            layers.check_mask("bool_masked_pos", masked)
            x = torch.where(masked.to(x.device, torch.bool).view(*x.shape[:3], 1), self.mask_token, x)
        return self.dropout(x if self.position_embeddings is None else x + self.positions(x.shape[1:3], interpolate))

    def project(self, pixels: Tensor) -> Tensor:
        """Images, filled with zeros to whole patches, -> (B, H, W, C): the convolution as one matrix product."""
        down, across = self.patch
        if pixels.shape[2] % down or pixels.shape[3] % across:
            pixels = F.pad(pixels, (0, -pixels.shape[3] % across, 0, -pixels.shape[2] % down))
        if not is_plain(self.projection, nn.Conv2d):
            return self.norm(self.projection(pixels).permute(0, 2, 3, 1))
        patches = pixels.unflatten(3, (-1, across)).unflatten(2, (-1, down)).permute(0, 2, 4, 1, 3, 5).flatten(3)
        return self.norm(ops.linear(patches, self.projection.weight.flatten(1), self.projection.bias))

    def positions(self, grid: torch.Size, interpolate: bool) -> Tensor:
        """Absolute positions (1, H, W, C) for a grid of patches, bicubically interpolated where asked for."""
        table = self.position_embeddings.unflatten(1, self.grid)  # type: ignore[union-attr]
        if grid == self.grid:
            return table
        if not interpolate:
            raise ValueError(
                f"The images have {tuple(grid)} patches, the model positions for {self.grid}; resize the images, or "
                "pass interpolate_pos_encoding=True."
            )
        return F.interpolate(table.permute(0, 3, 1, 2), grid, mode="bicubic").permute(0, 2, 3, 1)


class WindowProjections(QueryKeyValue):
    """Queries, keys and values of a map, and the bias of the attention by the relative position in a window."""

    def __init__(self, size: int, bias: bool, window: int, num_heads: int) -> None:
        super().__init__(size, bias)
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, num_heads))

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """(..., C) -> (..., 3C): queries, keys, values."""
        matrix = self.as_one(x)
        return ops.linear(x, *matrix) if matrix else torch.cat(super().forward(x), -1)

    def of_zeros(self, like: Tensor) -> Tensor:
        """What the projections make of zeros, (3C,): their biases, and more where a layer is more than its weights."""
        return self(like.new_zeros(like.shape[-1]))


class WindowAttention(Module):
    """Multi-head self-attention within the windows of a map."""

    def __init__(self, config: SwinConfig, stage: int) -> None:
        super().__init__()
        size, self.window, self.num_heads = config.stage_sizes[stage], config.window_size, config.num_heads[stage]
        self.dropout = config.attention_probs_dropout_prob
        self.qkv = WindowProjections(size, config.qkv_bias, self.window, self.num_heads)
        self.out = Linear(size, size)

    def forward(self, x: Tensor, shift: int, intermediates: MapIntermediates | None) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C), the windows shifted by `shift`; `intermediates` may keep the weights.

        The map is filled up to whole windows after its norm, so that the padding is what is projected from zeros.
        """
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))
        whole = not (x.shape[1] % self.window or x.shape[2] % self.window)
        padding = None if whole else self.qkv.of_zeros(x).view_as(qkv[0, 0, 0])
        arguments = qkv, self.qkv.relative_position_bias_table, self.window, shift, padding
        dropout = self.dropout if self.training else 0.0
        if intermediates is None or intermediates.weights is None:
            return self.out(ops.window_attention(*arguments, dropout=dropout))
        mixed, weights = ops.window_attention_with_weights(*arguments, dropout=dropout)
        intermediates.weights.append(weights)
        return self.out(mixed)


class SwinLayer(Module):
    """Window attention, then a feed-forward block, each of the normalised map and added to it."""

    def __init__(self, config: SwinConfig, stage: int, drop_path_rate: float) -> None:
        super().__init__()
        size, eps = config.stage_sizes[stage], config.layer_norm_eps
        self.drop_path_rate = drop_path_rate
        self.attention_norm = LayerNorm(size, eps=eps)
        self.attention = WindowAttention(config, stage)
        self.norm = LayerNorm(size, eps=eps)
        self.feed_forward = FeedForward(size, int(config.mlp_ratio * size), config.hidden_act)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x: Tensor, shift: int, intermediates: MapIntermediates | None) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C), the windows shifted by `shift`; `intermediates` may keep the weights."""
        mixed = self.dropout(self.attention(self.attention_norm(x), shift, intermediates))
        mixed = drop_path(mixed, self.drop_path_rate if self.training else 0.0)
        x, normed = layers.residual_norm(self.norm, x, mixed)
        return x + self.dropout(self.feed_forward(normed.flatten(0, 2))).view_as(x)


class PatchMerging(Module):
    """2 × 2 positions as one of twice the channels."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.reduction = Linear(4 * size, 2 * size, bias=False)
        self.norm = LayerNorm(4 * size)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, ⌈H/2⌉, ⌈W/2⌉, 2C)."""
        norm = self.norm
        if not is_plain(norm, LayerNorm):
            return self.reduction(norm(ops.merge_patches(x)))
        return self.reduction(ops.merge_layer_norm(x, norm.weight, norm.bias, norm.eps))


class SwinStage(Module):
    """Layers on one map, every other one with shifted windows."""

    def __init__(self, config: SwinConfig, index: int) -> None:
        super().__init__()
        first, last_layer = sum(config.depths[:index]), max(sum(config.depths) - 1, 1)
        rates = [config.drop_path_rate * (first + layer) / last_layer for layer in range(config.depths[index])]
        self.layers = nn.ModuleList(SwinLayer(config, index, rate) for rate in rates)

    def forward(self, x: Tensor, shift: int, intermediates: MapIntermediates, checkpointing: bool) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C); of the attention weights, the last layer's are kept."""
        for index, layer in enumerate(self.layers):
            inputs = x, shift if index % 2 else 0, intermediates if index + 1 == len(self.layers) else None
            recomputed = checkpointing and torch.is_grad_enabled()
            x = layers.recompute(layer, *inputs) if recomputed else layer(*inputs)
        return x


class SwinPreTrainedModel(PreTrainedModel):
    """What every Swin model is, and what an own head on Swin starts from."""

    config: SwinConfig
    config_class = SwinConfig
    base_model_prefix = "swin"
    main_input_name = "pixel_values"


class SwinEncoder(SwinPreTrainedModel):
    """Embeddings, stages and the mergings between them: what the model and the backbone share."""

    weights: ClassVar[dict[str, str]] = {
        "embeddings": "embeddings",
        "embeddings.projection": "embeddings.patch_embeddings.projection",
        "stages.{}.layers.{}.attention_norm": "encoder.layers.{}.blocks.{}.layernorm_before",
        "stages.{}.layers.{}.attention.qkv.query": "encoder.layers.{}.blocks.{}.attention.self.query",
        "stages.{}.layers.{}.attention.qkv.key": "encoder.layers.{}.blocks.{}.attention.self.key",
        "stages.{}.layers.{}.attention.qkv.value": "encoder.layers.{}.blocks.{}.attention.self.value",
        "stages.{}.layers.{}.attention.out": "encoder.layers.{}.blocks.{}.attention.output.dense",
        "stages.{}.layers.{}.norm": "encoder.layers.{}.blocks.{}.layernorm_after",
        "stages.{}.layers.{}.feed_forward.up": "encoder.layers.{}.blocks.{}.intermediate.dense",
        "stages.{}.layers.{}.feed_forward.activation": "encoder.layers.{}.blocks.{}.intermediate.intermediate_act_fn",
        "stages.{}.layers.{}.feed_forward.down": "encoder.layers.{}.blocks.{}.output.dense",
        "mergings.{}.norm": "encoder.layers.{}.downsample.norm",
        "mergings.{}.reduction": "encoder.layers.{}.downsample.reduction",
        "norm": "layernorm",
        "norms": "hidden_states_norms",
    }
    # As transformers 5 calls them in memory; its files have the names above.
    spellings: ClassVar[dict[str, str]] = {
        "stages.{}.layers.{}.attention.qkv": "encoder.layers.{}.blocks.{}.attention.relative_position_bias",
        "stages.{}.layers.{}.attention.qkv.query": "encoder.layers.{}.blocks.{}.attention.q_proj",
        "stages.{}.layers.{}.attention.qkv.key": "encoder.layers.{}.blocks.{}.attention.k_proj",
        "stages.{}.layers.{}.attention.qkv.value": "encoder.layers.{}.blocks.{}.attention.v_proj",
        "stages.{}.layers.{}.attention.out": "encoder.layers.{}.blocks.{}.attention.o_proj",
        "stages.{}.layers.{}.feed_forward.up": "encoder.layers.{}.blocks.{}.mlp.fc1",
        "stages.{}.layers.{}.feed_forward.activation": "encoder.layers.{}.blocks.{}.mlp.activation_fn",
        "stages.{}.layers.{}.feed_forward.down": "encoder.layers.{}.blocks.{}.mlp.fc2",
    }

    def __init__(self, config: SwinConfig, use_mask_token: bool = False) -> None:
        super().__init__(config)
        self.embeddings = SwinEmbeddings(config, use_mask_token)
        self.stages = nn.ModuleList(SwinStage(config, index) for index in range(len(config.depths)))
        self.mergings = nn.ModuleList(PatchMerging(size) for size in config.stage_sizes[:-1])

    def get_input_embeddings(self) -> nn.Module:
        """The projection of the patches."""
        return self.embeddings.projection

    @override
    def initialise(self, path: str) -> None:
        super().initialise(path)
        if path.endswith(("mask_token", "position_embeddings", "bias_table")):
            nn.init.zeros_(self.get_parameter(path))


class SwinModel(SwinEncoder):
    """The stages, a norm and, unless `add_pooling_layer=False`, the mean of the map.

    With `use_mask_token=True` it has a vector for masked patches.
    """

    def __init__(self, config: SwinConfig, add_pooling_layer: bool = True, use_mask_token: bool = False) -> None:
        super().__init__(config, use_mask_token)
        self.norm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.add_pooling_layer = add_pooling_layer
        self.num_layers, self.num_features = len(config.depths), config.hidden_size
        self.post_init()

    @staticmethod
    def encoded(
        config: SwinConfig, output: Any, pixel_values: Tensor, bool_masked_pos: Tensor | None = None, **_: Any
    ) -> EncodedImages:
        """What a model that was called as a module hands to a head."""
        sides = zip(pixel_values.shape[2:], pair(config.patch_size), strict=True)
        height, width = (-(-side // (patch << len(config.depths) - 1)) for side, patch in sides)
        names = ("hidden_states", "attentions", "reshaped_hidden_states")
        intermediates = {name: getattr(output, name, None) for name in names}
        grid = output[0].unflatten(1, (height, width))
        pooled = getattr(output, "pooler_output", None)
        return EncodedImages(grid, pooled, intermediates, pixel_values, bool_masked_pos)

    def encode(
        self,
        pixel_values: Tensor,
        bool_masked_pos: Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        *,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> EncodedImages:
        """What `forward` computes, as a map: the heads' input."""
        intermediates = MapIntermediates(self.config, output_attentions, output_hidden_states)
        window, checkpointing = self.config.window_size, self.gradient_checkpointing and self.training
        whole = intermediates.weights is not None
        x = intermediates.keep_map(self.embeddings(pixel_values, bool_masked_pos, interpolate_pos_encoding))
        for stage, merge in zip(self.stages, [*self.mergings, nn.Identity()], strict=True):
            shift = 0 if min(x.shape[1:3]) <= window else window // 2  # a map no larger than a window stays
            run = partial(stage, shift=shift, intermediates=intermediates, checkpointing=checkpointing)
            x = intermediates.keep_map(in_blocks(self, x, run, merge, width=4 * x[0].numel(), whole=whole))
        rows = self.norm(x).flatten(1, 2)
        x = rows.view_as(x)
        pooled = x.mean((1, 2)) if self.add_pooling_layer else None
        return EncodedImages(x, pooled, intermediates.fields, pixel_values, bool_masked_pos, rows)

    def forward(
        self,
        pixel_values: Tensor,
        bool_masked_pos: Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        *,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> ImageModelOutput:
        """Images (B, channels, height, width) of one patch or more -> the last map (B, H·W, C) and its mean (B, C).

        `bool_masked_pos` (B, patches) says which patches are masked; `interpolate_pos_encoding` fits absolute
        positions to another size than the configuration's. Raises ValueError for images and masks that the model
        cannot take.
        """
        encoded = self.encode(
            pixel_values,
            bool_masked_pos,
            interpolate_pos_encoding,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
        )
        output = ImageModelOutput(encoded.rows, encoded.pooled, **encoded.intermediates)
        return self.returned(output, return_dict)


class SwinForImageClassification(heads.ImageClassification, SwinPreTrainedModel):
    """Swin that classifies images."""

    backbone_class = SwinModel


class SwinForMaskedImageModeling(heads.MaskedImageModeling, SwinPreTrainedModel):
    """Swin that restores masked patches."""

    backbone_class = SwinModel
    backbone_options: ClassVar[dict[str, bool]] = {"add_pooling_layer": False, "use_mask_token": True}


class SwinBackbone(SwinEncoder):
    """The maps of the stages that `config.out_features` names, for a detector or the like.

    Every other layer shifts its windows whatever the map's size; stages after the last one asked for are not computed.
    """

    def __init__(self, config: SwinConfig) -> None:
        super().__init__(config)
        config.validate()  # the stages may have been chosen since
        self.norms = nn.ModuleDict({name: LayerNorm(channels) for name, channels, _ in self.feature_info})
        self.post_init()

    @property
    def feature_info(self) -> tuple[StageInfo, ...]:
        """Stage, channels and stride of each map, in their order."""
        infos = []
        for name in self.config.out_features or ():
            halvings = max(self.config.stage_names.index(name) - 1, 0)
            down, across = (side * 2**halvings for side in self.embeddings.patch)
            stride = down if down == across else (down, across)
            infos.append(StageInfo(name, self.config.stage_sizes[halvings], stride))
        return tuple(infos)

    has_attentions = True

    @property
    def stage_names(self) -> list[str]:
        """The names of all maps that there are."""
        return self.config.stage_names

    @property
    def num_features(self) -> list[int]:
        """The channels of each of `stage_names`."""
        return [self.config.embed_dim, *self.config.stage_sizes]

    @property
    def out_feature_channels(self) -> dict[str, int]:
        """The channels of each of `stage_names`, by name."""
        return dict(zip(self.stage_names, self.num_features, strict=True))

    @property
    def out_features(self) -> list[str]:
        """The names of the maps that are returned: some, or all, of those that the backbone was made for."""
        return self.config.out_features or []

    @out_features.setter
    def out_features(self, names: list[str] | None) -> None:
        self.config.out_features = names

    @property
    def out_indices(self) -> list[int]:
        """Where `out_features` stand in `stage_names`."""
        return self.config.out_indices or []

    @out_indices.setter
    def out_indices(self, indices: list[int] | None) -> None:
        self.config.out_indices = indices

    @property
    def channels(self) -> list[int]:
        """The channels of each map that is returned."""
        return [info.channels for info in self.feature_info]

    def forward_with_filtered_kwargs(self, *args: Any, **kwargs: Any) -> Any:
        """Call the backbone with those of the options that it takes."""
        taken = inspect.signature(self.forward).parameters
        return self(*args, **{name: value for name, value in kwargs.items() if name in taken})

    def forward(
        self,
        pixel_values: Tensor,
        interpolate_pos_encoding: bool = False,
        *,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> BackboneOutput:
        """Images (B, channels, height, width) -> a map (B, C, H, W) of each stage, normalised over its channels.

        Hidden states, as maps without the norm, and attentions are those of all stages. Otherwise as `SwinModel`.
        """
        intermediates = MapIntermediates(self.config, output_attentions, output_hidden_states)
        shift, checkpointing = self.config.window_size // 2, self.gradient_checkpointing and self.training
        names, chosen, whole = self.config.stage_names, self.out_features, intermediates.weights is not None
        if absent := [name for name in chosen if name not in self.norms]:
            raise ValueError(
                f"out_features names {absent[0]!r}, and this backbone has norms for {', '.join(self.norms)}; choose "
                "the stages before it is made or loaded."
            )
        last = len(self.stages) if whole or intermediates.states is not None else names.index(chosen[-1])
        x = intermediates.keep_map(self.embeddings(pixel_values, None, interpolate_pos_encoding))
        maps = [x]
        for stage, merge in zip(self.stages[:last], [nn.Identity(), *self.mergings], strict=False):
            run = partial(stage, shift=shift, intermediates=intermediates, checkpointing=checkpointing)
            x = intermediates.keep_map(in_blocks(self, x, merge, run, width=4 * x[0].numel(), whole=whole))
            maps.append(x)
        output = BackboneOutput(
            tuple(channels_first(self.norms[name](maps[names.index(name)])) for name in chosen),
            intermediates.maps,
            intermediates.attentions,
        )
        return self.returned(output, return_dict)
