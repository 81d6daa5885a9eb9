# mypy: allow-untyped-defs
# ruff: noqa: N803
"""A strided convolution of samples, its bias and GELU: Wav2Vec2's first layer, its group norm folded into the filter.

Mathematics. For one input channel, with K taps: y[t, c] = activation(bias[c] + Σₖ weight[c, k] · x[t · stride + k]).
The layer's group norm over time is linear once its statistics are known, and those follow from the windows' mean and
covariance without the convolution (`ops.group_norm_filter`, in float64); so it is part of weight and bias here.

As a matrix product of windows (frames × K) and filters (K × C), whose windows overlap in the cache instead of being
copied: only the samples are read and only the frames written.

Cost. 2·K·T·C FLOPs, and T·C elements written, since there are 1 / (C / stride) as many samples. 16 clips of 10 s with
512 channels, K 10 and stride 5 are T = 512 000 frames; in 16 bits 524 MB / 3.35 TB/s = 157 µs on an H100, and
5.2 GFLOP on tensor cores 5 µs. The GELU of 262 M values costs more than both: at 23 instructions each (`bias_gelu`),
128 lanes on 132 multiprocessors and 1.755 GHz, 203 µs. Unfused, the GELU and the norm would each read and write the
frames again: at least 784 µs.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .bias_gelu import gelu
from .launch import dot_precision, launch, operator, why_not_here, why_not_sizes

FRAMES = 64
CHANNELS = 128
TAPS = 16
"""The most taps of a filter: the smallest depth of a matrix instruction."""


@triton.jit(do_not_specialize=["samples", "frames", "filters"])
def _convolution_forward(
    x, weight, bias, out, samples, frames, filters, channels, STRIDE: tl.constexpr, KERNEL: tl.constexpr,
    FRAMES: tl.constexpr, CHANNELS: tl.constexpr, TAPS: tl.constexpr, GELU: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    columns = tl.cdiv(channels, CHANNELS)
    clip = tl.program_id(1).to(tl.int64)
    x += clip * samples
    out += clip * frames * channels
    # `filters` is the channels of all clips before the next one: none where all clips share their filters.
    weight += clip * filters * KERNEL
    frame = (tl.program_id(0) // columns).to(tl.int64) * FRAMES + tl.arange(0, FRAMES)
    channel = tl.program_id(0) % columns * CHANNELS + tl.arange(0, CHANNELS)
    tap = tl.arange(0, TAPS)
    real, present, used = frame < frames, channel < channels, tap < KERNEL
    windows = tl.load(x + frame[:, None] * STRIDE + tap[None, :], mask=real[:, None] & used[None, :], other=0.0)
    taps = tl.load(weight + channel[None, :] * KERNEL + tap[:, None], mask=used[:, None] & present[None, :], other=0.0)
    y = tl.dot(windows, taps, input_precision=PRECISION)
    if bias is not None:
        y += tl.load(bias + clip * filters + channel, mask=present, other=0.0).to(tl.float32)[None, :]
    if GELU:
        y = gelu(y, out)
    tl.store(out + frame[:, None] * channels + channel[None, :], y, mask=real[:, None] & present[None, :])


def _shape(rows: Tensor, weight: Tensor, stride: int) -> tuple[int, ...]:
    return *rows.shape[:-2], (rows.shape[-2] - weight.shape[-2]) // stride + 1, weight.shape[-3]


def _fake(rows: Tensor, weight: Tensor, bias: Tensor | None, stride: int, dilation: int, activation: str) -> Tensor:
    return rows.new_empty(_shape(rows, weight, stride))


@operator(_fake)
def convolution(
    rows: Tensor, weight: Tensor, bias: Tensor | None, stride: int, dilation: int, activation: str
) -> Tensor:
    """Samples (..., N, 1), weight (C, K, 1), bias (C,) -> frames (..., ⌊(N − K) / stride⌋ + 1, C), undilated.

    Each of B clips, samples (B, N, 1), may have a weight (B, C, K, 1) and a bias (B, C) of its own.
    """
    out = torch.empty(_shape(rows, weight, stride), dtype=rows.dtype, device=rows.device)
    frames, channels = out.shape[-2:]
    clips = out.numel() // (frames * channels)
    grid = (-(-frames // FRAMES) * -(-channels // CHANNELS), clips)
    bias = None if bias is None else bias.contiguous()
    launch(
        _convolution_forward, grid, rows.contiguous(), weight.contiguous(), bias, out,
        rows.shape[-2], frames, channels if weight.dim() == 4 else 0, channels,
        STRIDE=stride, KERNEL=weight.shape[-2], FRAMES=FRAMES, CHANNELS=CHANNELS, TAPS=TAPS,
        GELU=activation == "gelu", PRECISION=dot_precision(rows.dtype), num_warps=4,
    )  # fmt: skip
    return out


def why_not(
    rows: Tensor, weight: Tensor, bias: Tensor | None, stride: int, dilation: int, activation: str
) -> str | None:
    """The reason why `convolution` cannot take these arguments, or None."""
    reason = why_not_here((rows, weight, bias))
    if reason:
        return reason
    if weight.shape[-1] != 1 or weight.shape[-2] > TAPS or dilation != 1:
        return f"the kernel is for one channel in, at most {TAPS} taps and no dilation; others are matrix products"
    reason = why_not_sizes(bias=(bias, (*weight.shape[:-3], weight.shape[-3])))
    if reason or (weight.dim() == 4 and weight.shape[0] != rows.shape[0]):
        return reason or f"there are {weight.shape[0]} filters for {rows.shape[0]} clips"
    if activation not in ("gelu", "linear"):
        return f"the activation is {activation!r}; the kernel has 'gelu' and 'linear'"
    return None
