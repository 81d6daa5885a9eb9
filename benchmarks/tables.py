"""Results as Markdown: a short table for README.md, every figure for benchmarks/README.md."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.rows import LOADED, OURS, ROWS, SAME_PRECISION
from minitrans.bench import milliseconds, table

MARKS = ("<!-- measured -->", "<!-- /measured -->")
BELOW = " ▾"
Result = dict[str, Any]
MEMORY = ("memory", "peak")


def replaced(text: str, block: str) -> str:
    """A page with `block` between its two marks; ValueError unless it has each of them once."""
    if [text.count(mark) for mark in MARKS] != [1, 1]:
        raise ValueError(f"The page must have {' and '.join(MARKS)} once each; nothing was written.")
    start, end = map(re.escape, MARKS)
    return re.sub(f"{start}.*{end}", lambda _: f"{MARKS[0]}\n{block}\n{MARKS[1]}", text, flags=re.DOTALL)


def write(file: Path, block: str) -> None:
    """Put `block` between the marks of a page."""
    file.write_text(replaced(file.read_text(encoding="utf-8"), block), encoding="utf-8")


def label(result: Result) -> str:
    """A machine in words."""
    about = result["machine"]
    kind = ", ".join(f"{name} {about[name]}" for name in ("family", "model") if about[name])
    return f"{about['brand']}{f' ({kind})' if kind else ''}, {about['capability']}{' and AMX' if about['amx'] else ''}"


def short(results: Sequence[Result], plot: str = "") -> str:
    """The rows for README.md, one column per machine; a machine that lacks a row has a dash there."""
    befores = [None, *results[:-1]]
    lines = [["work", *(_column(result, before) for result, before in zip(results, befores, strict=True))]]
    by_name = [{row["name"]: row for row in result["rows"]} for result in results]
    for row in ROWS:
        if row.short and any(row.name in rows for rows in by_name):
            found = [rows.get(row.name) for rows in by_name]
            lines.append([row.name, *(_medians(one) if one else "–" for one in found)])
    caption = (
        "The time of transformers with its faster attention, or of sentence-transformers, divided by ours: as loaded, "
        "frozen, frozen in bfloat16."
    )
    picture = [f"\n![Ratios and their quartiles]({plot})"] if plot else []
    return "\n".join([caption, "", *table(lines), *picture])


def _column(result: Result, before: Result | None) -> str:
    """A machine in words, short where it is the one of the column before, limited to older instructions."""
    about, other = result["machine"], before["machine"] if before else {}
    same = all(about[name] == other.get(name) for name in ("brand", "family", "model"))
    return f"the same CPU, limited to {about['capability']}" if same else label(result)


def complete(results: Sequence[Result]) -> str:
    """Every figure, machine by machine."""
    return "\n".join(line for result in results for line in _machine(result)).rstrip("\n")


def _ours(row: Result) -> list[str]:
    return [arm for arm in OURS if arm in row["against"]]


def _spread(row: Result, arm: str) -> dict[str, float]:
    return row["ratios"][arm][row["against"][arm]]


def _mark(row: Result, arm: str) -> str:
    return BELOW if _spread(row, arm)["median"] < row["goals"][arm] else ""


def _median(row: Result, arm: str) -> str:
    return f"{_spread(row, arm)['median']:.2f}"


def _medians(row: Result) -> str:
    """Our ways' ratios in their order; a way that was not measured has a dash where one that was comes after it."""
    cells = [_median(row, arm) if arm in row["against"] else "–" for arm in OURS]
    while cells and cells[-1] == "–":
        cells.pop()
    return ", ".join(cells) or "–"


def _ratio(row: Result, arm: str) -> str:
    return f"{_median(row, arm)}{_mark(row, arm)}"


def _legend(lines: list[list[str]]) -> str:
    below = any(BELOW in cell for line in lines for cell in line)
    return f"{BELOW.strip()} is below its goal." if below else ""


def _machine(result: Result) -> Iterator[str]:
    about, rows = result["machine"], result["rows"]
    yield f"### {label(result)}\n"
    peaks = ", ".join(f"{flops / 1e9:.0f} GFLOP/s in {name.split()[1]}" for name, flops in about["peaks"].items())
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    reads = f"a sum reads {about['bandwidth'] / 1e9:.1f} GB/s"
    yield f"- {about['cores']} cores, {about['threads']} threads; products reach {peaks}; {reads}."
    yield f"- Python {about['python']} on {about['system']}; {versions}."
    dates = [row["date"] for row in rows]
    yield f"- Rows: {len(rows)}, measured from {min(dates)} to {max(dates)}.\n"
    for title, part in (("Ratios", _ratios), ("Other libraries in the same precision", _peers), ("Times", _values)):
        lines = list(part(rows))
        if len(lines) > 1:
            yield f"#### {title}\n"
            yield from table(lines)
            yield f"\n{_legend(lines)}\n" if _legend(lines) else ""
    if missing := list(_missing(rows)):
        yield "#### Not measured\n"
        yield from (*missing, "")


def _ratios(rows: list[Result]) -> Iterator[list[str]]:
    yield ["work", "as loaded", "frozen", "frozen bfloat16", "goals", "share of the product peak"]
    for row in rows:
        found = {arm: _spread(row, arm) for arm in _ours(row)}
        cells = [f"{_ratio(row, arm)} ({of['low']:.2f} to {of['high']:.2f})" for arm, of in found.items()]
        padded = dict(zip(found, cells, strict=True))
        goals = ", ".join(f"{row['goals'][arm]:g}" for arm in found)
        shares = [row.get("share", {}).get(arm) for arm in found]
        share = ", ".join(f"{one['median']:.0%}" if one else "–" for one in shares) if any(shares) else "–"
        yield [row["name"], *(padded.get(arm, "–") for arm in OURS), goals or "–", share]


def _peers(rows: list[Result]) -> Iterator[list[str]]:
    pairs = [
        (arm, peer) for arm, peers in SAME_PRECISION.items() for peer in peers
        if any(peer in row["ratios"].get(arm, {}) for row in rows)
    ]  # fmt: skip
    if pairs:
        yield ["work", *(f"{peer} / {arm.removeprefix(f'{LOADED} ')}" for arm, peer in pairs)]
    for row in rows:
        cells = [row["ratios"].get(arm, {}).get(peer) for arm, peer in pairs]
        if any(cells):
            yield [row["name"], *(f"{cell['median']:.2f}" if cell else "–" for cell in cells)]


def _values(rows: list[Result]) -> Iterator[list[str]]:
    arms = list(dict.fromkeys(arm for row in rows for arm in row["values"]))
    yield ["work", "unit", *arms]
    for row in rows:
        unit, scale = ("MiB", 2**-20) if row["measure"] in MEMORY else ("ms", 1e3)
        cells = [row["values"].get(arm) for arm in arms]
        yield [row["name"], unit, *(milliseconds(cell["median"] * scale if cell else None) for cell in cells)]


def _missing(rows: list[Result]) -> Iterator[str]:
    """Each reason once, with the rows that it applies to."""
    found = defaultdict(list)
    for row in rows:
        for arm, reason in row["absent"].items():
            found[arm, reason].append(row["name"])
    for (arm, reason), names in found.items():
        yield f"- {arm}: {reason} ({'; '.join(names) if len(names) < 4 else f'{len(names)} rows'})."
