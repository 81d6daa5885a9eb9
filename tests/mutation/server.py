"""Runs tests in forks of a process that has imported everything but minitrans and the tests, or these too.

The first line of standard input is JSON: the `modules` to import, and the files and folders of tests to `collect`; the
answer, when that is done, is "ready": before it no file may be mutated. Then each line is a job: `stages`, each a file
of tests and the ids to run of it in that order (null for all), and `seconds` (the time limit). Where nothing is
collected, for the map: `lines` (the file to write) and `each` (how many cases of each test at most). Where tests are:
the mutated `file`, whose functions get the code that it has now, and its `original` text. The answer is JSON: `end`
("passed", "failed", "timed out", or "at import": what changed had run before the fork), `seconds`, which `test` failed
first and with which `message`.
"""

import gc
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
from types import CodeType, FunctionType

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


def codes(code, path=()):
    """The code of each function in a module's code, by the names and places that lead to it."""
    yield path, code
    for place, inner in enumerate(each for each in code.co_consts if isinstance(each, CodeType)):
        yield from codes(inner, (*path, place, inner.co_name))


class Collected:
    """Collects the tests and serves jobs where pytest would run them."""

    def __init__(self, jobs, replies):
        self.jobs, self.replies, self.ran, self.failure = jobs, replies, set(), {}
        self.package = str(TREE / "minitrans")
        sys.setprofile(self.saw)

    def saw(self, frame, event, _):
        if event == "call" and frame.f_code.co_filename.startswith(self.package):
            self.ran.add(frame.f_code)

    note = pytest_runtest_logreport = Chosen.note

    def pytest_runtestloop(self, session):
        sys.setprofile(None)
        self.tests = {item.nodeid: item for item in session.items}
        self.temporary = session.config._tmp_path_factory
        functions = [each for each in gc.get_objects() if isinstance(each, FunctionType)]
        self.functions = [each for each in functions if each.__code__.co_filename.startswith(self.package)]
        self.files = {file: os.path.realpath(file) for file in {each.__code__.co_filename for each in self.functions}}
        gc.freeze()
        print("ready", file=self.replies, flush=True)
        for line in self.jobs:
            print(json.dumps(run(json.loads(line), self.in_fork)), file=self.replies, flush=True)
        return True

    def of_file(self, file):
        return (name for name in self.tests if name.startswith(f"{file}::"))

    def changed(self, job):
        """Put the new code into the functions; False where that cannot reach all that the change does."""
        path = os.path.realpath(TREE / job["file"])
        originals = {code: path for path, code in codes(compile(job["original"], path, "exec"))}
        new = dict(codes(compile(Path(path).read_bytes(), path, "exec")))
        for function in self.functions:
            code = function.__code__
            if self.files[code.co_filename] != path or new.get(originals[code]) == code:
                continue
            if code in self.ran or originals[code] not in new:
                return False
            function.__code__ = new[originals[code]]
        return True

    def in_fork(self, job, answer):
        """Runs the job's tests up to the first failure."""
        try:
            reached = self.changed(job)
        except (ValueError, KeyError):  # other free variables; code that is not the file's
            reached = False
        if reached:
            names = [name for file, chosen in job["stages"] for name in chosen or self.of_file(file)]
            tests = [self.tests[name] for name in names if name in self.tests]
            self.temporary._basetemp, self.temporary._given_basetemp = None, Path(f"{answer}.tmp")
            for test, following in zip(tests, [*tests[1:], None], strict=False):
                test.config.hook.pytest_runtest_protocol(item=test, nextitem=following)
                if self.failure:
                    break
        end = ("failed" if self.failure else "passed") if reached else "at import"
        Path(answer).write_text(json.dumps({"end": end, **self.failure}), "utf-8")


def run(job, in_fork):
    """The answer to one job: what the fork wrote, or that it crashed or was ended."""
    folder = Path(tempfile.mkdtemp())
    began = time.monotonic()
    child = os.fork()
    if not child:
        os.setsid()
        output = os.open(folder / "output", os.O_WRONLY | os.O_CREAT)
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
    os.environ.pop("PYTEST_ADDOPTS", None)  # such as -n 2, for whoever started this
    jobs, replies = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what modules print is no answer
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    asked = json.loads(jobs.readline())
    for module in asked["modules"]:
        try:
            import_module(module)
        except Exception as error:  # a module that only works in its place: the test imports it
            print(f"{module}: {error}", file=sys.stderr)
    if asked["collect"]:
        sys.path.insert(0, str(TREE))
        arguments = ["-q", "-p", "no:cacheprovider", "--no-header", *asked["collect"]]
        pytest.main(arguments, plugins=[Collected(jobs, replies)])
        return
    print("ready", file=replies, flush=True)
    for line in jobs:
        print(json.dumps(run(json.loads(line), in_fork)), file=replies, flush=True)


if __name__ == "__main__":
    main()
