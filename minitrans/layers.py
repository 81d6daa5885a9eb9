"""Modules that several models share; each hands its parameters to one operation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any
from weakref import WeakValueDictionary

import torch
import torch.nn.functional as F
import torch.nn.modules.module as torch_modules
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.hooks import RemovableHandle

from minitrans import ops
from minitrans.activations import Activation
from minitrans.config import PreTrainedConfig
from minitrans.names import Module
from minitrans.outputs import States
from minitrans.sequences import Sequences, is_tracing


class Linear(nn.Linear):
    """`ops.linear` with the parameters of torch's module."""

    def reset_parameters(self) -> None:
        """Nothing: `PreTrainedModel.post_init` gives every tensor its start."""

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
        """Nothing: `PreTrainedModel.post_init` gives every tensor its start."""


class LayerNorm(nn.LayerNorm):
    """`ops.layer_norm` with the parameters of torch's module."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        return ops.layer_norm(x, self.weight, self.bias, self.eps)


def add_norm(norm: nn.Module, x: Tensor, residual: Tensor) -> Tensor:
    """`norm(x + residual)`, both (..., C): one operation where `norm` is only its weights."""
    if is_plain(norm, LayerNorm):
        return ops.add_layer_norm(x, residual, norm.weight, norm.bias, norm.eps)  # type: ignore[arg-type]
    return norm(x + residual)


def residual_norm(norm: nn.Module, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
    """x + residual, and `norm` of it, both (..., C): one operation where `norm` is only its weights."""
    if is_plain(norm, LayerNorm):
        return ops.residual_layer_norm(x, residual, norm.weight, norm.bias, norm.eps)  # type: ignore[arg-type]
    total = x + residual
    return total, norm(total)


def is_plain(module: nn.Module, *kinds: type[nn.Module]) -> bool:
    """Whether a fused operation may read a module's weights in place of calling it.

    Not if it is of another class than `kinds`, as an adapter or a quantised layer is, nor where somebody has a hook or
    has put a `forward` of their own on it: they count only when the module itself is called.
    """
    return type(module) in kinds and not hooked(module)


def hooked(module: nn.Module) -> bool:
    """Whether something more is to happen when this very module is called."""
    state = module.__dict__  # written out, as it is asked dozens of times a forward pass
    return bool(
        state["_forward_hooks"]
        or state["_forward_pre_hooks"]
        or state["_backward_hooks"]
        or state["_backward_pre_hooks"]
        or "forward" in state
        or torch_modules._has_any_global_hook()
    )


def has_hooks(model: nn.Module) -> bool:
    """Whether a module inside a model has a hook.

    There are hundreds of modules: a no holds until somebody registers another hook, which torch counts.
    """
    count = RemovableHandle.next_id
    if model.__dict__.get("_without_hooks") == count and not torch_modules._has_any_global_hook():
        return False
    stack = [model]
    while stack:
        module = stack.pop()
        if hooked(module) and module is not model:
            return True
        stack.extend(child for child in module._modules.values() if child is not None)
    model.__dict__["_without_hooks"] = count
    return False


def lookup(module: nn.Module, ids: Tensor) -> tuple[Tensor, Tensor, int | None]:
    """A table of vectors, the indices to look up in it, and its row without gradient, for indices of any shape.

    The module's weight and the ids; a module that must be called (adapter, hook) is called, and its output serves as
    the table.
    """
    if is_plain(module, nn.Embedding, Embedding):
        return module.weight, ids, module.padding_idx  # type: ignore[return-value]
    found = module(ids)
    return found.flatten(0, -2), torch.arange(ids.numel(), device=ids.device).view(ids.shape), None


def embed(
    norm: nn.Module,
    words: Tensor,
    positions: Tensor,
    types: Tensor | None,
    word: Tensor,
    position: Tensor,
    token_type: Tensor | None,
    padding: int | None,
) -> Tensor:
    """`ops.embedding_layer_norm` with the parameters of `norm`, which is called where that says more."""
    tables = words, positions, types, word, position, token_type
    if is_plain(norm, LayerNorm):
        return ops.embedding_layer_norm(*tables, norm.weight, norm.bias, norm.eps, padding)  # type: ignore[arg-type]
    return norm(ops.embedding_sum(*tables, padding))


class Intermediates:
    """Hidden states and attentions of the layers, kept where the configuration or the caller asks for them."""

    def __init__(
        self, config: PreTrainedConfig, output_attentions: bool | None, output_hidden_states: bool | None
    ) -> None:
        states = config.output_hidden_states if output_hidden_states is None else output_hidden_states
        weights = config.output_attentions if output_attentions is None else output_attentions
        self.states: list[Tensor] | None = [] if states else None
        self.weights: list[Tensor] | None = [] if weights else None

    def keep(self, rows: Tensor, sequences: Sequences) -> Tensor:
        """Keep rows (T, C) as (B, N, C), and give the rows of these: what is returned lies on the way to the loss."""
        if self.states is None:
            return rows
        grid = sequences.unpack(rows)
        self.states.append(grid)
        return sequences.pack(grid)

    def leave(self, rows: Tensor, sequences: Sequences) -> tuple[Tensor, Tensor | None]:
        """The last rows, and as (B, N, C) where gradients may be asked of those; None where nobody needs them yet."""
        if is_tracing() or not torch.is_grad_enabled():
            return rows, None
        grid = sequences.unpack(rows)
        return sequences.pack(grid), grid

    def attend(self, q: Tensor, k: Tensor, v: Tensor, sequences: Sequences, dropout: float) -> Tensor:
        """`ops.attention`, by its weights (B, H, N, N) where these are to be kept."""
        if self.weights is None:
            return ops.attention(q, k, v, sequences, dropout=dropout)
        weights = F.dropout(ops.attention_probabilities(q, k, sequences), dropout)
        self.weights.append(weights)
        mixed = weights @ sequences.flat_to_grid(v).transpose(1, 2)
        return sequences.grid_to_flat(mixed.transpose(1, 2))

    @property
    def hidden_states(self) -> States:
        """One (B, N, C) for the input of each layer and one for the last output; None where not asked for."""
        return None if self.states is None else tuple(self.states)

    @property
    def attentions(self) -> States:
        """One (B, H, N, N) a layer; None where not asked for."""
        return None if self.weights is None else tuple(self.weights)


class QueryKeyValue(Module):
    """Linear maps of the same rows to queries, keys and values.

    Their weights lie one after the other in memory, so that without autograd one product reads them as one matrix.
    Whatever moves one of them away, or is to happen when one is called, only costs the fusion. `order` is that of the
    published model's parameters, which is the order of an optimiser's state.
    """

    parts = ("query", "key", "value")

    def __init__(self, size: int, bias: bool = True, order: Sequence[str] = parts) -> None:
        super().__init__()
        for name in order:
            self.add_module(name, Linear(size, size, bias=bias))
        self._joined: tuple[Tensor, Tensor | None] | None = None
        self._places: list[tuple] | None = None  # of the weights and biases in memory when they were joined
        self.prepacked: tuple[Tensor, Tensor | None] | None = None  # see `minitrans.frozen`
        self.join()

    def layers(self) -> list[nn.Module]:
        """The maps to queries, keys and values."""
        return [self._modules[name] for name in self.parts]  # type: ignore[misc]

    def join(self) -> None:
        """Let the weights, and the biases, lie one after the other in memory.

        Each keeps a storage of its own, since programs that save tensors leave out all but one that share a storage.
        """
        self._joined = None
        tensors = {name: [layer._parameters.get(name) for layer in self.layers()] for name in ("weight", "bias")}
        biases = tensors["bias"]
        if not all(is_plain(layer, Linear) for layer in self.layers()) or not _joinable(tensors["weight"]):
            return
        if any(bias is not None for bias in biases) and not _joinable(biases):
            return
        weight = _in_a_row(tensors["weight"])  # type: ignore[arg-type]
        self._joined = weight, None if biases[0] is None else _in_a_row(biases)  # type: ignore[arg-type]
        self._places = self._addresses()

    def _addresses(self) -> list[tuple] | None:
        """Where the weights and biases lie; None where a layer does more than its weights say."""
        places = []
        for name in self.parts:
            layer = self._modules[name]
            if not is_plain(layer, Linear):  # type: ignore[arg-type]
                return None
            weight, bias = layer._parameters["weight"], layer._parameters["bias"]  # type: ignore[union-attr]
            assert weight is not None  # a linear layer has one
            places.append((weight.data_ptr(), 0 if bias is None else bias.data_ptr(), weight.dtype))
        return places

    def joined(self) -> tuple[Tensor, Tensor | None] | None:
        """The weights (3C, C) and biases (3C,) as one matrix each, None where they do not lie so any more."""
        return None if self._joined is None or self._addresses() != self._places else self._joined

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(..., C) -> queries, keys and values, (..., C) each."""
        matrix = self.as_one(x)
        return ops.linear(x, *matrix).chunk(3, -1) if matrix else tuple(layer(x) for layer in self.layers())

    def as_one(self, x: Tensor) -> tuple[Tensor, Tensor | None] | None:
        """The weights and biases to multiply x by in one product, None where each map is called by itself."""
        if self.prepacked is not None:
            return self.prepacked
        apart = is_tracing() or (torch.is_grad_enabled() and self._is_trained(x))
        return None if apart else self.joined()

    def _is_trained(self, x: Tensor) -> bool:
        tensors = [tensor for layer in self.layers() for tensor in layer._parameters.values() if tensor is not None]
        return x.requires_grad or any(tensor.requires_grad for tensor in tensors)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> QueryKeyValue:
        super()._apply(fn, recurse)
        self.join()
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_joined": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.join()  # torch copies each parameter by itself


def _joinable(tensors: Sequence[Tensor | None]) -> bool:
    """Whether tensors can be moved to lie one after the other: alike, in memory, and in nobody else's."""
    kinds = {(type(x), x.dtype, x.device, x.shape) for x in tensors if x is not None}
    first = tensors[0]
    if first is None or any(x is None for x in tensors) or len(kinds) > 1 or type(first) is not nn.Parameter:
        return False
    shared = first.device.type == "cpu" and any(x.is_shared() for x in tensors)  # type: ignore[union-attr]
    return first.device.type in ("cpu", "cuda") and not shared


# The tensors that others are parts of, by their addresses: copies of a model may share its parameters.
_wholes: WeakValueDictionary[int, Tensor] = WeakValueDictionary()


def _in_a_row(tensors: Sequence[Tensor]) -> Tensor:
    """One tensor of what these hold, whose parts along dimension 0 they are, or are from now on."""
    first, count = tensors[0], len(tensors)
    whole = _wholes.get(first.data_ptr())
    fits = whole is not None and (whole.dtype, whole.numel()) == (first.dtype, count * first.numel())
    if whole is not None and fits and [x.data_ptr() for x in tensors] == [x.data_ptr() for x in whole.chunk(count)]:
        return whole
    whole = torch.cat([tensor.detach() for tensor in tensors])
    for tensor, part in zip(tensors, whole.chunk(count), strict=True):
        tensor.data = torch.from_dlpack(part)  # the same memory, under a storage of its own
    _wholes[whole.data_ptr()] = whole
    return whole


def check_heads(hidden_size: int, num_heads: int) -> None:
    """Raise ValueError where the channels are not divided by the heads."""
    if hidden_size % num_heads:
        raise ValueError(f"The hidden size {hidden_size} is not a multiple of the {num_heads} attention heads.")


def attend(
    qkv: Sequence[Tensor], num_heads: int, sequences: Sequences, intermediates: Intermediates, dropout: float
) -> Tensor:
    """Queries, keys and values of rows, (T, C) each, or of a grid, (B, N, C), -> what they attend to, so shaped."""
    shape = qkv[0].shape
    q, k, v = (x.view(-1, num_heads, shape[-1] // num_heads) for x in qkv)
    return intermediates.attend(q, k, v, sequences, dropout).reshape(shape)


class SelfAttention(Module):
    """Multi-head self-attention within each sequence, query, key and value from one matrix product."""

    def __init__(
        self, hidden_size: int, num_heads: int, dropout: float, order: Sequence[str] = QueryKeyValue.parts
    ) -> None:
        super().__init__()
        check_heads(hidden_size, num_heads)
        self.num_heads = num_heads
        self.qkv = QueryKeyValue(hidden_size, order=order)
        self.out = Linear(hidden_size, hidden_size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, rows: Tensor, sequences: Sequences, intermediates: Intermediates) -> Tensor:
        """Rows (T, C) -> (T, C)."""
        dropout = self.dropout.p if self.training else 0.0
        return self.out(attend(self.qkv(rows), self.num_heads, sequences, intermediates, dropout))


class FeedForward(Module):
    """Two linear layers with an activation between them."""

    def __init__(self, hidden_size: int, intermediate_size: int, activation: str) -> None:
        super().__init__()
        self.up = Linear(hidden_size, intermediate_size)
        self.activation = Activation(activation)
        self.down = Linear(intermediate_size, hidden_size)

    def forward(self, rows: Tensor) -> Tensor:
        """Rows (T, C) -> (T, C)."""
        up, activation, down = self.up, self.activation, self.down
        if is_plain(up, Linear) and is_plain(activation, Activation) and is_plain(down, Linear):
            return ops.feed_forward(rows, up.weight, up.bias, down.weight, down.bias, activation.name)
        return down(activation(up(rows)))


def recompute(module: Callable[..., Tensor], *inputs: object) -> Tensor:
    """`module(*inputs)`, of which nothing is kept but the inputs: the backward pass computes it again."""
    return checkpoint(ops.on_this_engine(module), *inputs, use_reentrant=False)


def run_layers(
    layers: Iterable[nn.Module], rows: Tensor, sequences: Sequences, intermediates: Intermediates, checkpointing: bool
) -> Tensor:
    """Rows (T, C) through all layers; with `checkpointing`, each is computed again in the backward pass."""
    rows = intermediates.keep(rows, sequences)
    for layer in layers:
        if checkpointing and torch.is_grad_enabled():
            rows = recompute(layer, rows, sequences, intermediates)
        else:
            rows = layer(rows, sequences, intermediates)
        rows = intermediates.keep(rows, sequences)
    return rows


# What torch computes with everywhere: no unsigned integers but bytes, nothing complex or quantised.
DTYPES = (
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
    torch.float16, torch.bfloat16, torch.float32, torch.float64,
)  # fmt: skip


def check_tensor(
    name: str, value: Any, device: torch.device, *, whole: bool | None = None, anywhere: bool = False
) -> None:
    """TypeError or ValueError unless `value` is a dense tensor of usual numbers on a device.

    `whole` says which: True whole ones, False real ones, None any, and True and False among them. What is moved where
    it is needed may lie `anywhere`.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} is a {type(value).__name__}; it must be a tensor (return_tensors='pt').")
    if value.is_nested or value.layout != torch.strided:
        raise ValueError(f"{name} is a {'nested' if value.is_nested else value.layout} tensor; give a dense one.")
    if value.dtype not in DTYPES:
        raise ValueError(f"{name} is of {value.dtype}; convert it with .long() or .float().")
    if whole is not None and (value.is_floating_point() == whole or value.dtype == torch.bool):
        raise ValueError(f"{name} is of {value.dtype}; it must hold {'whole' if whole else 'real'} numbers.")
    if value.device != device and (value.device.type == "meta" or not anywhere):
        raise ValueError(f"{name} is on {value.device}, the model on {device}; move one of them with .to().")


def check_like(name: str, values: Tensor, like: Any) -> None:
    """ValueError unless real numbers are of the dtype and on the device of `like`, a tensor or a model.

    Within autocast they may be of any.
    """
    check_tensor(name, values, values.device)
    alike = values.dtype == like.dtype or (
        values.is_floating_point() and torch.is_autocast_enabled(values.device.type)
    )
    if not alike or values.device != like.device:
        raise ValueError(
            f"{name} is of {values.dtype} on {values.device}, the model of {like.dtype} on {like.device}; convert and "
            "move one of them with .to()."
        )


def check_finite(name: str, values: Tensor) -> None:
    """ValueError for NaN or infinite numbers, looked for on the CPU only."""
    checked = values.device.type == "cpu" and not is_tracing()
    if checked and not (values.sum().isfinite() or values.isfinite().all()):  # the sum is quicker, but may overflow
        raise ValueError(f"{name} holds NaN or infinite numbers.")


def check_mask(name: str, mask: Tensor, else_: str = "") -> None:
    """ValueError for a mask of other values than 0 and 1, which would count as one of them; `else_` says what else."""
    if mask.dtype != torch.bool and not is_tracing() and not (right := (mask == 0) | (mask == 1)).all():
        raise ValueError(f"{name} holds other values than 0 and 1, such as {mask[~right][0].item():g}{else_}.")
