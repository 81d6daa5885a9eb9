"""What this CPU is, and which of torch's matrix products is the fastest on it: the one table of paths.

A product x Wᵀ + b has three ways through torch:

- `F.linear`, which in float32 is the BLAS (MKL on x86), and after it the activation;
- oneDNN, with the weight as it lies: the activation is computed as the product leaves the registers (`epilogue` says
  which), but the weight is brought into oneDNN's order at every call, which takes longer than the product where the
  rows are few;
- oneDNN with a weight that was brought into its order before (`packed`, what `model.freeze()` does): not slower, but
  on the CPUs of `UNPACKED`.

So what is left to choose is from how many rows on oneDNN reads weights as they lie: `TABLE`. What the CPU is decides
it, and never timing, so that two runs give equal bits; ONEDNN_MAX_CPU_ISA and ATEN_CPU_CAPABILITY, by which oneDNN and
torch keep to an older instruction set, are heeded. `with table(...)` puts other rows in force, to test and to measure.
Attention, in windows too, is `F.scaled_dot_product_attention` wherever no weights are kept.

What torch keeps private is called here and nowhere else:

- `torch.ops.mkldnn._linear_pointwise`, as torch's own compiler emits it;
- `torch.ops.mkldnn._reorder_linear_weight`, as its freezing does;
- `torch.ops.mkldnn._is_mkldnn_bf16_supported`;
- `torch.cpu._is_avx512_bf16_supported` and `torch.cpu._is_amx_tile_supported`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

# What ONEDNN_MAX_CPU_ISA may hold oneDNN to, from the oldest to the newest; any other value holds it to nothing.
ISAS = (
    "SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI", "AVX512_CORE_BF16",
    "AVX10_1_512", "AVX512_CORE_FP16", "AVX10_1_512_AMX", "AVX512_CORE_AMX",
)  # fmt: skip


@dataclass(frozen=True)
class Cpu:
    """What the products may use: `vendor` as the CPU names itself ("" where nobody says), and instruction sets."""

    vendor: str
    avx512: bool
    avx512_bf16: bool
    amx: bool

    @property
    def fast_in_bfloat16(self) -> bool:
        """Whether it multiplies in bfloat16 itself: two to five times as fast as in float32."""
        return self.avx512_bf16 or self.amx


@dataclass(frozen=True)
class Rule:
    """From how many `rows` on a product in `dtype`, of this many `inputs` or more, is oneDNN's on these CPUs.

    What is None holds for any.
    """

    rows: float
    dtype: torch.dtype
    vendor: str | None = None
    avx512: bool | None = None
    inputs: int = 1

    def holds(self, cpu: Cpu, dtype: torch.dtype, inputs: int) -> bool:
        """Whether this is the rule for products of `inputs` in `dtype` on `cpu`."""
        return (
            dtype == self.dtype
            and self.vendor in (None, cpu.vendor)
            and self.avx512 in (None, cpu.avx512)
            and inputs >= self.inputs
        )


NEVER = float("inf")
# The activations that oneDNN computes as the product leaves the registers, and what it calls them.
EPILOGUES = {"gelu": "gelu", "gelu_python": "gelu", "relu": "relu", "linear": "none"}
# The first rule that holds; where none does, F.linear computes.
TABLE = (
    # Zen 4: 1.1 to 1.8 times F.linear at any size, as MKL does not do its best on AMD.
    Rule(1, torch.float32, vendor="AuthenticAMD", avx512=True),
    # Zen 4 held to AVX2: 1.2 to 1.35 times for 768 channels and up to 64 rows, 1.04 for 1024; 0.84 to 1.02 for 96 to
    # 384 channels.
    Rule(1, torch.float32, vendor="AuthenticAMD", inputs=512),
    # Sapphire Rapids: 0.93 to 0.97 of F.linear for 12 and 16 rows; the same from 128 on, with the GELU saved, and 1.5
    # times for 96 channels.
    Rule(64, torch.float32, vendor="GenuineIntel", avx512=True),
    # F.linear is oneDNN here too: what is saved is a pass for the GELU.
    Rule(64, torch.bfloat16),
)
# Where F.linear computes even what is frozen.
UNPACKED = (
    # A Xeon with AMX held to AVX2: packed products take 1.00 to 1.21 of F.linear's time for 12 and 16 rows, 0.97 to
    # 1.02 for 128, and each call 20 µs more.
    Rule(NEVER, torch.float32, vendor="GenuineIntel", avx512=False),
)
_table: tuple[Rule, ...] = TABLE


@cache
def this_cpu() -> Cpu:
    """What this machine is, as far as the environment lets oneDNN and torch use it."""
    isa = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()
    level = ISAS.index(isa) if isa in ISAS else len(ISAS)
    vectors = "AVX512" in torch.backends.cpu.get_cpu_capability()
    avx512 = vectors and level >= ISAS.index("AVX512_CORE")
    return Cpu(
        vendor=_vendor(),
        avx512=avx512,
        avx512_bf16=avx512 and level >= ISAS.index("AVX512_CORE_BF16") and torch.cpu._is_avx512_bf16_supported(),
        amx=avx512 and level >= ISAS.index("AVX10_1_512_AMX") and torch.cpu._is_amx_tile_supported(),
    )


def _vendor() -> str:
    """The x86 vendor in the words of CPUID, which Linux and Windows repeat."""
    if sys.platform == "win32":
        return os.environ.get("PROCESSOR_IDENTIFIER", "").rpartition(" ")[2]
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")), "")


@contextmanager
def table(*rules: Rule) -> Iterator[None]:
    """Inside the block, the whole process goes by these rules: none at all is F.linear always."""
    global _table
    outer, _table = _table, rules
    onednn_from.cache_clear()
    try:
        yield
    finally:
        _table = outer
        onednn_from.cache_clear()


@cache
def onednn_from(dtype: torch.dtype, inputs: int) -> float:
    """From how many rows of `inputs` on oneDNN multiplies with weights as they lie; `NEVER` where it should not."""
    if not packs(dtype):
        return NEVER
    return next((rule.rows for rule in _table if rule.holds(this_cpu(), dtype, inputs)), NEVER)


@cache
def packs(dtype: torch.dtype) -> bool:
    """Whether oneDNN is here and computes in this dtype on this CPU."""
    if not torch.backends.mkldnn.is_available():
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def epilogue(activation: str) -> str | None:
    """What oneDNN calls an activation that it computes with the product, where that is not slower than after it.

    Without AVX-512 its GELU is: on a Zen 4 held to AVX2, a packed product with torch's GELU takes 0.86 to 0.96 of it.
    """
    name = EPILOGUES.get(activation)
    return None if name == "gelu" and not this_cpu().avx512 else name


def gains_packed(dtype: torch.dtype, inputs: int) -> bool:
    """Whether products of `inputs` in `dtype` gain by a weight that was packed before."""
    return not any(rule.holds(this_cpu(), dtype, inputs) for rule in UNPACKED)


def packed(weight: Tensor) -> Tensor:
    """A copy of a weight (C_out, C_in) in oneDNN's order, for `linear`."""
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach())


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> Tensor:
    """activation(x Wᵀ + b) by oneDNN: `activation` is "none", "relu" or "gelu", the weight packed or not."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], "none")
