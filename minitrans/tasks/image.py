"""Images in, answers out: classes, and the maps of a backbone's stages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch

from minitrans.auto import AutoBackbone, AutoImageProcessor, AutoModelForImageClassification
from minitrans.tasks.base import Piece, Task, ranked


class ImageTask(Task):
    """A task on images: paths, PIL images, or arrays as `AutoImageProcessor` takes them; the budget is in images."""

    processing = AutoImageProcessor
    unit = "image"
    budget = 8
    window = 32

    def is_one(self, inputs: Any) -> bool:
        """See `Task`; an array of four dimensions is several images."""
        return not isinstance(inputs, (list, tuple, Iterator)) and getattr(inputs, "ndim", 3) < 4

    def pieces(self, images: Iterable[Any]) -> Iterator[Piece]:
        """See `Task`."""
        for image in images:
            (pixels,) = self.processor(image)["pixel_values"]
            yield Piece(image, pixels, 1)

    def run(self, pieces: list[Piece]) -> Sequence[Any]:
        """See `Task`; images that differ in size are computed apart."""
        results: list[Any] = []
        for _, group in groupby(pieces, lambda piece: piece.inputs.shape):
            pixels = torch.from_numpy(np.stack([piece.inputs for piece in group]))
            results += self.results(self.model(pixels.to(self.model.device, self.model.dtype)))
        return results

    def results(self, output: Any) -> Sequence[Any]:
        """What the model's output says about each image."""
        raise NotImplementedError


class ImageClassifier(ImageTask):
    """Images -> [{"label", "score"}], best first; see `ranked`."""

    auto = AutoModelForImageClassification

    def results(self, output: Any) -> Sequence[list[dict[str, Any]]]:
        """See `ImageTask`."""
        return ranked(self.model.config, output.logits)


class FeatureMaps(ImageTask):
    """Images -> {stage: map (C, H, W) float32} of the stages that `from_pretrained(..., out_features=[...])` names."""

    auto = AutoBackbone

    def results(self, output: Any) -> Sequence[dict[str, np.ndarray]]:
        """See `ImageTask`."""
        maps = [feature_map.float().cpu().numpy() for feature_map in output.feature_maps]
        names = self.model.config.out_features
        return [dict(zip(names, of_image, strict=True)) for of_image in zip(*maps, strict=True)]


def save_maps(answers: Iterable[tuple[Any, dict[str, np.ndarray]]], path: str | Path) -> list[tuple[str, tuple]]:
    """Write pairs of a file's name and its maps to a safetensors file, whole or not at all, under `<file>/<stage>`.

    Returns the names and shapes. Raises FileExistsError, before anything is computed, for a file that is there.
    """
    from safetensors.numpy import save_file

    path = Path(path)
    if path.exists():
        raise FileExistsError(f"{path} is there already; remove it, or choose another name.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {path.parent} to write {path.name} into.")
    maps = {f"{source}/{stage}": values for source, of_image in answers for stage, values in of_image.items()}
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        save_file({name: np.ascontiguousarray(values) for name, values in maps.items()}, unfinished)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return [(name, values.shape) for name, values in maps.items()]
