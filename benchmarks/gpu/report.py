"""results.json, and the same as tables in results.md."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Cases = dict[str, Any]


def write(results: dict[str, Any], folder: Path) -> None:
    """Write both files; a reader never sees half a file."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (("results.json", json.dumps(results, indent=1)), ("results.md", "\n".join(lines(results)))):
        unfinished = folder / f".{name}"
        unfinished.write_text(content + "\n", encoding="utf-8")
        os.replace(unfinished, folder / name)


def lines(results: dict[str, Any]) -> Iterator[str]:
    device = results["sections"]["device"].get("device", {})
    yield f"# {device.get('name', 'No device')}"
    if results["dry_run"]:
        yield "\nA dry run on the CPU, tiny and interpreted: the script works, and no time means anything."
    yield ""
    for key, value in device.items():
        yield f"- {key}: {value}"
    for section, cases in results["sections"].items():
        if cases and section in TABLES:
            title, table = TABLES[section]
            yield f"\n## {title}\n"
            yield from table({name: case for name, case in cases.items() if "error" not in case})
            yield ""
            yield from (f"- {name}: {case['error']}" for name, case in cases.items() if "error" in case)


def errors(cases: Cases) -> Iterator[str]:
    """Relative errors, and in brackets what was allowed: a small multiple of torch's own."""
    dtypes = list(dict.fromkeys(dtype for case in cases.values() for dtype in case["dtypes"]))
    yield from header("case", "passed", *dtypes)
    for name, case in cases.items():
        cells = (case["dtypes"].get(dtype) for dtype in dtypes)
        numbers = (f"{cell['error']:.1e} ({cell['allowed']:.1e})" if cell else "" for cell in cells)
        yield row(name, "yes" if case["passed"] else "**no**", *numbers)


def tuning(cases: Cases) -> Iterator[str]:
    yield from header("work", "shipped, ms", "best, ms", "best setting", "others")
    for name, case in cases.items():
        times, best = case["times"], case["best"]
        others = (f"{setting}: {spell(time)}" for setting, time in times.items() if setting not in ("shipped", best))
        yield row(name, spell(times["shipped"]), spell(times.get(best, {})), best, "<br>".join(others))


def timings(cases: Cases) -> Iterator[str]:
    """Medians in milliseconds, with the 10th and 90th percentile; the share of the roofline is our fastest way's."""
    yield from header("work", "roofline, ms", "goal on an H100, ms", "ours, ms", "roofline / ours", "others, ms")
    for name, case in cases.items():
        times, floor = case["times"], case["floor_ms"]
        mine = [arm for arm in times if arm.startswith("ours")]
        best = min((times[arm]["ms"] for arm in mine if "ms" in times[arm]), default=None)
        share = f"{floor / best:.0%}" if floor and best else ""
        goal = "" if case["goal_ms"] is None else f"{case['goal_ms']:.3g}"
        ours, others = (
            "<br>".join(f"{arm}: {spell(time)}" for arm, time in times.items() if (arm in mine) is own)
            for own in (True, False)
        )
        yield row(name, f"{floor:.3g}" if floor else "", goal, ours, share, others)
        if "throughput" in case:
            ours, others = (
                "<br>".join(
                    f"{arm}: {spell(time)}" for arm, time in case["throughput"].items() if (arm in mine) is own
                )
                for own in (True, False)
            )
            yield row(f"{name}, ten in a row", "", "", ours, "", others)


def profiles(cases: Cases) -> Iterator[str]:
    """The longest kernels of a forward pass; the rest of them are in results.json."""
    yield from header("work", "kernels, ms", "launches", "the longest: ms × launches")
    for name, case in cases.items():
        longest = (f"{one['name'][:60]}: {one['ms']:.3f} × {one['launches']:.0f}" for one in case["kernels"][:12])
        yield row(name, f"{case['ms']:.3f}", f"{case['launches']:.0f}", "<br>".join(longest))


def compiled(cases: Cases) -> Iterator[str]:
    """Registers per thread, spilled bytes, shared memory per program."""
    yield from header("kernel", "warps, stages", "registers", "spilled", "shared, KiB")
    for case in cases.values():
        for one in case["kernels"]:
            sizes = f"{one['warps']}, {one['stages']}"
            yield row(one["kernel"], sizes, one["registers"], one["spilled"] or "", f"{one['shared'] / 1024:.1f}")


def spell(time: dict[str, Any]) -> str:
    if "ms" in time:
        return f"{time['ms']:.4g} ({time['low']:.4g} to {time['high']:.4g})"
    return time.get("error", "")


def header(*cells: str) -> Iterator[str]:
    yield row(*cells)
    yield row(*("---" for _ in cells))


def row(*cells: Any) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


TABLES: dict[str, tuple[str, Callable[[Cases], Iterator[str]]]] = {
    "checks": ("Kernels against float64", errors),
    "models": ("Models against transformers", errors),
    "tuning": ("Tuning", tuning),
    "operations": ("Operations", timings),
    "timed": ("Models", timings),
    "profile": ("Where a model's time goes", profiles),
    "registers": ("What this card's Triton compiled", compiled),
    "compiled": ("Models beside torch.compile", timings),
}
