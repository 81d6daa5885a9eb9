"""What an option may be: how its value is read, and how a sentence says what it must be."""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from numbers import Real
from string import Formatter
from typing import Any, TypeAlias

from minitrans.processing.kinds import shown

# What gives a value in the form in which it counts, or raises one of `WRONG`; what the value must be, in words.
Option: TypeAlias = tuple[Callable[[Any], Any], str]
WRONG = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


def read(name: str, value: Any, option: Option) -> Any:
    """The value in the form in which it counts; ValueError, with its name, for what it may not be."""
    reader, wanted = option
    try:
        return reader(single(value))
    except WRONG:
        raise ValueError(f"{name} is {shown(value)}; it must be {wanted}.") from None


def read_all(values: Mapping[str, Any], options: Mapping[str, Option]) -> dict[str, Any]:
    """As `read`, for several."""
    return {name: read(name, value, options[name]) for name, value in values.items()}


def kept(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options that are read more than once: an iterator becomes a list."""
    return {name: list(value) if isinstance(value, Iterator) else value for name, value in options.items()}


def single(value: Any) -> Any:
    """What an enum's member stands for, and a single number of numpy's or torch's as Python's."""
    if isinstance(value, Enum):
        return value.value
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", 1) == 0 else value


def or_none(option: Option) -> Option:
    """Such a value, or None."""
    reader, wanted = option
    return lambda value: None if value is None else reader(value), f"{wanted}, or None"


def whole(least: int) -> Option:
    """A whole number; one that is larger than any count stands for the largest."""

    def reader(value: Any) -> int:
        if isinstance(value, bool) or operator.index(value) < least:
            raise ValueError
        return min(operator.index(value), sys.maxsize)

    return reader, f"a whole number of at least {least}"


def one_of(*choices: Any) -> Option:
    """One of these."""
    return {choice: choice for choice in choices}.__getitem__, f"one of {', '.join(map(str, choices))}"


def named(*choices: str) -> Option:
    """One of these words, in letters of either case."""
    reader, wanted = one_of(*choices)
    return lambda value: reader(value.lower()), wanted


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or math.isnan(value):
        raise ValueError
    return float(value)


def _seconds(value: Any, least: float = 0.0) -> float:
    if _number(value) < least:
        raise ValueError
    return float(value)


def _duration(value: Any) -> float:
    return _seconds(value, math.ulp(0.0))


def _strides(value: Any) -> tuple[float, float]:
    parts = value.tolist() if hasattr(value, "tolist") else value
    left, right = map(single, parts) if isinstance(parts, (list, tuple)) else (parts, parts)
    return _seconds(left), _seconds(right)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [_text(item) for item in (value.tolist() if hasattr(value, "tolist") else value)]


def _labels(value: Any) -> list[str]:
    """Those of a string stand between its commas."""
    return [label.strip() for label in value.split(",") if label.strip()] if isinstance(value, str) else _texts(value)


def _template(value: Any) -> str:
    fields = [tuple(field) for _, *field in Formatter().parse(value) if field[0] is not None]
    if not fields or {*fields} - {("", "", None), ("0", "", None)}:
        raise ValueError
    value.format("")  # raises where there are two {}, or a brace is open
    return value


def _mapping(value: Any) -> dict[str, Any]:
    return {_text(key): item for key, item in value.items()}


COUNT = whole(1)
SWITCH: Option = {True: True, False: False}.__getitem__, "True or False"
NUMBER: Option = _number, "a number (a float, and not NaN)"
SECONDS: Option = _duration, 'a number of seconds above 0, or float("inf")'
STRIDES: Option = _strides, "a number of seconds from 0, or two"
TEXT: Option = _text, "text"
TEXTS: Option = _texts, "a text or several"
LABELS: Option = _labels, "several texts, or one with commas between the labels"
TEMPLATE: Option = _template, "text with {} where a label is to stand"
MAPPING: Option = _mapping, "a mapping with texts as keys"
