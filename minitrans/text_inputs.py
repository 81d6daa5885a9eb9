"""What a text model is given, checked and packed: a batch (B, N) becomes rows (T,), and what a head needs of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from minitrans import ops
from minitrans.config import PreTrainedConfig
from minitrans.layers import check_finite, check_like, check_mask, check_tensor
from minitrans.outputs import Encoded
from minitrans.sequences import Sequences, is_tracing, wants_grid


def check_undecoded(model: nn.Module, *inputs: object) -> None:
    """Raise ValueError where an input of a decoder is not None."""
    if any(x is not None for x in inputs):
        raise ValueError(
            f"{type(model).__name__} is an encoder: encoder_hidden_states, encoder_attention_mask and past_key_values "
            "belong to a decoder, and must be None."
        )


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
    model: Any,
    input_ids: Tensor | None,
    attention_mask: Tensor | Sequences | None,
    position_ids: Tensor | None,
    inputs_embeds: Tensor | None,
) -> TextRows:
    """Check what a text `model` was given, (B, N) or (B, N, C), and pack it.

    `attention_mask` is (B, N), a mask for each query of more dimensions, or the sequences that it would make. A
    token's position is its column, whatever is padded, unless `position_ids` (B or 1, N) says otherwise. Raises
    ValueError, with the value, for shapes, devices, dtypes, indices and lengths that the model cannot take, and for
    vectors that hold NaN or infinite numbers.
    """
    config, device = model.config, model.device
    name, tokens = ("input_ids", input_ids) if inputs_embeds is None else ("inputs_embeds", inputs_embeds)
    if tokens is None or (input_ids is not None and inputs_embeds is not None):
        raise ValueError("Give either input_ids (B, N) or inputs_embeds (B, N, C): one of them, not both.")
    check_tensor(name, tokens, device, whole=inputs_embeds is None)
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
        check_like(name, inputs_embeds, model)
        rows = sequences.zero_padding(sequences.pack(inputs_embeds))
        check_finite(name, rows)
        table = rows.flatten(0, -2)
        return TextRows(torch.arange(len(table), device=device).view(rows.shape[:-1]), table, positions, sequences)
    words = pack_indices("input_ids", tokens, sequences, config.vocab_size, "vocabulary")
    return TextRows(words, None, positions, sequences)


def encoded_text(
    config: PreTrainedConfig, output: Any, attention_mask: Tensor | Sequences | None = None, **others: Any
) -> Encoded:
    """What a text model that was called as a module, (B, N, C), hands to a head."""
    del config, others
    last = output[0]
    batch, length = last.shape[:2]
    sequences = _sequences(attention_mask, batch, length, last.device)
    fields = (getattr(output, name, None) for name in ("pooler_output", "hidden_states", "attentions"))
    return Encoded(sequences.pack(last), sequences, *fields)


def pack_indices(name: str, values: Tensor, sequences: Sequences, size: int, table: str) -> Tensor:
    """Indices (B, N), (1, N) or (N,) into a table of `size` rows -> those of the rows, (T,) int64, checked.

    Padding, where it is not left out, has index 0.
    """
    check_tensor(name, values, sequences.starts.device, whole=True)
    grid = values[None] if values.dim() == 1 else values
    if grid.dim() != 2 or grid.shape[0] not in (1, sequences.shape[0]) or grid.shape[1] != sequences.shape[1]:
        raise ValueError(f"{name} has the shape {tuple(values.shape)}; the tokens have {sequences.shape}.")
    rows = sequences.zero_padding(sequences.pack(grid.expand(sequences.shape))).long()
    ops.check_ids(rows, size, name, table)
    return rows


_ADDITIVE = "; additive masks have four dimensions"


def _sequences(mask: Tensor | Sequences | None, batch: int, length: int, device: torch.device) -> Sequences:
    if isinstance(mask, Sequences):
        return mask
    if mask is None:
        if wants_grid():
            return Sequences.grid(torch.ones(batch, length, dtype=torch.bool, device=device))
        return Sequences.full(batch, length, device)
    check_tensor("attention_mask", mask, device, anywhere=True)
    if mask.dim() > 2:
        return _of_queries(mask, batch, length, device)
    if tuple(mask.shape) != (batch, length):
        raise ValueError(
            f"attention_mask has the shape {tuple(mask.shape)}; it must be {(batch, length)}, 1 for a token and 0 for "
            "padding."
        )
    if is_tracing():
        return Sequences.from_mask(mask, device)
    mask = mask.cpu()  # once: what the host asks of a mask on a GPU would each time wait for it
    check_mask("attention_mask", mask, _ADDITIVE)
    sequences = Sequences.from_mask(mask, device)
    return Sequences.grid((mask != 0).to(device)) if wants_grid() else sequences


def _of_queries(mask: Tensor, batch: int, length: int, device: torch.device) -> Sequences:
    """Sequences of a mask (B, N, N) of ones and zeros, or (B, 1 or H, 1 or N, N) of True or of 0 and −∞.

    Where every token sees the same others it says no more than a mask (B, N), and the batch is packed.
    """
    shape = tuple(mask.shape)
    visible = mask[:, None] if mask.dim() == 3 else mask
    if visible.dim() != 4 or shape[0] not in (1, batch) or shape[-1] != length or shape[-2] not in (1, length):
        raise ValueError(
            f"attention_mask has the shape {shape}; it must be {(batch, length)}, {(batch, length, length)} or "
            f"{(batch, 1, length, length)}."
        )
    if mask.dim() == 4 and mask.is_floating_point():
        hidden = visible <= torch.finfo(torch.float16).min
        if not (hidden | (visible == 0)).all():
            raise ValueError(f"attention_mask {shape} adds other values than 0 and −∞, or the lowest number.")
        visible = ~hidden
    else:
        check_mask("attention_mask", mask, _ADDITIVE)
    visible = (visible != 0).to(device).expand(batch, -1, -1, -1)
    real = visible.any(2).any(1)  # (B, N): what somebody sees
    seen = real[:, None, None]
    if not torch.where(real[:, None, :, None], visible != seen, False).any():
        return _sequences(real, batch, length, device)
    if not visible.any(3).all(1).logical_or(~real).all():
        raise ValueError("attention_mask lets a token see no token at all.")
    return Sequences.grid(real, visible)
