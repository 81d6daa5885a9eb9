"""Swin on the CPU, float32, 2 threads, beside transformers in the same run: time, and the peak of memory.

    python -m pytest benchmarks/test_swin.py --benchmark-json=swin.json

The weights are random (the shapes are swin-tiny-patch4-window7-224's); what is measured does not depend on their
values. Memory is what tensors hold at once beyond the weights and the images, as torch's profiler counts it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch.profiler import ProfilerActivity, profile

import minitrans
from benchmarks.paired import FORMS

ATTENTIONS = ("eager", "sdpa")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[str, Any]]:
    torch.manual_seed(0)
    folder: Path = tmp_path_factory.mktemp("swin-tiny")
    published = transformers.SwinForImageClassification
    published(transformers.SwinConfig(num_labels=1000)).save_pretrained(folder)
    theirs = {name: published.from_pretrained(folder, attn_implementation=name).eval() for name in ATTENTIONS}
    return minitrans.AutoModelForImageClassification.from_pretrained(folder), theirs


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("count", "goal"), [(1, 1.0), (8, 1.0)])
def test_images(models: Any, compare: Callable, count: int, goal: float, form: str) -> None:
    pixels = torch.randn(count, 3, 224, 224)
    ours, others = models

    def of(model: Any) -> Callable[[], Any]:
        return lambda: model(pixels)

    work = f"Swin-T, {count} image{'s' if count > 1 else ''} of 224 × 224{form}"
    theirs = {name: of(model) for name, model in others.items()}
    compare(work, of(FORMS[form](ours)), theirs, goal=goal, rounds=31 if count == 1 else 11)


def test_a_large_image(models: Any, compare: Callable) -> None:
    """As a detector's backbone sees it."""
    pixels = torch.randn(1, 3, 800, 1088)
    ours, others = models
    compare(
        "Swin-T, 1 image of 800 × 1088",
        lambda: ours(pixels),
        {name: lambda model=model: model(pixels) for name, model in others.items()},
        goal=1.1,
        rounds=5,
    )


def test_memory(models: Any, benchmark: Any) -> None:
    pixels = torch.randn(8, 3, 224, 224)
    ours, others = models
    found = peak(ours, pixels)
    least = min(peak(model, pixels) for model in others.values())
    benchmark.extra_info.update(
        work="Swin-T, 8 images: peak of memory",
        ours=f"{found / 2**20:.0f} MiB",
        theirs=f"{least / 2**20:.0f} MiB",
        ratio=round(least / found, 2),
        goal=2,
    )
    benchmark.pedantic(lambda: peak(ours, pixels), rounds=1)
    assert least >= 2 * found


@torch.inference_mode()
def peak(model: Any, pixels: torch.Tensor) -> int:
    """The most bytes that a forward pass holds at once."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as measured:
        model(pixels)
    most = held = 0
    events = (event for event in measured.profiler.kineto_results.events() if event.name() == "[memory]")
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most
