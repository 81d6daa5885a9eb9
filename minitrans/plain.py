"""Every operation in plain torch: the CPU path, and what the kernels are held against.

The functions have the signatures of `minitrans.ops`, which has already checked the arguments.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from functools import lru_cache
from itertools import groupby
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minitrans import cpu
from minitrans.sequences import Sequences, is_exporting, is_tracing

X = TypeVar("X")

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_python": F.gelu,
    "gelu_10": lambda x: F.gelu(x).clamp(-10, 10),
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_fast": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_accurate": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_python_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": F.relu,
    "relu2": lambda x: F.relu(x).square(),
    "relu6": F.relu6,
    "leaky_relu": F.leaky_relu,
    "silu": F.silu,
    "swish": F.silu,
    "mish": F.mish,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "linear": lambda x: x,
}

# The classes of a weight that is its numbers; what is quantised has another.
ORDINARY = (Tensor, nn.Parameter)
# An intermediate beyond this size leaves the cache, and past 32 MiB glibc maps it afresh each time.
_BLOCK_BYTES = 6 << 20
_FEW_CHANNELS = 16
_SMALLEST_BLOCK = 256  # rows; below it the matrix products lose more than the cache gives
# What the scores of two regions of a shifted window lose: published Swins were trained with this, not with −∞.
REGION_PENALTY = -100.0


def needs_grad(*tensors: Tensor | None) -> bool:
    """Whether autograd follows an operation on these tensors."""
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether oneDNN's linear stands in for F.linear: same sums, other blocking (`minitrans.cpu` says when)."""
    return (
        (weight.is_mkldnn or not is_tracing())  # first: the rest cannot be traced
        and x.device.type == "cpu"
        and x.dtype == weight.dtype
        and x.numel() > 0
        and x.shape[-1] == weight.shape[1]  # torch's own error says it more clearly
        and (weight.is_mkldnn or x.numel() >= cpu.onednn_from(x.dtype, x.shape[-1]) * x.shape[-1])
        and not needs_grad(x, weight, bias)
        and not torch.is_autocast_enabled("cpu")
        and type(x) is Tensor
        and type(weight) in ORDINARY
    )


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str = "linear") -> Tensor:
    if _onednn(x, weight, bias):
        if epilogue := cpu.epilogue(activation):
            return cpu.linear(x, weight, bias, epilogue)
        return ACTIVATIONS[activation](cpu.linear(x, weight, bias, "none"))
    dense = weight.to_dense() if weight.is_mkldnn else weight  # packed, but not for these arguments
    return ACTIVATIONS[activation](F.linear(x, dense, bias))


def in_row_blocks(
    function: Callable[[Tensor], Tensor], rows: Tensor, width: int, smallest: int = _SMALLEST_BLOCK
) -> Tensor:
    """`function` of `rows` (T, ...), in blocks whose intermediate of `width` values a row stays in cache.

    Without autograd only: that would keep every block's intermediate anyway.
    """
    size = max(smallest, _BLOCK_BYTES // (width * rows.element_size()))
    if rows.shape[0] <= size:
        return function(rows)
    out = None
    for start in range(0, rows.shape[0], size):
        block = function(rows[start : start + size])
        out = block.new_empty(rows.shape[0], *block.shape[1:]) if out is None else out
        out[start : start + size] = block
    return out  # type: ignore[return-value]  # there is at least one block


def feed_forward(
    rows: Tensor, up: Tensor, up_bias: Tensor | None, down: Tensor, down_bias: Tensor | None, activation: str
) -> Tensor:
    def whole(block: Tensor) -> Tensor:
        return linear(linear(block, up, up_bias, activation), down, down_bias)

    if rows.device.type != "cpu" or is_tracing() or needs_grad(rows, up, up_bias, down, down_bias):
        return whole(rows)
    return in_row_blocks(whole, rows, up.shape[0])


def convolution(
    rows: Tensor, weight: Tensor, bias: Tensor | None, stride: int, dilation: int, activation: str
) -> Tensor:
    if is_tracing():  # whether unfolding is a view depends on the length, and a trace is to hold for all of them
        out = _convolved(F.conv1d, rows.mT, weight.mT, bias, stride=stride, dilation=dilation)
        return ACTIVATIONS[activation](out.mT)
    if (rows.is_cuda or _trains_in_bfloat16(rows, weight, bias)) and weight.shape[-1] > 1:
        return ACTIVATIONS[activation](_channels_last_convolution(rows, weight, bias, stride, dilation))
    span = (weight.shape[-2] - 1) * dilation + 1
    unfolded = rows.unfold(-2, span, stride)[..., ::dilation].mT.flatten(-2)  # a view; undilated, so is its flattening
    if weight.dim() == 4:
        out = unfolded @ weight.flatten(2).mT
        return ACTIVATIONS[activation](out if bias is None else out + bias[:, None])
    return linear(unfolded, weight.flatten(1), bias, activation)


def _trains_in_bfloat16(x: Tensor, *others: Tensor | None) -> bool:
    """Whether autograd follows an operation in bfloat16: the gradient of unfolded rows takes long there."""
    return _computed_in(x) == torch.bfloat16 and needs_grad(x, *others)


def _computed_in(x: Tensor) -> torch.dtype:
    """The dtype of a product of what lies on a CPU; autocast leaves float64 alone."""
    casts = torch.is_autocast_enabled("cpu") and x.dtype != torch.float64
    return torch.get_autocast_dtype("cpu") if casts else x.dtype


def _convolved(
    convolution: Callable[..., Tensor], x: Tensor, weight: Tensor, bias: Tensor | None, **options: Any
) -> Tensor:
    """F.conv1d or F.conv2d of x, by filters (C_out, channels of a group, ...).

    Few channels in float32: in bfloat16 with AMX oneDNN 3.12 (torch 2.13) gives wrong numbers for an even number of 2
    to 14 channels, 64 values a filter or more, also in gradients.
    """
    dtype = _computed_in(x)
    if x.device.type != "cpu" or weight.shape[1] >= _FEW_CHANNELS or dtype not in (torch.bfloat16, torch.float16):
        return convolution(x, weight, bias, **options)
    with torch.autocast("cpu", enabled=False) if torch.is_autocast_enabled("cpu") else nullcontext():
        wide = (None if tensor is None else tensor.float() for tensor in (x, weight, bias))
        return convolution(*wide, **options).to(dtype)


def _channels_last_convolution(
    rows: Tensor, weight: Tensor, bias: Tensor | None, stride: int, dilation: int
) -> Tensor:
    """By cuDNN or oneDNN, whose channels-last layout of images one pixel high is that of rows: no unfolded copy."""
    images, filters = (x[:, None].permute(0, 3, 1, 2) for x in (rows.reshape(-1, *rows.shape[-2:]), weight))
    out = _convolved(F.conv2d, images, filters, bias, stride=(1, stride), dilation=(1, dilation)).permute(0, 2, 3, 1)
    return out.reshape(*rows.shape[:-2], *out.shape[2:])


def group_norm_filter(
    samples: Tensor,
    weight: Tensor,
    gamma: Tensor,
    beta: Tensor,
    eps: float,
    stride: int,
    counts: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    unfolded = samples[..., 0].double().unfold(-1, weight.shape[1], stride)
    count: Tensor | int = unfolded.shape[-2]
    mean = unfolded.mean(-2, keepdim=True)
    centred = unfolded - mean
    if counts is not None:
        count = counts[..., None, None]
        real = torch.arange(unfolded.shape[-2], device=unfolded.device)[:, None] < count
        mean = (unfolded * real).sum(-2, keepdim=True) / count
        centred = (unfolded - mean) * real
    covariance = centred.mT @ centred / count
    filters = weight[..., 0].double()
    gain = gamma.double() / (((filters @ covariance) * filters).sum(-1) + eps).sqrt()
    shift = beta.double() - gain * (mean @ filters.mT)[..., 0, :]
    return (filters * gain[..., None])[..., None].to(weight.dtype), shift.to(weight.dtype)


def grouped_convolution(
    rows: Tensor, sequences: Sequences, weight: Tensor, bias: Tensor, spectrum: Tensor | None
) -> Tensor:
    if spectrum is not None and rows.is_cuda:  # padding and all, in a handful of launches
        (grid,) = _spectral_convolution([sequences.unpack(rows).float()], weight.shape[2], spectrum)
        return sequences.pack((grid + bias.float()).to(rows.dtype))
    if spectrum is not None and sequences.spans is not None:
        clips = [rows[None, start : start + count].float() for start, count in sequences.spans]
        return torch.cat(_spectral_convolution(clips, weight.shape[2], spectrum), 1)[0].to(rows.dtype) + bias
    groups = weight.shape[0] // weight.shape[1]
    grid = sequences.unpack(rows).transpose(1, 2)
    out = _convolved(F.conv1d, grid, weight, bias, padding=weight.shape[2] // 2, groups=groups)
    return sequences.pack(out[..., : grid.shape[2]].transpose(1, 2))


def spectrum(weight: Tensor) -> Tensor:
    """The Fourier transform (F · G, C/G, C/G) of filters (C, C/G, K), for `grouped_convolution` to multiply with.

    In float32 whatever the dtype: it is quick there, and transforms in bfloat16 do not exist.
    """
    out, size, kernel = weight.shape
    transform = torch.fft.rfft(weight.float().flip(2), n=_transform_length(kernel))
    return transform.view(out // size, size, size, -1).permute(3, 0, 2, 1).reshape(-1, size, size)


def _transform_length(kernel: int) -> int:
    """The power of two that is at least twice the kernel: half of each block, or more, is new output."""
    return 2 << (kernel - 1).bit_length()


def _spectral_convolution(grids: list[Tensor], kernel: int, spectrum: Tensor) -> list[Tensor]:
    """Grouped convolution of grids (B, N, C), each of sizes of its own, by overlap-save.

    The start of each block wraps around; only the rest of it is kept.
    """
    length, left = _transform_length(kernel), kernel // 2
    step = length - kernel + 1
    blocks = []
    for grid in grids:
        right = -grid.shape[1] % step + kernel - 1 - left
        blocks.append(F.pad(grid, (0, 0, left, right)).unfold(1, length, step).flatten(0, 1).transpose(1, 2))
    numbers, size = [len(block) for block in blocks], spectrum.shape[-1]
    waves = torch.fft.rfft(torch.cat(blocks), dim=1).unflatten(2, (-1, size)).permute(1, 2, 0, 3)  # (F, G, ·, C/G)
    mixed = (waves.reshape(-1, sum(numbers), size) @ spectrum).view_as(waves).permute(2, 0, 1, 3).flatten(2)
    out = torch.fft.irfft(mixed, n=length, dim=1)[:, kernel - 1 :]  # (·, step, C)
    parts = zip(out.split(numbers), grids, strict=True)
    return [part.reshape(grid.shape[0], -1, grid.shape[2])[:, : grid.shape[1]] for part, grid in parts]


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x, weight.shape, weight, bias, eps)


def add_layer_norm(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x + residual, weight.shape, weight, bias, eps)


def residual_layer_norm(
    x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    total = x + residual
    return total, F.layer_norm(total, weight.shape, weight, bias, eps)


def embedding_layer_norm(
    ids: Tensor,
    positions: Tensor,
    types: Tensor | None,
    word: Tensor,
    position: Tensor,
    type_: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    padding_idx: int | None = None,
) -> Tensor:
    rows = embedding_sum(ids, positions, types, word, position, type_, padding_idx)
    return F.layer_norm(rows, weight.shape, weight, bias, eps)


def embedding_sum(
    ids: Tensor,
    positions: Tensor,
    types: Tensor | None,
    word: Tensor,
    position: Tensor,
    type_: Tensor | None,
    padding_idx: int | None = None,
) -> Tensor:
    rows = F.embedding(ids, word, padding_idx)
    if types is not None and type_ is not None:
        rows = rows + F.embedding(types, type_)
    return rows + F.embedding(positions, position)


def attention(q: Tensor, k: Tensor, v: Tensor, sequences: Sequences, bias: Tensor | None, dropout: float) -> Tensor:
    if sequences.spans is None or not sequences.ragged:
        return _batched_attention(q, k, v, sequences, bias, dropout)
    if q.device.type != "cpu":
        return _masked_attention(q, k, v, sequences, bias, dropout)
    pieces = []
    # Neighbours of one length are one call.
    for length, group in groupby(enumerate(sequences.spans), key=lambda item: item[1][1]):
        members = list(group)
        first, start = members[0][0], members[0][1][0]
        rows = slice(start, start + len(members) * length)
        query, key, value = (x[rows].unflatten(0, (-1, length)).transpose(1, 2) for x in (q, k, v))
        here = _bias_of(bias, slice(first, first + len(members)), length)
        out = _scaled_dot_product(query, key, value, here, dropout)
        pieces.append(out.transpose(1, 2).flatten(0, 1))
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def _scaled_dot_product(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """Attention (·, heads, N, D) by torch's kernels, none of which has dropout on a CPU.

    There torch makes the products of bfloat16 in float32; these draw the same weights, and take half the time.
    """
    if not dropout or mask is not None or q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
    weights = (q * q.shape[-1] ** -0.5 @ k.mT).softmax(-1)
    return F.dropout(weights, dropout) @ v


def _masked_attention(
    q: Tensor, k: Tensor, v: Tensor, sequences: Sequences, bias: Tensor | None, dropout: float
) -> Tensor:
    """`attention` of packed rows in one call, padded: what takes long elsewhere than on a CPU is to launch many."""
    longest, count, starts = sequences.longest, q.shape[0], sequences.starts.long()
    columns = torch.arange(longest, device=q.device)
    visible = (columns < sequences.lengths[:, None])[:, None, None]
    mask = visible if bias is None else bias[..., :longest, :longest].masked_fill(~visible, float("-inf"))
    cells = (starts[:, None] + columns).clamp(max=count - 1)
    query, key, value = (x[cells].transpose(1, 2) for x in (q, k, v))
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout).transpose(1, 2)
    first = torch.arange(len(starts), device=q.device) * longest - starts
    places = first.repeat_interleave(sequences.lengths, output_size=count) + torch.arange(count, device=q.device)
    return out.flatten(0, 1).index_select(0, places)


def _bias_of(bias: Tensor | None, which: slice, length: int) -> Tensor | None:
    if bias is None:
        return None
    return (bias if bias.dim() == 3 else bias[which])[..., :length, :length]


def _batched_attention(
    q: Tensor, k: Tensor, v: Tensor, sequences: Sequences, bias: Tensor | None, dropout: float
) -> Tensor:
    """`attention` where all cells of the batch are rows: one call, with a mask where there is padding."""
    mask = None if bias is None else bias[..., : sequences.shape[1], : sequences.shape[1]]
    if sequences.ragged:
        visible = _visible(sequences, q.device)
        mask = visible if mask is None else mask.masked_fill(~visible, float("-inf"))
    query, key, value = (x.view(*sequences.shape, *x.shape[1:]).transpose(1, 2) for x in (q, k, v))
    out = _scaled_dot_product(query, key, value, mask, dropout).transpose(1, 2)
    return (
        sequences.zero_padding(out).flatten(0, 1) if sequences.is_grid else sequences.zero_padding(out.flatten(0, 1))
    )


def _visible(sequences: Sequences, device: torch.device) -> Tensor:
    """Which cells a cell attends to, (B, 1, 1, N) or what a mask of the caller's says."""
    if sequences.visible is not None:
        return sequences.visible
    return (torch.arange(sequences.shape[1], device=device) < sequences.lengths[:, None])[:, None, None]


def attention_probabilities(q: Tensor, k: Tensor, sequences: Sequences, bias: Tensor | None) -> Tensor:
    query, key = (sequences.flat_to_grid(x).transpose(1, 2) for x in (q, k))
    scores = query @ key.transpose(2, 3) * q.shape[-1] ** -0.5
    if bias is not None:
        scores = scores + bias
    real = sequences.flat_to_grid(torch.ones_like(q[:, :1, :1])).transpose(1, 2)  # (B, 1, N, 1)
    visible = real.transpose(2, 3) != 0 if sequences.visible is None else sequences.visible
    weights = scores.masked_fill(~visible, float("-inf")).softmax(-1)
    return torch.where(real != 0, weights, 0)


def merge_layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return layer_norm(merge_patches(x), weight, bias, eps)


def merge_patches(x: Tensor) -> Tensor:
    if x.shape[1] % 2 or x.shape[2] % 2:
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
    batch, height, width, size = x.shape
    squares = x.view(batch, height // 2, 2, width // 2, 2, size).permute(0, 1, 3, 4, 2, 5)
    return squares.reshape(batch, height // 2, width // 2, 4 * size)


def window_attention(
    qkv: Tensor, bias_table: Tensor, window: int, shift: int, padding: Tensor | None, dropout: float
) -> Tensor:
    # Of a bias that learns, and with dropout, torch's attention is the same products; an export takes any batch.
    if dropout or is_exporting() or needs_grad(qkv, bias_table, padding):
        return window_attention_with_weights(qkv, bias_table, window, shift, padding, dropout)[0]
    qkv, shape = _filled(qkv, window, padding), qkv.shape  # 1. pad
    batch, height, width, _, heads, size = qkv.shape
    grid = batch, height // window, width // window
    order, back, counts = _cached(_window_order, qkv)(*grid, window, shift, qkv.device)
    # 2. cyclic shift, 3. window partition: one gather into windows, all of one kind side by side
    rows = qkv.view(-1, 3 * heads * size).index_select(0, order)
    bias, _ = _window_bias(bias_table, window, shift, *grid[1:])
    kinds = zip(rows.view(-1, window**2, 3, heads, size).split(counts), bias.split(1), strict=True)
    mixed = [_attend(windows, mask) for windows, mask in kinds if windows.shape[0]]  # 4. masked attention
    out = mixed[0] if len(mixed) == 1 else torch.cat(mixed)
    # 5. window merge, 6. reverse shift: one gather back; then the padding is cut off
    return out.index_select(0, back).view(batch, height, width, -1)[:, : shape[1], : shape[2]]


def _attend(windows: Tensor, bias: Tensor) -> Tensor:
    """Attention within windows (·, T, 3, heads, D), to whose scores a bias (1, heads, T, T) is added: (· T, C)."""
    q, k, v = windows.permute(2, 0, 3, 1, 4).unbind()
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    return out.transpose(1, 2).flatten(2).flatten(0, 1)


def _in_windows(batch: int, down: int, across: int, window: int, shift: int, device: torch.device) -> Tensor:
    """Which position of the filled map each token of each window is, (B, down, across, T).

    The token at (y, x) of the window at (i, j) is ((i · window + y + shift) mod H, (j · window + x + shift) mod W).
    """
    places = torch.arange(batch * down * across * window**2, device=device)
    places = places.view(batch, down * window, across * window)
    if shift:
        places = places.roll((-shift, -shift), (1, 2))
    return places.unflatten(2, (across, window)).unflatten(1, (down, window)).transpose(2, 3).flatten(3)


@lru_cache(maxsize=64)
def _window_order(
    batch: int, down: int, across: int, window: int, shift: int, device: torch.device
) -> tuple[Tensor, Tensor, list[int]]:
    """Which position of the filled map each row of the windows is, which row each position; windows of each kind.

    The kinds are those of `_window_bias`, one after the other.
    """
    windows = _in_windows(batch, down, across, window, shift, device)
    if shift:
        inside, edge = slice(0, -1), slice(-1, None)
        kinds = [windows[:, row, column].flatten(0, 2) for row in (inside, edge) for column in (inside, edge)]
    else:
        kinds = [windows.flatten(0, 2)]
    order = torch.cat(kinds).flatten()
    places = torch.arange(order.numel(), device=device)
    return order, torch.empty_like(order).scatter_(0, order, places), [kind.shape[0] for kind in kinds]


def _filled(qkv: Tensor, window: int, padding: Tensor | None) -> Tensor:
    """The map, filled at the bottom and right to whole windows."""
    batch, height, width = qkv.shape[:3]
    down, across = -(-height // window), -(-width // window)
    if (height, width) == (down * window, across * window):
        return qkv
    fill = torch.zeros_like(qkv[0, 0, 0]) if padding is None else padding
    filled = fill.expand(batch, down * window, across * window, *fill.shape).clone()
    filled[:, :height, :width] = qkv
    return filled


def window_attention_with_weights(
    qkv: Tensor, bias_table: Tensor, window: int, shift: int, padding: Tensor | None, dropout: float
) -> tuple[Tensor, Tensor]:
    rows, order = _window_rows(qkv, window, shift, padding)
    bias, kinds = _window_bias(bias_table, window, shift, *order.shape[2:4])
    weights, v = _window_weights(rows, order, bias if kinds is None else bias[kinds])
    dropped = F.dropout(weights, dropout).flatten(0, 2)
    mixed = dropped.view_as(weights) @ v
    return _as_map(mixed, window, shift, qkv.shape), dropped


def _as_map(windows: Tensor, window: int, shift: int, shape: torch.Size) -> Tensor:
    """What windows (B, down, across, heads, T, D) hold, as a map (B, H, W, heads · D) without its filling."""
    back = _map_order(windows.shape[:4], window, shift, windows.device)[:, : shape[1], : shape[2]]
    return windows.flatten(0, 4).index_select(0, back.flatten()).view(*back.shape[:3], -1)


def _window_rows(qkv: Tensor, window: int, shift: int, padding: Tensor | None) -> tuple[Tensor, Tensor]:
    """The rows (·, D) of the filled map, and which of them each window has: (3, B, down, across, heads, T).

    The cut and the roll are the indices' affair: the data moves once, into the order that the products read.
    """
    qkv = _filled(qkv, window, padding)
    batch, height, width, _, heads, _ = qkv.shape
    places = _in_windows(batch, height // window, width // window, window, shift, qkv.device)
    parts = torch.arange(3 * heads, device=qkv.device).view(3, 1, 1, 1, heads, 1)
    return qkv.flatten(0, 4), places[:, :, :, None] * (3 * heads) + parts


def _map_order(shape: torch.Size, window: int, shift: int, device: torch.device) -> Tensor:
    """Which of the windows' rows (B, down, across, heads, T) each position of the filled map has: (B, H, W, heads)."""
    rows = torch.arange(math.prod(shape) * window**2, device=device).view(*shape, window, window)
    places = rows.permute(0, 1, 4, 2, 5, 3).flatten(3, 4).flatten(1, 2)
    return places.roll((shift, shift), (1, 2)) if shift else places


def _window_weights(rows: Tensor, order: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """The weights (B, down, across, heads, T, T) of the values, and these (B, down, across, heads, T, D)."""
    q, k, v = rows.index_select(0, order.flatten()).view(*order.shape, -1).unbind(0)
    # In place: these maps leave the cache, and each copy of them is a pass through memory.
    scores = (q @ k.transpose(4, 5)).mul_(q.shape[-1] ** -0.5).add_(bias)
    return scores.softmax(-1), v


def _window_bias(table: Tensor, window: int, shift: int, down: int, across: int) -> tuple[Tensor, Tensor | None]:
    """What is added to the scores in each kind of window, (kinds, heads, T, T), and the kind of each (down, across).

    A map that is not shifted has one kind; else they are inside, in the last column, in the last row, and in both.
    """
    pairs, penalty = _cached(_window_pairs, table)(window, shift, table.device)
    bias = table.t().index_select(1, pairs).view(1, -1, window**2, window**2)
    if not shift:
        return bias, None
    last_row, last_column = (torch.arange(count, device=table.device) == count - 1 for count in (down, across))
    return bias + penalty.to(bias.dtype), 2 * last_row[:, None] + last_column


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # what is kept may be trained with later
def _window_pairs(window: int, shift: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Which row of the bias table each pair of a window's tokens has, (T · T,), and the penalty of each, (4, 1, T, T).

    Regions that the roll brought together from opposite edges of the map see little of each other. The four are a
    window within the map, in its last column, in its last row, and in both.
    """
    place = torch.arange(window, device=device)
    way = place[:, None] - place + window - 1
    pairs = way[:, None, :, None] * (2 * window - 1) + way[None, :, None, :]
    wrapped = place >= window - shift
    rows, columns = wrapped.repeat_interleave(window), wrapped.repeat(window)
    rows, columns = rows[:, None] ^ rows, columns[:, None] ^ columns  # not !=, which torch.compile refuses for bools
    apart = torch.stack([torch.zeros_like(rows), columns, rows, rows | columns])[:, None]
    return pairs.flatten(), REGION_PENALTY * apart


def _cached(function: Callable[..., X], like: Tensor) -> Callable[..., X]:
    """A cached function; what it caches where results belong to a trace, or to another kind of tensor."""
    return function if type(like) in ORDINARY and not is_tracing() else function.__wrapped__  # type: ignore[attr-defined]
