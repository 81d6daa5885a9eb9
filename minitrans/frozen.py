"""Models that only evaluate: what `model.freeze()` gives on a CPU, and what it has in common with `cuda_graphs`.

On a CPU, a matrix product first brings the weights into the order in which it reads them. With 16 tokens that takes a
third of the time; a prepacked model has done it once and for all.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from minitrans import ops
from minitrans.layers import Linear, QueryKeyValue, hooked, is_plain

if TYPE_CHECKING:
    from minitrans.pretrained import PreTrainedModel


class Forward:
    """The `forward` of a frozen model, with the parameters of the model's own, for programs that look at them."""

    def __init__(self, frozen: Frozen, model: PreTrainedModel) -> None:
        self.compute, self.__signature__ = frozen.compute, inspect.signature(model.forward)

    @torch.no_grad()
    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """The model's output for its own arguments."""
        return self.compute(*inputs, **options)


class Frozen(nn.Module):
    """A model that only evaluates, and is otherwise asked as the model itself is: `config`, `device`, `encode`, …

    It can stand wherever the model can. It cannot train (RuntimeError), nor move to another device or dtype: freeze
    the model again there. `state_dict`, `save_pretrained` and pickling give what the model had when it was frozen.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        check_mode(model)
        self.model = model
        self.eval()
        self.forward = Forward(self, model)

    def compute(self, *inputs: Any, **options: Any) -> Any:
        """The model's output for its own arguments."""
        return self.model(*inputs, **options)

    def thawed(self) -> PreTrainedModel:
        """The model, to change it."""
        return self.model

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("__") or name == "model":
                raise
            return getattr(self.model, name)

    def train(self, mode: bool = True) -> Frozen:
        """Nothing for `mode=False`, RuntimeError otherwise."""
        if mode:
            raise RuntimeError("A frozen model only evaluates; train the model, and freeze it again.")
        return super().train(False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Frozen:
        probe = torch.empty(0, device=self.model.device, dtype=self.model.dtype)
        moved = fn(probe)
        if (moved.device, moved.dtype) != (probe.device, probe.dtype):
            raise RuntimeError(
                f"A model that was frozen in {probe.dtype} on {str(probe.device)!r} stays there; move the model, and "
                "freeze it again."
            )
        return self

    def state_dict(self, *arguments: Any, **options: Any) -> Any:
        """The model's tensors under their published names."""
        return self.thawed().state_dict(*arguments, **options)

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """RuntimeError: the weights are frozen."""
        raise RuntimeError("A frozen model's weights stay as they are; load them into the model, and freeze it again.")

    def save_pretrained(self, *arguments: Any, **options: Any) -> None:
        """As the model's."""
        self.thawed().save_pretrained(*arguments, **options)

    def freeze(self, **options: Any) -> Frozen:
        """The model is frozen already."""
        del options
        return self

    def options(self) -> dict[str, Any]:
        """What `PreTrainedModel.freeze` was given."""
        return {}

    def __reduce__(self) -> tuple:
        return _frozen_again, (self.thawed(), self.options())


def _frozen_again(model: PreTrainedModel, options: dict[str, Any]) -> Frozen:
    return model.freeze(**options)


class PrepackedModel(Frozen):
    """What `PreTrainedModel.freeze` gives on a CPU: a copy of the model as it was then, with prepacked weights.

    The matrices of the backbone's linear layers are as `ops.prepacked` gives them; drop the model, and the copy takes
    no more memory than it did. Raises ValueError for a model that is not float32.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        check_mode(model)
        prepacked = [(ops.prepacked(matrix), bias) for _, matrix, bias in _products(model.base_model)]
        matrices = [layer.weight for module, *_ in _products(model.base_model) for layer in _linear_layers(module)]
        own = copy.deepcopy(model, {id(matrix): matrix for matrix in matrices})
        super().__init__(own)
        own.engine = "plain"  # no kernel takes prepacked weights
        copies = [module for module, *_ in _products(own.base_model)]
        for module, (matrix, bias) in zip(copies, prepacked, strict=True):
            for layer in _linear_layers(module):
                del layer.weight  # torch keeps it from becoming anything but a parameter, which this cannot be
            if isinstance(module, QueryKeyValue):
                module.prepacked = matrix, None if bias is None else bias.clone()
            else:
                module.weight = matrix
        self.packed = tuple(copies)

    def thawed(self) -> PreTrainedModel:
        """A copy of the model with its weights in their ordinary order."""
        packed = {id(module): _packed_matrix(module) for module in self.packed}
        spared = {id(matrix): matrix for matrix in packed.values()}
        model = copy.deepcopy(self.model, spared)
        model.engine = "auto"
        for module in model.modules():
            matrix = _packed_matrix(module)
            if matrix is not None:
                _unpack(module, matrix.to_dense())
        return model


def _packed_matrix(module: nn.Module) -> Tensor | None:
    """The prepacked matrix of a module, None where it has none."""
    if isinstance(module, QueryKeyValue):
        return module.prepacked[0] if module.prepacked is not None else None
    weight = module.__dict__.get("weight")
    return weight if isinstance(weight, Tensor) and weight.is_mkldnn else None


def _unpack(module: nn.Module, matrix: Tensor) -> None:
    layers = _linear_layers(module)
    for layer, weight in zip(layers, matrix.chunk(len(layers)), strict=True):
        layer.__dict__.pop("weight", None)
        bias = layer._parameters.pop("bias")
        layer.weight = nn.Parameter(weight.clone())
        layer.register_parameter("bias", bias)  # after the weight, as in any layer
    if isinstance(module, QueryKeyValue):
        module.prepacked = None
        module.join()


def _products(module: nn.Module) -> Iterator[tuple[nn.Module, Tensor, Tensor | None]]:
    """Each matrix product of a backbone: a linear layer, or queries, keys and values at once, its weight and bias."""
    for child in module.children():
        joined = child.joined() if isinstance(child, QueryKeyValue) and not hooked(child) else None
        if joined is not None:
            yield child, *joined
        elif is_plain(child, Linear):
            yield child, child.weight, child.bias  # type: ignore[misc]
        else:
            yield from _products(child)


def _linear_layers(module: nn.Module) -> list[nn.Module]:
    return module.layers() if isinstance(module, QueryKeyValue) else [module]


def check_mode(model: PreTrainedModel) -> None:
    """RuntimeError for a model in training mode."""
    if model.training:
        raise RuntimeError("The model is in training mode, and a frozen one only evaluates; call .eval() first.")
