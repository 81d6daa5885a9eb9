"""The mean of each sequence of packed rows.

HOLE: a program has to find its sequence's first row by itself: the sum of the lengths before it. `index` is there for
it.
"""

import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def mean_kernel(rows, lengths, out, width, BLOCK: tl.constexpr, STEP: tl.constexpr, MOST: tl.constexpr):
    """One sequence and block of channels; rows are (T, width), out (B, width), and B is at most MOST."""
    sequence = tl.program_id(0)
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    index = tl.arange(0, MOST)
    length = tl.load(lengths + sequence)
    start = tl.sum(index * 0) + sequence * 8  # HOLE: as if all sequences had 8 rows
    total = tl.zeros([BLOCK], tl.float32)
    for first in range(0, length, STEP):
        row = first + tl.arange(0, STEP)
        inside = (row < length)[:, None] & (channel < width)[None, :]
        total += tl.sum(tl.load(rows + (start + row)[:, None] * width + channel[None, :], mask=inside, other=0.0), 0)
    tl.store(out + sequence * width + channel, total / length, mask=channel < width)


def mean_of_sequences(rows: Tensor, lengths: Tensor) -> Tensor:
    """Packed rows (T, C) and lengths (B,), none of them 0 -> (B, C)."""
    sequences, width = len(lengths), rows.shape[1]
    out = rows.new_empty(sequences, width)
    grid = (sequences, triton.cdiv(width, 64))
    mean_kernel[grid](rows, lengths, out, width, 64, 16, triton.next_power_of_2(sequences))
    return out
