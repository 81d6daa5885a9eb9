"""What the lessons share. Import it before triton: without a GPU the kernels then run in Triton's interpreter."""

import os

import torch
from torch import Tensor

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

BANDWIDTH = 3.35e12
"""Bytes a second that an H100 moves at best."""


def inputs(*shape: int) -> Tensor:
    """Fresh random numbers: a kernel that skips a row or reads the wrong one must not get away with it."""
    return torch.randn(*shape, device=DEVICE)


def check(out: Tensor, exact: Tensor) -> None:
    """Compare a float32 result with float64."""
    error = ((out.double() - exact).norm() / exact.norm()).item()
    assert error < 1e-6, f"relative error {error:.1e}"
    print(f"right: relative error {error:.1e}")


def exact_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention over (..., N, D) in float64."""
    q, k, v = q.double(), k.double(), v.double()
    return (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1) @ v


def exact_packed_attention(qkv: Tensor, lengths: list[int]) -> Tensor:
    """The same over packed rows (T, 3, H, D), a sequence at a time: (T, H, D)."""
    heads_first = (part.permute(1, 2, 0, 3) for part in qkv.split(lengths))
    return torch.cat([exact_attention(*part).transpose(0, 1) for part in heads_first])


def moved(size: int) -> str:
    """So many bytes, and how long an H100 needs to move them."""
    return f"{size / 1e6:.0f} MB, {size / BANDWIDTH * 1e6:.0f} µs at 3.35 TB/s"
