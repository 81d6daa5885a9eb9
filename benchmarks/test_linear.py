"""The product that `minitrans.cpu` chooses for this CPU, beside torch's F.linear: float32, 2 threads.

python -m pytest benchmarks/test_linear.py --benchmark-json=linear.json
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from minitrans import plain


@pytest.mark.parametrize("rows", [16, 128, 1024])
def test_up_projection(compare: Callable, rows: int) -> None:
    """BERT-base's 768 → 3072 with its GELU."""
    x, weight, bias = torch.randn(rows, 768), torch.randn(3072, 768), torch.randn(3072)
    compare(
        f"{rows} rows, 768 → 3072, GELU",
        lambda: plain.linear(x, weight, bias, "gelu"),
        {"F.linear, F.gelu": lambda: F.gelu(F.linear(x, weight, bias))},
        goal=1.0,
        rounds=31,
    )
