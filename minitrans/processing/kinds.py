"""What a value of a JSON file or an option may be, and how a sentence says that."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np

Kind: TypeAlias = tuple[Callable[[Any], bool], str]
PLAIN = {bool, int, float, str, type(None)}


def plain(value: Any) -> Any:
    """Python's numbers, lists and dicts where `value` has numpy's, torch's or tuples; TypeError where that hides them.

    A whole number is whatever can be an index, and comes back as an int.
    """
    if type(value) in PLAIN:
        return value
    if isinstance(value, list | tuple):
        return list(value) if PLAIN.issuperset(map(type, value)) else [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, np.floating | np.complexfloating):  # which may have more digits than Python's
        return float(value) if isinstance(value, np.floating) else complex(value)
    if hasattr(value, "tolist"):
        try:
            return plain(value.tolist())
        except RuntimeError as error:
            raise TypeError(f"A {type(value).__name__} holds no plain numbers; give a dense one in memory.") from error
    return operator.index(value) if hasattr(value, "__index__") and not isinstance(value, bool) else value


def is_bool(value: Any) -> bool:
    """True or False."""
    return isinstance(value, bool)


def is_text(value: Any) -> bool:
    """Text."""
    return isinstance(value, str)


def is_whole(value: Any) -> bool:
    """A whole number, as which True does not count."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_count(value: Any) -> bool:
    """A whole number from 1 that a machine counts to."""
    return is_whole(value) and 1 <= value < 2**63


def each(is_right: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """A list of such items."""
    return lambda value: isinstance(value, list | tuple) and all(map(is_right, value))


def mapping(is_right: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """An object with such values."""
    return lambda value: isinstance(value, Mapping) and all(map(is_right, value.values()))


def or_none(is_right: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Such a value, or None."""
    return lambda value: value is None or is_right(value)


def whole(option: str, value: Any, least: int) -> int | None:
    """An option that counts, as an int, or None; ValueError for what is no whole number of at least `least`."""
    number = plain(value)
    if number is not None and (not is_whole(number) or number < least):
        raise ValueError(f"{option}={shown(value)} must be a whole number of at least {least}, or None.")
    return number


def shown(value: Any, most: int = 80) -> str:
    """The beginning of what a value prints as, in one line."""
    return " ".join(repr(value).split())[:most]


def check_kinds(values: Mapping[str, Any], kinds: Mapping[str, Kind], whose: str) -> None:
    """TypeError, with the key, the value and whose it is, where one of `kinds` is another."""
    for key in values.keys() & kinds.keys():
        is_right, wanted = kinds[key]
        if not is_right(values[key]):
            raise TypeError(f"{key} of {whose} is {shown(values[key])}; it must be {wanted}.")
