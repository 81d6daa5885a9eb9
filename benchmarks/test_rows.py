"""Nothing is much slower than in this CPU's results: `python -m pytest benchmarks`, on an idle machine.

The rows are those of `--quick`. A ratio may be 15 % below the one that benchmarks/results has for this CPU (a shared
machine varies by about 10 %), or, where it has none, below 1.
"""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import measure, report

BAR = 0.85
ROWS = report.chosen(quick=True, only=None)


@pytest.fixture(scope="module")
def measured() -> dict[str, dict[str, Any]]:
    """Each row, by name."""
    return {row["name"]: row for _, row in measure.rows(ROWS, 2, True, print)}


@pytest.fixture(scope="module")
def held() -> dict[str, dict[str, Any]]:
    """The rows of this CPU's results, by name."""
    result = report.read(report.RESULTS).get(measure.name_of(measure.machine(2)), {"rows": []})
    return {row["name"]: row for row in result["rows"]}


@pytest.mark.parametrize("name", [row.name for row in ROWS])
def test_a_row(name: str, measured: dict[str, Any], held: dict[str, Any]) -> None:
    row = measured[name]
    assert row["against"], row["absent"]
    for arm, other in row["against"].items():
        before = held.get(name, {}).get("ratios", {}).get(arm, {}).get(other, {"median": 1.0})["median"]
        found = row["ratios"][arm][other]["median"]
        assert found >= BAR * before, f"{arm}: {found:.2f} to {other}, and before {before:.2f}"
