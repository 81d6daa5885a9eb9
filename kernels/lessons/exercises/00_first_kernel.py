"""a · x + y for vectors of any length.

HOLE: every program computes the first block. Let each compute its own, and keep the last one within the vectors.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def scale_and_add_kernel(x, y, out, a, length, BLOCK: tl.constexpr):
    offset = tl.arange(0, BLOCK)  # HOLE
    total = a * tl.load(x + offset) + tl.load(y + offset)
    tl.store(out + offset, total)


def scale_and_add(a: float, x: Tensor, y: Tensor) -> Tensor:
    """A number and two vectors of one length -> a vector."""
    out = torch.empty_like(x)
    scale_and_add_kernel[(triton.cdiv(len(x), 128),)](x, y, out, a, len(x), 128)
    return out
