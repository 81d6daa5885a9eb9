"""Runs tests in forks of a process that has imported everything but minitrans and the tests.

One job is a line of JSON on standard input: `stages`, each a file of tests and the ids to run of it in that order
(null for all), `seconds` (the time limit), and for the map `lines` (the file to write) and `each` (how many cases of
each test at most). The answer is a line of JSON: `end` ("passed", "failed" or "timed out"), `seconds`, which `test`
failed first and with which `message`.
"""

import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path

import pytest
from hypothesis import settings

TREE = Path.cwd()
EXAMPLES = 8  # of hypothesis, where only some cases are mapped
MEMORY = 32 << 30  # bytes of address space, of which torch and its friends take most without using them


def spread(items, count):
    """`count` of the items, from the first to the last, at equal distances; all where they are no more."""
    last = len(items) - 1
    return items if last < count else [items[index * last // max(count - 1, 1)] for index in range(count)]


class Chosen:
    """Keeps only the tests asked for, in that order, and notes the first failure."""

    rank = None

    def __init__(self, each):
        self.each, self.failure = each, {}

    def choose(self, tests):
        self.rank = tests and {test: rank for rank, test in enumerate(tests)}

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items):
        if self.rank is not None:
            items[:] = sorted(filter(lambda item: item.nodeid in self.rank, items), key=lambda x: self.rank[x.nodeid])
        if self.each:
            functions = {}
            for item in items:
                functions.setdefault(item.nodeid.split("[")[0], []).append(item)
            items[:] = [item for each in functions.values() for item in spread(each, self.each)]
            for item in items:
                usual = getattr(item.obj, "_hypothesis_internal_use_settings", None)
                if usual is not None:
                    item.obj._hypothesis_internal_use_settings = settings(usual, max_examples=EXAMPLES)

    def note(self, report):
        if report.failed and not self.failure:
            self.failure = {"test": report.nodeid, "message": str(report.longrepr)[-300:]}

    pytest_runtest_logreport = pytest_collectreport = note


def in_fork(job, answer):
    """Runs the job's stages up to the first failure."""
    sys.path.insert(0, str(TREE))
    arguments = ["-q", "-p", "no:cacheprovider", "--no-header", "--basetemp", f"{answer}.tmp"]
    plugins = []
    if job.get("lines"):
        from lines import Plugin

        plugins.append(Plugin(TREE, job["lines"]))
    else:
        arguments.append("-x")
    chosen = Chosen(job.get("each"))
    for file, tests in job["stages"]:
        chosen.choose(tests)
        code = pytest.main([*arguments, file], plugins=[chosen, *plugins])
        if code not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            break
    else:
        code = 0
    Path(answer).write_text(json.dumps({"end": "failed" if code else "passed", **chosen.failure}), "utf-8")


def run(job):
    """The answer to one job: what the fork wrote, or that it crashed or was ended."""
    folder = Path(tempfile.mkdtemp())
    began = time.monotonic()
    child = os.fork()
    if not child:
        os.setsid()
        output = os.open(folder / "output", os.O_WRONLY | os.O_CREAT)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        try:
            in_fork(job, folder / "answer")
        finally:
            sys.stdout.flush()
            os._exit(0)
    answer = {"end": "timed out"}
    while time.monotonic() - began < job["seconds"]:
        if os.waitpid(child, os.WNOHANG)[0]:
            path = folder / "answer"
            answer = json.loads(path.read_text("utf-8")) if path.exists() else {"end": "failed", "message": "crashed"}
            child = None
            break
        time.sleep(0.02)
    if child:
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
    answer["seconds"] = round(time.monotonic() - began, 2)
    answer["output"] = (folder / "output").read_text("utf-8", "replace")[-2000:]
    shutil.rmtree(folder, ignore_errors=True)
    return answer


def main():
    """Imports the modules named in the first line, then answers jobs until standard input ends."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what modules print is no answer
    for module in json.loads(sys.stdin.readline()):
        try:
            import_module(module)
        except Exception as error:  # a module that only works in its place: the test imports it
            print(f"{module}: {error}", file=sys.stderr)
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), file=replies, flush=True)


if __name__ == "__main__":
    main()
