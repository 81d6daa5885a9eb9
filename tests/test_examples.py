"""The examples, run as a user runs them: with their defaults, and with checkpoints of one's own."""

import re
import runpy
import sys
from pathlib import Path

import pytest
import soundfile
import transformers
from programs import starts

import minitrans

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


@pytest.fixture
def run(monkeypatch, capsys):
    """What an example prints, given arguments."""
    monkeypatch.syspath_prepend(str(EXAMPLES))

    def run(name: str, *arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        return capsys.readouterr().out

    return run


def test_semantic_search(run, minilm):
    assert "0.43  Sunlight is scattered" in run("semantic_search").splitlines()[1]
    assert "cloth bag" in run("semantic_search", "How do I keep bread fresh?", minilm).splitlines()[1]


def test_entities_by_a_tagger_that_was_fine_tuned(run, tmp_path, monkeypatch):
    losses = [float(loss) for loss in re.findall(r"loss ([\d.]+)", run("fine_tuning", tmp_path))]
    assert losses[-1] < losses[0] < 0.6
    assert transformers.AutoModelForTokenClassification.from_pretrained(tmp_path).config.id2label[2] == "PLACE"
    tagger = [
        kind.from_pretrained(tmp_path) for kind in (minitrans.BertForTokenClassification, minitrans.AutoTokenizer)
    ]
    monkeypatch.setattr("fine_tuning.train", lambda: tagger)
    for arguments in [(), (tmp_path,)]:
        printed = run("entities", *arguments)
        for entity in ("PERSON +0.*Nora", "PLACE +0.*Prague", "PERSON +0.*Louise", "PLACE +0.*Athens"):
            assert re.search(entity, printed), entity
    (tmp_path / "text").write_text("Nora lives in Prague.")
    assert re.search(r" 14 +20 +PLACE .* Prague", run("entities", tmp_path, tmp_path / "text"))


def test_subtitles_by_a_model_of_whistles(run, tmp_path, monkeypatch):
    run("whistles", tmp_path)
    assert transformers.Wav2Vec2ForCTC.from_pretrained(tmp_path).config.vocab_size == 8
    reader = [kind.from_pretrained(tmp_path) for kind in (minitrans.Wav2Vec2ForCTC, minitrans.AutoProcessor)]
    monkeypatch.setattr("whistles.train", lambda: reader)
    printed = run("subtitles")
    assert re.search(r"\n1\n00:00:00,0\d\d --> 00:00:02,\d{3}\nAIO", printed)
    assert printed.count("-->") == 3
    soundfile.write(tmp_path / "clip.wav", sys.modules["whistles"].whistle("OU EA"), 16000)
    assert "\nOU EA\n" in run("subtitles", tmp_path, tmp_path / "clip.wav")


def test_a_detector_on_swin(run, tmp_path):
    found = re.search(r"(\d+) of 64", run("detector_backbone"))
    assert int(found[1]) > 48
    starts(tmp_path, "SwinModel", depths=[1, 1, 1], num_heads=[2, 4, 8])
    assert "stage3" in run("detector_backbone", tmp_path)
