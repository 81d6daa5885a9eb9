"""The README's table from measurements: `python -m benchmarks.report benchmarks/results/cpu.json`.

The file is what `python -m pytest benchmarks --benchmark-json=FILE` wrote. With `--write` the table replaces what
stands between the README's two `measured` marks, and the file is cut down to what the table needs, to be committed.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

README = Path(__file__).parent.parent / "README.md"
MARKS = ("<!-- measured -->", "<!-- /measured -->")


def rows(measurements: dict[str, Any]) -> list[str]:
    lines = ["| work | minitrans | transformers | ratio |", "|---|---:|---:|---:|"]
    for item in measurements["benchmarks"]:
        extra = item["extra_info"]
        lines.append(f"| {extra['work']} | {extra['ours']} | {extra['theirs']} | {extra['ratio']} |")
    return lines


def slim(measurements: dict[str, Any]) -> dict[str, Any]:
    machine = measurements["machine_info"]
    kept = {key: machine[key] for key in ("processor", "system", "python_version", "cpu") if key in machine}
    kept["cpu"] = {key: machine.get("cpu", {}).get(key) for key in ("brand_raw", "count", "arch")}
    items = [{"name": item["fullname"], "extra_info": item["extra_info"]} for item in measurements["benchmarks"]]
    return {"machine_info": kept, "datetime": measurements["datetime"], "benchmarks": items}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--write", action="store_true", help="put the table into README.md and slim the file")
    arguments = parser.parse_args()
    measurements = json.loads(arguments.file.read_text(encoding="utf-8"))
    table = "\n".join(rows(measurements))
    print(table)
    if arguments.write:
        start, end = map(re.escape, MARKS)
        text = README.read_text(encoding="utf-8")
        replaced = re.sub(f"{start}.*{end}", lambda _: f"{MARKS[0]}\n{table}\n{MARKS[1]}", text, flags=re.DOTALL)
        README.write_text(replaced, encoding="utf-8")
        small = slim(measurements) if "commit_info" in measurements else measurements
        arguments.file.write_text(json.dumps(small, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
