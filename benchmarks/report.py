"""Measures this machine and writes the report: `python -m benchmarks.report`; benchmarks/README.md explains it.

The measurements are written to benchmarks/results/<cpu>.json; from all files there, it makes the plots, the complete
tables in benchmarks/README.md, and the short one in README.md. With `--quick` it measures a few rows, which are only
printed and kept in <cpu>-quick.json; with `--only` it measures some rows again and keeps the others in the file.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import measure, tables
from benchmarks.rows import ROWS, Row

HERE = Path(__file__).parent
RESULTS = HERE / "results"
README = HERE.parent / "README.md"
COMPLETE = HERE / "README.md"


def chosen(quick: bool, only: str | None) -> list[Row]:
    """The rows to measure; ValueError if no name matches `only`."""
    rows = [row for row in ROWS if (row.quick or not quick) and (not only or fnmatch.fnmatch(row.name, only))]
    if not rows:
        known = "\n  ".join(row.name for row in ROWS if row.quick or not quick)
        raise ValueError(f"No row is like {only!r}; there are\n  {known}")
    return rows


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """The results of whole runs -> by file name; the newest instruction set of a machine first."""
    files = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))}
    kept = {name: result for name, result in files.items() if "machine" in result and not result["quick"]}
    newest_first = sorted(kept.items(), key=lambda item: item[1]["machine"]["capability"], reverse=True)
    return dict(sorted(newest_first, key=lambda item: item[1]["machine"]["brand"]))


def keep(file: Path, about: dict[str, Any], rows: Sequence[dict[str, Any]], quick: bool) -> dict[str, Any]:
    """Write measured rows, and keep the file's other rows; a reader never sees half a file."""
    before = json.loads(file.read_text(encoding="utf-8"))["rows"] if file.exists() else []
    known = {row["name"]: row for row in (*before, *rows)}
    result = {"machine": about, "quick": quick, "rows": [known[row.name] for row in ROWS if row.name in known]}
    unfinished = file.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(unfinished, file)
    return result


def publish(results: Path, readme: Path, complete: Path) -> None:
    """From the files of `results` its plots, and the tables between the marks of both pages."""
    from benchmarks import plots

    found = read(results)
    if not found:
        raise ValueError(f"{results} has no results of a whole run.")
    for name, result in found.items():
        plots.write(result, name, results / "plots")
    picture = results / "plots" / f"{next(iter(found))}-short.svg"
    tables.write(readme, tables.short([*found.values()], os.path.relpath(picture, readme.parent)))
    tables.write(complete, tables.complete([*found.values()]))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few rows, without peers, in about three minutes")
    parser.add_argument("--only", metavar="GLOB", help='rows whose names match this, such as "Swin-T*"')
    parser.add_argument("--threads", type=int, default=2, help="the number of threads for all libraries (2)")
    parser.add_argument("--plots-only", action="store_true", help="redraw tables and plots from the existing results")
    parsed = parser.parse_args(arguments)
    try:
        if not parsed.plots_only:
            run(parsed)
        if not parsed.quick:
            publish(RESULTS, README, COMPLETE)
    except ValueError as error:
        print(f"benchmarks.report: {error}", file=sys.stderr)
        return 1
    return 0


def run(parsed: argparse.Namespace) -> None:
    """Measure, save after each row, and print it all."""
    start, rows, result = time.perf_counter(), [], {}
    picked = chosen(parsed.quick, parsed.only)
    for about, row in measure.rows(picked, parsed.threads, parsed.quick, lambda line: print(line, flush=True)):
        rows.append(row)
        file = RESULTS / f"{measure.name_of(about)}{'-quick' if parsed.quick else ''}.json"
        result = keep(file, about, rows, parsed.quick)
    result["rows"] = [row for row in result["rows"] if row["name"] in {one.name for one in picked}]
    print("\n" + tables.complete([result]))
    print(f"\n{len(rows)} rows in {(time.perf_counter() - start) / 60:.1f} minutes, kept in {file}.")


if __name__ == "__main__":
    sys.exit(main())
