"""What `model.freeze()` gives on a GPU: CUDA graphs, the forward pass captured once for each size of input.

A small batch costs more launching than computing: BERT-base is some 100 kernels. A replayed graph launches them all at
once, but repeats exactly what was captured, on the same memory. So each bucket has inputs of its own in the padded
layout of `Sequences`, where no shape, and nothing on the host, depends on what stands in them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from itertools import product
from operator import le
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from minitrans import ops
from minitrans.config import pair
from minitrans.frozen import Frozen, check_mode
from minitrans.layers import has_hooks
from minitrans.sequences import Sequences, static_shapes

if TYPE_CHECKING:
    from minitrans.pretrained import PreTrainedModel

Compute = Callable[[], Any]
Inputs = dict[str, Any]

# An input of indices -> the size of its table in the configuration, and what to call that table.
TABLES = {"input_ids": ("vocab_size", "vocabulary"), "token_type_ids": ("type_vocab_size", "token-type table")}
# The options of a forward pass as it is captured.
USUAL = {"output_hidden_states": False, "output_attentions": False, "return_dict": True}
# Packed rows are faster than a graph once there is enough padding and enough work for the GPU to be the slower part
# (an H200 computes BERT-base's 8192 cells in about the time in which Python launches it).
LEAST_REAL, LAUNCH_BOUND = 0.75, 8192


class Bucket:
    """The forward pass of up to `batch` inputs of up to `length`, on memory that never moves."""

    unused: ClassVar[int] = 1  # the length of what fills a batch

    def __init__(self, model: PreTrainedModel, batch: int, length: int) -> None:
        self.model, self.shape = model, (batch, length)
        self.inputs = self.memory()
        self.lengths = torch.full((batch,), length, dtype=torch.int32, device=model.device)
        self.filled = [length] * batch  # what `lengths` holds
        self.run: Compute = self.compute

    @classmethod
    def shapes(cls, model: PreTrainedModel, batches: set[int], lengths: Iterable[int] | None) -> set[tuple[int, int]]:
        """The sizes (batch, length) of the buckets; ValueError for those that the model cannot take."""
        raise NotImplementedError

    def memory(self) -> dict[str, Tensor]:
        """The inputs, by their names."""
        raise NotImplementedError

    def mask(self) -> Any:
        """What the model is given as attention mask."""
        return None

    def columns(self, length: int) -> int:
        """How many tokens or frames an input of this length has in an output."""
        return length

    def holds(self, inputs: Inputs) -> bool:
        """Whether there is room for these inputs, and for nothing else than inputs."""
        if not inputs.keys() <= self.inputs.keys() or not all(isinstance(x, Tensor) for x in inputs.values()):
            return False
        alike = len({x.shape for x in inputs.values()}) == 1
        return alike and all(self.fits(name, x) for name, x in inputs.items())

    def fits(self, name: str, x: Tensor) -> bool:
        """Whether a tensor can be copied into the memory of this name."""
        memory = self.inputs[name]
        alike = (x.dtype, x.device, x.dim()) == (memory.dtype, memory.device, memory.dim())
        return alike and all(size <= room for size, room in zip(x.shape, memory.shape, strict=True))

    def pays(self, lengths: list[int]) -> bool:
        """Whether the graph is faster than the model itself for inputs of these lengths."""
        return True

    def fill(self, inputs: Inputs, lengths: list[int]) -> None:
        """Put inputs in; the rest of the bucket is zeros."""
        for name, memory in self.inputs.items():
            if name not in inputs or inputs[name].shape != memory.shape:
                memory.zero_()
            if name in inputs:
                corner = tuple(slice(size) for size in inputs[name].shape)
                memory[corner].copy_(inputs[name], non_blocking=True)
        filled = lengths + [self.unused or self.shape[1]] * (self.shape[0] - len(lengths))
        if filled != self.filled:
            self.lengths.copy_(torch.tensor(filled, dtype=torch.int32), non_blocking=True)
            self.filled = filled

    def compute(self) -> Any:
        """The model's output for what `fill` left: the same work whatever that was, and nothing read back."""
        mask = self.mask()
        given = self.inputs if mask is None else {**self.inputs, "attention_mask": mask}
        with static_shapes():
            return self.model(**given, **USUAL)

    def output(self, inputs: Inputs, lengths: list[int], along: dict[str, list[int]]) -> Any:
        """The model's output for these inputs, in memory of its own; `along` says which dimensions hold tokens."""
        self.fill(inputs, lengths)
        output = self.run()
        batch, length = next(iter(inputs.values())).shape[:2]

        def taken(name: str, x: Any) -> Any:
            if isinstance(x, tuple):
                return tuple(taken(name, part) for part in x)
            x = x[:batch]
            for dimension in along.get(name, ()):
                x = x.narrow(dimension, 0, self.columns(length))
            return x.clone()

        return type(output)(**{name: taken(name, x) for name, x in output.items()})


class TextBucket(Bucket):
    """Texts (b, n) of up to N tokens, padded on their right."""

    @classmethod
    def shapes(cls, model: PreTrainedModel, batches: set[int], lengths: Iterable[int] | None) -> set[tuple[int, int]]:
        """By default the powers of two from 16 to the positions that the model has."""
        limit = model.config.max_position_embeddings
        if lengths is None:
            lengths = {min(2**power, limit) for power in range(4, limit.bit_length() + 1)}
        found = set(product(batches, lengths))
        if not all(length <= limit for _, length in found):
            raise ValueError(f"{sorted(found)} are not sizes (batch, length) of texts of 1 to {limit} tokens.")
        return found

    @override
    def memory(self) -> dict[str, Tensor]:
        names = [name for name in TABLES if name in inspect.signature(self.model.forward).parameters]
        return {name: torch.zeros(self.shape, dtype=torch.long, device=self.model.device) for name in names}

    @override
    def mask(self) -> Sequences:
        return Sequences.padded(self.lengths, self.shape[1])

    def fits(self, name: str, x: Tensor) -> bool:
        """Indices may lie on any device."""
        return x.dtype in (torch.int32, torch.int64) and x.dim() == 2 and all(map(le, x.shape, self.shape))

    @override
    def pays(self, lengths: list[int]) -> bool:
        cells = self.shape[0] * self.shape[1]
        return cells <= LAUNCH_BOUND or sum(lengths) >= LEAST_REAL * cells


class SoundBucket(Bucket):
    """Clips (b, n) of up to N samples, padded at their end."""

    unused = 0  # whole clips: not every head takes short ones

    @classmethod
    def shapes(cls, model: PreTrainedModel, batches: set[int], lengths: Iterable[int] | None) -> set[tuple[int, int]]:
        """By default as many samples as powers of two from 64 to 1024 frames are made of."""
        samples: Callable[[int], int] = model.base_model.feature_encoder.samples  # type: ignore[union-attr, assignment]
        shortest = samples(1)
        found = set(product(batches, [samples(2**power) for power in range(6, 11)] if lengths is None else lengths))
        if not all(length >= shortest for _, length in found):
            raise ValueError(f"{sorted(found)} are not sizes (batch, length) of clips of {shortest} samples or more.")
        return found

    @override
    def memory(self) -> dict[str, Tensor]:
        return {"input_values": torch.zeros(self.shape, dtype=self.model.dtype, device=self.model.device)}

    @override
    def mask(self) -> Tensor:
        return (torch.arange(self.shape[1], device=self.lengths.device) < self.lengths[:, None]).long()

    @override
    def columns(self, length: int) -> int:
        return self.model._get_feat_extract_output_lengths(length)

    @override
    def fits(self, name: str, x: Tensor) -> bool:
        return super().fits(name, x) and self.columns(x.shape[1]) > 0


class ImageBucket(Bucket):
    """Images (b, C, H, W) of the checkpoint's size."""

    @classmethod
    def shapes(cls, model: PreTrainedModel, batches: set[int], lengths: Iterable[int] | None) -> set[tuple[int, int]]:
        """The length is 1."""
        if lengths is not None:
            raise ValueError(f"lengths is {lengths}, and images have none; the size is the checkpoint's image_size.")
        return set(product(batches, [1]))

    @override
    def memory(self) -> dict[str, Tensor]:
        config = self.model.config
        shape = (self.shape[0], config.num_channels, *pair(config.image_size))
        return {"pixel_values": torch.zeros(shape, dtype=self.model.dtype, device=self.model.device)}

    @override
    def fits(self, name: str, x: Tensor) -> bool:
        return super().fits(name, x) and x.shape[1:] == self.inputs[name].shape[1:]


BUCKETS: dict[str, type[Bucket]] = {
    "input_ids": TextBucket,
    "input_values": SoundBucket,
    "pixel_values": ImageBucket,
}


class FrozenModel(Frozen):
    """What `PreTrainedModel.freeze` gives on a GPU: call it as the model itself, without gradients.

    Texts and clips that are padded on their right, and images of the checkpoint's size, run in the smallest bucket
    that holds them. Anything else, hidden states and attentions, and a model that has got a hook since, goes to the
    model, which computes it or says what is wrong with it. Indices may lie on any device; a mask on the GPU costs a
    synchronisation, one on the CPU none; pinned memory is copied from while the call has already returned. Weights
    that change in place, as under an optimiser or `load_state_dict`, are seen. Raises RuntimeError once the weights
    have moved (`.to()`) or the model trains, and ValueError for indices on the CPU that are outside their table.
    """

    def __init__(
        self, model: PreTrainedModel, shapes: Iterable[tuple[int, int]], capture: Callable[[Compute], Compute]
    ) -> None:
        super().__init__(model)
        if has_hooks(model):
            raise RuntimeError("A CUDA graph calls no hooks, and the model has some; remove them, and freeze it.")
        kind = BUCKETS[model.main_input_name]
        self.shapes, self.names = set(shapes), [*inspect.signature(model.forward).parameters]
        self.first = next(model.parameters())
        self.address = self.first.data_ptr()
        self.buckets = [kind(model, *shape) for shape in sorted(self.shapes, key=lambda shape: shape[0] * shape[1])]
        self.along = token_dimensions(self.buckets[-1])
        with torch.no_grad():
            for bucket in reversed(self.buckets):  # the largest first, so that the others fit into its memory
                bucket.run = capture(bucket.compute)

    @override
    def options(self) -> dict[str, Any]:
        lengths = {length for _, length in self.shapes}
        sized = not isinstance(self.buckets[0], ImageBucket)
        return {"batch_sizes": {batch for batch, _ in self.shapes}, "lengths": lengths if sized else None}

    def compute(self, *inputs: Any, **options: Any) -> Any:
        """The model's output for its own arguments, the caller's to keep."""
        check_mode(self.model)
        if self.first.data_ptr() != self.address:
            raise RuntimeError("The model's weights have moved since it was frozen; call .freeze() again.")
        named = dict(zip(self.names, inputs, strict=False)) | options
        given = {name: value for name, value in named.items() if value is not None and USUAL.get(name) is not value}
        mask, main = given.pop("attention_mask", None), given.get(self.model.main_input_name)
        known = len(inputs) <= len(self.names) and named.keys() <= set(self.names)
        bucket = next((x for x in self.buckets if x.holds(given)), None) if known and main is not None else None
        lengths = None if bucket is None else right_padded(main.shape, mask)  # type: ignore[union-attr]
        if bucket is None or lengths is None or not bucket.pays(lengths) or not self.is_usual():
            device = self.model.device
            moved = {
                name: x.to(device) if isinstance(x, Tensor) and name != "attention_mask" else x
                for name, x in named.items()
            }
            return self.model(**moved) if known else self.model(*inputs, **options)
        for name, (field, table) in TABLES.items():
            if name in given:
                ops.check_ids(given[name], getattr(self.model.config, field), name, table)
        return bucket.output(given, lengths, self.along)

    def is_usual(self) -> bool:
        """Whether the model gives what was captured: nothing more, and nobody listens."""
        config = self.model.config
        return all(getattr(config, name) is value for name, value in USUAL.items()) and not has_hooks(self.model)


def token_dimensions(bucket: Bucket) -> dict[str, list[int]]:
    """Which dimensions of an output grow with its input, by the outputs' names: those that differ between two.

    Raises ValueError for a model with an output about the whole batch: it would tell of what fills the bucket as well.
    """
    if isinstance(bucket, ImageBucket):
        return {}
    length = bucket.shape[1]
    other = length // 2
    while bucket.columns(other) == bucket.columns(length):
        other //= 2
    if bucket.columns(other) <= 0:  # no input is that short
        other = 2 * length
    sizes = [_output_shapes(bucket, size) for size in (length, other)]
    whole = [name for name, shape in sizes[0].items() if not shape]
    if whole:
        raise ValueError(f"{type(bucket.model).__name__} gives {', '.join(whole)} of a whole batch; do not freeze it.")
    return {
        name: [dimension for dimension, size in enumerate(shape) if size != sizes[1][name][dimension]]
        for name, shape in sizes[0].items()
    }


def _output_shapes(bucket: Bucket, length: int) -> dict[str, torch.Size]:
    with torch.no_grad():
        output = type(bucket)(bucket.model, 1, length).compute()
    return {name: x.shape for name, x in output.items()}


def right_padded(shape: torch.Size, mask: Tensor | None) -> list[int] | None:
    """The lengths of sequences padded on their right, from their mask (B, N); None for another mask."""
    if mask is None:
        return [shape[1]] * shape[0]
    if not isinstance(mask, Tensor) or mask.shape != shape:
        return None
    mask = mask.cpu()
    lengths = (mask != 0).sum(1)
    wanted = torch.arange(shape[1]) < lengths[:, None]
    return lengths.tolist() if (mask == wanted).all() and lengths.min() > 0 else None


def cuda_graph(device: torch.device) -> Callable[[Compute], Compute]:
    """What turns a computation on a GPU into the replay of its graph; the graphs share one pool of memory."""
    pool = torch.cuda.graph_pool_handle()

    def capture(compute: Compute) -> Compute:
        with torch.no_grad(), torch.cuda.device(device):
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(2):  # kernels are compiled and workspaces taken before anything is captured
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

    return capture
