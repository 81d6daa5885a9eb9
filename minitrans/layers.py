"""Modules that several models share; each hands its parameters to one operation."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from minitrans import ops
from minitrans.config import Config
from minitrans.outputs import States
from minitrans.sequences import Sequences, traced


class Linear(nn.Linear):
    """`ops.linear` with the parameters of torch's module."""

    def reset_parameters(self) -> None:
        """Nothing: `PretrainedModel.post_init` gives every tensor its start."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., C_in) -> (..., C_out)."""
        return ops.linear(x, self.weight, self.bias)


class Embedding(nn.Embedding):
    """Torch's module without its random start, which on the meta device imports all of torch's compiler (1 s)."""

    def __init__(self, num_embeddings: int, embedding_dim: int, padding_idx: int | None = None) -> None:
        if padding_idx is not None and not -num_embeddings <= padding_idx < num_embeddings:
            raise ValueError(f"pad_token_id is {padding_idx}, outside the vocabulary of {num_embeddings}.")
        super().__init__(num_embeddings, embedding_dim, padding_idx)

    def reset_parameters(self) -> None:
        """Nothing: `PretrainedModel.post_init` gives every tensor its start."""


class LayerNorm(nn.LayerNorm):
    """`ops.layer_norm` with the parameters of torch's module."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        return ops.layer_norm(x, self.weight, self.bias, self.eps)


class AddLayerNorm(nn.LayerNorm):
    """`ops.add_layer_norm` with the parameters of torch's module."""

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:  # type: ignore[override]
        """Both (T, C) -> (T, C)."""
        return ops.add_layer_norm(x, residual, self.weight, self.bias, self.eps)


class ResidualLayerNorm(nn.LayerNorm):
    """`ops.residual_layer_norm` with the parameters of torch's module."""

    def forward(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Both (..., C) -> their sum and its normalisation, both (..., C)."""
        return ops.residual_layer_norm(x, residual, self.weight, self.bias, self.eps)


def hooked(module: nn.Module) -> bool:
    """Whether something is to happen when this very module is called."""
    hooks = module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks
    return any(hooks)


def only_weights(module: nn.Module, *kinds: type[nn.Module]) -> bool:
    """Whether to have a module's weights is to have all of it.

    It is not so for another class than `kinds`, as an adapter or pruning puts there, nor where somebody has a hook.
    """
    return type(module) in kinds and not hooked(module)


def lookup(module: nn.Module, ids: Tensor) -> tuple[Tensor, Tensor, int | None]:
    """A table of vectors, the indices (T,) to look up in it, and its row without gradient.

    They are the module's own, unless more than its table counts; then it is called, and the table is what it gives.
    """
    if only_weights(module, nn.Embedding, Embedding):
        return module.weight, ids, module.padding_idx  # type: ignore[return-value]
    return module(ids), torch.arange(ids.shape[0], device=ids.device), None


def by_images(owner: nn.Module, function: Callable[[Tensor], Tensor], images: Tensor, width: int) -> Tensor:
    """`function(images)` of images (B, ...) that it treats one by one, with `width` values of each in between.

    A few at a time, as `ops.in_row_blocks`; but all at once where a module of the `owner` has a hook, which is to see
    the batch and not its pieces.
    """
    # Who has a hook is asked last: there are hundreds of modules.
    if traced() or len(images) == 1 or any(map(hooked, owner.modules())):
        return function(images)
    return ops.in_row_blocks(function, images, width)


class Trace:
    """Hidden states and attentions of the layers, kept where the configuration or the caller asks for them."""

    def __init__(self, config: Config, output_attentions: bool | None, output_hidden_states: bool | None) -> None:
        states = config.output_hidden_states if output_hidden_states is None else output_hidden_states
        weights = config.output_attentions if output_attentions is None else output_attentions
        self._hidden_states: list[Tensor] | None = [] if states else None
        self._attentions: list[Tensor] | None = [] if weights else None

    def keep_rows(self, rows: Tensor, sequences: Sequences) -> None:
        """Keep rows (T, C) as (B, N, C)."""
        if self._hidden_states is not None:
            self._hidden_states.append(sequences.unpack(rows))

    def keep_attention(self, q: Tensor, k: Tensor, sequences: Sequences) -> None:
        """Keep the attention weights (B, H, N, N) of queries and keys (T, H, D)."""
        if self._attentions is not None:
            self._attentions.append(ops.attention_probabilities(q, k, sequences))

    @property
    def hidden_states(self) -> States:
        """One (B, N, C) for the input of each layer and one for the last output; None where not asked for."""
        return None if self._hidden_states is None else tuple(self._hidden_states)

    @property
    def attentions(self) -> States:
        """One (B, H, N, N) a layer; None where not asked for."""
        return None if self._attentions is None else tuple(self._attentions)


class SelfAttention(nn.Module):
    """Multi-head self-attention within each sequence, query, key and value from one matrix product."""

    def __init__(self, hidden_size: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        if hidden_size % num_heads:
            raise ValueError(f"The hidden size {hidden_size} is no multiple of the {num_heads} attention heads.")
        self.num_heads = num_heads
        self.dropout = dropout
        self.qkv = Linear(hidden_size, 3 * hidden_size)
        self.out = Linear(hidden_size, hidden_size)

    def forward(self, rows: Tensor, sequences: Sequences, trace: Trace) -> Tensor:
        """Rows (T, C) -> (T, C)."""
        q, k, v = self.qkv(rows).unflatten(-1, (3, self.num_heads, -1)).unbind(1)
        trace.keep_attention(q, k, sequences)
        mixed = ops.attention(q, k, v, sequences, dropout=self.dropout if self.training else 0.0)
        return self.out(mixed.flatten(1))


class FeedForward(nn.Module):
    """Two linear layers with an activation between them."""

    def __init__(self, hidden_size: int, intermediate_size: int, activation: str) -> None:
        super().__init__()
        self.activation = activation
        self.up = Linear(hidden_size, intermediate_size)
        self.down = Linear(intermediate_size, hidden_size)

    def forward(self, rows: Tensor) -> Tensor:
        """Rows (T, C) -> (T, C)."""
        up, down = self.up, self.down
        if only_weights(up, Linear) and only_weights(down, Linear):
            return ops.feed_forward(rows, up.weight, up.bias, down.weight, down.bias, self.activation)
        return down(ops.ACTIVATIONS[self.activation](up(rows)))


def recompute(module: Callable[..., Tensor], *inputs: object) -> Tensor:
    """`module(*inputs)`, of which nothing is kept but the inputs: the backward pass computes it again."""
    return checkpoint(ops.on_this_engine(module), *inputs, use_reentrant=False)


def run_layers(
    layers: Iterable[nn.Module], rows: Tensor, sequences: Sequences, trace: Trace, checkpointing: bool
) -> Tensor:
    """Rows (T, C) through all layers; with `checkpointing`, each is computed again in the backward pass."""
    trace.keep_rows(rows, sequences)
    for layer in layers:
        if checkpointing and torch.is_grad_enabled():
            rows = recompute(layer, rows, sequences, trace)
        else:
            rows = layer(rows, sequences, trace)
        trace.keep_rows(rows, sequences)
    return rows


@dataclass(frozen=True)
class TextRows:
    """A checked batch of text as rows: indices (T,) into `table`, positions (T,), and the sequences they form.

    `table` is None for the model's own word vectors, else the caller's vectors (T, C), row t belonging to index t.
    """

    words: Tensor
    table: Tensor | None
    positions: Tensor
    sequences: Sequences


def pack_text(
    config: Config,
    device: torch.device,
    input_ids: Tensor | None,
    attention_mask: Tensor | Sequences | None,
    position_ids: Tensor | None,
    inputs_embeds: Tensor | None,
) -> TextRows:
    """Check what a text model was given, (B, N) or (B, N, C), and pack it.

    `attention_mask` is (B, N), or the sequences that it would make. A token's position is its column, whatever is
    padded, unless `position_ids` (B or 1, N) says otherwise. Raises ValueError, with the value, for shapes, devices,
    indices and lengths that the model cannot take.
    """
    name, tokens = ("input_ids", input_ids) if inputs_embeds is None else ("inputs_embeds", inputs_embeds)
    if tokens is None or (input_ids is not None and inputs_embeds is not None):
        raise ValueError("Give either input_ids (B, N) or inputs_embeds (B, N, C), not both and not neither.")
    _check_tensor(name, tokens, device, whole=inputs_embeds is None)
    if tokens.dim() != (2 if inputs_embeds is None else 3) or tokens.numel() == 0:
        wanted = "(B, N)" if inputs_embeds is None else "(B, N, C)"
        raise ValueError(f"{name} has the shape {tuple(tokens.shape)}; it must be {wanted} and not empty.")
    if inputs_embeds is not None and tokens.shape[2] != config.hidden_size:
        raise ValueError(f"inputs_embeds has vectors of {tokens.shape[2]}, the model of {config.hidden_size}.")
    batch, length = tokens.shape[:2]
    sequences = _sequences(attention_mask, batch, length, device)
    if position_ids is None:
        positions = sequences.row_positions()
        if length > config.max_position_embeddings:
            needed = int(positions.max()) + 1
            if needed > config.max_position_embeddings:
                raise ValueError(
                    f"The text is {needed} tokens long and the model has {config.max_position_embeddings} positions; "
                    "shorten it, with tokenizer(..., truncation=True) for example."
                )
    else:
        positions = pack_indices(
            "position_ids", position_ids, sequences, config.max_position_embeddings, "position table"
        )
    if inputs_embeds is not None:
        rows = sequences.pack(inputs_embeds)
        return TextRows(torch.arange(rows.shape[0], device=device), rows, positions, sequences)
    words = pack_indices("input_ids", tokens, sequences, config.vocab_size, "vocabulary")
    return TextRows(words, None, positions, sequences)


def pack_indices(name: str, values: Tensor, sequences: Sequences, size: int, table: str) -> Tensor:
    """Indices (B, N), (1, N) or (N,) into a table of `size` rows -> those of the rows, (T,) int64, checked."""
    _check_tensor(name, values, sequences.starts.device, whole=True)
    grid = values[None] if values.dim() == 1 else values
    if grid.dim() != 2 or grid.shape[0] not in (1, sequences.shape[0]) or grid.shape[1] != sequences.shape[1]:
        raise ValueError(f"{name} has the shape {tuple(values.shape)}; the tokens have {sequences.shape}.")
    rows = sequences.pack(grid.expand(sequences.shape)).long()
    ops.check_ids(rows, size, name, table)
    return rows


def _check_tensor(name: str, value: Any, device: torch.device, *, whole: bool) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} is a {type(value).__name__}; it must be a tensor (return_tensors='pt').")
    if value.is_floating_point() == whole or value.dtype == torch.bool:
        raise ValueError(f"{name} is of {value.dtype}; it must hold {'whole' if whole else 'real'} numbers.")
    if value.device != device:
        raise ValueError(f"{name} is on {value.device}, the model on {device}; move one of them with .to().")


def _sequences(mask: Tensor | Sequences | None, batch: int, length: int, device: torch.device) -> Sequences:
    if mask is None:
        return Sequences.full(batch, length, device)
    if isinstance(mask, Sequences):
        return mask
    if not isinstance(mask, Tensor):
        raise TypeError(f"attention_mask is a {type(mask).__name__}; it must be a tensor.")
    if tuple(mask.shape) != (batch, length):
        raise ValueError(
            f"attention_mask has the shape {tuple(mask.shape)}; it must be {(batch, length)}, 1 for a token and 0 for "
            "padding."
        )
    if traced():
        return Sequences.from_mask(mask, device)
    mask = mask.cpu()  # once: what the host asks of a mask on a GPU would each time wait for it
    if mask.dtype != torch.bool and not ((mask == 0) | (mask == 1)).all():
        raise ValueError("attention_mask holds other values than 0 and 1; additive masks are not taken.")
    return Sequences.from_mask(mask, device)


class MapTrace:
    """Maps (B, H, W, C) and attentions of the stages, kept where the configuration or the caller asks for them."""

    def __init__(
        self, config: Config, output_attentions: bool | None = None, output_hidden_states: bool | None = None
    ) -> None:
        maps = config.output_hidden_states if output_hidden_states is None else output_hidden_states
        weights = config.output_attentions if output_attentions is None else output_attentions
        self.maps: list[Tensor] | None = [] if maps else None
        self.attentions: list[Tensor] | None = [] if weights else None

    def keep(self, x: Tensor) -> None:
        """Keep a map."""
        if self.maps is not None:
            self.maps.append(x)

    @property
    def kept(self) -> dict[str, States]:
        """By the outputs' names: rows (B, H·W, C), attentions, and maps (B, C, H, W); None where not asked for."""
        return {
            "hidden_states": None if self.maps is None else tuple(x.flatten(1, 2) for x in self.maps),
            "attentions": None if self.attentions is None else tuple(self.attentions),
            "reshaped_hidden_states": None if self.maps is None else tuple(map(channels_first, self.maps)),
        }


def channels_first(x: Tensor) -> Tensor:
    """(B, H, W, C) -> (B, C, H, W), contiguous."""
    return x.permute(0, 3, 1, 2).contiguous()


def drop_path(x: Tensor, rate: float) -> Tensor:
    """Zero for whole samples of the batch, with probability `rate`, the others scaled up (Huang et al. 2016)."""
    if rate == 0:
        return x
    kept = torch.rand(x.shape[0], *[1] * (x.dim() - 1), dtype=x.dtype, device=x.device) + (1 - rate)
    return x * kept.floor() / ((1 - rate) or 1)


def check_images(pixels: Tensor, channels: int, patch: tuple[int, int], like: Tensor) -> Tensor:
    """`pixels`, if they are images (B, channels, height, width) of at least one patch, as `like` in dtype and device.

    Raises ValueError otherwise, and for NaN or infinite numbers on the CPU.
    """
    shape = tuple(pixels.shape)
    if len(shape) != 4 or shape[1] != channels or 0 in shape:
        raise ValueError(
            f"pixel_values has the shape {shape}; it must be (B, {channels}, height, width) and not empty."
        )
    if shape[2] < patch[0] or shape[3] < patch[1]:
        raise ValueError(
            f"The images have {shape[2]} × {shape[3]} pixels, less than a patch of {patch[0]} × {patch[1]}."
        )
    if (pixels.dtype, pixels.device) != (like.dtype, like.device):
        raise ValueError(
            f"pixel_values is of {pixels.dtype} on {pixels.device}, the model of {like.dtype} on {like.device}; move "
            "one of them with .to()."
        )
    checked = pixels.device.type == "cpu" and not traced()
    if checked and not (pixels.sum().isfinite() or pixels.isfinite().all()):  # the sum is quicker, but may overflow
        raise ValueError("pixel_values holds NaN or infinite numbers.")
    return pixels
