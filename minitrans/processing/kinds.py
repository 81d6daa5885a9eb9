"""What a value of a JSON file may be, and how a sentence says that."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

Kind: TypeAlias = tuple[Callable[[Any], bool], str]


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


def shown(value: Any, most: int = 80) -> str:
    """The beginning of what a value prints as, in one line."""
    return " ".join(repr(value).split())[:most]


def check_kinds(values: Mapping[str, Any], kinds: Mapping[str, Kind], whose: str) -> None:
    """TypeError, with the key, the value and whose it is, where one of `kinds` is another."""
    for key in values.keys() & kinds.keys():
        is_right, wanted = kinds[key]
        if not is_right(values[key]):
            raise TypeError(f"{key} of {whose} is {shown(values[key])}; it must be {wanted}.")
