"""The README's table from measurements: `python -m benchmarks.report FILE… --write`.

The files are what `python -m pytest benchmarks/test_… --benchmark-json=FILE` wrote, a process a suite. With `--write`
the table replaces what stands between the README's two `measured` marks, and benchmarks/results/<cpu>.json holds what
it was made of.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import torch

README = Path(__file__).parent.parent / "README.md"
MARKS = ("<!-- measured -->", "<!-- /measured -->")


def rows(measurements: dict[str, Any]) -> list[str]:
    lines = ["| work | minitrans | transformers | ratio |", "|---|---:|---:|---:|"]
    for item in measurements["benchmarks"]:
        extra = item["extra_info"]
        lines.append(f"| {extra['work']} | {extra['ours']} | {extra['theirs']} | {extra['ratio']} |")
    return lines


def merged(files: list[Path]) -> dict[str, Any]:
    """The measurements of several processes on one machine, cut down to what the table needs."""
    every = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    about = every[0]["machine_info"]["cpu"]
    machine = {key: about.get(key) for key in ("brand_raw", "vendor_id_raw", "family", "model", "count", "arch")}
    machine |= {"capability": torch.backends.cpu.get_cpu_capability(), "torch": torch.__version__}
    items = [
        {"name": item["fullname"], "extra_info": item["extra_info"]} for one in every for item in one["benchmarks"]
    ]
    return {"machine_info": machine, "datetime": every[0]["datetime"], "benchmarks": items}


def name_of(machine: dict[str, Any]) -> str:
    """A file name for a CPU: its brand, family and model, and the instruction set where torch was held to an older."""
    words = f"{machine['brand_raw']} family {machine['family']} model {machine['model']} {machine['capability']}"
    return "-".join(re.findall(r"[a-z0-9]+", words.lower()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--write", action="store_true", help="into README.md and benchmarks/results")
    parser.add_argument("--keep", action="store_true", help="into benchmarks/results alone, as for another level")
    arguments = parser.parse_args()
    measurements = merged(arguments.files)
    table = "\n".join(rows(measurements))
    print(table)
    if arguments.write or arguments.keep:
        file = Path(__file__).parent / "results" / f"{name_of(measurements['machine_info'])}.json"
        file.write_text(json.dumps(measurements, indent=1) + "\n", encoding="utf-8")
        print(file)
    if arguments.write:
        start, end = map(re.escape, MARKS)
        text = README.read_text(encoding="utf-8")
        replaced = re.sub(f"{start}.*{end}", lambda _: f"{MARKS[0]}\n{table}\n{MARKS[1]}", text, flags=re.DOTALL)
        README.write_text(replaced, encoding="utf-8")


if __name__ == "__main__":
    main()
