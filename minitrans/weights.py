"""Checkpoint files -> a model's tensors, and the report of what happened.

Loading walks over our parameters, so that none stays unfilled unseen, finds the published name of each
(`minitrans.names`), and reads each tensor once, straight to its place.
"""

from __future__ import annotations

import json
import logging
import math
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from minitrans.hub import Repository
from minitrans.names import DERIVED, Published, raw_tensors

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


class StateDict(Checkpoint):
    """Tensors in memory."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__([Path("state_dict")])
        self._tensors = dict(tensors)
        self.shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        self.dtypes = {name: tensor.dtype for name, tensor in tensors.items()}

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


_LOADING_INFO = {
    "missing_keys": "missing",
    "unexpected_keys": "unexpected",
    "mismatched_keys": "mismatched",
    "error_msgs": "errors",
}


@dataclass
class LoadReport:
    """What loading did, by published names; `sources` are the names in the file that were read, by our paths.

    It answers to transformers' keys as well: `report["missing_keys"]`.
    """

    files: list[Path] = field(default_factory=list)
    sources: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)
    untied: list[str] = field(default_factory=list)
    renamed: dict[str, str] = field(default_factory=dict)
    cast: dict[str, tuple[torch.dtype, torch.dtype]] = field(default_factory=dict)

    @property
    def needs_attention(self) -> bool:
        """Whether some of the model's numbers, or the checkpoint's, were not used as they stand."""
        return bool(self.missing or self.unexpected or self.mismatched or self.untied)

    def __getitem__(self, key: str) -> Any:
        try:
            return getattr(self, _LOADING_INFO[key])
        except KeyError:
            raise KeyError(f"A load report has no {key!r}; it has {', '.join(_LOADING_INFO)}.") from None

    def keys(self) -> list[str]:
        """transformers' names of what it says."""
        return [*_LOADING_INFO]

    @property
    def errors(self) -> list[str]:
        """Nothing: what cannot be loaded raises."""
        return []

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
        for title, table in (("renamed", self.renamed), ("cast", self.cast)):
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


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and saved buffers by our paths, each shared one once."""
    found: dict[int, tuple[str, Tensor]] = {}
    for path, tensor in raw_tensors(model):
        found.setdefault(id(tensor), (path, tensor))
    return dict(found.values())


def compare(model: Published, checkpoint: Checkpoint, ignore_mismatched_sizes: bool = False) -> LoadReport:
    """Which of the checkpoint's tensors become the model's; nothing is read, and the model may be on the meta device.

    Raises ValueError where none is the backbone's, or where a shape differs, unless `ignore_mismatched_sizes`.
    """
    report = LoadReport(files=checkpoint.files)
    names = [name for name in checkpoint.shapes if not DERIVED.search(name)]
    tensors, outside = tensors_of(model), model.outside
    tied = {path: source for path, source in model.tied().items() if path not in tensors}
    found = model.match([*tensors, *tied], names)
    for path in filter(found.__contains__, [*tensors, *tied]):
        name = found[path]
        theirs, ours = checkpoint.shapes[name], tuple(tensors[tied.get(path, path)].shape)
        if theirs == ours:
            report.sources[path] = name
        else:
            report.mismatched.append((outside(path), theirs, ours))
        if not outside(path).endswith(name) and not name.endswith(outside(path)):
            report.renamed[name] = outside(path)
    shared = {source for path, source in tied.items() if path in found}
    report.missing = [outside(path) for path in tensors if path not in found and path not in shared]
    report.unexpected = sorted(set(names) - set(found.values()))
    prefix = f"{model.base_model_prefix}."
    backbone = [path for path in tensors if path.startswith(prefix)] or [*tensors]
    if not any(path in found or path in shared for path in backbone):
        inside = ", ".join(names[:3]) or "nothing"
        raise ValueError(
            f"{checkpoint.files[0]} holds no tensor of a {type(model).__name__}{_named_inside(backbone, prefix)}; it "
            f"begins with {inside}."
        )
    if report.mismatched and not ignore_mismatched_sizes:
        key, theirs, ours = report.mismatched[0]
        raise ValueError(
            f"{len(report.mismatched)} tensors of {checkpoint.files[0]} have another shape than the configuration "
            f"asks for, such as {key}: {theirs} in the file, {ours} in the model; correct the configuration "
            "(num_labels?), or pass ignore_mismatched_sizes=True to initialise them anew."
        )
    return report


def _named_inside(backbone: list[str], prefix: str) -> str:
    return f"'s backbone ({prefix}…)" if backbone[0].startswith(prefix) else ""


@torch.no_grad()
def load(model: Published, checkpoint: Checkpoint, report: LoadReport) -> None:
    """Fill the model's tensors, already on their device in their dtype, as `compare` found, and complete its report.

    What is missing, `model.start` fills.
    """
    tensors = tensors_of(model)
    model.start({path: tensor for path, tensor in tensors.items() if path not in report.sources})
    for path, tensor in tensors.items():
        if path not in report.sources:
            continue
        name = report.sources[path]
        tensor._is_hf_initialized = True  # type: ignore[attr-defined]  # see `PreTrainedModel.start`
        if checkpoint.dtypes[name] != tensor.dtype:
            report.cast[name] = checkpoint.dtypes[name], tensor.dtype
        checkpoint.read_into(name, tensor)
    _load_tied(model, checkpoint, report)


def _load_tied(model: Published, checkpoint: Checkpoint, report: LoadReport) -> None:
    """Read what stands in the file for tied parameters.

    Where it holds other numbers for one than for what it should share, none of them stays tied.
    """
    tied = model.tied()
    names = {path: report.sources[path] for path in tied if path in report.sources}
    for path, name in names.items():
        shared = model.get_parameter(tied[path])
        if tied[path] not in report.sources:
            checkpoint.read_into(name, shared)
        elif not torch.equal(checkpoint.read(name).to(shared.device, shared.dtype), shared):
            report.untied.append(model.outside(path))
    for path, source in tied.items() if report.untied else ():
        owner, _, leaf = path.rpartition(".")
        own = model.get_parameter(source).clone()
        if path in names:
            checkpoint.read_into(names[path], own)
        setattr(model.get_submodule(owner), leaf, nn.Parameter(own))


@torch.no_grad()
def published_state(model: Published) -> dict[str, Tensor]:
    """The model's tensors under their published names, each once: what a checkpoint holds."""
    outside = model.outside
    return {outside(path): tensor.detach() for path, tensor in tensors_of(model).items()}


def is_weights(filename: str) -> bool:
    """Whether a file holds a checkpoint's weights, or their index, so that another save of weights replaces it."""
    return bool(re.fullmatch(r"(model|pytorch_model)(-\d+-of-\d+)?\.(safetensors|bin)(\.index\.json)?", filename))


def write(state: dict[str, Tensor], folder: Path, max_shard_size: int | str, variant: str | None) -> None:
    """Write tensors as model.safetensors, or as several such files and an index where they are too large for one."""
    from huggingface_hub import split_torch_state_dict_into_shards
    from safetensors.torch import save_file

    dot = f".{variant}" if variant else ""
    plan = split_torch_state_dict_into_shards(
        state, filename_pattern=f"model{dot}{{suffix}}.safetensors", max_shard_size=max_shard_size
    )
    for filename, names in plan.filename_to_tensors.items():
        save_file({name: state[name] for name in names}, folder / filename, metadata={"format": "pt"})
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        text = json.dumps(index, indent=2, sort_keys=True) + "\n"
        (folder / f"model.safetensors.index{dot}.json").write_text(text, encoding="utf-8")
