"""What is run, in which order, and how long it may take."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from typing import Any

from .measure import Setup, describe


@dataclass(frozen=True)
class Section:
    """A part of the run: its share of the time relative to the other parts, and the seconds that one case may take."""

    title: str
    share: float
    seconds: float
    cases: dict[str, Callable[[Setup], dict[str, Any]]]


def sections(dry: bool) -> dict[str, Section]:
    """All parts in their order: first correctness, then speed, last what takes long to compile."""
    from . import models, operations

    def each(function: Callable[[str, Setup], dict[str, Any]], labels: Any) -> dict[str, Any]:
        return {label: partial(function, label) for label in labels}

    compiled = list(models.WORKS)[: 1 if dry else None]  # a dry run traces one: the others take no other line
    return {
        "device": Section("Device", 5, 60, {"device": describe}),
        "checks": Section("Kernels against float64", 25, 40, each(operations.check, operations.CHECKS)),
        "models": Section("Models against transformers", 10, 60, each(models.check, models.FAMILIES)),
        "operations": Section("Operations", 20, 60, each(operations.time_operation, operations.TIMED)),
        "timed": Section("Models", 10, 60, each(models.time_model, models.WORKS)),
        "profile": Section("Where a model's time goes", 5, 40, each(models.profile, models.WORKS)),
        "registers": Section("What was compiled", 1, 20, {"kernels": operations.registers}),
        "tuning": Section("Tuning", 25, 60, each(operations.tune, operations.TUNING)),
        "compiled": Section("Models under torch.compile", 30, 150, each(models.time_compiled, compiled)),
    }


def chosen(parts: dict[str, Section], only: list[str] | None, match: str) -> dict[str, Section]:
    """The parts that a run was asked for, and of them the cases that match; the device is always described."""
    asked = {name: part for name, part in parts.items() if not only or name in (*only, "device")}
    return {
        name: replace(part, cases={case: run for case, run in part.cases.items() if re.search(match, case)})
        for name, part in asked.items()
    }


def ends(parts: dict[str, Section]) -> dict[str, float]:
    """Up to which part of the run's time each part may start cases: shares, one after the other; the device always."""
    shares = [part.share for part in parts.values()]
    until = {name: end / sum(shares) for name, end in zip(parts, accumulate(shares), strict=True)}
    return until | {"device": 1.0}
