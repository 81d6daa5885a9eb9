"""What is run, in which order, and how long it may take."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from .measure import Setup, describe


@dataclass(frozen=True)
class Section:
    """A part of the run: until which share of the time it may start cases, and the seconds that one case may take."""

    title: str
    until: float
    seconds: float
    cases: dict[str, Callable[[Setup], dict[str, Any]]]


def sections(dry: bool) -> dict[str, Section]:
    """All parts in their order: first what is right, then what is fast, last what compiles for long."""
    from . import models, operations

    def each(function: Callable[[str, Setup], dict[str, Any]], labels: Any) -> dict[str, Any]:
        return {label: partial(function, label) for label in labels}

    compiled = list(models.WORKS)[: 1 if dry else None]  # a dry run traces one: the others take no other line
    return {
        "device": Section("Device", 1.0, 60, {"device": describe}),
        "checks": Section("Kernels against float64", 0.30, 40, each(operations.check, operations.CHECKS)),
        "models": Section("Models against transformers", 0.40, 60, each(models.check, models.FAMILIES)),
        "tuning": Section("Tuning", 0.60, 45, each(operations.tune, operations.TUNING)),
        "operations": Section("Operations", 0.70, 40, each(operations.time_operation, operations.TIMED)),
        "timed": Section("Models", 0.80, 60, each(models.time_model, models.WORKS)),
        "compiled": Section("Models under torch.compile", 1.0, 150, each(models.time_compiled, compiled)),
    }
