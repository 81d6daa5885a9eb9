"""The matrix products of `minitrans.cpu` compared: F.linear, oneDNN with an unpacked weight, and with a packed one.

`python -m pytest benchmarks/test_products.py`, on an idle machine: pytest-benchmark prints the times of what the
table of paths chooses, and with `--benchmark-json=FILE` the ratios too.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from minitrans import bench, cpu, plain

# Rows, inputs, outputs: MiniLM's and BERT-base's products, few tokens and many; Swin-T's first stage and its third.
SIZES = [(12, 384, 1152), (48, 384, 1152), (16, 768, 3072), (128, 768, 3072), (1024, 768, 3072), (1024, 3072, 768),
         (25088, 96, 288), (1568, 384, 1536)]  # fmt: skip
DTYPES = [dtype for dtype in (torch.float32, torch.bfloat16) if cpu.packs(dtype)]
BAR = 0.9  # of the faster other way; a shared machine moves by as much


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activation", ["linear", "gelu"])
@pytest.mark.parametrize("form", ["chosen", "packed"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_product(benchmark: Any, size: tuple[int, int, int], form: str, activation: str, dtype: torch.dtype) -> None:
    """What the table chooses, and a packed weight, are not slower than either product with an unpacked weight."""
    torch.set_num_threads(2)
    rows, inputs, outputs = size
    x, weight, bias = (torch.randn(*shape).to(dtype) for shape in ((rows, inputs), (outputs, inputs), (outputs,)))
    ours = cpu.packed(weight) if form == "packed" else weight
    ways = {
        "ours": lambda: plain.linear(x, ours, bias, activation),
        "F.linear": lambda: plain.ACTIVATIONS[activation](F.linear(x, weight, bias)),
        "oneDNN": lambda: cpu.linear(x, weight, bias, cpu.EPILOGUES[activation]),
    }
    with torch.inference_mode():
        times = bench.in_turns({name: bench.per_call(run, at_least=0.005) for name, run in ways.items()}, seconds=2)
        benchmark.pedantic(ways["ours"], rounds=5, warmup_rounds=1)
    found = {name: bench.ratios(times, "ours", name).median for name in ways}
    benchmark.extra_info.update(ratios=found)
    assert min(found.values()) >= BAR, found
