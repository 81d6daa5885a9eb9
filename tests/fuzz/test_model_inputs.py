"""Inputs and labels of every published class, of wrong types, dtypes, shapes, layouts and values.

Every answer is compared with transformers' for the same numbers in the types that it takes.
"""

import random
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from families import HEADED, PUBLISHED, family_of, inputs_of, labels_of, published_pair
from outcomes import Outcomes
from torch import Tensor

IGNORED = -100
WHOLE = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
OTHERS: list[Any] = [[], [[1, 2]], "a text", b"bytes", 5, 3.5, {"a": 1}, True, np.ones((2, 7)), object(), (1, 2), "",
                     float("nan"), {1}, [None]]  # fmt: skip
DTYPES = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64,
          torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.bool, torch.complex64,
          torch.float8_e4m3fn]  # fmt: skip


def to_sparse(x: Tensor) -> Tensor:
    return x.to_sparse()


def nested(x: Tensor) -> Tensor:
    return torch.nested.nested_tensor(list(x)) if x.dim() else x


def quantised(x: Tensor) -> Tensor:
    return torch.quantize_per_tensor(x.float(), 0.1, 0, torch.qint8)


LAYOUTS = [to_sparse, nested, quantised, lambda x: x.to("meta"), lambda x: x.T if x.dim() == 2 else x[None],
           lambda x: x[None], lambda x: x[..., None], lambda x: x[0], lambda x: x[:1], lambda x: x[:0],
           lambda x: torch.cat([x, x]), lambda x: x[..., :-1], lambda x: x.flatten(), lambda x: x.flip(0),
           lambda x: torch.cat([x, x], -1)[..., ::2],
           lambda x: x.clone().requires_grad_(x.is_floating_point())]  # fmt: skip
VALUES = [float("nan"), float("inf"), -float("inf"), -1, -100, 0, 1, 2, 3, 10**6, 2**31, 2**62, 0.5, -1e4]


def changed(x: Any, rng: random.Random) -> Any:
    """Another value of an input."""
    kind = rng.choice(["other", "dtype", "layout", "value", "none"])
    if kind == "none":
        return None
    if kind == "other" or not isinstance(x, Tensor):
        return rng.choice(OTHERS)
    if kind == "dtype":
        return x.to(rng.choice(DTYPES))
    if kind == "layout":
        return rng.choice(LAYOUTS)(x)
    copy = x.clone()
    value = rng.choice(VALUES)
    if not x.is_floating_point():
        value = 7 if isinstance(value, float) else value
    elif 1e6 < abs(value) < float("inf"):  # whose square no float32 holds
        value = 1e4
    if copy.dtype == torch.bool or copy.numel() == 0:
        return ~copy
    copy.view(-1)[rng.randrange(copy.numel())] = value
    return copy


def plain(name: str, x: Any) -> Any:
    """The same numbers in the type that transformers takes."""
    if not isinstance(x, Tensor):
        return x
    whole = name in WHOLE or (name == "labels" and not x.is_floating_point())
    if name in ("labels", "start_positions", "end_positions") and 1 in x.shape and x.dim() == 2:
        x = x.flatten()  # (B, 1) and (1, B)
    return x.long() if whole or name.endswith(("positions", "_label")) else x


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: Any) -> dict[str, Any]:
    transformers.utils.logging.set_verbosity_error()
    return {name: published_pair(name, tmp_path_factory.mktemp(name)) for name in PUBLISHED}


def given(name: str, rng: random.Random) -> dict[str, Any]:
    """What a class takes, with more of the optional inputs."""
    inputs = {**inputs_of(name), **(labels_of(name) if name in HEADED else {})}
    shape = inputs["input_ids"].shape if "input_ids" in inputs else None
    if shape is not None:
        if family_of(name) == "Bert":
            inputs["token_type_ids"] = torch.randint(0, 2, shape)
        if rng.random() < 0.3 and not name.endswith("MultipleChoice"):
            inputs["position_ids"] = torch.arange(7).expand(2, 7).clone()
        if rng.random() < 0.3 and not name.endswith("MultipleChoice"):
            inputs["inputs_embeds"] = torch.randn(2, 7, 32)
            del inputs["input_ids"]
    if name.startswith("Wav2Vec2") and rng.random() < 0.5:
        inputs["attention_mask"] = (torch.arange(1200) < torch.tensor([[1200], [1000]])).long()
    return inputs


TOKENS = ("MaskedLM", "PreTraining", "TokenClassification", "QuestionAnswering", "CTC", "FrameClassification")


def reference(theirs: Any, inputs: dict[str, Any]) -> list[dict[str, Any]]:
    """transformers' outputs: of the batch, or of each clip alone where some are shorter."""
    inputs = {key: plain(key, x) for key, x in inputs.items()}
    mask = inputs.get("attention_mask")
    for key, x in inputs.items():  # what the mask leaves out may be anything
        if isinstance(x, Tensor) and isinstance(mask, Tensor) and x.shape == mask.shape and key != "input_values":
            inputs[key] = torch.where(mask != 0, x, IGNORED if key == "labels" else 0)
    with torch.no_grad():
        if "input_values" not in inputs or mask is None or bool((mask != 0).all()):
            return [theirs(**inputs)]
        clips = zip(inputs["input_values"], (mask != 0).sum(1).tolist(), strict=True)
        return [theirs(clip[None, :length]) for clip, length in clips]


def right(name: str, theirs: Any, inputs: dict[str, Any], found: Any) -> bool:
    """Whether our output is transformers', but for padding: there are zeros, which no loss counts."""
    expected, mask = reference(theirs, inputs), inputs.get("attention_mask")
    padded = isinstance(mask, Tensor) and not bool((mask != 0).all())
    for key, ours in found.items():
        if not isinstance(ours, Tensor) or (key == "loss" and padded and name.endswith(TOKENS)):
            continue
        if key not in expected[0] or not torch.isfinite(expected[0][key]).all():
            continue
        if len(expected) > 1 and ours.dim() == 0:
            continue  # of the whole batch
        if len(expected) > 1:  # clips, each alone
            pairs = [(own[: len(there[key][0])], there[key][0]) for own, there in zip(ours, expected, strict=True)]
        elif padded and ours.shape[:2] == mask.shape:
            pairs = [(ours[mask != 0], expected[0][key][mask != 0])]
        elif padded and not bool((mask[..., 0] != 0).all()):
            continue  # what is pooled is the first token here, and the first cell there
        else:
            pairs = [(ours, expected[0][key])]
        if not all(torch.allclose(own.float(), there.float(), rtol=1e-3, atol=3e-4) for own, there in pairs):
            return False
    return True


@pytest.mark.parametrize("name", PUBLISHED)
def test_inputs(name: str, pairs: dict[str, Any], cases: int) -> None:
    theirs, ours = pairs[name]
    rng, outcomes = random.Random(name), Outcomes(f"inputs of {name}")
    for number in range(cases):
        torch.manual_seed(number)
        inputs = given(name, rng)
        key = rng.choice([*inputs])
        try:
            inputs[key] = changed(inputs[key], rng)
        except Exception:  # torch has no such conversion
            continue
        with torch.no_grad():
            outcomes.judge((key, inputs[key]), partial(ours, **inputs), partial(right, name, theirs, inputs))
    outcomes.check()
