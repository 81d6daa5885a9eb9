"""What `model.freeze()` gives: on a CPU `PrepackedModel`, on a GPU `FrozenModel`, with CUDA graphs.

On a CPU, a matrix product first brings the weights into the order in which it reads them. With 16 tokens that takes a
third of the time; a prepacked model has done it once and for all.

CUDA graphs are a text model's forward pass recorded once for each size of input, and then launched as one. A small
batch costs more launching than computing: BERT-base is some 90 kernels. A replayed graph launches them all at once,
but repeats exactly what was recorded, on the same memory. So each bucket (batch, length) has inputs of its own in the
padded layout of `Sequences`, where no shape, and nothing on the host, depends on what stands in them.

No run on a GPU has been recorded yet: `recorder` has never been executed; everything else is tested on the CPU.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from minitrans import ops
from minitrans.layers import Linear, QueryKeyValue, hooked, is_plain
from minitrans.sequences import Sequences

if TYPE_CHECKING:
    from minitrans.pretrained import PreTrainedModel

# An input of indices -> the size of its table in the configuration, and what to call that table.
TABLES = {"input_ids": ("vocab_size", "vocabulary"), "token_type_ids": ("type_vocab_size", "token-type table")}

Compute = Callable[[], Any]


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
        _check_mode(model)
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
        _check_mode(model)
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
