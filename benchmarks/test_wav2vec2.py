"""Wav2Vec2 on the CPU, float32, 2 threads, beside transformers in the same run.

    python -m pytest benchmarks/test_wav2vec2.py --benchmark-json=wav2vec2.json

The weights are random (the shapes are wav2vec2-base's); what is timed does not depend on their values.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import minitrans
from benchmarks.paired import FORMS

ATTENTIONS = ("eager", "sdpa")
SECOND = 16000
CHECKPOINTS: dict[str, dict[str, Any]] = {
    "group": {},
    "layer": {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True},
}


@pytest.fixture(scope="module")
def models(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Any, dict[str, Any]]:
    torch.manual_seed(0)
    folder: Path = tmp_path_factory.mktemp(request.param)
    config = transformers.Wav2Vec2Config(**CHECKPOINTS[request.param])
    transformers.Wav2Vec2ForCTC(config).save_pretrained(folder)
    theirs = {
        name: transformers.AutoModelForCTC.from_pretrained(folder, attn_implementation=name).eval()
        for name in ATTENTIONS
    }
    return request.param, minitrans.AutoModelForCTC.from_pretrained(folder), theirs


def run_all(ours: Any, theirs: dict[str, Any], *inputs: torch.Tensor) -> tuple[Callable, dict[str, Callable]]:
    def of(model: Any) -> Callable[[], Any]:
        return lambda: model(*inputs)

    return of(ours), {name: of(model) for name, model in theirs.items()}


@pytest.mark.parametrize("models", CHECKPOINTS, indirect=True)
@pytest.mark.parametrize(("batch", "goal", "form"), [*((1, 1.2, form) for form in FORMS), (4, 1.2, "")])
def test_full_batch(models: Any, compare: Callable, batch: int, goal: float, form: str) -> None:
    norm, ours, theirs = models
    samples = torch.randn(batch, 10 * SECOND)
    both = run_all(FORMS[form](ours), theirs, samples)
    compare(f"Wav2Vec2-base, {norm} norm, {batch} × 10 s{form}", *both, goal=goal, rounds=11 if batch == 1 else 3)


@pytest.mark.parametrize("models", ["layer"], indirect=True)
def test_ragged_batch(models: Any, compare: Callable) -> None:
    """4 clips, the longest 10 s, 53 % of the samples real; transformers agrees for a layer norm only."""
    _, ours, theirs = models
    lengths = torch.tensor([160000, 96000, 54000, 29000])
    mask = (torch.arange(160000) < lengths[:, None]).long()
    assert 0.525 < mask.float().mean() < 0.535
    both = run_all(ours, theirs, torch.randn(mask.shape) * mask, mask)
    compare("Wav2Vec2-base, layer norm, 4 clips up to 10 s, 53 % of the samples real", *both, goal=2.0, rounds=3)
