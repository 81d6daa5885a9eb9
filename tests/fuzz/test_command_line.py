"""Words of the command line, at random: an answer or a sentence, never a traceback, and a status that says which."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import transformers
from families import make
from outcomes import Outcomes
from PIL import Image
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from minitrans.cli import JOBS, main

TEXTS = ["a text", "a\tb", "[MASK] is", "", "x" * 300, "a\0b", "no/such/file", "missing.png", "\ud800", "猫", "{dir}",
         "/dev/null", "{dir}/a.png", "{dir}/a.wav", "{dir}/texts", "{dir}/latin", "-"]  # fmt: skip
VALUES = ["", "0", "-1", "1", "3", "nan", "inf", "1e400", "x", "art,law", "simple", "cpu", "meta", "cuda:9",
          "float8_e4m3fn", "bfloat16", "float64", "int8", "stage1", "stage9", "[MASK]", "9" * 400, "{dir}/new",
          "{dir}/a.png"]  # fmt: skip
FLAGS = ["--task", "--output", "--top-k", "--question", "--threshold", "--query", "--labels", "--targets",
         "--aggregation", "--chunk", "--features", "--device", "--dtype", "--batch"]  # fmt: skip
SWITCHES = ["--json", "--srt", "--vtt", "--pairs", "--no-answer", "--multi-label", "--frozen", "--nonsense"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: Any) -> list[str]:
    """A folder of each kind, and some that are none."""
    root = tmp_path_factory.mktemp("models")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]
    for name in ("BertForSequenceClassification", "BertForMaskedLM", "DistilBertForQuestionAnswering",
                 "SwinForImageClassification", "Wav2Vec2ForSequenceClassification"):  # fmt: skip
        make(transformers, name).save_pretrained(root / name)
        if "Bert" in name:
            (root / name / "vocab.txt").write_text("\n".join(words) + "\n")
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(root / "SwinForImageClassification")
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(root / "Wav2Vec2ForSequenceClassification")
    (root / "empty").mkdir()
    return [*map(str, sorted(root.iterdir())), "no/such", "", "x" * 300, "a b"]


def test_words(models: list[str], tmp_path: Path, cases: int, capsys: Any, monkeypatch: Any) -> None:
    rng, outcomes = random.Random(0), Outcomes("words of the command line")
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    soundfile.write(tmp_path / "a.wav", np.sin(np.arange(9000) * 0.05), 16000)
    (tmp_path / "texts").write_bytes(b"one\r\n\r\ntwo\tthree\n")
    (tmp_path / "latin").write_bytes(b"caf\xe9\n")
    for number in range(cases):

        def word(choices: list[str], number: int = number) -> str:
            return rng.choice(choices).replace("{dir}/new", f"{tmp_path}/new{number}").replace("{dir}", str(tmp_path))

        words = [rng.choice(["run", "run", "run", "run", "info"]), rng.choice(models)]
        if words[0] == "run":
            words += [word(TEXTS) for _ in range(rng.choice([0, 1, 1, 1, 2, 3]))]
            for flag in rng.sample(FLAGS, rng.choice([0, 0, 1, 1, 2])):
                words.append(
                    f"{flag}={rng.choice(sorted(JOBS)) if flag == '--task' and rng.random() < 0.8 else word(VALUES)}"
                )
            words += rng.sample(SWITCHES, rng.choice([0, 0, 1, 2]))
        monkeypatch.setattr("sys.stdin", (tmp_path / "texts").open(encoding="utf-8"))

        def run(words: list[str] = words) -> tuple[int, str, str]:
            torch.manual_seed(0)
            try:
                status: Any = main(words)
            except SystemExit as end:  # how argparse refuses
                status = end.code
            return status, *capsys.readouterr()

        def right(found: tuple[int, str, str], words: list[str] = words) -> bool:
            status, out, err = found
            said = [line for line in err.splitlines() if not line.startswith(("usage:", " "))]
            clear = all(line.startswith("minitrans") for line in said) and "should not have" not in err
            shown = [json.loads(line) for line in out.splitlines()] if "--json" in words and words[0] == "run" else []
            finite = "NaN" not in json.dumps(shown)
            return clear and finite and status in (0, 1, 2) and (status == 0 or bool(said)) and "Traceback" not in err

        outcomes.judge(words, run, right)
    outcomes.check()
