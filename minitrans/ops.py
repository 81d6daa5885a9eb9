"""What each operation means, its checks, and which engine (backend) runs it.

Two engines: `plain` (torch, everywhere) and `triton` (the kernels of `minitrans.kernels`, on a GPU). With "auto", an
operation takes the kernel where the kernel's own `why_not` has no objection, and says once why it did not. A forced
engine that cannot run raises RuntimeError with that reason. An error inside a kernel is never caught.

Who chooses: `model.engine`, unless it is "auto", wins over an enclosing `with minitrans.engine(...)`, which wins over
the environment variable MINITRANS_ENGINE; without any of them it is "auto". `attn_implementation=` of
`from_pretrained` only sets `model.engine`, by the names of transformers: "eager" is "plain" (for norms and GELU too),
"sdpa" is "auto", "flash_attention_2" is "triton".
"""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from types import ModuleType
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from minitrans import cpu, plain
from minitrans.plain import ACTIVATIONS as ACTIVATIONS
from minitrans.sequences import Sequences, is_exporting, is_tracing
from minitrans.utils.logging import warn_once

X = TypeVar("X")

ENGINES = ("auto", "plain", "triton")
_DROPOUT = "it drops no weights, and dropout is asked for"
_GRID = "a hook or a mask of more dimensions keeps the batch padded"


class _Chosen(threading.local):  # not a ContextVar: torch.compile cannot read one
    def __init__(self) -> None:  # once a thread; a class attribute would fail torch.compile's guards
        self.name: str | None = None


_chosen = _Chosen()


@contextmanager
def engine(name: str) -> Iterator[None]:
    """Run the operations inside the block on one engine: "plain", "triton", or "auto" for the automatic choice.

    >>> import torch
    >>> from minitrans import BertModel, engine
    >>> model = BertModel.from_pretrained("google-bert/bert-base-uncased")
    >>> with engine("plain"):
    ...     model(torch.tensor([[101, 3793, 102]])).pooler_output.shape
    torch.Size([1, 768])
    """
    outer, _chosen.name = _chosen.name, _known(name, "engine")
    try:
        yield
    finally:
        _chosen.name = outer


def engine_of(model: Any) -> AbstractContextManager[None]:
    """`engine(model.engine)`; where that is "auto", the one that is chosen already."""
    return nullcontext() if model.engine == "auto" else engine(model.engine)


def on_this_engine(function: Callable[..., X]) -> Callable[..., X]:
    """`function` on the engine that is chosen now, whoever calls it and when: a backward pass that recomputes does."""
    chosen = _chosen.name

    def run(*arguments: object) -> X:
        outer, _chosen.name = _chosen.name, chosen
        try:
            return function(*arguments)
        finally:
            _chosen.name = outer

    return run


def chosen_engine() -> str:
    """The engine that is chosen for this thread, or else by the environment; "auto" where none is."""
    return _chosen.name or _known(os.environ.get("MINITRANS_ENGINE", "auto"), "MINITRANS_ENGINE")


def _known(name: str, source: str) -> str:
    if name not in ENGINES:
        raise ValueError(f"{source} is {name!r}; it must be one of {', '.join(ENGINES)}.")
    return name


def _kernel(
    name: str, x: Tensor, *arguments: object, objection: str | None = None, **options: object
) -> ModuleType | None:
    """The kernel module that runs an operation on these arguments, None for `plain`.

    `objection` is a reason against the kernel that its own `why_not` cannot see.
    """
    wanted = chosen_engine()
    if wanted == "plain" or (wanted == "auto" and (x.device.type == "cpu" or is_exporting())):
        return None
    module, reason = _import(name)
    if module is not None:
        reason = objection or _not_eager(x) or module.why_not(x, *arguments, **options)
        if reason is None:
            return module
    if wanted == "triton":
        raise RuntimeError(f"The triton engine was asked for, but {name} cannot run: {reason}")
    warn_once(f"{name} runs in plain torch: {reason}")
    return None


def _not_eager(x: Tensor) -> str | None:
    """The reason against a launch on this tensor from outside a compiler; None where there is memory to launch on."""
    if torch.compiler.is_compiling():
        return None
    if torch._C._are_functorch_transforms_active():
        return "torch.func transforms it, and a kernel has no rule for that"
    return None if type(x) in plain.ORDINARY else f"a {type(x).__name__} is not memory that a kernel can read"


@cache
def _import(name: str) -> tuple[ModuleType | None, str | None]:
    try:
        return importlib.import_module(f"minitrans.kernels.{name}"), None
    except ImportError as error:
        return None, f'triton cannot be imported ({error}); pip install "minitrans[triton]"'


def check_ids(ids: Tensor, size: int, name: str, table: str) -> None:
    """Raise ValueError where an index on the CPU lies outside a table of `size` rows (a GPU checks by itself)."""
    if is_tracing() or ids.device.type != "cpu" or ids.numel() == 0:
        return
    low, high = map(int, ids.aminmax())
    if low < 0 or high >= size:
        raise ValueError(
            f"{name} holds {low if low < 0 else high}, outside the {table} of {size} rows (0 to {size - 1})."
        )


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x Wᵀ + b: x (..., C_in), weight (C_out, C_in), bias (C_out,) -> (..., C_out)."""
    return plain.linear(x, weight, bias)


def prepacked(weight: Tensor) -> Tensor:
    """A copy of a weight (C_out, C_in) for `linear` and `feed_forward`, in the order in which this CPU reads it.

    Without it, every call of oneDNN brings the weight into that order first, which matters where the rows are few; a
    CPU on which F.linear is faster keeps the weight's own order. For float32 and bfloat16 on a CPU whose oneDNN
    computes in them; raises ValueError otherwise.
    """
    if type(weight) not in plain.ORDINARY:
        raise ValueError(f"A weight is a {type(weight).__name__}; what is quantised cannot be prepacked as well.")
    if weight.device.type != "cpu" or not cpu.packs(weight.dtype):
        dtype = str(weight.dtype).removeprefix("torch.")
        able = " and ".join(name for name in ("float32", "bfloat16") if cpu.packs(getattr(torch, name)))
        raise ValueError(
            f"Weights are prepacked on a CPU in what its oneDNN has, here {able or 'nothing'}; these are {dtype} on "
            f"{str(weight.device)!r}: choose another dtype or device."
        )
    gains = cpu.gains_packed(weight.dtype, weight.shape[1])
    return cpu.packed(weight) if gains else weight.detach().clone()


def feed_forward(
    rows: Tensor, up: Tensor, up_bias: Tensor | None, down: Tensor, down_bias: Tensor | None, activation: str
) -> Tensor:
    """activation(x W₁ᵀ + b₁) W₂ᵀ + b₂: rows (T, C), up (F, C), down (C, F) -> (T, C).

    `activation` is a key of ACTIVATIONS ("gelu" is the exact one, Hendrycks & Gimpel 2016). "Attention is all you
    need" (Vaswani et al. 2017), section 3.3.
    """
    objection = None if activation == "gelu" and up_bias is not None else "it computes gelu(x + bias) only"
    kernel = _kernel("bias_gelu", rows, up_bias, objection=objection)
    if kernel is not None:
        return F.linear(kernel.bias_gelu(F.linear(rows, up), up_bias), down, down_bias)
    return plain.feed_forward(rows, up, up_bias, down, down_bias, activation)


def in_row_blocks(function: Callable[[Tensor], Tensor], rows: Tensor, width: int) -> Tensor:
    """`function(rows)` of rows (T, ...) that `function` treats one by one, `width` values a row in between.

    On a CPU without autograd it runs block after block of one row or more, so that what lies between stays in cache
    and the peak of memory is one block's.
    """
    if rows.device.type != "cpu" or torch.is_grad_enabled() or is_tracing():
        return function(rows)
    return plain.in_row_blocks(function, rows, width, smallest=1)


def convolution(
    rows: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    stride: int = 1,
    dilation: int = 1,
    activation: str = "linear",
) -> Tensor:
    """activation(b + Σₖ W[:, k] x[t · stride + k · dilation]) within each sequence, channels last, without padding.

    rows (..., N, C_in), weight (C_out, kernel, C_in), bias (C_out,) -> (..., ⌊(N − (kernel − 1) · dilation − 1) /
    stride⌋ + 1, C_out). Each of B sequences, rows (B, N, C_in), may have a weight (B, C_out, kernel, C_in) and a bias
    (B, C_out) of its own. The unfolded rows are a view, so that this is one matrix product. `activation` is a key
    of ACTIVATIONS.
    """
    size, channels = weight.shape[-2:]
    span = (size - 1) * dilation + 1
    if rows.dim() < 2 or rows.shape[-1] != channels or rows.shape[-2] < span:
        raise ValueError(f"convolution takes at least {span} rows of {channels}, not {tuple(rows.shape)}.")
    arguments = (rows, weight, bias, stride, dilation, activation)
    kernel = _kernel("convolution", *arguments) if channels == 1 else None  # of more channels it is a product
    return (kernel or plain).convolution(*arguments)


def group_norm_filter(
    samples: Tensor, weight: Tensor, gamma: Tensor, beta: Tensor, eps: float, stride: int, counts: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The weight and bias of the `convolution` that gives a convolution of samples (..., n, 1) normalised over time.

    Each channel is a group of its own (Wu & He 2018): γ (y − mean) / √(variance + eps) + β with y = w · x. A linear
    filter's mean is w · m and its variance wᵀ Σ w, with m and Σ the mean and the covariance of the unfolded x: the
    convolution need not be computed to know them. They are taken in float64 from centred ones. A bias of the
    convolution would drop out. weight is (C, kernel, 1), γ and β are (C,), the results (..., C, kernel, 1) and (...,
    C). `counts` (...,) says how many rows of each sequence's convolution count; the others are of its padding.
    """
    return plain.group_norm_filter(samples, weight, gamma, beta, eps, stride, counts)


def grouped_convolution(
    rows: Tensor, sequences: Sequences, weight: Tensor, bias: Tensor, spectrum: Tensor | None = None
) -> Tensor:
    """b + Σₖ W[:, :, k] x[t + k − ⌊K/2⌋] within each sequence, which zeros surround: rows (T, C) -> (T, C).

    weight is (C, C/G, K): G groups of channels, each mixed among themselves. With `spectrum`, which is
    `ops.spectrum(weight)`, it is computed in float32 by Fourier transforms: a tenth of the time for K = 128.
    """
    return plain.grouped_convolution(rows, sequences, weight, bias, spectrum)


def spectrum(weight: Tensor) -> Tensor | None:
    """What `grouped_convolution` computes faster with, on a CPU up to float32, and on a GPU; None elsewhere."""
    if weight.device.type not in ("cpu", "cuda") or weight.dtype.itemsize > 4 or is_tracing():
        return None
    return plain.spectrum(weight)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """(x − mean) / √(variance + eps) · weight + bias over the last dimension (Ba et al. 2016)."""
    kernel = _kernel("layer_norm", x, weight, bias, eps)
    return (kernel or plain).layer_norm(x, weight, bias, eps)


def add_layer_norm(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """`layer_norm(x + residual)`: both (T, C) -> (T, C)."""
    kernel = _kernel("layer_norm", x, residual, weight, bias, eps)
    return (kernel or plain).add_layer_norm(x, residual, weight, bias, eps)


def residual_layer_norm(
    x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """x + residual, and `layer_norm` of it: both (..., C) -> both (..., C)."""
    kernel = _kernel("layer_norm", x, residual, weight, bias, eps)
    return (kernel or plain).residual_layer_norm(x, residual, weight, bias, eps)


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
    """`layer_norm(word[ids] + type_[types] + position[positions])`: indices (T,), tables (·, C) -> (T, C).

    The gradient does not reach row `padding_idx` of the word table.
    """
    tables = (ids, positions, types, word, position, type_, weight, bias, eps)
    kernel = _kernel("embedding_layer_norm", *tables, objection=_GRID if ids.dim() > 1 else None)
    if kernel is not None:
        return kernel.embedding_layer_norm(*tables, padding_idx)
    return plain.embedding_layer_norm(*tables, padding_idx)


def embedding_sum(
    ids: Tensor,
    positions: Tensor,
    types: Tensor | None,
    word: Tensor,
    position: Tensor,
    type_: Tensor | None,
    padding_idx: int | None = None,
) -> Tensor:
    """`word[ids] + type_[types] + position[positions]`, as `embedding_layer_norm` before its norm."""
    return plain.embedding_sum(ids, positions, types, word, position, type_, padding_idx)


def attention(
    q: Tensor, k: Tensor, v: Tensor, sequences: Sequences, *, bias: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """softmax(q kᵀ / √D + bias) v within each sequence (Vaswani et al. 2017, equation 1).

    q, k, v are rows (T, H, D) of any row stride, of one floating dtype and device; bias is (H, N, N) or (B, H, N, N)
    with N ≥ the longest sequence; dropout is the probability of dropping a weight, in training. Returns (T, H, D).
    """
    if not (q.shape == k.shape == v.shape and q.dim() == 3 and q.dtype == k.dtype == v.dtype):
        raise ValueError(
            f"attention takes q, k, v of one shape (T, H, D) and dtype, not {tuple(q.shape)} {q.dtype}, "
            f"{tuple(k.shape)} {k.dtype}, {tuple(v.shape)} {v.dtype}."
        )
    rows = (q, k, v, sequences.starts, sequences.lengths, sequences.longest)
    objection = _GRID if sequences.is_grid else None
    kernel = _kernel("attention", *rows, bias=bias, dropout=dropout, objection=objection)
    if kernel is not None:
        return kernel.attention(*rows, width=sequences.width, bias=bias, dropout=dropout)
    return plain.attention(q, k, v, sequences, bias, dropout)


def attention_probabilities(q: Tensor, k: Tensor, sequences: Sequences, *, bias: Tensor | None = None) -> Tensor:
    """The weights (B, H, N, N) that `attention` gives to the values, zeros where there was padding."""
    return plain.attention_probabilities(q, k, sequences, bias)


def merge_layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Each square of 2 × 2 positions as one vector, normalised: (B, H, W, C) -> (B, ⌈H/2⌉, ⌈W/2⌉, 4C).

    The square's positions follow column by column; an odd edge is filled with zeros. weight and bias are (4C,).
    Swin's patch merging (Liu et al. 2021, section 3.1) before its linear map.
    """
    kernel = _kernel("merge_layer_norm", x, weight, bias, eps)
    return (kernel or plain).merge_layer_norm(x, weight, bias, eps)


def merge_patches(x: Tensor) -> Tensor:
    """Each square of 2 × 2 positions as one vector, as `merge_layer_norm` before its norm."""
    return plain.merge_patches(x)


def window_attention(
    qkv: Tensor, bias_table: Tensor, window: int, shift: int, padding: Tensor | None, *, dropout: float = 0.0
) -> Tensor:
    """Attention within the windows of a map: qkv (B, H, W, 3, heads, D) -> (B, H, W, heads · D).

    The map is filled with `padding` (3, heads, D; None for zeros) at the bottom and right to whole windows of
    `window` × `window` positions, rolled up and left by `shift`, cut into windows, and back. In each window
    softmax(q kᵀ / √D + bias − 100 · [from opposite edges]) v, the bias from `bias_table` ((2·window − 1)², heads) by
    relative position; padding is attended to. `dropout` drops weights, in training. Swin (Liu et al. 2021), section
    3.2. Raises ValueError for shapes that do not fit.
    """
    _check_windows(qkv, bias_table, window, shift, padding)
    objection = _DROPOUT if dropout else None
    kernel = _kernel("window_attention", qkv, bias_table, window, shift, padding, objection=objection)
    if kernel is not None:
        return kernel.window_attention(qkv, bias_table, window, shift, padding)
    return plain.window_attention(qkv, bias_table, window, shift, padding, dropout)


def window_attention_with_weights(
    qkv: Tensor, bias_table: Tensor, window: int, shift: int, padding: Tensor | None, *, dropout: float = 0.0
) -> tuple[Tensor, Tensor]:
    """`window_attention`, and its weights (B · windows, heads, window², window²), windows of the rolled map by rows.

    The result is made of the weights that are returned, so that gradients reach them.
    """
    _check_windows(qkv, bias_table, window, shift, padding)
    return plain.window_attention_with_weights(qkv, bias_table, window, shift, padding, dropout)


def _check_windows(qkv: Tensor, bias_table: Tensor, window: int, shift: int, padding: Tensor | None) -> None:
    if qkv.dim() != 6 or qkv.shape[3] != 3 or qkv.numel() == 0:
        raise ValueError(f"window_attention takes qkv (B, H, W, 3, heads, D), not {tuple(qkv.shape)}.")
    if not 0 <= shift < window:
        raise ValueError(f"window_attention cannot shift windows of {window} by {shift}; 0 to {window - 1} it can.")
    heads, size = qkv.shape[4:]
    if tuple(bias_table.shape) != ((2 * window - 1) ** 2, heads):
        raise ValueError(
            f"window_attention takes a bias_table {((2 * window - 1) ** 2, heads)} for {heads} heads in windows of "
            f"{window}, not {tuple(bias_table.shape)}."
        )
    if padding is not None and tuple(padding.shape) != (3, heads, size):
        raise ValueError(f"window_attention takes padding {(3, heads, size)}, not {tuple(padding.shape)}.")
