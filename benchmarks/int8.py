"""Why `model.freeze()` does not offer int8: `python -m benchmarks.int8`.

Products of 8-bit integers are faster than those in bfloat16, but activations have to be quantised first, and torch has
no operation that does it with one scale per row as the rows leave a norm or a GELU. Printed are the median
times of a packed product in bfloat16, with its GELU, and of two ways to multiply in int8:

- `quantized.linear_dynamic`, which quantises inside with one scale for all rows: a text's numbers then depend on the
  batch that it is in;
- one scale and one offset per row, by separate passes around `onednn.qlinear_pointwise`;

and the cosines between MiniLM's sentence vectors, one text at a time, and those in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import minitrans
from benchmarks.rows import minilm
from minitrans import bench, cpu, plain

# Rows, inputs, outputs: products of MiniLM and of BERT-base, of few tokens and of many.
SIZES = [(12, 384, 1152), (16, 768, 3072), (128, 768, 3072), (1024, 768, 3072), (1024, 3072, 768)]
TEXTS = [
    line.strip() for line in Path(__file__).resolve().parents[1].joinpath("README.md").read_text("utf-8").splitlines()
]


def dynamic(weight: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
    """One scale for all rows."""
    scales = weight.abs().amax(1).double() / 127
    quantised = torch.quantize_per_channel(weight, scales, torch.zeros(len(weight), dtype=torch.long), 0, torch.qint8)
    packed = torch.ops.quantized.linear_prepack(quantised, bias)
    return lambda x: torch.ops.quantized.linear_dynamic(x, packed, False)


def by_rows(weight: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
    """x ≈ low + step · q with one low and one step per row, q in 0 … 255: x Wᵀ = step · (q Wᵀ) + low · (sums of W)."""
    scales = weight.abs().amax(1) / 127
    whole = (weight / scales[:, None]).round().to(torch.int8)
    zeros = torch.zeros(len(weight), dtype=torch.int32)
    sums = torch.stack([whole.float().sum(1) * scales, torch.zeros(len(weight)) if bias is None else bias])
    packed = torch.ops.onednn.qlinear_prepack(whole, None)

    def product(x: Tensor) -> Tensor:
        flat = x.flatten(0, -2)
        low, high = torch.aminmax(flat, dim=-1, keepdim=True)
        step = ((high - low) / 255).clamp(min=1e-30)
        q = torch.addcmul(0.5 - low / step, flat, 1 / step).to(torch.uint8)
        out = torch.ops.onednn.qlinear_pointwise(
            q, 1.0, 0, packed, scales, zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )
        out = torch.addmm(out.mul_(step), torch.cat([low, torch.ones_like(low)], 1), sums)
        return out.view(*x.shape[:-1], -1)

    return product


def times() -> None:
    print("rows × inputs → outputs: packed bfloat16, int8 by one scale, int8 by rows [µs]; errors of the last two")
    for rows, inputs, outputs in SIZES:
        x, weight, bias = torch.randn(rows, inputs), torch.randn(outputs, inputs) / inputs**0.5, torch.randn(outputs)
        packed, narrow, half = cpu.packed(weight.bfloat16()), x.bfloat16(), bias.bfloat16()
        one, each = dynamic(weight, bias), by_rows(weight, bias)
        ways = [
            lambda p=packed, x=narrow, b=half: cpu.linear(x, p, b, "gelu"),
            lambda x=x, one=one: F.gelu(one(x)),
            lambda x=x, each=each: F.gelu(each(x)),
        ]
        turns = {str(number): bench.per_call(way, at_least=0.01) for number, way in enumerate(ways)}
        taken = bench.in_turns(turns, seconds=3).values()
        exact = F.linear(x, weight, bias)
        errors = [float((way(x) - exact).norm() / exact.norm()) for way in (one, each)]
        medians = ", ".join(f"{bench.spread(found).median * 1e6:.0f}" for found in taken)
        print(f"{rows} × {inputs} → {outputs}: {medians}; {errors[0]:.1e}, {errors[1]:.1e}")


def cosines() -> None:
    model, tokenizer = (kind.from_pretrained(minilm()) for kind in (minitrans.AutoModel, minitrans.AutoTokenizer))
    batches = [tokenizer(text, truncation=True, return_tensors="pt") for text in TEXTS if len(text.split()) > 6]

    def vectors(model: torch.nn.Module) -> Tensor:
        states = [model(**batch).last_hidden_state.mean(1) for batch in batches]
        return F.normalize(torch.cat(states), dim=-1)

    exact, own = vectors(model), plain.linear
    found = {"frozen in bfloat16": vectors(model.freeze("bfloat16"))}
    for name, way in (("int8 by one scale a text", dynamic), ("int8 by rows", by_rows)):
        kept: dict[int, Callable[[Tensor], Tensor]] = {}

        def linear(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str = "linear", kept=kept, way=way):  # type: ignore[no-untyped-def]
            if weight.data_ptr() not in kept:
                kept[weight.data_ptr()] = way(weight, bias)
            return plain.ACTIVATIONS[activation](kept[weight.data_ptr()](x))

        plain.linear = linear
        found[name] = vectors(model)
        plain.linear = own
    for name, other in found.items():
        cosine = (exact * other).sum(-1)
        print(f"{name}: cosine {cosine.min():.4f} at worst, {cosine.median():.4f} in the median of {len(exact)} texts")


@torch.inference_mode()
def main() -> None:
    torch.set_num_threads(2)
    torch.backends.quantized.engine = "onednn"
    cosines()
    times()


if __name__ == "__main__":
    main()
