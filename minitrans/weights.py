"""Checkpoint files -> a model's tensors, and the report of what happened.

Loading walks over our parameters, so that none stays unfilled unseen, finds the published name of each
(`minitrans.names`), and reads each tensor once, straight to its place.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import re
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from minitrans import hub
from minitrans.hub import Repository
from minitrans.names import DERIVED, FLOATS, Published, are_numbers_of, raw_tensors, stored_as, unlike
from minitrans.saving import named

if TYPE_CHECKING:
    from typing_extensions import Self

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
# What `write` notes in safetensors' metadata: the configuration's fields that belong to the tensors, and which save a
# shard is of. transformers and the safetensors library read past both.
CONFIG, SAVE = "minitrans_config", "minitrans_save"
TICK = 10**7  # nanoseconds: the steps of the clock by which files are stamped, and more


class OpenFile:
    """A file that is opened once, and that must be the same one, unchanged, until it is closed."""

    def __init__(self, path: Path) -> None:
        self.path, self.stream = path, path.open("rb", buffering=0)
        if time.time_ns() - os.fstat(self.stream.fileno()).st_mtime_ns < TICK:
            time.sleep(TICK / 1e9)  # else another change could have the same time
        self._was = self._is(os.fstat(self.stream.fileno()))

    @staticmethod
    def _is(found: os.stat_result) -> tuple[int, ...]:
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns

    def check(self, path: Path | None = None) -> None:
        """ValueError where the file has changed or, given its path, where another stands there now."""
        try:
            is_now = self._is(os.fstat(self.stream.fileno()) if path is None else path.stat())
        except FileNotFoundError:
            is_now = ()
        if is_now != self._was:
            raise ValueError(f"{self.path} changed while it was read; load it again.")


class Checkpoint:
    """The tensors of one checkpoint by name, whichever of its files they lie in.

    `shapes` and `dtypes` are known from the headers; a tensor's bytes are read when asked for. Where there is an
    `index`, tensor name -> file, it decides, and `misplaced` is what the files hold besides. A checkpoint is a
    context: at its end the files are closed, and ValueError says where one of them has changed meanwhile.
    """

    def __init__(self, files: list[Path], index: Mapping[str, Path] | None = None) -> None:
        self.files, self.index = files, index
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, torch.dtype | str] = {}  # a word for what is not torch's, or not a dense tensor
        self.misplaced: list[str] = []
        self.config: dict[str, Any] = {}  # the fields that the tensors were saved with
        self._sums: dict[str, Tensor] = {}
        self._opened: list[OpenFile] = []
        self._closing = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        with self._closing:
            for file in self._opened if kind is None else ():
                file.check()

    def _open(self, read: Callable[[OpenFile], Iterable[str]]) -> None:
        """Open all files, let `read` say what names are in each, and see to it that all were there at one moment."""
        found: dict[str, list[Path]] = {}
        with ExitStack() as stack:
            for path in self.files:
                file = OpenFile(path)
                stack.enter_context(file.stream)
                self._opened.append(file)
                for name in read(file):
                    found.setdefault(name, []).append(path)
            for file in self._opened:
                file.check(file.path)
            self._hold_against_index(found)
            self._closing = stack.pop_all()

    def _describe(self, tensors: Mapping[str, Tensor]) -> None:
        self.dtypes = {name: stored_as(tensor) for name, tensor in tensors.items()}
        is_dense = {name: isinstance(dtype, torch.dtype) for name, dtype in self.dtypes.items()}
        self.shapes = {name: tuple(tensor.shape) if is_dense[name] else () for name, tensor in tensors.items()}

    def _counts(self, name: str, path: Path) -> bool:
        """Whether it is this file that a tensor is read from."""
        return self.index is None or self.index.get(name) == path

    def _hold_against_index(self, found: dict[str, list[Path]]) -> None:
        """Say what the files hold that the index does not; ValueError where it names a file for what others hold."""
        if self.index is None:
            return
        for name, path in self.index.items():
            if path not in found.get(name, [path]):
                raise ValueError(f"The index says that {name} is in {path}, and it is in {found[name][0].name}.")
        for name in sorted(self.index.keys() | found.keys()):
            places = [path.name for path in found[name] if not self._counts(name, path)] if name in found else ["none"]
            self.misplaced += [f"{name} in {place}" for place in places if not DERIVED.search(name)]

    def read(self, name: str) -> Tensor:
        """The tensor, on the CPU in its own dtype; ValueError for one of a type that torch does not have."""
        dtype = self.dtypes[name]
        self.check(name, dtype if isinstance(dtype, torch.dtype) else torch.float32)
        tensor = torch.empty(self.shapes[name], dtype=dtype, device="cpu")  # type: ignore[arg-type]
        self._fill(name, tensor)
        return tensor

    def floats(self, name: str) -> Tensor:
        """The tensor, on the CPU in float32; ValueError for one that is not of floats."""
        self.check(name, torch.float32)
        return self.read(name).float()

    def read_into(self, name: str, destination: Tensor) -> None:
        """Fill `destination`, of the same shape and any device; ValueError where its dtype means something else."""
        self.check(name, destination.dtype)
        self._fill(name, destination)
        if destination.dtype in FLOATS and destination.device.type != "meta":
            self._sums[name] = destination.detach().sum()  # now, while a CPU has it in its caches

    def _fill(self, name: str, destination: Tensor) -> None:
        raise NotImplementedError

    def check(self, name: str, dtype: torch.dtype) -> None:
        """ValueError where the tensor's numbers are not those of a tensor of that dtype."""
        if not are_numbers_of(self.dtypes[name], dtype):
            file = self.files[0] if self.index is None else self.index[name]
            raise ValueError(unlike(file, name, self.dtypes[name], dtype))

    def not_finite(self, names: Iterable[str]) -> list[str]:
        """Which of the tensors that were read hold NaN or infinite numbers, as far as their sums may tell."""
        asked = [name for name in names if name in self._sums]
        if not asked:
            return []
        # NaN or infinity makes the sum so too; an overflow does as well, which whoever has the tensor can rule out.
        fine = torch.stack([self._sums[name].float() for name in asked]).isfinite().tolist()
        return [name for name, is_fine in zip(asked, fine, strict=True) if not is_fine]

    @property
    def dtype(self) -> torch.dtype:
        """The floating dtype that holds most of the numbers."""
        sizes: dict[Any, int] = {}
        for name, dtype in self.dtypes.items():
            if dtype in FLOATS:
                sizes[dtype] = sizes.get(dtype, 0) + math.prod(self.shapes[name])
        return max(sizes, key=lambda dtype: sizes[dtype], default=torch.float32)


class SafetensorsCheckpoint(Checkpoint):
    """Safetensors files, read without a memory map: no second copy, and no file that changes under a model."""

    def __init__(self, files: list[Path], index: Mapping[str, Path] | None = None) -> None:
        super().__init__(files, index)
        self._places: dict[str, tuple[OpenFile, int, int]] = {}
        self._saves: set[str] = set()
        self._open(self._read_header)
        if len(self._saves) > 1:
            raise ValueError(
                f"The shards beside {files[0]} are of {len(self._saves)} saves; save or fetch them again."
            )

    def _read_header(self, file: OpenFile) -> Iterable[str]:
        try:
            with safe_open(file.path, framework="pt"):  # the library checks the header against the file
                pass
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{file.path} is not a whole safetensors file ({error}); fetch it again.") from error
        length = int.from_bytes(file.stream.read(8), "little")
        text = file.stream.read(length)
        file.check(file.path)  # it is what the library has seen
        header = json.loads(text)
        metadata = header.pop("__metadata__", None) or {}
        self._saves |= {metadata[SAVE]} if SAVE in metadata else set()
        self.config = self.config or _fields(metadata.get(CONFIG))
        for name in filter(lambda name: self._counts(name, file.path), header):
            info = header[name]
            self.shapes[name], self.dtypes[name] = tuple(info["shape"]), DTYPES.get(info["dtype"], info["dtype"])
            begin, end = info["data_offsets"]
            self._places[name] = file, 8 + length + begin, end - begin
        return header

    def _fill(self, name: str, destination: Tensor) -> None:
        straight = destination.device.type == "cpu" and destination.dtype == self.dtypes[name]
        if not (straight and destination.is_contiguous()):
            destination.copy_(self.read(name))
            return
        file, offset, size = self._places[name]
        if size == 0:
            return
        file.stream.seek(offset)
        target = memoryview(destination.detach().reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
        while target:
            count = file.stream.readinto(target)
            if not count:
                raise ValueError(f"{file.path} ended inside {name}; it changed while it was read.")
            target = target[count:]


def _fields(text: str | None) -> dict[str, Any]:
    """The fields in a note of `write`; none where there is no such note."""
    try:
        found = hub.parsed(text or "{}")
    except (ValueError, RecursionError):
        found = None
    return found if isinstance(found, dict) else {}


class PickleCheckpoint(Checkpoint):
    """`pytorch_model.bin` files, through torch's restricted unpickler, which runs no code from the file."""

    def __init__(self, files: list[Path], index: Mapping[str, Path] | None = None) -> None:
        super().__init__(files, index)
        self._tensors: dict[str, Tensor] = {}
        self._open(self._read_pickle)
        self._describe(self._tensors)

    def _read_pickle(self, file: OpenFile) -> Iterable[str]:
        path = file.path
        try:
            # Mapped, where the format allows it, a file takes memory only as far as it is read.
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        except Exception as error:
            reason = str(error).split("\n")[0]
            raise ValueError(f"{path} is not a readable PyTorch file of weights ({reason}).") from error
        pairs = content.items() if isinstance(content, dict) else [("", None)]
        if not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in pairs):
            raise ValueError(f"{path} holds something else than a dictionary of tensors.")
        self._tensors.update({name: tensor for name, tensor in content.items() if self._counts(name, path)})
        return content

    def _fill(self, name: str, destination: Tensor) -> None:
        destination.copy_(self._tensors[name])


class StateDict(Checkpoint):
    """Tensors in memory."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__([Path("state_dict")])
        check_names(tensors)
        self._tensors = dict(tensors)
        self._describe(self._tensors)

    def _fill(self, name: str, destination: Tensor) -> None:
        destination.copy_(self._tensors[name])


def open_checkpoint(repository: Repository, variant: str | None = None) -> Checkpoint:
    """The weights of a repository: safetensors, whole or in shards, else `pytorch_model.bin`.

    `variant` "fp16" means `model.fp16.safetensors`. Raises FileNotFoundError where there are none, ValueError where
    they are broken.
    """
    dot = _dot(variant)
    kinds: list[tuple[str, type[Checkpoint]]] = [
        (f"model{dot}.safetensors", SafetensorsCheckpoint),
        (f"model.safetensors.index{dot}.json", SafetensorsCheckpoint),
        (f"pytorch_model{dot}.bin", PickleCheckpoint),
        (f"pytorch_model.bin.index{dot}.json", PickleCheckpoint),
    ]
    for filename, kind in kinds:
        path = repository.find(filename)
        if path is not None and filename.endswith(".json"):
            index = _shards(repository, filename)
            return kind(sorted(set(index.values())), index)
        if path is not None:
            return kind([path])
    raise FileNotFoundError(repository.absence(*dict(kinds)))


def _shards(repository: Repository, index: str) -> dict[str, Path]:
    """Where an index says that each tensor lies."""
    weight_map = repository.json(index).get("weight_map")
    files = set(map(str, weight_map.values())) if isinstance(weight_map, dict) else set()
    if not files or not all(isinstance(name, str) for name in weight_map.values()):
        raise ValueError(f"{index} of {repository.name} has no weight_map from tensor names to file names.")
    paths = {name: repository.file(name) for name in files}
    return {name: paths[file] for name, file in weight_map.items()}


_LOADING_INFO = {
    "missing_keys": "missing",
    "unexpected_keys": "unexpected",
    "mismatched_keys": "mismatched",
    "error_msgs": "errors",
}


@dataclass
class LoadReport(Mapping[str, Any]):
    """What loading did, by published names; `sources` are the names in the file that were read, by our paths.

    It is a mapping of transformers' keys as well: `report["missing_keys"]`.
    """

    files: list[Path] = field(default_factory=list)
    sources: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)
    untied: list[str] = field(default_factory=list)
    misplaced: list[str] = field(default_factory=list)
    not_finite: list[str] = field(default_factory=list)
    renamed: dict[str, str] = field(default_factory=dict)
    cast: dict[str, tuple[torch.dtype | str, torch.dtype]] = field(default_factory=dict)

    @property
    def needs_attention(self) -> bool:
        """Whether some of the model's numbers, or the checkpoint's, were not used as they stand."""
        return any((self.missing, self.unexpected, self.mismatched, self.untied, self.misplaced, self.not_finite))

    def __getitem__(self, key: str) -> Any:
        try:
            return getattr(self, _LOADING_INFO[key])
        except KeyError:
            raise KeyError(f"A load report has no {key!r}; it has {', '.join(_LOADING_INFO)}.") from None

    def __iter__(self) -> Iterator[str]:
        return iter(_LOADING_INFO)

    def __len__(self) -> int:
        return len(_LOADING_INFO)

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
        if self.misplaced:
            lines.append(f"  other places than the index says, unused: {', '.join(self.misplaced)}")
        if self.not_finite:
            lines.append(f"  NaN or infinite numbers: {', '.join(_grouped(self.not_finite))}")
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

    Raises ValueError where none is the backbone's, where one is not of a dtype of weights, or where a shape
    differs, unless `ignore_mismatched_sizes`.
    """
    report = LoadReport(files=checkpoint.files, misplaced=checkpoint.misplaced)
    names = [name for name in checkpoint.shapes if not DERIVED.search(name)]
    tensors, outside = tensors_of(model), model.translation("outside")
    tied = {path: source for path, source in model.tied().items() if path not in tensors}
    found = model.match([*tensors, *tied], names)
    for path in filter(found.__contains__, [*tensors, *tied]):
        name, tensor = found[path], tensors[tied.get(path, path)]
        checkpoint.check(name, tensor.dtype)
        theirs, ours = checkpoint.shapes[name], tuple(tensor.shape)
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
    suspects, filled = set(checkpoint.not_finite(report.sources.values())), dict(raw_tensors(model))
    for path, name in report.sources.items():
        if name in suspects and not filled[path].isfinite().all():
            report.not_finite.append(model.outside(path))


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
    """The model's tensors under their published names, each once: what a checkpoint holds.

    And what a module put into it keeps as state in a form of its own, such as torch's quantised ones.
    """
    outside = model.translation("outside")
    known = {outside(path) for path, _ in raw_tensors(model)}
    own = {name: value for name, value in model.state_dict(keep_vars=True).items() if name not in known}
    return {outside(path): tensor.detach() for path, tensor in tensors_of(model).items()} | own


def check_names(state: Mapping[str, Any]) -> None:
    """TypeError or ValueError unless something maps what can be the names of tensors in a file."""
    if not isinstance(state, Mapping):
        raise TypeError(f"state_dict is a {type(state).__name__}; it must map names to tensors.")
    for name in state:
        if not isinstance(name, str):
            raise TypeError(f"state_dict has the key {name!r:.80}; the names of tensors are text.")
        if name != name.encode("utf-8", "replace").decode():
            raise ValueError(f"state_dict has the name {name!r:.80}, which holds half a character; write it anew.")


def check_savable(model: Published, state: Mapping[str, Any]) -> None:
    """ValueError for a tensor that a checkpoint cannot hold, as it would read back as nothing or as other numbers."""
    check_names(state)
    floats = {model.outside(path) for path, tensor in raw_tensors(model) if isinstance(tensor, nn.Parameter)}
    for name, tensor in state.items():
        stored = stored_as(tensor)
        if stored not in (FLOATS if name in floats else DTYPES.values()):
            raise ValueError(
                f"{name} is {str(stored).removeprefix('torch.')}, and a checkpoint holds dense tensors of floats: "
                "save the model as it was before it was quantised or sharded, or give dense tensors as state_dict=."
            )


def _dot(variant: str | None) -> str:
    """What a variant adds to the names of its files; ValueError where it could not stand in these."""
    if not re.fullmatch(r"[\w.-]*", str(variant or "")):
        raise ValueError(f"variant is {variant!r:.80}; letters, digits, '-', '.' and '_' may be in it, as in 'fp16'.")
    return f".{variant}" if variant else ""


UNITS = {None: 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def _shard_size(size: int | str) -> int:
    """The bytes that a file may have, given as a number or as text such as "5GB"; ValueError for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]B)?", str(size).upper())
    count = float(found[1]) * UNITS[found[2]] if found else 0
    if not 1 <= count < math.inf:
        raise ValueError(f"max_shard_size is {size!r:.80}; it must be a number of bytes, or text such as '5GB'.")
    return int(count)


def is_weights(filename: str, variant: str | None = None) -> bool:
    """Whether a file holds a variant's weights, or their index, so that another save of these replaces it."""
    dot = re.escape(_dot(variant))
    part = r"(-\d+-of-\d+)?"
    return bool(
        re.fullmatch(rf"(model{dot}{part}|pytorch_model{dot}{part})\.(safetensors|bin)", filename)
        or re.fullmatch(rf"(model\.safetensors|pytorch_model\.bin)\.index{dot}\.json", filename)
    )


def write(
    state: dict[str, Tensor], folder: Path, max_shard_size: int | str, variant: str | None, config: dict[str, Any]
) -> None:
    """Write tensors as model.safetensors, or as several such files and an index where they are too large for one.

    `config` are the fields that they belong to, for whoever reads them: see `Checkpoint.config`.
    """
    from huggingface_hub import split_torch_state_dict_into_shards
    from safetensors.torch import save_file

    dot = _dot(variant)
    plan = split_torch_state_dict_into_shards(
        state, filename_pattern=f"model{dot}{{suffix}}.safetensors", max_shard_size=_shard_size(max_shard_size)
    )
    metadata = {"format": "pt", CONFIG: json.dumps(config, sort_keys=True)}
    if plan.is_sharded:
        metadata[SAVE] = digest(state)
    for filename, names in plan.filename_to_tensors.items():
        with named(folder / filename):
            save_file({name: state[name] for name in names}, folder / filename, metadata=metadata)
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        text = json.dumps(index, indent=2, sort_keys=True) + "\n"
        (folder / f"model.safetensors.index{dot}.json").write_text(text, encoding="utf-8")


def digest(state: dict[str, Tensor]) -> str:
    """A digest of all tensors, which the shards of one save have in common."""
    found = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        found.update(name.encode())
        found.update(memoryview(tensor.cpu().reshape(-1).view(torch.uint8).numpy()))  # type: ignore[arg-type]
    return found.hexdigest()
