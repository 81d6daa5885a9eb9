"""What a processor returns: a dict of arrays that converts to tensors and moves to a device."""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

    from minitrans.hub import Repository

logger = logging.getLogger(__name__)


class BatchFeature(dict):
    """A dict whose values can also be read as attributes: `model(**features)`, `features.pixel_values`."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"There is no {name!r} here, only {', '.join(map(repr, self))}.") from None

    def convert_to_tensors(self, tensor_type: str | None, advice: str = "") -> BatchFeature:
        """Make one array ("np") or torch tensor ("pt") of each value, in place; None leaves everything as it is.

        Raises ValueError where the items of a value have unequal shapes, ending with the caller's `advice`.
        """
        if tensor_type is None:
            return self
        if tensor_type not in ("np", "pt"):
            raise ValueError(f'return_tensors is {tensor_type!r}; it must be "pt" (torch), "np" (numpy) or None.')
        for name, value in self.items():
            shapes = {getattr(item, "shape", None) or np.shape(item) for item in value}
            if len(shapes) > 1:
                listed = ", ".join(str(tuple(shape)) for shape in sorted(shapes))
                raise ValueError(f"The items of {name} have the shapes {listed} and make no single tensor. {advice}")
            self[name] = np.asarray(value) if tensor_type == "np" else _to_torch(value)
        return self

    def to(
        self,
        device: str | int | torch.device | torch.dtype | None = None,
        dtype: torch.dtype | None = None,
        non_blocking: bool = False,
    ) -> BatchFeature:
        """Move every torch tensor to a device, in place; only floating-point tensors are cast to `dtype`."""
        import torch

        if isinstance(device, torch.dtype):
            device, dtype = None, device
        for name, value in self.items():
            if isinstance(value, torch.Tensor):
                kind = dtype if value.is_floating_point() else None
                self[name] = value.to(device=device, dtype=kind, non_blocking=non_blocking)
        return self


def _to_torch(value: Any) -> torch.Tensor:
    """Stack to a tensor; numpy's dtypes are kept, Python's numbers become float32 or int64."""
    import torch

    if isinstance(value, torch.Tensor):
        return value
    if len(value) and isinstance(value[0], torch.Tensor):
        return torch.stack(list(value))
    if isinstance(value, np.ndarray) or (len(value) and isinstance(value[0], np.ndarray)):
        return torch.from_numpy(np.ascontiguousarray(value))
    return torch.tensor(value)


def read_settings(repository: Repository, part: str) -> dict[str, Any]:
    """Read the settings of an "image_processor" or "feature_extractor".

    They stand in preprocessor_config.json, or under their name in the processor_config.json of newer checkpoints.
    """
    if repository.find("processor_config.json"):
        nested = repository.json("processor_config.json").get(part)
        if nested is not None:
            return nested
    return repository.json("preprocessor_config.json")


@lru_cache(maxsize=64)
def warn_once(message: str) -> None:
    """Log a warning that has not been logged before."""
    logger.warning(message)
