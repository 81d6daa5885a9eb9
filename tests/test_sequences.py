"""Packing against loops over the batch, for masks of every kind and in every layout."""

import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from minitrans.sequences import Sequences, grid_layout, static_shapes, wants_grid, wants_static_shapes

CPU = torch.device("cpu")


def random_mask(batch: int, length: int, seed: int, share: float) -> Tensor:
    """Each sequence keeps one cell at least."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(batch, length, generator=generator) < share
    mask[torch.arange(batch), torch.randint(0, length, (batch,), generator=generator)] = True
    return mask


def check(sequences: Sequences, mask: Tensor) -> None:
    """Packing, unpacking, firsts, means and positions are those of loops over the kept cells."""
    batch, length = mask.shape
    grid = torch.randn(batch, length, 3)
    kept = [mask[index].nonzero().squeeze(1) for index in range(batch)]
    rows = sequences.pack(grid)
    assert sequences.shape == (batch, length)
    assert sequences.lengths.tolist() == [len(columns) for columns in kept]
    assert int(sequences.lengths.max()) <= sequences.longest <= length
    assert sequences.starts.dtype == sequences.lengths.dtype == torch.int32
    positions = sequences.row_positions()
    for index, (columns, start) in enumerate(zip(kept, sequences.starts.tolist(), strict=True)):
        span = slice(start, start + len(columns))
        assert torch.equal(rows[span], grid[index, columns])
        assert torch.equal(positions[span], columns)
        assert torch.equal(sequences.first(rows)[index], grid[index, columns[0]])
        torch.testing.assert_close(sequences.mean(rows)[index], grid[index, columns].mean(0))
    poisoned = rows if sequences.real() is None else rows.masked_fill(~sequences.real()[:, None], float("nan"))
    expected = grid.masked_fill(~mask[..., None], 0)
    assert torch.equal(sequences.unpack(poisoned), expected)
    assert torch.equal(sequences.unpack(rows[:, 0]), expected[..., 0])


@settings(max_examples=80, deadline=None, database=None)
@given(st.integers(1, 5), st.integers(1, 9), st.integers(0, 10**6), st.sampled_from([0.0, 0.3, 0.8, 1.0]))
def test_any_mask(batch, length, seed, share):
    mask = random_mask(batch, length, seed, share)
    sequences = Sequences.from_mask(mask, CPU)
    check(sequences, mask)
    assert sequences.pack(mask).shape == (int(mask.sum()),)  # packed: nothing but tokens
    assert sequences.ragged == (not mask.all())
    assert sequences.spans == tuple(zip(sequences.starts.tolist(), sequences.lengths.tolist(), strict=True))


def test_rows_that_every_sequence_has_for_its_own():
    mask = torch.tensor([[True, True, True], [True, False, False]])
    assert Sequences.full(2, 3, CPU).width == 3
    assert Sequences.padded(torch.tensor([3, 1], dtype=torch.int32), 3).width == 3
    assert Sequences.from_mask(mask, CPU).width == 0
    assert Sequences.grid(mask).width == 0


def test_rows_of_attention_and_back():
    cells = torch.randn(3, 2, 2, 2)
    for sequences in (Sequences.grid(torch.ones(3, 2, dtype=torch.bool)), Sequences.full(3, 2, CPU)):
        flat = sequences.grid_to_flat(cells)
        assert torch.equal(flat, cells.flatten(0, 1))
        assert torch.equal(sequences.flat_to_grid(flat), cells)


def test_a_grid_has_the_indices_that_kernels_read():
    mask = torch.tensor([[False, True, True], [True, False, True], [True, True, True]])
    grid = Sequences.grid(mask)
    assert grid.starts.dtype == grid.lengths.dtype == torch.int32
    assert (grid.starts.tolist(), grid.lengths.tolist()) == ([1, 3, 6], [2, 2, 3])
    flat = Sequences.grid(torch.ones(2, 3, dtype=torch.bool)).as_grid()
    assert (flat.starts.dtype, flat.starts.tolist(), flat.lengths.tolist()) == (torch.int32, [0, 3], [3, 3])


@settings(max_examples=40, deadline=None, database=None)
@given(st.lists(st.integers(1, 7), min_size=1, max_size=5), st.integers(0, 3))
def test_lengths(lengths, spare):
    width = max(lengths) + spare
    mask = torch.arange(width) < torch.tensor(lengths)[:, None]
    check(Sequences.from_lengths(lengths, width, CPU), mask)
    padded = Sequences.padded(torch.tensor(lengths, dtype=torch.int32), width)
    check(padded, mask)
    assert padded.spans is None
    assert padded.pack(mask).shape == mask.flatten().shape


@pytest.mark.parametrize("block", [grid_layout, static_shapes])
def test_a_layout_belongs_to_its_block_and_thread(block):
    def wanted():
        return wants_grid(), wants_static_shapes()

    expected = (block is grid_layout, block is static_shapes)
    with pytest.raises(ZeroDivisionError), block():  # noqa: PT012
        with block():
            assert wanted() == expected
        assert wanted() == expected
        elsewhere = []
        thread = threading.Thread(target=lambda: elsewhere.append(wanted()))
        thread.start()
        thread.join()
        assert elsewhere == [(False, False)]
        _ = 1 / 0
    assert wanted() == (False, False)


def test_the_grid_of_lengths_has_as_many_cells():
    grid = Sequences.from_lengths([2, 1, 4], 4, CPU).as_grid()
    assert grid.mask.int().tolist() == [[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]]
    assert grid.lengths.tolist() == [2, 1, 4]


def test_full():
    sequences = Sequences.full(3, 4, CPU)
    check(sequences, torch.ones(3, 4, dtype=torch.bool))
    assert not sequences.ragged
    assert sequences.cells is None


def test_compiled_layout_keeps_its_shape():
    """Inside torch.compile all cells stay rows, and one graph serves all masks."""
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    @torch.compile(backend=backend, fullgraph=True)
    def through(mask: Tensor, grid: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        sequences = Sequences.from_mask(mask, CPU)
        rows = sequences.pack(grid)
        return sequences.unpack(rows), sequences.first(rows), sequences.mean(rows), sequences.lengths

    for seed in range(4):
        mask = random_mask(3, 6, seed, 0.5)
        grid = torch.randn(3, 6, 2)
        whole, first, mean, lengths = through(mask, grid)
        expected = Sequences.from_mask(mask, CPU)
        rows = expected.pack(grid)
        assert torch.equal(whole, expected.unpack(rows))
        assert torch.equal(first, expected.first(rows))
        assert torch.equal(lengths, expected.lengths)
        torch.testing.assert_close(mean, expected.mean(rows))
    assert len(graphs) == 1


def test_gradients_reach_tokens_only():
    mask = random_mask(3, 5, 0, 0.5)
    grid = torch.randn(3, 5, 2, dtype=torch.float64, requires_grad=True)
    sequences = Sequences.from_mask(mask, CPU)
    assert torch.autograd.gradcheck(lambda x: sequences.unpack(sequences.pack(x) ** 2), grid)
    assert torch.autograd.gradcheck(lambda x: sequences.mean(sequences.pack(x)), grid)
    sequences.unpack(sequences.pack(grid)).sum().backward()
    assert torch.equal(grid.grad[..., 0] != 0, mask)


def test_a_sequence_that_keeps_nothing():
    mask = torch.tensor([[1, 1], [0, 0], [1, 0]])
    with pytest.raises(ValueError, match=r"sequence 1 \(of 3\)"):
        Sequences.from_mask(mask, CPU)
