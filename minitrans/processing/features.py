"""What processors share: the dict of arrays that they return, saving, and what transformers takes them for."""

from __future__ import annotations

import sys
from collections.abc import Iterable, KeysView, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from minitrans import hub
from minitrans.processing.kinds import check_kinds, or_none, shown

if TYPE_CHECKING:
    import torch
    from typing_extensions import Self

    from minitrans.hub import Repository

# There is one implementation of each processor, and none runs code out of a checkpoint.
WITHOUT_EFFECT = ("use_fast", "from_slow", "trust_remote_code", "code_revision", "backend")


class BatchFeature(dict):
    """A dict whose values can also be read as attributes: `model(**features)`, `features.pixel_values`.

    `tensor_type` "pt" or "np" converts the values at once.
    """

    def __init__(self, data: Mapping[str, Any] | None = None, tensor_type: str | None = None, **values: Any) -> None:
        super().__init__(data or {}, **values)
        self.convert_to_tensors(tensor_type)

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(
                f"There is no {name!r} here, only {', '.join(map(repr, self)) or 'nothing'}."
            ) from None

    def keys(self) -> KeysView[str]:  # type: ignore[override]
        """Return the names of the values, in a view that prints as transformers' does."""
        return KeysView(self)

    @property
    def data(self) -> dict[str, Any]:
        """The values in a plain dict."""
        return dict(self)

    def convert_to_tensors(
        self, tensor_type: str | None = None, prepend_batch_axis: bool = False, *, advice: str = ""
    ) -> Self:
        """Make one array ("np") or torch tensor ("pt") of each value, in place; None leaves everything as it is.

        `prepend_batch_axis` makes a batch of one. Items of unequal shapes become a numpy array of objects; for
        tensors they raise ValueError, which ends with the caller's `advice`.
        """
        tensor_type = getattr(tensor_type, "value", tensor_type)
        if tensor_type is None:
            return self
        if not isinstance(tensor_type, str) or tensor_type not in ("np", "pt"):
            raise ValueError(f'return_tensors is {tensor_type!r}; it must be "pt" (torch), "np" (numpy) or None.')
        for name, value in self.items():
            value = [value] if prepend_batch_axis else value
            if tensor_type == "np" and len(_shapes(name, value, advice)) > 1:
                self[name] = np.empty(len(value), object)
                self[name][:] = [np.asarray(item) for item in value]
            else:
                self[name] = stacked(name, value, tensor_type, advice)
        return self

    def to(
        self,
        device: str | int | torch.device | torch.dtype | None = None,
        dtype: torch.dtype | None = None,
        non_blocking: bool = False,
    ) -> Self:
        """Move every torch tensor to a device, in place; only floating-point tensors are cast to `dtype`."""
        import torch

        if isinstance(device, torch.dtype):
            device, dtype = None, device
        for name, value in self.items():
            if isinstance(value, torch.Tensor):
                kind = dtype if value.is_floating_point() else None
                self[name] = value.to(device=device, dtype=kind, non_blocking=non_blocking)
        return self


def stacked(name: str, items: Any, tensor_type: str, advice: str) -> Any:
    """One array ("np") or tensor ("pt") of items; ValueError, which names them, where they make none."""
    if len(shapes := _shapes(name, items, advice)) > 1:
        listed = ", ".join(map(str, sorted(shapes)))
        raise ValueError(f"The items of {name} have the shapes {listed} and make no single tensor. {advice}".rstrip())
    return np.asarray(items) if tensor_type == "np" else _to_torch(name, items)


def _shapes(name: str, items: Any, advice: str) -> set[tuple[int, ...]]:
    try:
        return {tuple(getattr(item, "shape", None) or np.shape(item)) for item in items}
    except (TypeError, ValueError) as error:  # no items, or lists of unequal lengths within one
        said = f"{name} is {shown(items)}; items of one shape make a single tensor. {advice}"
        raise ValueError(said.rstrip()) from error


def _to_torch(name: str, value: Any) -> torch.Tensor:
    """Stack to a tensor; numpy's dtypes are kept where torch has them, Python's numbers become float32 or int64."""
    import torch

    if isinstance(value, torch.Tensor):
        return value
    try:
        if len(value) and isinstance(value[0], torch.Tensor):
            return torch.stack(list(value))
        if not isinstance(value, np.ndarray) and not (len(value) and isinstance(value[0], np.ndarray)):
            return torch.tensor(value)
        array = np.ascontiguousarray(value)
        native = array.dtype.newbyteorder("=")
        return torch.from_numpy(array.astype(np.float64 if native == np.longdouble else native, copy=False))
    except (TypeError, ValueError, RuntimeError) as error:  # torch's, for texts, None and what it has no type for
        raise ValueError(f"{name} makes no tensor, which holds numbers of one type: {shown(value)}.") from error


def gathered(examples: Any) -> dict[str, list[Any]]:
    """A batch of examples, each a mapping, as one dict of lists; ValueError where one lacks what another has."""
    listed = list(examples) if isinstance(examples, Iterable) else []
    if not listed or not all(isinstance(example, Mapping) for example in listed):
        raise ValueError(f"The features of a batch are a list of one dict or more, not {shown(examples)}.")
    names = listed[0].keys()
    if odd := {name for example in listed for name in example.keys() ^ names}:
        raise ValueError(
            f"Of {len(listed)} examples only some have {min(map(repr, odd))}; all of a batch need the same."
        )
    return {name: [example[name] for example in listed] for name in names}


def as_array(tensor: torch.Tensor) -> np.ndarray:
    """A torch tensor as an array, in float32 where it has real numbers; TypeError for one without plain numbers."""
    try:
        plain = tensor.detach().cpu()
        return (plain.float() if plain.is_floating_point() else plain).numpy()
    except (RuntimeError, TypeError) as error:
        form = f"{tensor.dtype} in the layout {tensor.layout} on {tensor.device}"
        raise TypeError(f"A tensor of {form} holds no plain numbers; give a dense one in memory.") from error


class Likeness:
    """Makes `isinstance` say that an object is what transformers calls such an object, once that is imported.

    transformers' Trainer pads with a tokenizer or a feature extractor only where it is an instance of its own base
    class, and stacks unpadded rows otherwise. A class can say what `__class__` it shows, as `unittest.mock` does:
    this one shows a subclass of both, which nobody else ever sees; `type(tokenizer)` is what it always was.
    """

    shown_as: ClassVar[tuple[str, str]]  # the module of transformers and its base class

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        module, name = type(self).shown_as
        base = getattr(sys.modules.get(module), name, None)
        own: Any = type(self)
        return own if base is None else _shown(own, base)

    def __reduce__(self) -> tuple[Any, ...]:
        # pickle's own way compares type() with __class__.
        get = getattr(type(self), "__getstate__", None)  # every class has one from Python 3.11 on
        state = self.__dict__ if get is None else get(self)
        return _without_init, (type(self),), state


def _without_init(kind: Any) -> Any:
    return kind.__new__(kind)


@cache
def _shown(own: type, base: type) -> type:
    """Return a subclass of `own` and `base` by the name of `own`; calling it makes an `own`, as `replace` does."""
    names = {"__module__": own.__module__, "__qualname__": own.__qualname__, "__doc__": own.__doc__}
    made = {"__new__": lambda _, *arguments, **options: own(*arguments, **options)}
    return type(own.__name__, (own, base), {**names, **made})


def open_with(name_or_path: hub.Source, options: Mapping[str, Any], *files: str) -> tuple[Repository, dict[str, Any]]:
    """`hub.open_with` without the options of transformers that have no effect on any processor here."""
    return hub.open_with(name_or_path, {k: v for k, v in options.items() if k not in WITHOUT_EFFECT}, *files)


def read_settings(repository: Repository, part: str) -> dict[str, Any]:
    """Read the settings of an "image_processor" or "feature_extractor".

    They stand in preprocessor_config.json, or under their name in the processor_config.json of newer checkpoints.
    """
    if repository.find("processor_config.json"):
        parts = repository.json("processor_config.json")
        kind = or_none(lambda value: isinstance(value, Mapping)), "an object, or null"
        check_kinds(parts, {part: kind}, f"processor_config.json of {repository.name}")
        if parts.get(part) is not None:
            return parts[part]
    return repository.json("preprocessor_config.json")
