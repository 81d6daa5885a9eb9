"""Which lines each test runs: a pytest plugin that writes them to a file."""

import json
import os
import sys
from collections import defaultdict
from pathlib import Path

import coverage
import pytest


class Plugin:
    """Writes, for each test, whether it passed, its seconds, and its lines as a bit mask for each file (hexadecimal).

    What a fixture of a whole module runs belongs to all tests that ask for it.
    """

    def __init__(self, tree, target):
        self.tree, self.target = os.path.realpath(tree), target
        self.fixtures, self.seconds, self.failed = {}, defaultdict(float), set()
        source = [os.path.join(self.tree, *name.split("/")) for name in ("minitrans", "kernels/src")]
        child = str(Path(__file__).parent / "child")
        os.environ |= {"MUTATION_DATA": f"{target}.data", "MUTATION_SOURCE": os.pathsep.join(source)}
        os.environ |= {"PYTHONPATH": os.pathsep.join([child, *filter(None, [os.environ.get("PYTHONPATH")])])}
        self.coverage = coverage.Coverage(f"{target}.data", source=source, config_file=False, messages=False)
        self.coverage.start()
        self.switch("imports")

    def switch(self, name):
        """From now on lines belong to `name`."""
        os.environ["MUTATION_TEST"] = name
        self.coverage.switch_context(name)

    def pytest_runtest_logstart(self, nodeid):
        self.switch(nodeid)
        for name, module in list(sys.modules.items()):  # what is cached would be the first test's alone
            if name.startswith("minitrans"):
                for value in list(vars(module).values()):
                    if hasattr(value, "cache_clear") and hasattr(value, "__wrapped__"):
                        value.cache_clear()

    def pytest_runtest_logfinish(self, nodeid):
        self.switch("imports")

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef, request):
        if fixturedef.scope == "function":
            return (yield)
        before = os.environ["MUTATION_TEST"]
        self.switch(f"fixture {fixturedef.baseid} {fixturedef.argname}")
        try:
            return (yield)
        finally:
            self.switch(before)

    def pytest_collection_modifyitems(self, items):
        for item in items:
            definitions = item._fixtureinfo.name2fixturedefs
            self.fixtures[item.nodeid] = [
                f"fixture {each.baseid} {each.argname}" for name in definitions for each in definitions[name]
            ]

    def pytest_runtest_logreport(self, report):
        self.seconds[report.nodeid] += report.duration
        if report.failed or report.skipped:
            self.failed.add(report.nodeid)

    def pytest_sessionfinish(self):
        self.coverage.stop()
        self.coverage.save()
        self.coverage.combine(keep=False)
        data, masks = self.coverage.get_data(), defaultdict(lambda: defaultdict(int))
        for file in data.measured_files():
            name = os.path.relpath(os.path.realpath(file), self.tree)
            for line, tests in data.contexts_by_lineno(file).items():
                for test in tests:
                    masks[test][name] |= 1 << line
        found = {}
        for test, fixtures in self.fixtures.items():
            lines = defaultdict(int)
            for part in (test, *fixtures):
                for name, mask in masks[part].items():
                    lines[name] |= mask
            lines = {name: f"{mask:x}" for name, mask in lines.items()}
            found[test] = {"seconds": round(self.seconds[test], 3), "passed": test not in self.failed, "lines": lines}
        Path(self.target).write_text(json.dumps(found), "utf-8")
