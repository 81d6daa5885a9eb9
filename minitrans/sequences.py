"""Packing (varlen): which rows belong to which sequence; `starts` and `longest` are cu_seqlens and max_seqlen.

A batch (B, N, ...) with a mask becomes rows (T, ...), T the number of real tokens, one sequence after the other. No
layer but attention needs to know; padding costs nothing, and a sequence gives the same numbers alone and in any batch.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from torch import Tensor


def is_tracing() -> bool:
    """Whether torch.compile, torch.export or torch.jit.trace writes the computation down.

    What the host reads from a tensor, or chooses by its values, would then hold for every later input.
    """
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def is_exporting() -> bool:
    """Whether what is written down is to run elsewhere and for inputs of other shapes, and not by torch.compile."""
    return torch.compiler.is_exporting() or torch.jit.is_tracing()


class _Layout(threading.local):
    def __init__(self) -> None:
        self.is_grid = False
        self.is_static = False


_layout = _Layout()


@contextmanager
def grid_layout() -> Iterator[None]:
    """Within the block of this thread, modules see batches (B, N, ...) with their padding, as hooks expect them."""
    outer, _layout.is_grid = _layout.is_grid, True
    try:
        yield
    finally:
        _layout.is_grid = outer


@contextmanager
def static_shapes() -> Iterator[None]:
    """Within the block of this thread nothing is read from a device, and no shape depends on values, as in a trace."""
    outer, _layout.is_static = _layout.is_static, True
    try:
        yield
    finally:
        _layout.is_static = outer


def wants_static_shapes() -> bool:
    """Whether what is computed now is to be computed again for other values."""
    return is_tracing() or _layout.is_static


def wants_grid() -> bool:
    """Whether a batch is to stay a grid (B, N, ...) now."""
    return _layout.is_grid and not is_tracing()


@dataclass(frozen=True)
class Sequences:
    """Where each of B sequences lies in the packed rows, and where each row lay in the batch.

    `starts` and `lengths` are (B,) int32 on the rows' device, `longest` bounds the lengths, and `spans` holds the same
    as Python numbers where the host knows them. `cells` (T,) int64 is each row's place in the flattened (B·N) grid,
    None where every cell holds a row. `ragged` says whether some cell of the batch may be padding. In a grid, where
    "rows" are (B, N, ...) themselves, `mask` (B, N) says which cells are real, and `visible` (B or 1, 1 or H, 1 or N,
    N) which cells each one attends to.
    """

    shape: tuple[int, int]
    starts: Tensor
    lengths: Tensor
    longest: int
    spans: tuple[tuple[int, int], ...] | None
    cells: Tensor | None
    ragged: bool = True
    mask: Tensor | None = None
    visible: Tensor | None = None

    @classmethod
    def grid(cls, mask: Tensor, visible: Tensor | None = None) -> Sequences:
        """A batch that stays (B, N, ...), with its padding; `mask` (B, N) bool on the rows' device."""
        (batch, length), device = mask.shape, mask.device
        starts = torch.arange(batch, device=device) * length + mask.int().argmax(1)
        lengths = mask.sum(1, dtype=torch.int32)
        visible = mask[:, None, None] if visible is None else visible
        return cls((batch, length), starts.int(), lengths, length, None, None, mask=mask, visible=visible)

    def as_grid(self) -> Sequences:
        """The grid of sequences that stand at the start of their cells."""
        return Sequences.grid(torch.arange(self.shape[1], device=self.starts.device) < self.lengths[:, None])

    @property
    def is_grid(self) -> bool:
        """Whether "rows" are (B, N, ...)."""
        return self.mask is not None

    @classmethod
    def full(cls, batch: int, length: int, device: torch.device) -> Sequences:
        """Sequences without padding: B of them, N rows each.

        While torch traces, B and N may be symbols; Python numbers made of them would hold for this one size.
        """
        unpadded = cls.padded(torch.full((batch,), length, dtype=torch.int32, device=device), length)
        spans = None if is_tracing() else tuple((index * length, length) for index in range(batch))
        return replace(unpadded, spans=spans, ragged=False)

    @classmethod
    def padded(cls, lengths: Tensor, length: int) -> Sequences:
        """All B·N cells as rows, `lengths` (B,) int32 on the device: nothing depends on the host or on their values.

        Each sequence stands at the start of its N cells and has one row at least; the remaining rows are padding.
        """
        batch = lengths.shape[0]
        # Of two tensors: ONNX has no product of one and a length that is traced.
        starts = torch.arange(batch, dtype=torch.int32, device=lengths.device) * torch.full_like(lengths, length)
        return cls((batch, length), starts, lengths, length, None, None)

    @classmethod
    def from_mask(cls, mask: Tensor, device: torch.device) -> Sequences:
        """Sequences on `device` of the cells where `mask` (B, N) is not 0; padding may be left, right or between.

        What the host needs to know is read from the mask on the CPU: one on a GPU costs a synchronisation. Raises
        ValueError where a sequence keeps no cell.
        """
        batch, length = mask.shape
        if is_tracing():
            return cls._reordered(mask.to(device) != 0)
        mask = mask.cpu() != 0
        counts = mask.sum(1).tolist()
        if 0 in counts:
            raise ValueError(
                f"attention_mask keeps no token of sequence {counts.index(0)} (of {batch}); leave the sequence out."
            )
        if sum(counts) == batch * length:
            return cls.full(batch, length, device)
        return cls._ragged((batch, length), counts, mask, device)

    @classmethod
    def from_lengths(cls, lengths: list[int], width: int, device: torch.device) -> Sequences:
        """Sequences of the first `lengths[b]` of `width` cells each."""
        if min(lengths) == width:
            return cls.full(len(lengths), width, device)
        mask = torch.arange(width) < torch.tensor(lengths)[:, None]
        return cls._ragged((len(lengths), width), lengths, mask, device)

    @classmethod
    def _ragged(cls, shape: tuple[int, int], lengths: list[int], mask: Tensor, device: torch.device) -> Sequences:
        ends = accumulate(lengths)
        starts = [end - length for end, length in zip(ends, lengths, strict=True)]
        return cls(
            shape,
            _moved(torch.tensor(starts, dtype=torch.int32), device),
            _moved(torch.tensor(lengths, dtype=torch.int32), device),
            max(lengths),
            tuple(zip(starts, lengths, strict=True)),
            _moved(mask.flatten().nonzero().squeeze(1), device),
        )

    @classmethod
    def _reordered(cls, mask: Tensor) -> Sequences:
        """`padded` for any mask (B, N): real cells first in each sequence. For a trace."""
        padded = cls.padded(mask.sum(1, dtype=torch.int32), mask.shape[1])
        # Where each column goes; a sort would say it in a word, and torch's compiler fails at it on a GPU.
        places = torch.where(mask, mask.cumsum(1), (~mask).cumsum(1) + padded.lengths[:, None]) - 1
        columns = torch.arange(mask.shape[1], device=mask.device).expand_as(places)
        order = torch.zeros_like(places).scatter(1, places, columns)
        return replace(padded, cells=(order + padded.starts[:, None]).flatten())

    @property
    def width(self) -> int:
        """How many rows each sequence has for its own, tokens or not; 0 where the host knows that they differ."""
        return 0 if self.is_grid or (self.spans is not None and self.ragged) else self.shape[1]

    def row_positions(self) -> Tensor:
        """Each row's column in the batch, (T,) int64."""
        return self.pack(torch.arange(self.shape[1], device=self.starts.device).expand(self.shape))

    def pack(self, grid: Tensor) -> Tensor:
        """(B, N, ...) -> the rows (T, ...)."""
        if self.is_grid:
            return grid
        flat = grid.reshape(-1, *grid.shape[2:])
        return flat if self.cells is None else flat.index_select(0, self.cells)

    def unpack(self, rows: Tensor) -> Tensor:
        """Rows (T, ...) -> (B, N, ...), zeros where there was padding."""
        rows = self.zero_padding(rows)
        if self.is_grid:
            return rows
        if self.cells is None:
            return rows.reshape(*self.shape, *rows.shape[1:])
        grid = rows.new_zeros(self.shape[0] * self.shape[1], *rows.shape[1:])
        return grid.index_copy(0, self.cells, rows).reshape(*self.shape, *rows.shape[1:])

    def convert(self, rows: Tensor, other: Sequences) -> Tensor:
        """Rows of these sequences as those of `other`, another layout of the same batch."""
        return rows if other is self else other.pack(self.unpack(rows))

    def real(self) -> Tensor | None:
        """Which rows (T,), or cells (B, N) of a grid, hold a token; None where all do, as packed rows."""
        if self.spans is not None or self.mask is not None or not self.ragged:
            return self.mask
        length = self.shape[1]
        return (torch.arange(length, device=self.starts.device) < self.lengths[:, None]).flatten()

    def zero_padding(self, rows: Tensor) -> Tensor:
        """Rows with zeros in those that hold no token."""
        real = self.real()
        return rows if real is None else torch.where(real.view(*real.shape, *[1] * (rows.dim() - real.dim())), rows, 0)

    def flat_to_grid(self, flat: Tensor) -> Tensor:
        """What attention has of the rows, (T, H, D) or (B·N, H, D), -> (B, N, H, D), zeros where there was padding."""
        return self.unpack(flat.unflatten(0, self.shape) if self.is_grid else flat)

    def grid_to_flat(self, grid: Tensor) -> Tensor:
        """`flat_to_grid` the other way."""
        return grid.flatten(0, 1) if self.is_grid else self.pack(grid)

    def first(self, rows: Tensor) -> Tensor:
        """The first row of each sequence, (B, ...)."""
        return (rows.flatten(0, 1) if self.is_grid else rows).index_select(0, self.starts)

    def mean(self, rows: Tensor) -> Tensor:
        """The mean row (B, C) of each sequence of rows (T, C)."""
        batch, length = self.shape
        if self.spans is None or not self.ragged:
            total = self.zero_padding(rows).view(batch, length, -1).sum(1)
        else:
            total = torch.stack([rows[start : start + count].sum(0) for start, count in self.spans])
        return total / self.lengths[:, None].to(rows.dtype)


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    """A CPU tensor on `device`; from pinned memory, since a copy from other memory may wait for the GPU."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
