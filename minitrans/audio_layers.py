"""Modules for sound: from samples to rows of frames by convolutions, channels last.

On a CPU one clip is computed after the other, so that no time goes into padding and what lies between two layers stays
in cache. On a GPU clips are computed together, in one array, since there launches cost more than padding; so are they
while torch traces the model: then no shape may depend on a mask, and no loop on how many clips there are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from minitrans import ops
from minitrans.layers import LayerNorm, check_finite, check_like, check_tensor, is_plain
from minitrans.names import Module
from minitrans.sequences import Sequences, is_tracing, wants_static_shapes

FRAMES_AT_ONCE = {"cpu": 128}  # what they are made of then fits a cache


def check_samples(input_values: Tensor, attention_mask: Tensor | None, like: Any) -> None:
    """Raise TypeError or ValueError, with the value, unless these are samples (B, n) and a mask of that shape.

    The samples must have the dtype and device of `like`, a tensor or a model; on the CPU NaN and infinite ones are
    refused too.
    """
    check_tensor("input_values", input_values, like.device)
    if input_values.dim() != 2 or input_values.numel() == 0:
        raise ValueError(
            f"input_values has the shape {tuple(input_values.shape)}; it must be (B, samples) and not empty "
            "(one clip: input_values[None])."
        )
    check_like("input_values", input_values, like)
    check_finite("input_values", input_values)
    if attention_mask is None:
        return
    check_tensor("attention_mask", attention_mask, like.device, anywhere=True)
    if attention_mask.shape != input_values.shape:
        raise ValueError(
            f"attention_mask has the shape {tuple(attention_mask.shape)}; it must be {tuple(input_values.shape)}, 1 "
            "for a sample and 0 for padding."
        )


def clips_of(input_values: Tensor, attention_mask: Tensor | None) -> list[Tensor]:
    """The clips (n_b,) of a batch of samples (B, n).

    `attention_mask` (B, n) says by ones where a clip has samples, and zeros may follow them; without it all are.
    Raises ValueError, with the clip, for any other mask.
    """
    if attention_mask is None:
        return [*input_values]
    ones = attention_mask == 1
    lengths = ones.sum(1)
    ordered = torch.arange(ones.shape[1], device=ones.device) < lengths[:, None]
    wrong = ((attention_mask != 0) != ones) | (ones != ordered)
    if wrong.any():
        clip = int(wrong.any(1).nonzero()[0])
        raise ValueError(
            f"attention_mask of clip {clip} is not ones followed by zeros; sound is padded at its end only, and "
            "what is between two sounds belongs to the clip."
        )
    return [clip[:length] for clip, length in zip(input_values, lengths.tolist(), strict=True)]


def span_mask(lengths: Tensor, width: int, share: float, span: int, at_least: int) -> Tensor:
    """Random spans of True in (B, width), none beyond a sequence's length (B,): SpecAugment (Park et al. 2019).

    As many spans of `span` as make `share` of the length if none overlap, rounded up or down at random, and
    `at_least` of them where they fit. They are drawn from numpy's generator as the published model draws them, so that
    a seed gives the same spans; in a trace from torch's, as a program is to draw anew each time.
    """
    if is_tracing():
        return _traced_span_mask(lengths, width, share, span, at_least)
    mask = torch.zeros(len(lengths), width, dtype=torch.bool)
    rounding = np.random.rand()

    def spans(length: int) -> int:
        wanted = min(max(int(share * length / span + rounding), at_least), width // span)
        return max(min(wanted, length - span + 1), 0)

    for row, length in zip(mask, lengths.tolist(), strict=True) if spans(width) else ():
        for start in np.random.choice(max(length - span + 1, 0), spans(length), replace=False):
            row[start : start + span] = True
    return mask.to(lengths.device)


def _traced_span_mask(lengths: Tensor, width: int, share: float, span: int, at_least: int) -> Tensor:
    starts = (lengths - span + 1).clamp(min=0)
    counts = (share * lengths / span + torch.rand((), device=lengths.device)).long().clamp(min=at_least)
    counts = torch.minimum(counts, starts).clamp(max=width // span)
    places = torch.arange(width, device=lengths.device)
    lots = torch.rand(len(lengths), width, device=lengths.device).masked_fill(places >= starts[:, None], 2.0)
    first = lots.argsort(1).argsort(1) < counts[:, None]  # of the places where a span may start, those drawn
    begun = first.int().cumsum(1)
    return begun - F.pad(begun, (span, 0))[:, :width] > 0


class Convolution(nn.Module):
    """A strided convolution: `ops.convolution` with its parameters, the weight (C_out, C_in, kernel) as published."""

    def __init__(self, size: tuple[int, int], kernel: int, stride: int, bias: bool, activation: str) -> None:
        super().__init__()
        self.stride, self.activation = stride, activation
        self.weight = nn.Parameter(torch.empty(size[1], size[0], kernel))
        self.bias = nn.Parameter(torch.empty(size[1])) if bias else None

    def forward(self, rows: Tensor) -> Tensor:
        """Rows (..., N, C_in) -> (..., N', C_out)."""
        return ops.convolution(rows, self.weight.mT, self.bias, stride=self.stride, activation=self.activation)


class ConvolutionLayer(Module):
    """A convolution with its activation."""

    def __init__(self, size: tuple[int, int], kernel: int, stride: int, bias: bool, activation: str) -> None:
        super().__init__()
        self.conv = Convolution(size, kernel, stride, bias, activation)

    def prepared(self, samples: Tensor) -> Callable[[Tensor], Tensor]:
        """What to apply to blocks (N, C_in) of a clip with the samples (n, 1), giving (N', C_out)."""
        if not is_plain(self.conv, Convolution):
            return self
        # Once a clip: the taps one after the other, as its blocks are multiplied with them.
        weight, bias = self.conv.weight.mT.contiguous(), self.conv.bias
        stride, activation = self.conv.stride, self.conv.activation
        return lambda rows: ops.convolution(rows, weight, bias, stride=stride, activation=activation)

    def forward_padded(self, rows: Tensor, counts: Tensor) -> Tensor:
        """Clips (B, N, C_in), of which the first `counts` (B,) rows are real, -> (B, N', C_out)."""
        return self(rows)

    def forward(self, rows: Tensor) -> Tensor:
        """Rows (..., N, C_in) -> (..., N', C_out)."""
        return self.conv(rows)


class NormedConvolutionLayer(ConvolutionLayer):
    """A convolution, normalised by `norm_class(channels)` before its activation."""

    norm_class: ClassVar[Any] = LayerNorm

    def __init__(self, size: tuple[int, int], kernel: int, stride: int, bias: bool, activation: str) -> None:
        super().__init__(size, kernel, stride, bias, "linear")
        self.activation = activation
        self.norm = type(self).norm_class(size[1])

    @override
    def prepared(self, samples: Tensor) -> Callable[[Tensor], Tensor]:
        convolve = super().prepared(samples)
        return self if convolve is self else lambda rows: self.activated(self.norm(convolve(rows)))

    def activated(self, rows: Tensor) -> Tensor:
        """The activation of what is normalised."""
        return ops.ACTIVATIONS[self.activation](rows)

    @override
    def forward(self, rows: Tensor) -> Tensor:
        return self.activated(self.norm(self.conv(rows)))


class GroupNormLayer(NormedConvolutionLayer):
    """A convolution of samples, each channel normalised over the time of its clip before the activation.

    What all samples have in common, and a bias, are normalised away; without them a large offset costs no accuracy.
    """

    norm_class = staticmethod(lambda channels: nn.GroupNorm(channels, channels))

    @property
    def is_filter(self) -> bool:
        """Whether the norm may become part of the convolution's filter: nobody asked to see either by itself."""
        return is_plain(self.conv, Convolution) and is_plain(self.norm, nn.GroupNorm)

    def prepared(self, samples: Tensor) -> Callable[[Tensor], Tensor]:
        """The norm takes its statistics from all samples and becomes part of the filter."""
        if not self.is_filter:
            return self
        conv, norm = self.conv, self.norm
        offset = samples.detach().double().mean().to(samples.dtype)
        norms = norm.weight, norm.bias, norm.eps
        weight, bias = ops.group_norm_filter(samples - offset, conv.weight.mT, *norms, conv.stride)

        def normalised(rows: Tensor) -> Tensor:
            return ops.convolution(rows - offset, weight, bias, stride=conv.stride, activation=self.activation)

        return normalised

    def forward_padded(self, rows: Tensor, counts: Tensor) -> Tensor:
        """In a trace, which may have to run elsewhere, the norm is computed as such."""
        dtype, conv = rows.dtype, self.conv
        if not is_tracing():
            norms = self.norm.weight, self.norm.bias, self.norm.eps
            rows = rows - mean_of_first(rows.detach(), counts).to(dtype)
            frames = (counts - conv.weight.shape[2]) // conv.stride + 1
            weight, bias = ops.group_norm_filter(rows, conv.weight.mT, *norms, conv.stride, frames)
            return ops.convolution(rows, weight, bias, stride=conv.stride, activation=self.activation)
        rows = ops.convolution(
            (rows - mean_of_first(rows, counts)).to(dtype), conv.weight.mT, None, stride=conv.stride
        )
        counts = (counts - conv.weight.shape[2]) // conv.stride + 1
        centred = rows - mean_of_first(rows, counts)
        variance = mean_of_first(centred.square(), counts)
        norm: nn.GroupNorm = self.norm
        normalised = centred * (variance + norm.eps).rsqrt() * norm.weight + norm.bias
        return self.activated(normalised.to(dtype))

    def forward(self, rows: Tensor) -> Tensor:
        """All samples of a clip (N, 1) -> (N', C_out)."""
        return self.activated(self.norm(self.conv(rows).mT[None])[0].mT)


def mean_of_first(rows: Tensor, counts: Tensor) -> Tensor:
    """The mean (B, 1, C) of the first `counts` (B,) of rows (B, N, C), in float32 at least: sums may leave float16."""
    real = torch.arange(rows.shape[1], device=rows.device) < counts[:, None]
    wide = torch.promote_types(rows.dtype, torch.float32)
    return torch.where(real[..., None], rows, 0).sum(1, keepdim=True, dtype=wide) / counts[:, None, None]


FIRST_AND_OTHERS = {
    "group": (GroupNormLayer, ConvolutionLayer),
    "layer": (NormedConvolutionLayer, NormedConvolutionLayer),
}


def frames_of(samples: Any, kernels: Sequence[int], strides: Sequence[int]) -> Any:
    """How many frames convolutions make of `samples` samples, a number or a tensor; 0 or less for too few."""
    for kernel, stride in zip(kernels, strides, strict=True):
        samples = (samples - kernel) // stride + 1
    return samples


def downsampled(frames: Any, kernel: int, stride: int) -> Any:
    """How many frames a layer of `Downsampling` makes of `frames` frames."""
    return (frames + 2 - kernel) // stride + 1


class FeatureEncoder(Module):
    """A clip -> frames by a stack of convolutions, with a group norm in the first or a layer norm in all of them."""

    def __init__(
        self,
        sizes: Sequence[int],
        kernels: Sequence[int],
        strides: Sequence[int],
        bias: bool,
        activation: str,
        norm: str,
    ) -> None:
        super().__init__()
        self.kernels, self.strides = kernels, strides
        first, other = FIRST_AND_OTHERS[norm]
        layers = zip(zip([1, *sizes], sizes, strict=False), kernels, strides, strict=True)
        self.layers = nn.ModuleList(
            (other if index else first)(size, kernel, stride, bias, activation)
            for index, (size, kernel, stride) in enumerate(layers)
        )

    def frames(self, samples: int) -> int:
        """How many frames a clip of `samples` samples has, 0 where it is too short."""
        return max(0, self.unbounded_frames(samples))

    def unbounded_frames(self, samples: Any) -> Any:
        """`frames` of a number or of a tensor of them; 0 or less where a clip is too short."""
        return frames_of(samples, self.kernels, self.strides)

    def samples(self, frames: int) -> int:
        """How many samples `frames` frames are made of."""
        for kernel, stride in zip(reversed(self.kernels), reversed(self.strides), strict=True):
            frames = (frames - 1) * stride + kernel
        return frames

    @property
    def batches_clips(self) -> bool:
        """Whether clips are computed together, as on a GPU; not by a first layer that is to see each by itself."""
        first = self.layers[0]
        on_gpu = next(self.parameters()).is_cuda
        return wants_static_shapes() or (on_gpu and (not isinstance(first, GroupNormLayer) or first.is_filter))

    def forward_padded(self, clips: Tensor, counts: Tensor) -> Tensor:
        """Samples (B, n), of which the first `counts` (B,) are real, -> frames (B, N, C)."""
        rows = clips[..., None]
        for layer in self.layers:
            rows = layer.forward_padded(rows, counts)  # type: ignore[operator]
        return rows

    def forward(self, clip: Tensor) -> Tensor:
        """Samples (n,) -> frames (N, C), block by block, as a frame depends on few samples."""
        samples = clip[:, None]
        layers = [layer.prepared(samples) for layer in self.layers]  # type: ignore[operator]
        frames, step = self.frames(len(clip)), self.samples(2) - self.samples(1)
        needs_grad = torch.is_grad_enabled() and (clip.requires_grad or next(self.parameters()).requires_grad)
        whole = needs_grad or any(layer is function for layer, function in zip(self.layers, layers, strict=True))
        # One more than all: a norm is of all samples, also of the last ones, which are too few for a frame.
        size = frames + 1 if whole else FRAMES_AT_ONCE.get(clip.device.type, frames + 1)
        blocks = []
        for start in range(0, frames, size):
            rows = samples[start * step :][: self.samples(size)]
            for layer in layers:
                rows = layer(rows)
            blocks.append(rows)
        return torch.cat(blocks)


class WeightNorm(nn.Module):
    """A filter as `original0` · `original1` / ‖`original1`‖, with one norm for each tap (Salimans & Kingma 2016)."""

    def __init__(self, channels: int, group: int, kernel: int) -> None:
        super().__init__()
        self.original0 = nn.Parameter(torch.empty(1, 1, kernel))
        self.original1 = nn.Parameter(torch.empty(channels, group, kernel))

    def forward(self) -> Tensor:
        """The filter (C, C/G, K)."""
        return self.original1 * (self.original0 / self.original1.norm(dim=(0, 1), keepdim=True))


class PositionalConvolution(Module):
    """Where a frame stands, from a grouped convolution over its neighbours whose weight is normalised."""

    def __init__(self, size: int, kernel: int, groups: int, activation: str) -> None:
        super().__init__()
        self.activation = ops.ACTIVATIONS[activation]
        self.bias = nn.Parameter(torch.empty(size))
        self.weight = WeightNorm(size, size // groups, kernel)
        self._cached: tuple[Tensor, ...] = ()
        self.is_fixed = False  # see `minitrans.frozen`

    def filters(self) -> tuple[Tensor, Tensor | None]:
        """The weight (C, C/G, K) and its spectrum, kept as long as the parameters stay what they are."""
        parameters = list(self.weight.parameters())
        trained = torch.is_grad_enabled() and any(parameter.requires_grad for parameter in parameters)
        if trained or is_tracing() or not is_plain(self.weight, WeightNorm):
            return self.weight(), None
        if wants_static_shapes():
            weight = self.weight()  # whether it is what it was could only be asked once
            return weight, ops.spectrum(weight)
        if not (self._cached and (self.is_fixed or all(map(_same, self._cached, parameters)))):
            with torch.inference_mode(False), torch.no_grad():  # what is kept may be trained through later
                weight = self.weight()
                spectrum = ops.spectrum(weight)
                if spectrum is None:
                    return weight, None
                self._cached = *(parameter.clone() for parameter in parameters), weight, spectrum
        return self._cached[2], self._cached[3]

    def forward(self, rows: Tensor, sequences: Sequences) -> Tensor:
        """Rows (T, C) -> (T, C)."""
        weight, spectrum = self.filters()
        return self.activation(ops.grouped_convolution(rows, sequences, weight, self.bias, spectrum))


def _same(was: Tensor, now: Tensor) -> bool:
    """Whether a parameter is what it was; by value, as `.data` changes under no version counter."""
    return (was.dtype, was.device, was.shape) == (now.dtype, now.device, now.shape) and torch.equal(was, now)


class Downsampling(Module):
    """Frames -> fewer frames by a stack of gated convolutions, after a linear map where the size changes.

    In training a layer may be left out, as in the encoder.
    """

    def __init__(self, size: int, output_size: int, kernel: int, stride: int, layers: int, layerdrop: float) -> None:
        super().__init__()
        changes = size != output_size
        self.kernel, self.stride, self.layerdrop = kernel, stride, layerdrop
        self.proj = nn.Linear(size, output_size) if changes else None
        self.norm = LayerNorm(output_size) if changes else None
        channels = output_size, 2 * output_size
        self.layers = nn.ModuleList(ConvolutionLayer(channels, kernel, stride, True, "linear") for _ in range(layers))

    def forward(self, rows: Tensor, sequences: Sequences) -> tuple[Tensor, Sequences]:
        """Rows (T, C) -> (T', C') and where they lie; zeros surround each sequence."""
        if self.proj is not None and self.norm is not None:
            rows = self.norm(self.proj(rows))
        for layer in self.layers:
            if self.training and self.layerdrop and torch.rand(()) < self.layerdrop:
                continue
            width = self.frames(sequences.shape[1])
            if wants_static_shapes():
                rows = F.glu(layer(F.pad(sequences.unpack(rows), (0, 0, 1, 1)))).flatten(0, 1)
                sequences = Sequences.padded(self.frames(sequences.lengths), width)
            else:
                clips = rows.split(sequences.lengths.tolist())
                clips = [F.glu(layer(F.pad(clip, (0, 0, 1, 1)))) for clip in clips]
                rows = torch.cat(clips)
                sequences = Sequences.from_lengths([len(clip) for clip in clips], width, rows.device)
        return rows, sequences

    def frames(self, frames: Any) -> Any:
        """How many frames a layer makes of `frames` frames."""
        return downsampled(frames, self.kernel, self.stride)
