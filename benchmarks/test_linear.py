"""The matrix products of `minitrans.cpu` beside each other: F.linear, oneDNN with a weight as it lies, and packed.

python -m pytest benchmarks/test_linear.py --benchmark-json=linear.json
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from minitrans import cpu, plain

# Rows, inputs, outputs: MiniLM's and BERT-base's products, few tokens and many; Swin-T's first stage and its third.
SIZES = [(12, 384, 1152), (16, 768, 3072), (128, 768, 3072), (1024, 768, 3072), (1024, 3072, 768), (25088, 96, 288),
         (1568, 384, 1536)]  # fmt: skip
DTYPES = [dtype for dtype in (torch.float32, torch.bfloat16) if cpu.packs(dtype)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activation", ["linear", "gelu"])
@pytest.mark.parametrize("form", ["chosen", "packed"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_products(
    compare: Callable, size: tuple[int, int, int], form: str, activation: str, dtype: torch.dtype
) -> None:
    """What the table chooses, and a packed weight, are not behind either way to multiply with a weight as it lies."""
    rows, inputs, outputs = size
    x, weight, bias = (torch.randn(*shape).to(dtype) for shape in ((rows, inputs), (outputs, inputs), (outputs,)))
    ours = cpu.packed(weight) if form == "packed" else weight
    compare(
        f"{rows} × {inputs} → {outputs}, {activation}, {str(dtype).removeprefix('torch.')}, {form}",
        lambda: plain.linear(x, ours, bias, activation),
        {
            "F.linear": lambda: plain.ACTIVATIONS[activation](F.linear(x, weight, bias)),
            "oneDNN": lambda: cpu.linear(x, weight, bias, plain.ONEDNN[activation]),
        },
        goal=0.97,
        rounds=31,
    )
