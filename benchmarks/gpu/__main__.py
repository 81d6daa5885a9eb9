"""The command. The cases run in a worker process: one that hangs or loses the GPU is ended, and a new one continues.

results.json and results.md are rewritten after each case, so that an interrupted run leaves what it had.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from .worker import Worker, use_checkout

RESERVE = 15.0  # seconds reserved for ending and writing


def run(dry: bool, minutes: float, output: Path, only: list[str] | None = None, match: str = "") -> dict[str, Any]:
    """All cases of these sections within the given number of minutes; a case that there was no time for says so."""
    from .cases import chosen, ends, sections
    from .report import write

    begin, parts = time.monotonic(), chosen(sections(dry), only, f"device|{match}")
    until = ends(parts)

    def left() -> float:
        return minutes * 60 - RESERVE - (time.monotonic() - begin)

    todo = [(section, name) for section, part in parts.items() for name in part.cases]
    results: dict[str, Any] = {"dry_run": dry, "sections": {section: {} for section in parts}}
    worker = None
    with tempfile.TemporaryDirectory() as folder:
        while todo:
            section, name = todo[0]
            part = parts[section]
            if left() <= minutes * 60 * (1 - until[section]):
                result = {"error": "not run: there was no time left for this part", "skipped": True}
                if worker:
                    worker.end()
                    worker = None
            else:
                started = None
                if worker is None:
                    worker = Worker(todo, dry, folder)
                    started = worker.next(min(left(), 120))  # None, where it has started
                result = started or worker.next(min(left(), part.seconds))
                if result.get("lost"):
                    worker.end()
                    worker = None
            todo.pop(0)
            results["sections"][section][name] = result
            results["seconds"] = round(time.monotonic() - begin, 1)
            write(results, output)
            print(f"{results['seconds']:6.1f} s  {section}: {name}  {result.get('error', '')}", flush=True)
        if worker:
            worker.end()
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description="Check, tune and time the kernels and models on this GPU.")
    parser.add_argument("--output", type=Path, required=True, help="folder for results.json and results.md")
    parser.add_argument("--minutes", type=float, default=9.0, help="end by then (default 9)")
    parser.add_argument(
        "--only", type=lambda text: text.split(","), help="sections, as checks,operations (see cases.py)"
    )
    parser.add_argument("--match", default="", help="only cases with this regular expression in their names")
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, tiny, in Triton's interpreter")
    options = parser.parse_args()
    if options.dry_run:
        os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported, here and in the worker
    use_checkout()
    import torch

    from .cases import sections

    unknown = set(options.only or ()) - sections(options.dry_run).keys()
    if unknown:
        parser.error(f"--only: {', '.join(sorted(unknown))} is none of {', '.join(sections(options.dry_run))}")

    if not options.dry_run and not torch.cuda.is_available():
        parser.error("torch sees no GPU here; --dry-run runs the script on the CPU")
    results = run(options.dry_run, options.minutes, options.output, options.only, options.match)
    wrong = [
        f"{section}: {name}"
        for section, cases in results["sections"].items()
        for name, case in cases.items()
        if case.get("passed") is False or ("error" in case and not case.get("skipped"))
    ]
    print(f"{len(wrong)} cases failed", *wrong, sep="\n  ")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
