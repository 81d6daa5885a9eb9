"""The examples in docstrings, run where the checkpoints that they name lie: small ones of the same classes."""

import doctest
import importlib
import pkgutil
from pathlib import Path

import pytest
import torch

import minitrans

LABELS = {0: "NEGATIVE", 1: "POSITIVE"}


def examples() -> list[doctest.DocTest]:
    names = [module.name for module in pkgutil.walk_packages(minitrans.__path__, "minitrans.")]
    modules = [importlib.import_module(name) for name in names if ".kernels" not in name and "__main__" not in name]
    finder = doctest.DocTestFinder(exclude_empty=True)
    return [test for module in modules for test in finder.find(module, globs={}) if test.examples]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory, minilm: Path) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    (folder / "sentence-transformers").mkdir()
    (folder / "sentence-transformers" / "all-MiniLM-L6-v2").symlink_to(minilm)
    tokenizer = minitrans.AutoTokenizer.from_pretrained(minilm)
    bert = minitrans.BertModel(minitrans.BertConfig(num_hidden_layers=1, max_position_embeddings=32))
    classifier = minitrans.DistilBertForSequenceClassification(
        minitrans.DistilBertConfig(n_layers=1, dim=64, n_heads=2, max_position_embeddings=32, id2label=LABELS)
    )
    with torch.no_grad():
        classifier.classifier.bias.copy_(torch.tensor([-4.0, 4.0]))
    for name, model in (("google-bert/bert-base-uncased", bert),
                        ("distilbert/distilbert-base-uncased-finetuned-sst-2-english", classifier)):  # fmt: skip
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder


@pytest.mark.parametrize("example", examples(), ids=lambda example: example.name)
def test_example(example, checkpoints, monkeypatch):
    monkeypatch.chdir(checkpoints)
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert runner.run(example, out=said.append).failed == 0, "".join(said)


def test_where_everybody_begins_there_is_an_example():
    places = {example.name.removeprefix("minitrans.") for example in examples()}
    assert places >= {
        "auto.AutoBackbone",
        "auto.AutoClass.from_pretrained",
        "corpora.run",
        "ops.engine",
        "pretrained.PreTrainedModel.freeze",
        "pretrained.PreTrainedModel.from_pretrained",
        "processing.ctc.Wav2Vec2CTCTokenizer",
        "processing.text.Tokenizer.__call__",
        "tasks.audio.Transcriber",
        "tasks.image.ImageClassifier",
        "tasks.pipeline.pipeline",
        "tasks.tokens.EntityRecognizer",
        "tasks.vectors.Embedder.encode",
    }
