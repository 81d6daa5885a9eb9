"""Published names and ours: the one border between a model's modules and everything outside.

A model's table maps the path of a module of ours to its published path, `{}` standing for indices:

    "layers.{}.attention.out": "encoder.layer.{}.attention.output.dense"

What lies below a module keeps its name (`weight`, `bias`, an adapter's `lora_A`); what has no entry keeps its own.
Containers need no entries: "layers.{}.attention" is where the published paths of what it contains meet. Files,
`state_dict`, `named_modules`, `named_parameters` and attribute paths all go through here and speak published names.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from itertools import takewhile
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from typing_extensions import override

Table = Mapping[str, str]

# Old spellings of tensor names, each anchored at the end of the name.
RENAMES = (
    (re.compile(r"LayerNorm\.gamma$"), "LayerNorm.weight"),
    (re.compile(r"LayerNorm\.beta$"), "LayerNorm.bias"),
    (re.compile(r"\.weight_g$"), ".parametrizations.weight.original0"),
    (re.compile(r"\.weight_v$"), ".parametrizations.weight.original1"),
)
# Buffers that old checkpoints carry and that follow from the configuration.
DERIVED = re.compile(r"(^|\.)(embeddings\.position_ids|relative_position_index)$")


# What weights are stored in. Smaller floats and integers are quantised: they mean nothing without the scales beside.
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


class Names:
    """The two spellings of paths within one kind of model; `others` are further published spellings of our paths."""

    def __init__(self, table: Table, others: Table) -> None:
        self._outside = {**_containers(table), **table}
        inside = {published: ours for ours, published in self._outside.items()}
        self._further = {**_containers(others), **others}
        self._inside = {**{published: ours for ours, published in self._further.items()}, **inside}

    def outside(self, path: str) -> str:
        """The published path of one of ours, such as "layers.3.norm.weight"."""
        return _translated(path, self._outside)

    def spellings(self, path: str) -> tuple[str, str]:
        """The published path of one of ours, and the further one."""
        return self.outside(path), _translated(path, self._further)

    def inside(self, path: str) -> str:
        """Our path of a published one; one that is ours already, or nobody's, stays as it is."""
        return _translated(path, self._inside)

    def exactly(self, path: str) -> str | None:
        """Our path of the module that a published path stands for, None where it stands for none."""
        pattern, indices = _pattern(path)
        found = self._inside.get(pattern)
        return None if found is None else found.format(*indices)


@cache
def _pattern(path: str) -> tuple[str, tuple[str, ...]]:
    """A path with `{}` for indices, and these."""
    parts = path.split(".")
    return ".".join("{}" if part.isdigit() else part for part in parts), tuple(filter(str.isdigit, parts))


def _translated(path: str, table: Table) -> str:
    """The path with its longest beginning that has an entry replaced."""
    pattern, indices = _pattern(path)
    head, rest = pattern, ""
    while head:
        if head in table:
            return (table[head] + rest).format(*indices)
        head, _, last = head.rpartition(".")
        rest = f".{last}{rest}"
    return path


def _containers(table: Table) -> dict[str, str]:
    """The entries of what contains others: a list, one of its items, or a group of modules.

    Their published path is where those of their contents meet: of a list just before its index, of an item at its
    index if nobody further out has that already, of a group at its end.
    """
    prefixes = dict.fromkeys(head for path in table for head in _heads(path))
    found: dict[str, str] = {}
    for prefix in sorted(prefixes, key=lambda prefix: prefix.count(".")):
        below = [published.split(".")[:-1] for path, published in table.items() if path.startswith(f"{prefix}.")]
        meeting = [names[0] for names in takewhile(lambda names: len(set(names)) == 1, zip(*below, strict=False))]
        indices = [index for index, name in enumerate(meeting) if name == "{}"]
        depth = prefix.count("{}")
        first, last = indices[depth - 1] + 1 if depth else 1, indices[depth] if depth < len(indices) else len(meeting)
        if len(indices) < depth:
            continue
        is_list, is_item = f"{prefix}.{{}}" in prefixes or f"{prefix}.{{}}" in table, prefix.endswith("{}")
        ends = [last] if is_list else [first, last] if is_item else [last - (depth < len(indices))]
        for end in ends:
            path = ".".join(meeting[:end])
            taken = path in found.values() or path in table.values()
            if end >= first and not taken and (is_item or not path.endswith("{}")):
                found[prefix] = path
                break
    return found


def _heads(path: str) -> Iterator[str]:
    parts = path.split(".")
    return (".".join(parts[:end]) for end in range(1, len(parts)))


def _nobody() -> None:
    """The owner of a module that is part of no model."""


class Module(nn.Module):
    """A module whose parts are also found by their published names, besides its own names for them."""

    def __getattr__(self, name: str) -> Any:
        modules = self.__dict__["_modules"]  # first, as nearly every question is for one of them
        if name in modules:
            return modules[name]
        try:
            return super().__getattr__(name)
        except AttributeError:
            found = None if name.startswith("_") else self._published(name)
            if found is None:
                raise
            return found

    def _published(self, name: str) -> nn.Module | None:
        """The part of that published name; None where there is none."""
        owner = self.__dict__.get("_owner", _nobody)()
        return None if owner is None else _find(owner, self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, nn.Module) and name not in self._modules and "_owner" in self.__dict__:
            place = self._published(name)
            if place is not None:
                _put(self.__dict__["_owner"](), place, value)
                return
        super().__setattr__(name, value)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_owner"}


# The groups of which one module's output is their own, by the last part of their path -> that module.
RESULTS = {"intermediate": "intermediate_act_fn", "output": "LayerNorm", "transform": "LayerNorm"}


class Handles(RemovableHandle):
    """Removes several hooks, as torch's handle of one does."""

    def __init__(self, *handles: RemovableHandle) -> None:
        self.handles, self.id = handles, handles[-1].id

    def remove(self) -> None:
        """Remove the hooks; again is the same as once."""
        for handle in self.handles:
            handle.remove()


class Group(nn.Module):
    """Modules that stand together in the published structure and not in ours; made on demand, part of no model.

    Its modules are the model's own: their parameters, hooks and replacements count. Nothing calls the group itself: a
    hook on it goes to the first of its modules and to that of `RESULTS`, and without such a one it is refused.
    """

    def __init__(self, owner: nn.Module, path: str, modules: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self._modules.update(modules)
        # What a program noted on the group before lies with the model.
        notes = owner.__dict__.setdefault("_notes", {}).setdefault(path, {})
        self.__dict__.update(notes, training=next(iter(modules.values()), owner).training, _place=(owner, path))

    def __setattr__(self, name: str, value: Any) -> None:
        if "_place" not in self.__dict__ or name == "training":
            super().__setattr__(name, value)
            return
        owner, path = self.__dict__["_place"]
        if name in self._modules:
            _put(owner, getattr(self, name), value)
            self._modules[name] = value
        else:
            super().__setattr__(name, value)
            owner.__dict__["_notes"][path][name] = value

    def register_forward_pre_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False
    ) -> RemovableHandle:
        """A hook on what the group is given, without a residual that it adds."""
        self._result()
        first: Any = next(iter(self._modules.values()))
        return first.register_forward_pre_hook(
            lambda _, *given: hook(self, *given), prepend=prepend, with_kwargs=with_kwargs
        )

    def register_forward_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False, always_call: bool = False
    ) -> RemovableHandle:
        """A hook on what the group gives, which is also told what it was given, without a residual that it adds."""
        given: list[tuple] = []
        named: tuple[dict, ...] = ({},) if with_kwargs else ()
        first = self.register_forward_pre_hook(lambda _, inputs: given.append(inputs))
        last = self._result().register_forward_hook(
            lambda _, __, output: hook(self, given.pop(), *named, output), prepend=prepend, always_call=always_call
        )
        return Handles(first, last)

    def _result(self) -> nn.Module:
        """The module whose output is the group's."""
        name = RESULTS.get(self.__dict__["_place"][1].rpartition(".")[2], "")
        return self._modules.get(name) or self._refuse()

    def _refuse(self, *values: Any, **options: Any) -> Any:
        owner, path = self.__dict__["_place"]
        raise RuntimeError(
            f"{type(owner).__name__} has no module {path!r}: it groups {', '.join(self._modules)}, which {path!r} in "
            "a published model also calls. Call or hook one of these."
        )

    forward = _refuse
    register_full_backward_hook = register_full_backward_pre_hook = _refuse


class Name(str):
    """A published name that equals our spelling of it as well.

    Children are registered under our names, and `named_children` says so. Programs join these, and look among them
    for what `named_parameters` gives: transformers' Trainer finds so what its weight decay is for.
    """

    ours: str

    def __new__(cls, published: str, ours: str) -> Name:
        """`published`, which `ours` stands for too."""
        name = super().__new__(cls, published)
        name.ours = ours
        return name

    def __add__(self, ending: str) -> Name:
        return Name(super().__add__(ending), self.ours + ending)

    def __eq__(self, other: object) -> bool:
        return str.__eq__(self, other) is True or self.ours == other

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__

    def __reduce__(self) -> tuple:
        return str, (str(self),)


torch.serialization.add_safe_globals([str])  # optimisers that are given names save them


class Published(Module):
    """A model that speaks the published names to everything outside, and takes both spellings from it.

    A subclass says in `weights` what its own modules are called outside, and in `spellings` what else they are called;
    a model inside it does so itself, under the name that it has here.
    """

    base_model_prefix: ClassVar[str]
    weights: ClassVar[Table] = {}
    spellings: ClassVar[Table] = {}
    names: ClassVar[Names] = Names({}, {})

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.names = Names(cls.weights, cls.spellings)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.link()

    def link(self) -> None:
        """Let the modules of this model, but not those of a model inside it, know whose they are."""
        for _, module in _parts(self):
            if isinstance(module, Module) and module.__dict__.get("_owner", _nobody)() is None:
                module.__dict__["_owner"] = weakref.ref(self)

    def inner_models(self) -> dict[str, Published]:
        """The models inside this one by their paths."""
        return {
            f"{path}.{name}".lstrip("."): child
            for path, module in _parts(self)
            for name, child in module._modules.items()
            if isinstance(child, Published)
        }

    def outside(self, path: str) -> str:
        """The published path of one of ours, of a module or of a tensor."""
        return self.translation("outside")(path)

    def inside(self, name: str) -> str:
        """Our path of a published one; one that is ours already, or nobody's, stays as it is."""
        return self.translation("inside")(name)

    def translation(self, way: str) -> Callable[[str], str]:
        """`outside` or `inside`, for many paths while the modules stay: the model is searched once."""
        inner = {f"{place}.": model.translation(way) for place, model in self.inner_models().items()}
        own = getattr(self.names, way)

        def translate(path: str) -> str:
            for start, model in inner.items():
                if path.startswith(start):
                    return start + model(path[len(start) :])
            return own(path)

        return translate

    def match(self, tensors: Iterable[str], names: Iterable[str]) -> dict[str, str]:
        """Which of published `names` each of our `tensors` (by path) has: our path -> the name.

        Both spellings are taken, old ones, and those with and without the backbone's prefix; where several names stand
        for one tensor, the one that is spelled as published wins.
        """
        tensors, ours, prefix = set(tensors), self.translation("inside"), self.base_model_prefix
        found: dict[str, str] = {}
        used: set[str] = set()
        asked = [name for name in names if not DERIVED.search(name)]
        for change in (lambda name: name, canonical, lambda name: f"{prefix}.{canonical(name)}",
                       lambda name: canonical(name).removeprefix(f"{prefix}.")):  # fmt: skip
            for name in asked:
                path = ours(change(name))
                if path in tensors and path not in found and name not in used:
                    found[path] = name
                    used.add(name)
        return found

    # What torch's modules offer, in the published names

    def named_modules(
        self, memo: set[nn.Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Module]]:
        """Every module with its published path; so `named_parameters` gives published names as well."""
        inner, start = tuple(f"{place}." for place in self.inner_models()), len(prefix) + bool(prefix)
        for name, module in super().named_modules(memo, prefix, remove_duplicate):
            path = name[start:]
            found = name if path.startswith(inner) else name[:start] + self.names.outside(path)
            yield found if found == name else Name(found, name), module

    @override
    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        # In torch's order, but without their names: every training step asks for them.
        if not recurse:
            yield from super().parameters(recurse=False)
            return
        yield from dict.fromkeys(
            tensor for module in _every(self) for tensor in module._parameters.values() if tensor is not None
        )

    def state_dict(self, *arguments: Any, destination: Any = None, prefix: str = "", keep_vars: bool = False) -> Any:
        """The tensors under their published names: what transformers' model of this class has, and opens.

        They are the model's own, but for what is tied: a second name has a copy, so that any writer takes the whole.
        """
        state = super().state_dict(*arguments, destination=destination, prefix=prefix, keep_vars=keep_vars)
        prefix = arguments[1] if len(arguments) > 1 else prefix
        inner = tuple(f"{prefix}{place}." for place in self.inner_models())
        seconds = {f"{prefix}{self.names.outside(path)}" for path in self.tied()}
        for key in [key for key in state if key.startswith(prefix)]:
            name = key if key.startswith(inner) else prefix + self.names.outside(key[len(prefix) :])
            tensor = state.pop(key)
            copied = name in seconds and not isinstance(tensor, nn.Parameter)
            state[name] = tensor.clone() if copied else tensor
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load tensors by published names or ours; RuntimeError, with the published names, where `strict` fails.

        ValueError, with nothing loaded, for a quantised, sparse, nested or meta tensor where the model has floats.
        """
        found = super().load_state_dict(state_dict, strict=False, assign=assign)
        found.missing_keys[:] = map(self.translation("outside"), found.missing_keys)
        kinds = {"lacks": found.missing_keys, "has besides": found.unexpected_keys}
        wrong = [f"{kind} {', '.join(keys)}" for kind, keys in kinds.items() if keys]
        if strict and wrong:
            raise RuntimeError(f"This state dict is not one of a {type(self).__name__}: it {'; it '.join(wrong)}.")
        return found

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        names = [key[len(prefix) :] for key in state_dict if key.startswith(prefix)]
        own = dict(raw_tensors(self))
        matched = self.match(own, names)
        for path, name in matched.items():
            stored = stored_as(state_dict[f"{prefix}{name}"])
            wanted = own[path].dtype if isinstance(stored, torch.dtype) else stored_as(own[path])
            if not are_numbers_of(stored, wanted):
                raise ValueError(unlike("The state dict", name, stored, wanted))
        found = {f"{prefix}{path}": state_dict.pop(f"{prefix}{name}") for path, name in matched.items()}
        for name in filter(DERIVED.search, names):
            state_dict.pop(f"{prefix}{name}", None)
        for path, source in self.tied().items():  # either name stands for both
            for name, other in ((path, source), (source, path)):
                if f"{prefix}{other}" in found:
                    found.setdefault(f"{prefix}{name}", found[f"{prefix}{other}"])
        state_dict.update(found)
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def tied(self) -> dict[str, str]:
        """Parameters that share another one's tensor now: path -> the other's."""
        return {}


def canonical(name: str) -> str:
    """A published name as it is spelled today."""
    for old, new in RENAMES:
        name = old.sub(new, name)
    return name


def stored_as(tensor: Any) -> torch.dtype | str:
    """The dtype of a tensor that is its numbers, each in its place; of anything else what it is, such as "DTensor"."""
    if type(tensor) not in (Tensor, nn.Parameter):
        return type(tensor).__name__
    if tensor.is_nested or tensor.layout != torch.strided:
        return "nested" if tensor.is_nested else str(tensor.layout).removeprefix("torch.")
    return "meta" if tensor.is_meta else tensor.dtype


def are_numbers_of(stored: torch.dtype | str, wanted: torch.dtype | str) -> bool:
    """Whether what is `stored_as` the one can fill what is stored as the other."""
    if stored == wanted or (stored in FLOATS and wanted in FLOATS):
        return True
    whole = [kind for kind in (stored, wanted) if isinstance(kind, torch.dtype) and not kind.is_floating_point]
    return len(whole) == 2 and torch.promote_types(*whole) == wanted


def unlike(source: Any, name: str, stored: torch.dtype | str, wanted: torch.dtype | str) -> str:
    """The sentence for a tensor of another kind than the model's."""
    has, is_stored = (str(kind).removeprefix("torch.") for kind in (wanted, stored))
    return (
        f"{source} holds {name} as {is_stored}, and the model has {has} there: the checkpoint is quantised, sparse, "
        "or of something else; load the one that it was made from, or save it with its weights as dense floats."
    )


def raw_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and saved buffers by our paths, each shared one under all of its paths."""
    stack: list[tuple[str, nn.Module]] = [("", model)]
    while stack:
        prefix, module = stack.pop()
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None and name not in module._non_persistent_buffers_set:
                yield prefix + name, tensor
        stack.extend(
            (f"{prefix}{name}.", child) for name, child in reversed(module._modules.items()) if child is not None
        )


def _every(module: nn.Module) -> Iterator[nn.Module]:
    """A module and all that are inside it, each before what is inside it."""
    yield module
    for child in module._modules.values():
        if child is not None:
            yield from _every(child)


def _parts(owner: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """A model and its modules by our paths, without what lies inside another model in it."""
    yield path, owner
    for name, child in owner._modules.items():
        if child is not None and not isinstance(child, Published):
            yield from _parts(child, f"{path}.{name}".lstrip("."))


def _find(owner: Published, module: nn.Module, name: str) -> nn.Module | None:
    """What stands under a published name in a module of a model: a module of its, or a group of them."""
    ours = next((path for path, part in _parts(owner) if part is module), None)
    if ours is None:
        return None
    paths = [f"{path}.{name}".lstrip(".") for path in owner.names.spellings(ours)]
    places = [place for place in map(owner.names.exactly, paths) if place is not None]
    found = [part for part in (_at(owner, place.split(".")) for place in places) if part is not None]
    return found[0] if found else _group(owner, paths[0])


def _at(module: nn.Module | None, path: Iterable[str]) -> nn.Module | None:
    for name in path:
        module = None if module is None else module._modules.get(name)
    return module


def _group(owner: Published, path: str) -> nn.Module | None:
    """The modules whose published paths begin with `path`, by what follows."""
    places: dict[str, nn.Module | None] = {}
    for ours, module in _parts(owner):
        outside = owner.names.outside(ours)
        if outside.startswith(f"{path}."):
            name, _, deeper = outside[len(path) + 1 :].partition(".")
            if not deeper:
                places[name] = module
            else:
                places.setdefault(name, None)
    found = {name: _group(owner, f"{path}.{name}") if module is None else module for name, module in places.items()}
    return Group(owner, path, {name: part for name, part in found.items() if part is not None}) if found else None


def _put(owner: Published, old: nn.Module, new: Any) -> None:
    """Put another module in the place of one of a model's; AttributeError for a group."""
    for _, module in _parts(owner):
        for name, child in module._modules.items():
            if child is old:
                setattr(module, name, new)
                return
    raise AttributeError(
        f"{type(owner).__name__} has no module {old.__dict__['_place'][1]!r} to replace: it groups "
        f"{', '.join(old._modules)}; replace these."
    )
