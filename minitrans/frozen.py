"""What `model.freeze()` gives: on a CPU `PrepackedModel`, on a GPU `FrozenModel`, with CUDA graphs.

On a CPU, a matrix product first brings the weights into the order in which it reads them. With 16 tokens that takes a
third of the time; a prepacked model has done it once and for all. In bfloat16, where a CPU multiplies in it, there is
half as much to read, and the products are two to five times as fast.

CUDA graphs are a text model's forward pass recorded once for each size of input, and then launched as one. A small
batch costs more launching than computing: BERT-base is some 90 kernels. A replayed graph launches them all at once,
but repeats exactly what was recorded, on the same memory. So each bucket (batch, length) has inputs of its own in the
padded layout of `Sequences`, where no shape, and nothing on the host, depends on what stands in them.

No run on a GPU has been recorded yet: `recorder` has never been executed; everything else is tested on the CPU.
"""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from minitrans import cpu, ops
from minitrans.audio_layers import Convolution, PositionalConvolution
from minitrans.config import pair
from minitrans.layers import Linear, QueryKeyValue, has_hooks, hooked, is_plain
from minitrans.sequences import Sequences, traced

if TYPE_CHECKING:
    from minitrans.pretrained import PreTrainedModel

logger = logging.getLogger("minitrans")

# An input of indices -> the size of its table in the configuration, and what to call that table.
TABLES = {"input_ids": ("vocab_size", "vocabulary"), "token_type_ids": ("type_vocab_size", "token-type table")}

Compute = Callable[[], Any]


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
        _check_mode(model)
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
        _check_mode(model)
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

    def compute(self, *inputs: Any, **options: Any) -> Any:
        """The model's output for its own arguments."""
        self._check()
        if self.computes_in == torch.float32:
            return self.model(*inputs, **options)
        narrow = {name: _narrowed(value, self.computes_in) for name, value in options.items()}
        return _widened(self.model(*(_narrowed(value, self.computes_in) for value in inputs), **narrow))

    def encode(self, *inputs: Any, **options: Any) -> Any:
        """What the model hands to its head, as the model's."""
        self._check()
        return self.model.encode(*inputs, **options)

    def _check(self) -> None:
        if traced():
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
            module.is_fixed, module._kept = fixed, ()


_THAW = "`.thawed()` gives a copy of it that is not frozen."
# What changes a model's weights, or how it computes, and is asked of the model itself.
CHANGES = {
    "load_adapter", "init_adapter_layers", "resize_token_embeddings", "set_input_embeddings", "set_output_embeddings",
    "init_weights", "post_init", "tie_weights", "initialise", "set_attn_implementation",
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
    (sample,) = [make(model.config) for name, make in SAMPLES.items() if name == model.main_input_name]
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


class Bucket:
    """The forward pass of up to `batch` texts of up to `length` tokens, on memory that never moves."""

    def __init__(self, model: PreTrainedModel, batch: int, length: int) -> None:
        self.model, self.shape = model, (batch, length)
        names = TABLES.keys() & inspect.signature(model.forward).parameters.keys()
        self.inputs = {name: torch.zeros(batch, length, dtype=torch.long, device=model.device) for name in names}
        self.sequences = Sequences.padded(torch.ones(batch, dtype=torch.int32, device=model.device), length)
        self.run: Compute = self.compute

    def holds(self, inputs: dict[str, Any]) -> bool:
        """Whether these are whole numbers (b, n) for inputs that the bucket has, and no more than it has room for."""
        return inputs.keys() <= self.inputs.keys() and all(
            isinstance(x, Tensor)
            and x.dtype in (torch.int32, torch.int64)
            and x.shape == inputs["input_ids"].shape
            and x.dim() == 2
            and x.shape[0] <= self.shape[0]
            and x.shape[1] <= self.shape[1]
            for x in inputs.values()
        )

    def fill(self, inputs: dict[str, Tensor], lengths: list[int]) -> None:
        """Put texts (b, n) in; the rest of the bucket is index 0, and a sequence too many is one token of it."""
        for name, memory in self.inputs.items():
            memory.zero_()
            if name in inputs:
                batch, length = inputs[name].shape
                memory[:batch, :length].copy_(inputs[name], non_blocking=True)
        filled = lengths + [1] * (self.shape[0] - len(lengths))
        self.sequences.lengths.copy_(torch.tensor(filled, dtype=torch.int32), non_blocking=True)

    def compute(self) -> Any:
        """The model's output for what `fill` left: the same work whatever that was, and nothing read back."""
        states = {"output_hidden_states": False, "output_attentions": False, "return_dict": True}
        return self.model(**self.inputs, attention_mask=self.sequences, **states)

    def answer(self, inputs: dict[str, Tensor], lengths: list[int]) -> Any:
        """The model's output for texts (b, n), in memory of its own."""
        self.fill(inputs, lengths)
        output = self.run()
        batch, length = inputs["input_ids"].shape
        columns = {"last_hidden_state": length}
        return type(output)(**{name: x[:batch, : columns.get(name)].clone() for name, x in output.items()})


class FrozenModel(Frozen):
    """What `PreTrainedModel.freeze` gives on a GPU: call it as the model itself, without gradients.

    Texts that are padded on their right run in the smallest bucket that holds them. Anything else, and hidden
    states and attentions, goes to the model, which computes it or says what is wrong with it. Indices may lie on
    any device; a mask on the GPU costs a synchronisation, one on the CPU none; pinned memory is copied from while
    the call has already returned. Weights that change in place, as under an optimiser or `load_state_dict`, are
    seen. Raises RuntimeError once the weights have moved (`.to()`) or the model trains, and ValueError for indices
    on the CPU that are outside their table.
    """

    def __init__(
        self, model: PreTrainedModel, shapes: Iterable[tuple[int, int]], record: Callable[[Compute], Compute]
    ) -> None:
        super().__init__(model)
        self.shapes, self.weights = set(shapes), next(model.parameters()).data_ptr()
        self.buckets = [Bucket(model, *shape) for shape in sorted(self.shapes, key=lambda shape: shape[0] * shape[1])]
        for bucket in reversed(self.buckets):  # the largest first, so that the others fit into its memory
            bucket.run = record(bucket.compute)

    def options(self) -> dict[str, Any]:
        """See `Frozen`."""
        return {"batch_sizes": {batch for batch, _ in self.shapes}, "lengths": {length for _, length in self.shapes}}

    def _check(self) -> None:
        _check_mode(self.model)
        if next(self.model.parameters()).data_ptr() != self.weights:
            raise RuntimeError("The model's weights have moved since it was frozen; call .freeze() again.")

    def compute(self, input_ids: Tensor, attention_mask: Tensor | None = None, **others: Any) -> Any:
        """Token indices (B, N) -> the model's output, the caller's to keep."""
        self._check()
        inputs = {"input_ids": input_ids, **{name: value for name, value in others.items() if value is not None}}
        bucket = next((bucket for bucket in self.buckets if bucket.holds(inputs)), None)
        lengths = None if bucket is None else right_padded(input_ids.shape, attention_mask)
        if bucket is None or lengths is None:
            device = self.model.device
            given = {name: x.to(device) if isinstance(x, Tensor) else x for name, x in inputs.items()}
            return self.model(**given, attention_mask=attention_mask)
        for name, indices in inputs.items():
            field, table = TABLES[name]
            ops.check_ids(indices, getattr(self.model.config, field), name, table)
        return bucket.answer(inputs, lengths)


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


def _check_mode(model: PreTrainedModel) -> None:
    if model.training:
        raise RuntimeError("The model is in training mode, and a frozen one only evaluates; call .eval() first.")


def right_padded(shape: torch.Size, mask: Tensor | None) -> list[int] | None:
    """The lengths of sequences padded on their right, from their mask (B, N); None where it is no such mask."""
    if mask is None:
        return [shape[1]] * shape[0]
    if not isinstance(mask, Tensor) or mask.shape != shape:
        return None
    mask = mask.cpu()
    lengths = (mask != 0).sum(1)
    wanted = torch.arange(shape[1]) < lengths[:, None]
    return lengths.tolist() if bool((mask == wanted).all()) and int(lengths.min()) > 0 else None


def recorder(device: torch.device) -> Callable[[Compute], Compute]:
    """What turns a computation on a GPU into the replay of its graph; the graphs share one pool of memory."""
    pool = torch.cuda.graph_pool_handle()

    def record(compute: Compute) -> Compute:
        with torch.no_grad(), torch.cuda.device(device):
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(2):  # kernels are compiled and workspaces taken before anything is recorded
                    compute()
            torch.cuda.current_stream().wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool):
                output = compute()

        def replay() -> Any:
            with torch.cuda.device(device):
                graph.replay()
            return output

        return replay

    return record
