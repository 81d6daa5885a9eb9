"""Mutates the code at random and counts what the tests notice: `python tests/mutation --count 300 --seed 0`.

The first run maps lines to tests, a run of the whole suite, which is kept in `--folder`; the map of a file of tests
that has changed is made anew. Mutants are put into a copy of the tree there, one at a time, and each is judged by the
tests that run its lines, in a fork of a process that has collected all tests; there the functions get the mutant's
code. What runs at import is imported anew. A run that was stopped goes on where it was. Needs coverage (`pip install
coverage`).
"""

import argparse
import hashlib
import json
import random
import re
import tempfile
from collections import Counter
from itertools import islice
from pathlib import Path

from operators import is_another_program, mutants
from workplace import CHECKS, Workplace

# These start processes that take minutes: for kernels only, and after all others.
SLOW = {"tests/test_kernels_interpreter.py", "tests/test_kernels_aot.py", "tests/test_kernels_lessons.py"}
COLLECTING = 4.0  # seconds, about, to import a file of tests


class Map:
    """Which tests run a line, and how long they take: the lines are those of the sources that stand beside the map."""

    def __init__(self, place):
        self.place, self.tests = place, {}

    def read(self):
        """The tests that passed, with their seconds and their lines as a bit mask for each file."""
        for path in self.place.map.glob("*.json"):
            stored = json.loads(path.read_text("utf-8"))
            if not (self.place.tree / stored["file"]).exists():
                continue
            for test, found in stored["tests"].items():
                lines = {file: int(mask, 16) for file, mask in found["lines"].items()}
                if found["passed"]:
                    self.tests[test] = found["seconds"], lines, stored["sources"]

    def make(self, files, each):
        """Run each file of tests whose map is missing or of another text."""
        for number, file in enumerate(files, 1):
            target = self.place.map / f"{file.replace('/', '.')}.json"
            digest = hashlib.sha256((self.place.tree / file).read_bytes()).hexdigest()
            if target.exists() and json.loads(target.read_text("utf-8"))["digest"] == digest:
                continue
            found = target.with_suffix(".found")
            found.unlink(missing_ok=True)
            answer = self.place.run("imported", stages=[(file, None)], seconds=3600, lines=str(found), each=each)
            print(f"map {number}/{len(files)}: {file} {answer['end']} in {answer['seconds']} s", flush=True)
            if found.exists():
                stored = {"file": file, "digest": digest, "sources": self.place.keep_sources()}
                target.write_text(json.dumps({**stored, "tests": json.loads(found.read_text("utf-8"))}), "utf-8")
                found.unlink()

    def running(self, file, lines):
        """The ids of the tests that run one of the lines of a file."""
        masks = {}
        for test, (_, found, sources) in self.tests.items():
            if file in found:
                if sources not in masks:
                    then = self.place.lines_then(sources, file)
                    masks[sources] = sum(1 << then[line] for line in lines if line in then)
                if masks[sources] & found[file]:
                    yield test

    def noticing(self, mutant):
        """The ids of the tests that may notice a mutant, in the order in which they are likely to."""
        found = dict.fromkeys(self.running(mutant.file, range(mutant.first, mutant.last + 1)))
        if mutant.at_import:
            text = self.place.sources[mutant.file].decode().splitlines()
            for name in re.findall(
                r"^\s*(?:def |class )?(\w+)", "\n".join(text[mutant.first - 1 : mutant.last]), re.M
            ):
                for file, source in self.place.sources.items():
                    rows = source.decode().splitlines()
                    uses = [number for number, row in enumerate(rows, 1) if re.search(rf"\b{name}\b", row)]
                    found.update(dict.fromkeys(self.running(file, uses)))
            found.update(dict.fromkeys(self.running(mutant.file, range(1, len(text) + 1))))
        return list(found)

    def stages(self, tests, budget, stem):
        """The tests by file: two of each function first, then more of each, as many as the seconds allow."""
        seconds = {test: self.tests[test][0] for test in tests}
        functions = {}
        for test in sorted(tests, key=seconds.get):
            functions.setdefault(test.split("[")[0], []).append(test)
        for few in (True, False):
            files = {}
            for function, each in functions.items():
                files.setdefault(function.split("::")[0], []).extend(each[:2] if few else each[2:])
            costs = {file: sum(map(seconds.get, each)) for file, each in files.items()}
            for file in sorted(files, key=lambda file: (stem not in file, costs[file])):
                chosen = []
                for test in sorted(files[file], key=seconds.get):
                    budget -= seconds[test]
                    if budget > 0:
                        chosen.append(test)
                if chosen:
                    yield file, chosen


def ran(place, mutant, stages, seconds, interpreted=()):
    """The answer of the tests, collected before; imported with the mutant where that is needed."""
    if not mutant.at_import:
        answer = place.run(", ".join([*interpreted, "collected"]), mutant, stages=stages, seconds=seconds)
        if answer["end"] != "at import":
            return answer
    [kind] = interpreted or ["imported"]
    return place.run(kind, mutant, stages=stages, seconds=seconds + COLLECTING * len(stages))


def judged(place, lines, mutant, budget):
    """What became of a mutant: the report's row."""
    stem = Path(mutant.file).stem
    tests = lines.noticing(mutant)
    stages = list(lines.stages(tests, budget, stem))
    seconds = sum(lines.tests[test][0] for _, chosen in stages for test in chosen)
    answer = ran(place, mutant, stages, 30 + 3 * seconds) if stages else {"end": "passed"}
    if answer["end"] == "passed" and (b"\n@triton.jit" in place.sources[mutant.file] or stem == "launch"):
        checks = sorted(CHECKS, key=lambda file: (stem not in file, file))
        answer = ran(place, mutant, [(file, None) for file in checks], 1200, ["interpreted"])
        if answer["end"] == "passed":
            answer = place.run("imported", mutant, stages=[("tests/test_kernels_aot.py", None)], seconds=1200)
    end = {"passed": "survived", "failed": "killed"}.get(answer["end"], answer["end"])
    row = {key: getattr(mutant, key) for key in ("file", "line", "kind", "old", "new")}
    run = {"tests": sum(len(chosen) for _, chosen in stages), "of": len(tests), "seconds": answer.get("seconds", 0)}
    return {**row, "end": end, **run, "by": answer.get("test"), "message": answer.get("message")}


def failing_anyway(place, tests):
    """Which of the tests fail without a mutant."""
    for test in sorted(tests):
        file = test.split("::")[0]
        kind = "interpreted" if file in CHECKS else "imported"
        if place.run(kind, stages=[(file, [test])], seconds=600)["end"] != "passed":
            yield test


def said(row):
    """One mutant in a line."""
    return f"{row['end']}: {row['file']}:{row['line']} {row['kind']}: {row['old']!r} -> {row['new']!r}"


def table(rows):
    """The report as text: the survivors, and how many of each kind were noticed."""
    yield from (said(row) for row in rows if row["end"] != "killed")
    for kind, total in sorted(Counter(row["kind"] for row in rows).items()):
        noticed = sum(row["kind"] == kind and row["end"] != "survived" for row in rows)
        yield f"{kind:20} {noticed:4} of {total}"
    ends = Counter(row["end"] for row in rows)
    yield f"{len(rows)} mutants: " + ", ".join(f"{count} {end}" for end, count in sorted(ends.items()))


def main():
    """Makes the map, judges the mutants, writes the report after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=300, help="mutants (default: 300)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--files", nargs="*", default=[], help="only mutants of files whose path contains one of these"
    )
    parser.add_argument(
        "--at", help="FILE:LINE of the mutants to judge, as the report has them, instead of random ones"
    )
    parser.add_argument("--budget", type=float, default=120, help="seconds of tests for one mutant (default: 120)")
    parser.add_argument("--each", type=int, default=0, help="map only this many cases of each test (default: 0, all)")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "minitrans-mutation")
    options = parser.parse_args()
    place = Workplace(options.folder)
    files = sorted(str(path.relative_to(place.tree)) for path in place.tree.glob("tests/**/test_*.py"))
    lines = Map(place)
    lines.make([file for file in files if file not in SLOW], options.each)
    lines.read()
    every = [mutant for file, source in place.sources.items() for mutant in mutants(file, source)]
    if options.at:
        chosen = [mutant for mutant in every if f"{mutant.file}:{mutant.line}" == options.at]
    else:
        within = [mutant for mutant in every if not options.files or any(map(mutant.file.__contains__, options.files))]
        chosen = random.Random(options.seed).sample(within, len(within))
    chosen = list(islice((x for x in chosen if is_another_program(x, place.sources[x.file])), options.count))
    report = options.folder / f"report-{options.seed}.json"
    rows = json.loads(report.read_text("utf-8")) if report.exists() and not options.at else []
    for mutant in chosen[len(rows) :]:
        rows.append(judged(place, lines, mutant, options.budget))
        print(f"{said(rows[-1])} ({rows[-1]['seconds']} s, {rows[-1]['by']})", flush=True)
        report.write_text(json.dumps(rows, indent=1), "utf-8")
    for test in failing_anyway(place, {row["by"] for row in rows if row["by"]}):
        print(f"{test} fails without a mutant: what it killed does not count.")
        for row in rows:
            row["end"] = "unsound" if row["by"] == test else row["end"]
    report.write_text(json.dumps(rows, indent=1), "utf-8")
    print(*table(rows), sep="\n")
    place.close()


if __name__ == "__main__":
    main()
