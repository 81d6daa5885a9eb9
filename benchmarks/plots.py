"""Results as pictures: ratios with their spread, cost against size, and the roofline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import NullLocator, StrMethodFormatter

from benchmarks.rows import FROZEN, LOADED, NARROW, OURS, ROWS, SDPA
from benchmarks.tables import label

plt.rcParams.update({"svg.hashsalt": "minitrans", "svg.fonttype": "none", "font.size": 9})
COLOURS = {LOADED: "#4c72b0", FROZEN: "#55a868", NARROW: "#c44e52", SDPA: "#8c8c8c"}
MARKERS = {LOADED: "o", FROZEN: "s", NARROW: "^", SDPA: "x"}
Result = dict[str, Any]


def ratios(result: Result, short: bool = False) -> Any:
    """Each row's ratios to the yardstick, a bar from quartile to quartile; of the rows of README.md, or of all."""
    wanted = {row.name for row in ROWS if row.short or not short}
    rows = [row for row in result["rows"] if row["against"] and row["name"] in wanted][::-1]
    figure, axes = plt.subplots(figsize=(8, 1.5 + 0.28 * len(rows)), layout="constrained")
    for place, row in enumerate(rows):
        for shift, arm in enumerate(OURS):
            if arm in row["against"]:
                of, height = row["ratios"][arm][row["against"][arm]], place + 0.25 * (1 - shift)
                axes.hlines(height, of["low"], of["high"], COLOURS[arm], linewidth=2)
                axes.plot(of["median"], height, MARKERS[arm], color=COLOURS[arm], markersize=4)
                axes.plot(row["goals"][arm], height, "|", color="black", markersize=6)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    _ticks(axes.xaxis, (0.8, 1, 1.5, 2, 3, 5, 10))
    axes.set_yticks(range(len(rows)), [row["name"] for row in rows])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlabel("transformers' time over ours: median, quartiles, and | the goal")
    axes.set_title(label(result), loc="right")
    figure.legend(handles=_handles(axes, OURS), fontsize=8, loc="outside lower right", ncols=3)
    return figure


def scaling(result: Result) -> Any:
    """Each series: the time against what grows."""
    by_name = {row["name"]: row for row in result["rows"]}
    names = list(dict.fromkeys(name for row in ROWS if row.name in by_name for name in row.series))
    columns = 2
    lines = max(1, -(-len(names) // columns))
    figure, grid = plt.subplots(lines, columns, figsize=(9, 3.2 * lines), layout="constrained", squeeze=False)
    for axes, name in zip(grid.flat, names, strict=False):
        points = sorted(
            (row.series[name], by_name[row.name]) for row in ROWS if name in row.series and row.name in by_name
        )
        for arm in (*OURS, SDPA):
            own = [(x, row["values"][arm]) for x, row in points if arm in row["values"]]
            if own:
                middle, low, high = ([value[key] * 1e3 for _, value in own] for key in ("median", "low", "high"))
                errors = [
                    [m - a for m, a in zip(middle, low, strict=True)],
                    [b - m for m, b in zip(middle, high, strict=True)],
                ]
                axes.errorbar([x for x, _ in own], middle, errors, marker=MARKERS[arm], color=COLOURS[arm], label=arm)
        model, _, what = name.rpartition(": ")
        axes.set(title=model, xlabel=what, ylabel="ms", xscale="log", yscale="log")
        _ticks(axes.xaxis, [x for x, _ in points])
        _ticks(axes.yaxis, [digit * 10**power for power in range(5) for digit in (1, 2, 5)])
        axes.legend(fontsize=7)
    for axes in list(grid.flat)[len(names) :]:
        axes.remove()
    figure.suptitle(label(result))
    return figure


def roofline(result: Result) -> Any:
    """What each row reaches, against its FLOPs per byte of weights, below the machine's roofline."""
    about = result["machine"]
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    peaks = {name.split()[1]: flops / 1e9 for name, flops in about["peaks"].items()}
    edges = [0.5, 1e5]
    for name, peak in peaks.items():
        roof = about["bandwidth"] / 1e9
        turn = peak / roof
        axes.plot([edges[0], turn, edges[1]], [edges[0] * roof, peak, peak], color="black", linewidth=0.8)
        axes.annotate(f"{peak:.0f} GFLOP/s, {name}", (edges[1], peak), ha="right", va="bottom", fontsize=8)
    for row in result["rows"]:
        if "flops" not in row or row["measure"] != "time":
            continue
        for arm in (*OURS, SDPA):
            if arm in row["values"]:
                size = row["weight_bytes"] / (2 if arm == NARROW else 1)
                reached = row["flops"] / row["values"][arm]["median"] / 1e9
                axes.plot(row["flops"] / size, reached, MARKERS[arm], color=COLOURS[arm], markersize=5)
    axes.set(xscale="log", yscale="log", xlim=edges, xlabel="FLOPs for a byte of weights", ylabel="GFLOP/s")
    axes.set_title(label(result))
    axes.legend(handles=_handles(axes, (*OURS, SDPA)), fontsize=8, loc="lower right")
    return figure


def _ticks(axis: Any, places: Sequence[float]) -> None:
    """Ticks at these places of a logarithmic axis, within what it shows."""
    low, high = sorted(axis.get_view_interval())
    axis.set_ticks([place for place in places if low <= place <= high], minor=False)
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_locator(NullLocator())


def _handles(axes: Any, arms: Sequence[str]) -> list[Any]:
    return [axes.plot([], [], MARKERS[arm], color=COLOURS[arm], label=arm)[0] for arm in arms]


PLOTS: dict[str, Callable[[Result], Any]] = {
    "short": partial(ratios, short=True), "ratios": ratios, "scaling": scaling, "roofline": roofline
}  # fmt: skip


def write(result: Result, name: str, folder: Path) -> None:
    """Every picture of a machine as NAME-PLOT.svg."""
    folder.mkdir(parents=True, exist_ok=True)
    for plot, draw in PLOTS.items():
        figure = draw(result)
        figure.savefig(folder / f"{name}-{plot}.svg", metadata={"Date": None})
        plt.close(figure)
