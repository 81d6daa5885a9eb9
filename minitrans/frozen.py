"""Models that only evaluate: what `model.freeze()` gives on a CPU, and what it has in common with `cuda_graphs`.

On a CPU, a matrix product first brings the weights into the order in which it reads them. With 16 tokens that takes a
third of the time; a prepacked model has done it once and for all. In bfloat16, where a CPU multiplies in it, there is
half as much to read, and the products are two to five times as fast.
"""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from minitrans import cpu, ops
from minitrans.audio_layers import Convolution, PositionalConvolution
from minitrans.config import pair
from minitrans.layers import Linear, QueryKeyValue, has_hooks, hooked, is_plain
from minitrans.sequences import is_tracing

if TYPE_CHECKING:
    from minitrans.pretrained import PreTrainedModel

logger = logging.getLogger("minitrans")


def _forward_of(frozen: Frozen, model: PreTrainedModel) -> Callable[..., Any]:
    """The `forward` of a frozen model, with the parameters of the model's own, for programs that look at them."""

    @torch.no_grad()
    def forward(*inputs: Any, **options: Any) -> Any:
        """The model's output for its own arguments."""
        return frozen.compute(*inputs, **options)

    forward.__signature__ = inspect.signature(model.forward)  # type: ignore[attr-defined]
    return forward


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
        self.forward = _forward_of(self, model)

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

    def _apply(self, fn: Callable[[Tensor], Tensor], *_: Any, **__: Any) -> Frozen:
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

    def load_state_dict(self, *_: Any, **__: Any) -> Any:
        """RuntimeError: the weights are frozen."""
        raise RuntimeError("A frozen model's weights stay as they are; load them into the model, and freeze it again.")

    def save_pretrained(self, *arguments: Any, **options: Any) -> None:
        """Save the model as `PreTrainedModel.save_pretrained` does."""
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
    no more memory than it did. `dtype` is what it computes in: float32 or bfloat16 (None: the model's), or "fastest",
    which is bfloat16 where the CPU multiplies in it, else float32. "fastest" also measures, and logs, the `error`: how
    far the backbone's outputs are from those in float32 for a random sample, ‖difference‖ / ‖output‖.

    In bfloat16 everything is, weights, inputs and what lies between the layers, but: norms, softmax and products sum
    in float32, and the positions of Wav2Vec2 are convolved in it. Inputs may be of any floating dtype, and outputs are
    float32; `encode` gives a head's input as it is. `thawed`, `state_dict` and `save_pretrained` give the weights in
    the dtype that it was frozen in.

    Hooks are called, also on modules inside, but for those on the linear maps to queries, keys and values, which are
    one product: RuntimeError. What changes weights, such as `load_adapter`, and compiling or exporting raise
    RuntimeError; do that with the model, or with `thawed()`. peft's adapters are put on before it is frozen, too.
    Raises ValueError for another dtype, and for bfloat16 on a CPU whose oneDNN has none.
    """

    error: float | None = None

    def __init__(self, model: PreTrainedModel, dtype: torch.dtype | str | None = None) -> None:
        check_mode(model)
        fastest = dtype == "fastest"
        if fastest:
            dtype = torch.bfloat16 if cpu.this_cpu().fast_in_bfloat16 else torch.float32
        chosen: torch.dtype = model.dtype if dtype is None else dtype  # type: ignore[assignment]
        products = list(_products(model.base_model))
        prepacked = [(ops.prepacked(matrix.to(chosen)), bias) for _, matrix, bias in products]
        matrices = [layer.weight for module, *_ in products for layer in _linear_layers(module)]
        own = copy.deepcopy(model, {id(matrix): matrix for matrix in matrices})
        super().__init__(own)
        own.engine = "plain"  # no kernel takes prepacked weights
        copies = [module for module, *_ in _products(own.base_model)]
        for module in copies:
            for layer in _linear_layers(module):
                del layer.weight  # torch keeps it from becoming anything but a parameter, which this cannot be
        own.to(chosen)
        for module, (matrix, bias) in zip(copies, prepacked, strict=True):
            if isinstance(module, QueryKeyValue):
                module.prepacked = matrix, None if bias is None else bias.to(chosen, copy=True)
            else:
                module.weight = matrix
        _settle(own, True)
        self.packed, self.computes_in = tuple(copies), chosen
        if fastest:
            self.error = _error(self, model)
            name = str(chosen).removeprefix("torch.")
            logger.warning("Frozen in %s: on a random sample %.1e from float32.", name, self.error)

    @override
    def compute(self, *inputs: Any, **options: Any) -> Any:
        self._check()
        if self.computes_in == torch.float32:
            return self.model(*inputs, **options)
        narrow = {name: _narrowed(value, self.computes_in) for name, value in options.items()}
        return _widened(self.model(*(_narrowed(value, self.computes_in) for value in inputs), **narrow))

    def encode(self, *inputs: Any, **options: Any) -> Any:
        """What the model hands to its head."""
        self._check()
        return self.model.encode(*inputs, **options)

    def _check(self) -> None:
        if is_tracing():
            raise RuntimeError(f"A frozen model is neither compiled nor exported; do that with the model. {_THAW}")
        if has_hooks(self.model):
            joined = [module for module in self.packed if isinstance(module, QueryKeyValue)]
            if any(hooked(layer) for module in joined for layer in module.layers()):
                raise RuntimeError(
                    "There is a hook on a linear map to queries, keys or values, which are one product in a frozen "
                    f"model; put it on the module above. {_THAW}"
                )

    def __getattr__(self, name: str) -> Any:
        value = super().__getattr__(name)
        return partial(_refuse, name) if name in CHANGES else value

    def freeze(self, dtype: torch.dtype | str | None = None, **options: Any) -> Frozen:
        """Itself, which is frozen already; RuntimeError for another dtype than it was frozen in."""
        if dtype not in (None, self.computes_in, str(self.computes_in).removeprefix("torch.")):
            raise RuntimeError(f"It is frozen in {self.computes_in}; freeze the model itself in {dtype}. {_THAW}")
        return self

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
        _settle(model, False)
        return model


def _settle(model: nn.Module, fixed: bool) -> None:
    """Let what hears sound rely on its weights to stay, or not: filters tap after tap, as they are read, and kept."""
    for module in model.modules():
        if isinstance(module, Convolution):
            weight = module.weight.data
            module.weight.data = weight.mT.contiguous().mT if fixed else weight.contiguous()
        if isinstance(module, PositionalConvolution):
            module.is_fixed, module._cached = fixed, ()


_THAW = "`.thawed()` gives a copy of it that is not frozen."
# What changes a model's weights, or how it computes, and is asked of the model itself.
CHANGES = {
    "load_adapter", "init_adapter_layers", "resize_token_embeddings", "set_input_embeddings", "set_output_embeddings",
    "init_weights", "post_init", "tie_weights", "untie", "initialise", "set_attn_implementation",
    "activation_checkpointing_enable", "gradient_checkpointing_enable", "freeze_feature_encoder",
}  # fmt: skip


def _refuse(name: str, *_: Any, **__: Any) -> None:
    raise RuntimeError(f"A frozen model stays as it is; call {name} of the model, and freeze it again. {_THAW}")


def _narrowed(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


def _widened(output: Any) -> Any:
    """An output with its tensors of real numbers in float32."""
    if isinstance(output, Tensor):
        return _narrowed(output, torch.float32)
    if isinstance(output, dict):
        return type(output)(**{name: _widened(value) for name, value in output.items()})
    return tuple(map(_widened, output)) if isinstance(output, tuple) else output


@torch.no_grad()
def _error(frozen: PrepackedModel, model: PreTrainedModel) -> float:
    """‖difference‖ / ‖output‖ of the backbone's outputs and those in float32, for a sample that is always the same."""
    whole: Any = model.base_model if model.dtype == torch.float32 else copy.deepcopy(model.base_model).float()
    sample = SAMPLES[model.main_input_name](model.config)
    found, expected = (
        torch.cat([x.double().flatten() for x in _tensors(backbone(x))])
        for backbone, x in (
            (frozen.model.base_model, _narrowed(sample, frozen.computes_in)),
            (whole, sample),
        )
    )
    return float((found - expected).norm() / expected.norm())


def _random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _random_words(config: Any) -> Tensor:
    shape = 2, min(32, config.max_position_embeddings)
    return torch.randint(config.vocab_size, shape, generator=torch.Generator().manual_seed(0))


# The main input -> a sample of it for a configuration: two texts, an image, a second of sound.
SAMPLES: dict[str, Callable[[Any], Tensor]] = {
    "input_ids": _random_words,
    "pixel_values": lambda config: _random(1, config.num_channels, *pair(config.image_size)),
    "input_values": lambda config: _random(1, 16_000),
}


def _tensors(output: Any) -> list[Tensor]:
    """The tensors of an output, those in tuples too."""
    if isinstance(output, Tensor):
        return [output]
    return [x for value in (output.values() if isinstance(output, dict) else output) for x in _tensors(value)]


def _packed_matrix(module: nn.Module) -> Tensor | None:
    """The prepacked matrix of a module, None where it has none."""
    if isinstance(module, QueryKeyValue):
        return module.prepacked[0] if module.prepacked is not None else None
    weight = module.__dict__.get("weight")
    return weight if isinstance(weight, Tensor) else None


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
