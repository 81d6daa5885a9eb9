"""Packing: which rows belong to which sequence.

A batch (B, N, ...) with a mask becomes rows (T, ...), T the number of real tokens, one sequence after the other. No
layer but attention needs to know; padding costs nothing, and a sequence gives the same numbers alone and in any batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sequences:
    """Where each of B sequences lies in the packed rows, and where each row lay in the batch.

    `starts` and `lengths` are (B,) int32 on the rows' device, `longest` bounds the lengths, and `spans` holds the same
    as Python numbers where the host knows them. `cells` (T,) int64 is each row's place in the flattened (B·N) grid,
    None where every cell holds a row.
    """

    shape: tuple[int, int]
    starts: Tensor
    lengths: Tensor
    longest: int
    spans: tuple[tuple[int, int], ...] | None
    cells: Tensor | None

    @classmethod
    def full(cls, batch: int, length: int, device: torch.device) -> Sequences:
        """Sequences without padding: B of them, N rows each."""
        starts = torch.arange(batch, dtype=torch.int32, device=device) * length
        lengths = torch.full((batch,), length, dtype=torch.int32, device=device)
        spans = tuple((index * length, length) for index in range(batch))
        return cls((batch, length), starts, lengths, length, spans, None)

    @classmethod
    def from_mask(cls, mask: Tensor) -> Sequences:
        """Sequences of the cells where `mask` (B, N) is not 0; padding may be left, right or between.

        Raises ValueError where a sequence keeps no cell.
        """
        batch, length = mask.shape
        if torch.compiler.is_compiling():
            return cls._padded(mask != 0)
        kept = mask != 0
        counts = kept.sum(1).tolist()
        if 0 in counts:
            raise ValueError(
                f"attention_mask keeps no token of sequence {counts.index(0)} (of {batch}); leave the sequence out."
            )
        if sum(counts) == batch * length:
            return cls.full(batch, length, mask.device)
        cells = kept.flatten().nonzero().squeeze(1)
        return cls._ragged((batch, length), counts, cells)

    @classmethod
    def from_lengths(cls, lengths: list[int], width: int, device: torch.device) -> Sequences:
        """Sequences of the first `lengths[b]` of `width` cells each."""
        if min(lengths) == width:
            return cls.full(len(lengths), width, device)
        kept = torch.arange(width) < torch.tensor(lengths)[:, None]
        return cls._ragged((len(lengths), width), lengths, kept.flatten().nonzero().squeeze(1).to(device))

    @classmethod
    def _ragged(cls, shape: tuple[int, int], lengths: list[int], cells: Tensor) -> Sequences:
        ends = torch.tensor(lengths).cumsum(0)
        starts = [int(end) - length for end, length in zip(ends, lengths, strict=True)]
        return cls(
            shape,
            torch.tensor(starts, dtype=torch.int32).to(cells.device, non_blocking=True),
            torch.tensor(lengths, dtype=torch.int32).to(cells.device, non_blocking=True),
            max(lengths),
            tuple(zip(starts, lengths, strict=True)),
            cells,
        )

    @classmethod
    def _padded(cls, kept: Tensor) -> Sequences:
        """All B·N cells as rows, real ones first in each sequence: static shapes, for torch.compile."""
        batch, length = kept.shape
        starts = torch.arange(batch, dtype=torch.int32, device=kept.device) * length
        order = torch.argsort(kept.logical_not().to(torch.uint8), dim=1, stable=True)
        cells = (order + starts[:, None]).flatten()
        return cls((batch, length), starts, kept.sum(1, dtype=torch.int32), length, None, cells)

    @property
    def ragged(self) -> bool:
        """Whether some cell of the batch is padding, or rows stand in another order than cells."""
        return self.cells is not None

    def row_positions(self) -> Tensor:
        """Each row's column in the batch, (T,) int64."""
        batch, length = self.shape
        if self.cells is None:
            return torch.arange(length, device=self.starts.device).repeat(batch)
        return self.cells % length

    def pack(self, grid: Tensor) -> Tensor:
        """(B, N, ...) -> the rows (T, ...)."""
        flat = grid.reshape(-1, *grid.shape[2:])
        return flat if self.cells is None else flat.index_select(0, self.cells)

    def unpack(self, rows: Tensor) -> Tensor:
        """Rows (T, ...) -> (B, N, ...), zeros where there was padding."""
        if self.cells is None:
            return rows.reshape(*self.shape, *rows.shape[1:])
        rows = self.blank(rows)
        grid = rows.new_zeros(self.shape[0] * self.shape[1], *rows.shape[1:])
        return grid.index_copy(0, self.cells, rows).reshape(*self.shape, *rows.shape[1:])

    def real(self) -> Tensor | None:
        """Which rows (T,) hold a token; None where all do, as everywhere but in the padded layout."""
        if self.spans is not None:
            return None
        length = self.shape[1]
        return (torch.arange(length, device=self.starts.device) < self.lengths[:, None]).flatten()

    def blank(self, rows: Tensor) -> Tensor:
        """Rows with zeros in those that hold no token."""
        real = self.real()
        return rows if real is None else rows * real.view(-1, *[1] * (rows.dim() - 1))

    def first(self, rows: Tensor) -> Tensor:
        """The first row of each sequence, (B, ...)."""
        return rows.index_select(0, self.starts.long())

    def mean(self, rows: Tensor) -> Tensor:
        """The mean row (B, C) of each sequence of rows (T, C)."""
        batch, length = self.shape
        if self.spans is None or not self.ragged:
            total = self.blank(rows).view(batch, length, -1).sum(1)
        else:
            total = torch.stack([rows[start : start + count].sum(0) for start, count in self.spans])
        return total / self.lengths[:, None].to(rows.dtype)
