"""BERT on the CPU, float32, 2 threads, beside transformers in the same run.

    python -m pytest benchmarks/test_text.py --benchmark-json=text.json

The weights are random (the shapes are bert-base-uncased's); what is timed does not depend on their values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers

import minitrans
from benchmarks.paired import FORMS

ATTENTIONS = ("eager", "sdpa")


SHAPES: dict[str, dict[str, int]] = {
    "BERT-base": {},
    "MiniLM": {"hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1536},
}


@pytest.fixture(scope="module")
def models(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[str, Any]]:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp(request.param)
    transformers.BertModel(transformers.BertConfig(**SHAPES[request.param])).save_pretrained(folder)
    ours = minitrans.AutoModel.from_pretrained(folder)
    theirs = {
        name: transformers.AutoModel.from_pretrained(folder, attn_implementation=name).eval() for name in ATTENTIONS
    }
    return ours, theirs


def run_all(
    models: tuple[Any, dict[str, Any]], form: str = "", **inputs: torch.Tensor
) -> tuple[Callable, dict[str, Callable]]:
    ours, theirs = models

    def of(model: Any) -> Callable[[], Any]:
        return lambda: model(**inputs)

    return of(FORMS[form](ours)), {name: of(model) for name, model in theirs.items()}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("models", "name", "batch", "length"),
    [("BERT-base", "BERT-base", 1, 16), ("BERT-base", "BERT-base", 8, 128), ("MiniLM", "MiniLM", 1, 12)],
    indirect=["models"],
)
def test_full_batch(models: Any, name: str, compare: Callable, batch: int, length: int, form: str) -> None:
    ids = torch.randint(1000, 30000, (batch, length))
    both = run_all(models, form, input_ids=ids, attention_mask=torch.ones_like(ids))
    compare(f"{name}, {batch} × {length} tokens{form}", *both, goal=1.0, rounds=51 if batch == 1 else 7)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("models", ["BERT-base"], indirect=True)
def test_ragged_batch(models: Any, compare: Callable, form: str) -> None:
    """32 texts, the longest 128 tokens, 29 % of the cells real."""
    torch.manual_seed(1)
    lengths = torch.cat([torch.tensor([128]), torch.randint(8, 61, (31,))])
    mask = (torch.arange(128) < lengths[:, None]).long()
    assert 0.28 < mask.float().mean() < 0.30
    ids = torch.randint(1000, 30000, mask.shape) * mask
    both = run_all(models, form, input_ids=ids, attention_mask=mask)
    compare(f"BERT-base, 32 × 128 tokens, 29 % of them real{form}", *both, goal=3.2, rounds=5)
