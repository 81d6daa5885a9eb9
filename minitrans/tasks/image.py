"""Images in, results out: classes, and the maps of a backbone's stages."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from typing_extensions import override

from minitrans.auto import AutoBackbone, AutoImageProcessor, AutoModel, AutoModelForImageClassification
from minitrans.tasks.base import Classifier, Piece, Task, as_bytes
from minitrans.tasks.options import MAPPING, SWITCH, or_none


class ImageTask(Task):
    """A task on images; the budget is in images.

    An image is a path, the bytes of a file, an open file, a PIL image, an array as `AutoImageProcessor` takes it, or a
    mapping with one of these under "image", or with "bytes" or "path", as a dataset's examples are.
    """

    processing = AutoImageProcessor
    unit = "image"
    takes = (
        "an image (a path, the bytes of a file, an open file, a PIL image, an array of two or three dimensions, or "
        'a mapping with "image", "bytes" or "path")'
    )
    budget = 8
    read_ahead = 32

    def is_one(self, inputs: Any) -> bool:
        """An array of four dimensions is several images."""
        dimensions = getattr(inputs, "ndim", None)
        if super().is_one(inputs) or isinstance(inputs, os.PathLike) or dimensions in (2, 3):
            return True
        return not isinstance(inputs, Iterable) and not hasattr(inputs, "__getitem__")

    @override
    def prepare(self, found: list[Any]) -> Iterator[Piece]:
        for source in found:
            with self._opened(source) as image:
                (pixels,) = self.processor(image, **self.processing_options())["pixel_values"]
            yield Piece(source, pixels, 1)

    def processing_options(self) -> dict[str, Any]:
        """What the processor is told beside its settings."""
        return {}

    @contextmanager
    def _opened(self, source: Any) -> Iterator[Any]:
        """An image as the processor takes it."""
        source = as_bytes(source)
        if isinstance(source, Mapping):
            found = next((source[key] for key in ("image", "bytes", "path") if source.get(key) is not None), None)
            if found is None:
                raise self.refusal(source, f"not a mapping with {', '.join(map(repr, source)) or 'nothing in it'}")
            with self._opened(found) as image:
                yield image
        elif isinstance(source, bytes):
            # As a file: whatever holds for an image's file holds for its bytes.
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder, "image")
                path.write_bytes(source)
                try:
                    yield path
                except OSError:
                    raise OSError(f"{len(source)} bytes cannot be read as an image: {source[:16]!r}.") from None
        elif isinstance(source, (str, os.PathLike)):
            yield os.fspath(source)
        elif isinstance(source, (list, tuple, int, float)) or getattr(source, "ndim", 2) not in (2, 3):
            raise self.refusal(source)
        else:
            yield source

    def run(self, pieces: list[Piece]) -> Sequence[Any]:
        """Images that differ in size are computed apart."""
        outputs: list[Any] = []
        for _, group in groupby(pieces, lambda piece: piece.inputs.shape):
            pixels = torch.from_numpy(np.stack([piece.inputs for piece in group]))
            outputs += self.outputs(self.model(pixels.to(self.model.device, self.model.dtype)))
        return outputs

    def outputs(self, output: Any) -> Sequence[Any]:
        """What the model's output says about each image."""
        raise NotImplementedError


class ImageClassifier(Classifier, ImageTask):
    """Images -> [{"label", "score"}], best first; see `Classifier`.

    >>> from minitrans import ImageClassifier
    >>> from minitrans.demo import CHECKPOINTS, digits
    >>> classifier = ImageClassifier.from_pretrained(CHECKPOINTS / "swin")
    >>> pictures, labels = digits.load(held_out=True)
    >>> classifier(pictures[0])[0]["label"]
    '4'
    """

    auto = AutoModelForImageClassification

    @override
    def outputs(self, output: Any) -> Sequence[list[dict[str, Any]]]:
        return self.ranked(output.logits)


class ImageVectors(ImageTask):
    """Images -> the last hidden states of their patches (N, C) float32; with `pool`, one vector (C,) an image.

    `image_processor_kwargs` are settings of the processor that count here.
    """

    auto = AutoModel
    options: ClassVar = {"pool": SWITCH, "image_processor_kwargs": or_none(MAPPING)}
    pool = False
    image_processor_kwargs: Mapping[str, Any] | None = None

    @property
    @override
    def shape(self) -> tuple[int | None, ...]:
        size: int = self.model.config.hidden_size
        return (size,) if self.pool else (None, size)

    @override
    def processing_options(self) -> dict[str, Any]:
        return dict(self.image_processor_kwargs or {})

    @override
    def outputs(self, output: Any) -> Sequence[np.ndarray]:
        if self.pool and getattr(output, "pooler_output", None) is None:
            raise ValueError("The model pools nothing (add_pooling_layer=False); leave pool out.")
        return list((output.pooler_output if self.pool else output[0]).float().cpu().numpy())


class FeatureMaps(ImageTask):
    """Images -> {stage: map (C, H, W) float32} of the stages that `from_pretrained(..., out_features=[...])` names."""

    auto = AutoBackbone
    unneeded = r"^hidden_states_norms\."  # a backbone's own, which start as plain normalisation

    @override
    def outputs(self, output: Any) -> Sequence[dict[str, np.ndarray]]:
        maps = [feature_map.float().cpu().numpy() for feature_map in output.feature_maps]
        names = self.model.config.out_features
        return [dict(zip(names, of_image, strict=True)) for of_image in zip(*maps, strict=True)]


def save_maps(
    results: Iterable[tuple[Any, dict[str, np.ndarray] | None]], path: str | Path
) -> list[tuple[str, tuple]]:
    """Write pairs of a file's name and its maps to a safetensors file, whole or not at all, under `<file>/<stage>`.

    Returns the names and shapes. Raises FileExistsError, before anything is computed, for a file that is there.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    path = Path(path)
    if path.exists():
        raise FileExistsError(f"{path} is there already; remove it, or choose another name.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {path.parent} to write {path.name} into.")
    found = ((source, of_image) for source, of_image in results if of_image is not None)
    maps = {f"{source}/{stage}": values for source, of_image in found for stage, values in of_image.items()}
    unfinished = path.with_name(".minitrans.unfinished")  # as short as any name may have to be
    try:
        save_file({name: np.ascontiguousarray(values) for name, values in maps.items()}, unfinished)
        unfinished.replace(path)
    except (SafetensorError, OSError) as error:
        raise OSError(f"{path} could not be written: {error}") from error
    finally:
        unfinished.unlink(missing_ok=True)
    return [(name, values.shape) for name, values in maps.items()]
