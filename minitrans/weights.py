"""Name tables <-> checkpoint files, and the report of what happened.

A model's table maps the path of our module (or parameter) to the checkpoint's, `{}` standing for indices:

    "layers.{}.attention.qkv": ("encoder.layer.{}.attention.self.query", "….key", "….value")   # stacked along dim 0
    "layers.{}.norm": "encoder.layer.{}.output.LayerNorm"

Any other fold is a dataclass with the names and methods of `Fold`. Loading walks over our parameters, so that none
stays unfilled unseen, and reads each tensor once, straight to its place; saving runs the same table the other way.
"""

from __future__ import annotations

import json
import logging
import math
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from minitrans.hub import Repository

logger = logging.getLogger("minitrans")

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}

# Old spellings of tensor names, each anchored at the end of the name.
RENAMES = (
    (re.compile(r"LayerNorm\.gamma$"), "LayerNorm.weight"),
    (re.compile(r"LayerNorm\.beta$"), "LayerNorm.bias"),
    (re.compile(r"\.weight_g$"), ".parametrizations.weight.original0"),
    (re.compile(r"\.weight_v$"), ".parametrizations.weight.original1"),
)
# Buffers that old checkpoints carry and that follow from the configuration.
DERIVED = re.compile(r"(^|\.)(embeddings\.position_ids|relative_position_index)$")


class Fold(Protocol):
    """How one of our tensors is made of the checkpoint's, and taken apart again."""

    @property
    def names(self) -> tuple[str, ...]:
        """The checkpoint's names."""

    def shapes(self, ours: torch.Size) -> list[tuple[int, ...]]:
        """The shapes that the checkpoint's tensors must have for ours to have its own."""

    def fill(self, ours: Tensor, checkpoint: Checkpoint, present: Mapping[str, str]) -> None:
        """Write into `ours` the tensors that are there: name -> the name in the file."""

    def split(self, ours: Tensor) -> dict[str, Tensor]:
        """The checkpoint's tensors: name -> tensor."""


@dataclass(frozen=True)
class Stacked:
    """The checkpoint's tensors in equal parts one above the other along dimension 0; a single one as it is."""

    names: tuple[str, ...]

    def shapes(self, ours: torch.Size) -> list[tuple[int, ...]]:
        """See `Fold`."""
        if len(self.names) == 1:
            return [tuple(ours)]
        return [(ours[0] // len(self.names), *ours[1:])] * len(self.names)

    def fill(self, ours: Tensor, checkpoint: Checkpoint, present: Mapping[str, str]) -> None:
        """See `Fold`."""
        for name, part in self.split(ours).items():
            if name in present:
                checkpoint.read_into(present[name], part)

    def split(self, ours: Tensor) -> dict[str, Tensor]:
        """See `Fold`."""
        parts = (ours,) if len(self.names) == 1 else ours.chunk(len(self.names))
        return dict(zip(self.names, parts, strict=True))


@dataclass(frozen=True)
class ChannelsLast:
    """A convolution's weight (C_out, C_in, kernel) as (C_out, kernel, C_in): its windows are then rows to multiply."""

    names: tuple[str, ...]

    def shapes(self, ours: torch.Size) -> list[tuple[int, ...]]:
        """See `Fold`."""
        return [(ours[0], ours[2], ours[1])]

    def fill(self, ours: Tensor, checkpoint: Checkpoint, present: Mapping[str, str]) -> None:
        """See `Fold`."""
        for name in present.values():
            checkpoint.read_into(name, ours.transpose(1, 2))

    def split(self, ours: Tensor) -> dict[str, Tensor]:
        """See `Fold`."""
        return {self.names[0]: ours.transpose(1, 2)}


Table = Mapping[str, "str | tuple[str, ...] | Fold"]


def resolve(table: Table, path: str) -> Fold:
    """The fold for our parameter `path`, such as "layers.3.attention.qkv.weight"."""
    indices = re.findall(r"(?<=\.)\d+(?=\.)", path)
    pattern = re.sub(r"(?<=\.)\d+(?=\.)", "{}", path)
    module, _, leaf = pattern.rpartition(".")
    for key, suffix in ((pattern, ""), (module, f".{leaf}")):
        entry = table.get(key)
        if isinstance(entry, (str, tuple)):
            entry = Stacked((entry,) if isinstance(entry, str) else entry)
        if entry is not None:
            return replace(entry, names=tuple(name.format(*indices) + suffix for name in entry.names))  # type: ignore[type-var]
    raise KeyError(f"The name table has no row for {pattern}.")


class Checkpoint:
    """The tensors of one checkpoint by name, whichever of its files they lie in.

    `shapes` and `dtypes` are known from the headers; a tensor's bytes are read when asked for.
    """

    def __init__(self, files: list[Path]) -> None:
        self.files = files
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, torch.dtype] = {}

    def read(self, name: str) -> Tensor:
        """The tensor, on the CPU in its own dtype."""
        tensor = torch.empty(self.shapes[name], dtype=self.dtypes[name], device="cpu")
        self.read_into(name, tensor)
        return tensor

    def read_into(self, name: str, destination: Tensor) -> None:
        """Fill `destination`, of the same shape and any dtype and device."""
        raise NotImplementedError

    @property
    def dtype(self) -> torch.dtype:
        """The floating dtype that holds most of the numbers."""
        sizes: dict[torch.dtype, int] = {}
        for name, dtype in self.dtypes.items():
            if dtype.is_floating_point:
                sizes[dtype] = sizes.get(dtype, 0) + math.prod(self.shapes[name])
        return max(sizes, key=lambda dtype: sizes[dtype], default=torch.float32)


class SafetensorsCheckpoint(Checkpoint):
    """Safetensors files, read without a memory map: no second copy, and no file that changes under a model."""

    def __init__(self, files: list[Path]) -> None:
        super().__init__(files)
        self._places: dict[str, tuple[Path, int, int]] = {}
        for path in files:
            try:
                with safe_open(path, framework="pt"):  # the library checks the header against the file
                    pass
            except (SafetensorError, OSError) as error:
                raise ValueError(f"{path} is not a whole safetensors file ({error}); fetch it again.") from error
            with path.open("rb") as stream:
                length = int.from_bytes(stream.read(8), "little")
                header = json.loads(stream.read(length))
            header.pop("__metadata__", None)
            for name, info in header.items():
                if info["dtype"] not in DTYPES:
                    raise ValueError(f"{path} holds {name} as {info['dtype']}; known are {', '.join(DTYPES)}.")
                self.shapes[name], self.dtypes[name] = tuple(info["shape"]), DTYPES[info["dtype"]]
                begin, end = info["data_offsets"]
                self._places[name] = path, 8 + length + begin, end - begin

    def read_into(self, name: str, destination: Tensor) -> None:
        """See `Checkpoint`."""
        straight = destination.device.type == "cpu" and destination.dtype == self.dtypes[name]
        if not (straight and destination.is_contiguous()):
            destination.copy_(self.read(name))
            return
        path, offset, size = self._places[name]
        if size == 0:
            return
        with path.open("rb", buffering=0) as stream:
            stream.seek(offset)
            target = memoryview(destination.detach().reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
            while target:
                count = stream.readinto(target)
                if not count:
                    raise ValueError(f"{path} ended inside {name}; it changed while it was read.")
                target = target[count:]


class PickleCheckpoint(Checkpoint):
    """`pytorch_model.bin` files, through torch's restricted unpickler, which runs no code from the file."""

    def __init__(self, files: list[Path]) -> None:
        super().__init__(files)
        self._tensors: dict[str, Tensor] = {}
        for path in files:
            try:
                # Mapped, where the format allows it, a file takes memory only as far as it is read.
                content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
            except Exception as error:
                reason = str(error).split("\n")[0]
                raise ValueError(f"{path} is not a readable PyTorch file of weights ({reason}).") from error
            pairs = content.items() if isinstance(content, dict) else [("", None)]
            if not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in pairs):
                raise ValueError(f"{path} holds something else than a dictionary of tensors.")
            self._tensors.update(content)
        self.shapes = {name: tuple(tensor.shape) for name, tensor in self._tensors.items()}
        self.dtypes = {name: tensor.dtype for name, tensor in self._tensors.items()}

    def read_into(self, name: str, destination: Tensor) -> None:
        """See `Checkpoint`."""
        destination.copy_(self._tensors[name])


def open_checkpoint(repository: Repository, variant: str | None = None) -> Checkpoint:
    """The weights of a repository: safetensors, whole or in shards, else `pytorch_model.bin`.

    `variant` "fp16" means `model.fp16.safetensors`. Raises FileNotFoundError where there are none, ValueError where
    they are broken.
    """
    dot = f".{variant}" if variant else ""
    kinds: list[tuple[str, type[Checkpoint]]] = [
        (f"model{dot}.safetensors", SafetensorsCheckpoint),
        (f"model.safetensors.index{dot}.json", SafetensorsCheckpoint),
        (f"pytorch_model{dot}.bin", PickleCheckpoint),
        (f"pytorch_model.bin.index{dot}.json", PickleCheckpoint),
    ]
    for filename, kind in kinds:
        path = repository.find(filename)
        if path is not None:
            return kind(_shards(repository, filename) if filename.endswith(".json") else [path])
    raise FileNotFoundError(f"{repository.name} has no weights: none of {', '.join(name for name, _ in kinds)}.")


def _shards(repository: Repository, index: str) -> list[Path]:
    weight_map = repository.json(index).get("weight_map")
    files = [*weight_map.values()] if isinstance(weight_map, dict) else []
    if not files or not all(isinstance(name, str) for name in files):
        raise ValueError(f"{index} of {repository.name} has no weight_map from tensor names to file names.")
    return [repository.file(name) for name in sorted(set(files))]


@dataclass
class LoadReport:
    """What loading did, by the checkpoint's tensor names; `sources` are those read, by the tables' names."""

    files: list[Path] = field(default_factory=list)
    sources: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)
    untied: list[str] = field(default_factory=list)
    renamed: dict[str, str] = field(default_factory=dict)
    folded: dict[str, tuple[str, ...]] = field(default_factory=dict)
    cast: dict[str, tuple[torch.dtype, torch.dtype]] = field(default_factory=dict)

    @property
    def needs_attention(self) -> bool:
        """Whether some of the model's numbers, or the checkpoint's, were not used as they stand."""
        return bool(self.missing or self.unexpected or self.mismatched or self.untied)

    def __str__(self) -> str:
        lines = [f"Loaded {', '.join(map(str, self.files))}:"]
        if self.missing:
            lines.append(f"  not in the file, newly initialised: {', '.join(_grouped(self.missing))}")
        if self.unexpected:
            lines.append(f"  in the file, unused: {', '.join(_grouped(self.unexpected))}")
        for name, theirs, ours in self.mismatched:
            lines.append(f"  another shape, newly initialised: {name} is {theirs} in the file, {ours} in the model")
        if self.untied:
            lines.append(
                f"  differs from the embeddings that it should be tied to, kept apart: {', '.join(self.untied)}"
            )
        for title, table in (("renamed", self.renamed), ("folded", self.folded), ("cast", self.cast)):
            if table:
                lines.append(f"  {title}: {len(table)}")
        return "\n".join(lines)


def _grouped(names: list[str]) -> Iterator[str]:
    """Names with their last part as {bias,weight} where several share the rest."""
    leaves: dict[str, list[str]] = {}
    for name in names:
        stem, _, leaf = name.rpartition(".")
        leaves.setdefault(stem, []).append(leaf)
    for stem, group in leaves.items():
        ends = group[0] if len(group) == 1 else "{" + ",".join(sorted(group)) + "}"
        yield f"{stem}.{ends}" if stem else ends


@dataclass
class Naming:
    """Which of a model's tensors has which name in a checkpoint.

    `backbone` and `head` are tables; `prefix` is the backbone's attribute in a model with a head and the first part
    of its names in such a model's checkpoint; `ties` maps a parameter of ours to the one that it shares.
    """

    backbone: Table
    head: Table
    prefix: str
    has_head: bool
    ties: dict[str, str]

    def fold(self, path: str) -> Fold:
        """The fold for one of our parameters; a backbone's names come without the prefix."""
        dot = f"{self.prefix}."
        if self.has_head and not path.startswith(dot):
            return resolve(self.head, path)
        return resolve(self.backbone, path.removeprefix(dot))

    def canonical(self, name: str) -> str:
        """A name in a file as the tables spell it."""
        for old, new in RENAMES:
            name = old.sub(new, name)
        return name.removeprefix(f"{self.prefix}.")

    def published(self, path: str, name: str) -> str:
        """The name under which a tensor is saved."""
        return f"{self.prefix}.{name}" if self.has_head and path.startswith(f"{self.prefix}.") else name


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and saved buffers by our names, each shared one once."""
    seen: set[int] = set()
    return {
        name: tensor
        for name, tensor in model.state_dict(keep_vars=True).items()
        if not (id(tensor) in seen or seen.add(id(tensor)))  # type: ignore[func-returns-value]
    }


def compare(
    model: nn.Module, checkpoint: Checkpoint, naming: Naming, ignore_mismatched_sizes: bool = False
) -> LoadReport:
    """Which of the checkpoint's tensors become the model's; nothing is read, and the model may be on the meta device.

    Raises ValueError where no tensor fits, or where a shape differs, unless `ignore_mismatched_sizes`.
    """
    report = LoadReport(files=checkpoint.files)
    names = [name for name in checkpoint.shapes if not DERIVED.search(name)]
    found = {naming.canonical(name): name for name in names}
    report.renamed = {name: key for key, name in found.items() if not name.endswith(key)}

    def take(key: str, ours: tuple[int, ...]) -> None:
        theirs = checkpoint.shapes[found[key]]
        if theirs == ours:
            report.sources[key] = found[key]
        else:
            report.mismatched.append((key, theirs, ours))

    for path, tensor in tensors_of(model).items():
        fold = naming.fold(path)
        for key, shape in zip(fold.names, fold.shapes(tensor.shape), strict=True):
            if key in found:
                take(key, shape)
            else:
                report.missing.append(naming.published(path, key))
    for path, source in naming.ties.items():
        (key,), (source_key,) = naming.fold(path).names, naming.fold(source).names
        if key in found:
            take(key, tuple(model.get_parameter(source).shape))
            if source_key not in found:
                report.missing.remove(naming.published(source, source_key))
    used = {*report.sources.values(), *(found[key] for key, _, _ in report.mismatched)}
    report.unexpected = sorted(set(names) - used)
    if not used:
        inside = ", ".join(names[:3]) or "nothing"
        raise ValueError(
            f"{checkpoint.files[0]} holds no tensor of a {type(model).__name__}; it begins with {inside}."
        )
    if report.mismatched and not ignore_mismatched_sizes:
        key, theirs, ours = report.mismatched[0]
        raise ValueError(
            f"{len(report.mismatched)} tensors of {checkpoint.files[0]} have another shape than the configuration "
            f"asks for, such as {key}: {theirs} in the file, {ours} in the model; correct the configuration "
            "(num_labels?), or pass ignore_mismatched_sizes=True to initialise them anew."
        )
    return report


@torch.no_grad()
def load(model: nn.Module, checkpoint: Checkpoint, naming: Naming, report: LoadReport) -> None:
    """Fill the model's tensors, already on their device in their dtype, as `compare` found, and complete its report.

    What is missing, `model.initialise(path)` fills.
    """
    for path, tensor in tensors_of(model).items():
        fold = naming.fold(path)
        present = {key: report.sources[key] for key in fold.names if key in report.sources}
        if len(present) < len(fold.names):
            model.initialise(path)  # type: ignore[operator]
        if len(fold.names) > 1 and present:
            report.folded[path] = fold.names
        stored = {key: checkpoint.dtypes[name] for key, name in present.items()}
        report.cast.update({key: (dtype, tensor.dtype) for key, dtype in stored.items() if dtype != tensor.dtype})
        fold.fill(tensor, checkpoint, present)
    _load_tied(model, checkpoint, naming, report)


def _load_tied(model: nn.Module, checkpoint: Checkpoint, naming: Naming, report: LoadReport) -> None:
    """Read what stands in the file for tied parameters.

    Where it holds other numbers for one than for what it should share, none of them stays tied.
    """
    keys = {path: naming.fold(path).names[0] for path in naming.ties if naming.fold(path).names[0] in report.sources}
    for path, key in keys.items():
        source = naming.ties[path]
        shared = model.get_parameter(source)
        if naming.fold(source).names[0] not in report.sources:
            checkpoint.read_into(report.sources[key], shared)
        elif not torch.equal(checkpoint.read(report.sources[key]).to(shared.device, shared.dtype), shared):
            report.untied.append(key)
    for path, source in naming.ties.items() if report.untied else ():
        owner, _, leaf = path.rpartition(".")
        own = model.get_parameter(source).clone()
        if path in keys:
            checkpoint.read_into(report.sources[keys[path]], own)
        setattr(model.get_submodule(owner), leaf, nn.Parameter(own))


@torch.no_grad()
def published_state(model: nn.Module, naming: Naming) -> dict[str, Tensor]:
    """The model's tensors under the checkpoint's names: views where a name has a tensor of ours to itself."""
    state = {}
    for path, tensor in tensors_of(model).items():
        for name, part in naming.fold(path).split(tensor.detach()).items():
            state[naming.published(path, name)] = part
    return state
