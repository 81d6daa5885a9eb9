# mypy: allow-untyped-defs
# ruff: noqa: N803
"""Attention over packed rows, forward and backward.

Mathematics. For each sequence b and head h, with Q, K, V the (length, D) rows of that sequence:

    S = scale · Q Kᵀ + bias,   P = softmax(S) over the keys,   O = P V

One program takes a tile of query rows and iterates over the keys of their sequence, so that S never exists in memory:
it keeps the running maximum m and sum z of each row and rescales what it has summed whenever m grows (online
softmax, Milakov & Gimelshein 2018; as a tiled kernel, Dao et al. 2022). Exponentials are in base 2, the hardware's
own, and log₂ e is folded into the scale. The backward pass recomputes P = 2^(S·log₂e − L) from L = m + log₂ z, which
is saved:

    dV = Pᵀ dO,   dS = P ∘ (dO Vᵀ − δ) with δ = rowsum(dO ∘ O),   dQ = scale · dS K,   dK = scale · dSᵀ Q

Dropout multiplies P by a mask M of 0 and 1 / (1 − p): O = (M ∘ P) V, dV = (M ∘ P)ᵀ dO, dS = P ∘ (M ∘ dO Vᵀ − δ). M is
never stored: a counter-based generator (Philox, Salmon et al. 2011) makes it of a call's seed and of a weight's
sequence, head, query and key, so that all three kernels draw the same, whatever their tiles.

Work split. The grid is a list of tiles over real tokens, not sequences × longest: program t finds its sequence and
block by a prefix sum over the sequences' tile counts, inside the kernel. No host synchronisation, no second launch,
and at most one partial tile per sequence; programs in excess, as the grid's size is an upper bound, return at once.

Cost, forward, for H heads: 4·D·H·Σ length² FLOPs and 4·T·H·D elements moved (q, k, v read once, out written once). At
batch 64, 12 heads, 512 tokens, D 64, in 16 bits: 51.5 GFLOP / 989 TFLOP/s = 52 µs; 64·512·12·64·4·2 bytes = 201 MB /
3.35 TB/s = 60 µs. Roofline bound on an H100: 60 µs. The exponentials cost as much: 64·12·512² = 201 M of them at 16
per cycle on each of 132 multiprocessors is 54 µs at 1.755 GHz, so they must overlap with the products: four programs
share a multiprocessor. Backward: 2.5 times the FLOPs (five products, not two).
"""

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import (
    FURTHEST,
    Tiles,
    dot_precision,
    exact_on_tensor_cores,
    launch,
    power_of_2,
    why_not_here,
    why_not_indices,
    why_not_sizes,
)

LOG2E = tl.constexpr(1.4426950408889634)

CHUNK = tl.constexpr(128)
"""How many sequences `_find_tile` examines in one step."""

ONE = tl.constexpr(65536)
"""Dropout's probability is a multiple of 1 / ONE."""

MOST = tl.constexpr(65535)
"""Programs along the second and third dimension of a grid."""

# (element bits, head size rounded up to a power of two) → tile of queries × keys; in `BACKWARD_KEY` of keys × queries.
# Those of (16, 64), (16, 32) and (32, 64) were the fastest of several on an H200 (benchmarks/results), that of
# (16, 128) the second, which fits an AMD GPU's shared memory.
FORWARD = {
    (16, 16): Tiles(64, 64, 4, 3),
    (16, 32): Tiles(64, 64, 4, 3),
    (16, 64): Tiles(64, 64, 4, 3),
    (16, 128): Tiles(64, 32, 4, 3),
    (32, 16): Tiles(128, 64, 8, 1),
    (32, 32): Tiles(128, 64, 8, 1),
    (32, 64): Tiles(128, 64, 8, 1),
}
BACKWARD_QUERY = {
    (16, 16): Tiles(64, 64, 4, 3),
    (16, 32): Tiles(64, 64, 4, 3),
    (16, 64): Tiles(64, 64, 4, 3),
    (16, 128): Tiles(64, 32, 4, 3),
    (32, 16): Tiles(64, 32, 4, 1),
    (32, 32): Tiles(64, 32, 4, 1),
    (32, 64): Tiles(64, 32, 4, 1),
}
BACKWARD_KEY = {
    (16, 16): Tiles(64, 32, 4, 3),
    (16, 32): Tiles(64, 32, 4, 3),
    (16, 64): Tiles(64, 32, 4, 2),
    (16, 128): Tiles(64, 32, 4, 3),
    (32, 16): Tiles(64, 32, 4, 1),
    (32, 32): Tiles(64, 32, 4, 1),
    (32, 64): Tiles(64, 16, 4, 1),
}
SHORT_ROWS = 64
"""A tile's rows where no sequence is longer than this: half of a larger tile would be padding."""


@triton.jit
def _find_tile(starts, sequences, rows, tiles_each, BLOCK: tl.constexpr):
    """The sequence that a program's tile belongs to, and which of its blocks it is.

    A sequence owns the rows up to the next one's start, so that padding rows have a tile which writes their zeros.
    Where each owns `tiles_each` tiles, the grid has a dimension for either; else that is 0, and the second and third
    dimension together number the tiles.
    """
    block = tl.program_id(1)
    sequence = tl.program_id(2)
    if tiles_each == 0:
        tile = block + sequence * MOST
        sequence = 0
        first = 0
        total = 0
        for base in range(0, sequences, CHUNK):
            index = base + tl.arange(0, CHUNK)
            start = tl.load(starts + index, mask=index < sequences, other=rows)
            end = tl.load(starts + index + 1, mask=index + 1 < sequences, other=rows)
            tiles = tl.cdiv((end - start).to(tl.int32), BLOCK)
            ends = total + tl.cumsum(tiles, 0)
            before = ends <= tile
            sequence += tl.sum(before.to(tl.int32), 0)
            first = tl.maximum(first, tl.max(tl.where(before, ends, 0), 0))
            total += tl.sum(tiles, 0)
        block = tile - first
    return sequence, block


@triton.jit
def _extent(sequence, starts, lengths, sequences, rows):
    """First row, number of real rows, and number of owned rows of a sequence."""
    start = tl.load(starts + sequence).to(tl.int64)
    end = tl.load(starts + sequence + 1, mask=sequence + 1 < sequences, other=rows).to(tl.int64)
    return start, tl.load(lengths + sequence).to(tl.int32), (end - start).to(tl.int32)


@triton.jit
def _scores(
    left, right, bias, bias_row, scale, queries, keys, length,
    CAUSAL: tl.constexpr, MASKED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Q Kᵀ + bias / scale, or its transpose: `queries` and `keys` lie along the axes of `left` and `right`.

    Where MASKED, a key past the end or the causal edge gets −inf.
    """
    s = tl.dot(left, tl.trans(right), input_precision=PRECISION)
    if bias is not None:
        within = (queries < length) & (keys < length)
        added = tl.load(bias + queries * bias_row + keys, mask=within, other=0.0)
        s += added.to(tl.float32) * (LOG2E / scale)
    if MASKED:
        s = tl.where(keys < length, s, float("-inf"))
        if CAUSAL:
            s = tl.where(keys <= queries, s, float("-inf"))
    return s


@triton.jit
def _kept(seed, sequence, head, queries, keys, DROPPED: tl.constexpr):
    """Which weights of a tile dropout keeps; `queries` and `keys` are numbers within the sequence, along its axes.

    Philox makes 128 random bits of a counter, here of 2 × 4 weights, 16 bits for each. They lie 8 queries apart, and 8
    and 16 keys: where matrix instructions leave their results, one thread has all of them, or in a transposed tile
    half, and as the compiler computes equal counters once, nothing has to move between threads. Seven rounds are the
    fewest that pass BigCrush; the first two work on rows and columns, not yet on tiles.
    """
    a, b, c, d = tl.philox(seed, keys & ~24, queries & ~8, head, sequence, 7)
    word = tl.where((queries & 8) == 0, tl.where((keys & 8) == 0, a, b), tl.where((keys & 8) == 0, c, d))
    return ((word >> (keys & 16).to(tl.uint32)) & 0xFFFF) >= DROPPED


@triton.jit
def _scaled_up(x, DROPPED: tl.constexpr):
    """x / (1 − p); where p is 1 nothing was summed, and x may stay what it is."""
    if DROPPED < ONE:
        x *= ONE / (ONE - DROPPED)
    return x


@triton.jit
def _attend(
    acc, m, z, q, k, v, k_row, v_row, bias, bias_row, scale, seed, sequence, head, queries, first, last, length,
    HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr,
    CAUSAL: tl.constexpr, MASKED: tl.constexpr, PRECISION: tl.constexpr, DROPPED: tl.constexpr,
):  # fmt: skip
    """Add the keys [first, last) to the running sums; only MASKED looks at the length and the causal edge."""
    channels = tl.arange(0, BLOCK_D)
    if seed is not None:
        seed = tl.load(seed)
    for n in range(first, last, BLOCK_N):
        keys = n + tl.arange(0, BLOCK_N)
        inside = (channels < HEAD_DIM)[None, :]
        if MASKED:
            inside = inside & (keys < length)[:, None]
        key = tl.load(k + keys[:, None] * k_row + channels[None, :], mask=inside, other=0.0)
        s = _scores(q, key, bias, bias_row, scale, queries[:, None], keys[None, :], length, CAUSAL, MASKED, PRECISION)
        # The scale is positive, so it may wait until after the maximum: one multiply-add per element, not two steps.
        highest = tl.maximum(m, tl.max(s, 1) * scale)
        # A bias of −inf can hide every key seen so far; −inf − −inf must not become NaN.
        base = tl.where(highest == float("-inf"), 0.0, highest) if bias is not None else highest
        p = tl.exp2(s * scale - base[:, None])
        shrink = tl.exp2(m - base)
        z = z * shrink + tl.sum(p, 1)
        if seed is not None:
            p = tl.where(_kept(seed, sequence, head, queries[:, None], keys[None, :], DROPPED), p, 0.0)
        value = tl.load(v + keys[:, None] * v_row + channels[None, :], mask=inside, other=0.0)
        acc = tl.dot(p.to(value.dtype), value, acc * shrink[:, None], input_precision=PRECISION)
        m = highest
    return acc, m, z


@triton.jit(do_not_specialize=["sequences", "rows", "tiles_each"])
def _attention_forward(
    q, k, v, out, lse, starts, lengths, bias, seed, sequences, rows, tiles_each, scale,
    q_head, k_head, v_head, bias_sequence, bias_head, bias_row,
    heads: tl.constexpr, q_row: tl.constexpr, k_row: tl.constexpr, v_row: tl.constexpr,
    HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    CAUSAL: tl.constexpr, PRECISION: tl.constexpr, DROPPED: tl.constexpr,
):  # fmt: skip
    # Heads vary fastest: programs running at the same time read neighbouring columns of the same rows.
    head = tl.program_id(0)
    sequence, block = _find_tile(starts, sequences, rows, tiles_each, BLOCK_M)
    if sequence >= sequences:
        return
    start, length, owned = _extent(sequence, starts, lengths, sequences, rows)
    # Offsets have 64 bits up to the tile's first row, and 32 within it.
    first = start + block * BLOCK_M
    within = tl.arange(0, BLOCK_M)
    queries = block * BLOCK_M + within
    channels = tl.arange(0, BLOCK_D)

    m = tl.full([BLOCK_M], float("-inf"), tl.float32)
    z = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    if block * BLOCK_M < length:
        q += first * q_row + head * q_head
        real = (queries < length)[:, None] & (channels < HEAD_DIM)[None, :]
        query = tl.load(q + within[:, None] * q_row + channels[None, :], mask=real, other=0.0)
        k += start * k_row + head * k_head
        v += start * v_row + head * v_head
        if bias is not None:
            bias += sequence.to(tl.int64) * bias_sequence + head * bias_head
        last = length
        # A tile with rows past the end has a masked block in any case, after which they become zeros.
        unmasked = tl.where((block + 1) * BLOCK_M > length, length - 1, length)
        if CAUSAL:
            last = tl.minimum(length, (block + 1) * BLOCK_M)
            unmasked = tl.minimum(unmasked, block * BLOCK_M + 1)
        unmasked = unmasked // BLOCK_N * BLOCK_N
        acc, m, z = _attend(
            acc, m, z, query, k, v, k_row, v_row, bias, bias_row, scale, seed, sequence, head, queries, 0, unmasked,
            length, HEAD_DIM, BLOCK_D, BLOCK_N, CAUSAL, False, PRECISION, DROPPED,
        )  # fmt: skip
        if unmasked < last:  # else not even the loop's first loads are needed
            acc, m, z = _attend(
                acc, m, z, query, k, v, k_row, v_row, bias, bias_row, scale, seed, sequence, head, queries, unmasked,
                last, length, HEAD_DIM, BLOCK_D, BLOCK_N, CAUSAL, True, PRECISION, DROPPED,
            )  # fmt: skip
            acc = tl.where((queries < length)[:, None], acc, 0.0)
    # No key at all (a padding row, or a bias that hides them all): zeros, and L = ∞ so that backward has P = 0.
    empty = z == 0.0
    z = tl.where(empty, 1.0, z)
    share = 1.0 / z
    if seed is not None:
        share = _scaled_up(share, DROPPED)
    acc *= share[:, None]
    out += (first * heads + head) * HEAD_DIM
    written = (queries < owned)[:, None] & (channels < HEAD_DIM)[None, :]
    tl.store(out + within[:, None] * (heads * HEAD_DIM) + channels[None, :], acc, mask=written)
    if lse is not None:
        level = tl.where(empty, float("inf"), m + tl.log2(z))
        tl.store(lse + first * heads + head + within * heads, level, mask=queries < owned)


@triton.jit
def _query_gradient(
    acc, query, upstream, d, level, k, v, k_row, v_row, bias, bias_row, scale, seed, sequence, head, queries, first,
    last, length, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr,
    CAUSAL: tl.constexpr, MASKED: tl.constexpr, PRECISION: tl.constexpr, DROPPED: tl.constexpr,
):  # fmt: skip
    """Add what the keys [first, last) say about dQ; only MASKED looks at the length and the causal edge."""
    channels = tl.arange(0, BLOCK_D)
    if seed is not None:
        seed = tl.load(seed)
    for n in range(first, last, BLOCK_N):
        keys = n + tl.arange(0, BLOCK_N)
        inside = (channels < HEAD_DIM)[None, :]
        if MASKED:
            inside = inside & (keys < length)[:, None]
        key = tl.load(k + keys[:, None] * k_row + channels[None, :], mask=inside, other=0.0)
        value = tl.load(v + keys[:, None] * v_row + channels[None, :], mask=inside, other=0.0)
        s = _scores(
            query, key, bias, bias_row, scale, queries[:, None], keys[None, :], length, CAUSAL, MASKED, PRECISION
        )
        p = tl.exp2(s * scale - level[:, None])
        dp = tl.dot(upstream, tl.trans(value), input_precision=PRECISION)
        if seed is None:
            ds = p * (dp - d[:, None])
        else:  # with fewer registers than p * (M * dp - d), where M has to wait for dp
            weights = tl.where(_kept(seed, sequence, head, queries[:, None], keys[None, :], DROPPED), p, 0.0)
            ds = weights * dp - p * d[:, None]
        acc = tl.dot(ds.to(key.dtype), key, acc, input_precision=PRECISION)
    return acc


@triton.jit
def _key_gradients(
    dk_sum, dv_sum, key, value, q, grad, lse, delta, q_row, bias, bias_row, scale, seed, sequence, head, keys, first,
    last, length, heads, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr,
    CAUSAL: tl.constexpr, MASKED: tl.constexpr, PRECISION: tl.constexpr, DROPPED: tl.constexpr,
):  # fmt: skip
    """Add what the queries [first, last) say about dK and dV; only MASKED looks at the length.

    Keys after the end need no mask: they have rows of their own, which are not written.
    """
    channels = tl.arange(0, BLOCK_D)
    if seed is not None:
        seed = tl.load(seed)
    for n in range(first, last, BLOCK_N):
        queries = n + tl.arange(0, BLOCK_N)
        real = queries < (
            length if MASKED else last
        )  # of whole blocks by the loop's own bound: `length` takes registers
        inside = (channels < HEAD_DIM)[None, :]
        if MASKED:
            inside = inside & real[:, None]
        query = tl.load(q + queries[:, None] * q_row + channels[None, :], mask=inside, other=0.0)
        place = queries[:, None] * (heads * HEAD_DIM) + channels[None, :]
        upstream = tl.load(grad + place, mask=inside, other=0.0)
        # Queries after the end have dO = δ = 0, and so add nothing whatever their P.
        level = tl.load(lse + queries * heads, mask=real, other=float("inf"))
        d = tl.load(delta + queries * heads, mask=real, other=0.0)
        # Transposed, keys × queries, so that P and dS enter their products as they lie in the registers.
        s = _scores(
            key, query, bias, bias_row, scale, queries[None, :], keys[:, None], length, CAUSAL, CAUSAL, PRECISION
        )
        p = tl.exp2(s * scale - level[None, :])
        weights = p
        if seed is not None:
            weights = tl.where(_kept(seed, sequence, head, queries[None, :], keys[:, None], DROPPED), p, 0.0)
        dv_sum = tl.dot(weights.to(value.dtype), upstream, dv_sum, input_precision=PRECISION)
        dp = tl.dot(value, tl.trans(upstream), input_precision=PRECISION)
        if seed is None:
            ds = p * (dp - d[None, :])
        else:
            ds = weights * dp - p * d[None, :]
        dk_sum = tl.dot(ds.to(key.dtype), query, dk_sum, input_precision=PRECISION)
    return dk_sum, dv_sum


@triton.jit(do_not_specialize=["sequences", "rows", "tiles_each"])
def _attention_backward_query(
    q, k, v, out, grad, dq, delta, lse, starts, lengths, bias, seed, sequences, rows, tiles_each, scale,
    q_head, k_head, v_head, bias_sequence, bias_head, bias_row,
    heads: tl.constexpr, q_row: tl.constexpr, k_row: tl.constexpr, v_row: tl.constexpr,
    HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    CAUSAL: tl.constexpr, PRECISION: tl.constexpr, DROPPED: tl.constexpr,
):  # fmt: skip
    """dQ of one tile of queries, and δ for `_attention_backward_key`."""
    head = tl.program_id(0)
    sequence, block = _find_tile(starts, sequences, rows, tiles_each, BLOCK_M)
    if sequence >= sequences:
        return
    start, length, owned = _extent(sequence, starts, lengths, sequences, rows)
    first = start + block * BLOCK_M
    within = tl.arange(0, BLOCK_M)
    queries = block * BLOCK_M + within
    channels = tl.arange(0, BLOCK_D)
    real = (queries < length)[:, None] & (channels < HEAD_DIM)[None, :]
    base = first * heads + head
    place = within[:, None] * (heads * HEAD_DIM) + channels[None, :]

    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    if block * BLOCK_M < length:
        q += first * q_row + head * q_head
        query = tl.load(q + within[:, None] * q_row + channels[None, :], mask=real, other=0.0)
        upstream = tl.load(grad + base * HEAD_DIM + place, mask=real, other=0.0)
        result = tl.load(out + base * HEAD_DIM + place, mask=real, other=0.0)
        d = tl.sum(upstream.to(tl.float32) * result.to(tl.float32), 1)
        if seed is not None:  # (1 − p) δ: the products with P are scaled up when they are summed
            d *= 1 - DROPPED / ONE
        tl.store(delta + base + within * heads, d, mask=queries < length)
        level = tl.load(lse + base + within * heads, mask=queries < length, other=0.0)
        k += start * k_row + head * k_head
        v += start * v_row + head * v_head
        if bias is not None:
            bias += sequence.to(tl.int64) * bias_sequence + head * bias_head
        last = length
        unmasked = tl.where((block + 1) * BLOCK_M > length, length - 1, length)  # as in `_attention_forward`
        if CAUSAL:
            last = tl.minimum(length, (block + 1) * BLOCK_M)
            unmasked = tl.minimum(unmasked, block * BLOCK_M + 1)
        unmasked = unmasked // BLOCK_N * BLOCK_N
        acc = _query_gradient(
            acc, query, upstream, d, level, k, v, k_row, v_row, bias, bias_row, scale, seed, sequence, head, queries,
            0, unmasked, length, HEAD_DIM, BLOCK_D, BLOCK_N, CAUSAL, False, PRECISION, DROPPED,
        )  # fmt: skip
        if unmasked < last:
            acc = _query_gradient(
                acc, query, upstream, d, level, k, v, k_row, v_row, bias, bias_row, scale, seed, sequence, head,
                queries, unmasked, last, length, HEAD_DIM, BLOCK_D, BLOCK_N, CAUSAL, True, PRECISION, DROPPED,
            )  # fmt: skip
            acc = tl.where((queries < length)[:, None], acc, 0.0)
    written = (queries < owned)[:, None] & (channels < HEAD_DIM)[None, :]
    if seed is not None:
        acc = _scaled_up(acc, DROPPED)
    tl.store(dq + base * HEAD_DIM + place, acc * (scale / LOG2E), mask=written)


@triton.jit(do_not_specialize=["sequences", "rows", "tiles_each"])
def _attention_backward_key(
    q, k, v, grad, dk, dv, delta, lse, starts, lengths, bias, seed, sequences, rows, tiles_each, scale,
    q_head, k_head, v_head, bias_sequence, bias_head, bias_row,
    heads: tl.constexpr, q_row: tl.constexpr, k_row: tl.constexpr, v_row: tl.constexpr,
    HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    CAUSAL: tl.constexpr, PRECISION: tl.constexpr, DROPPED: tl.constexpr,
):  # fmt: skip
    """dK and dV of one tile of BLOCK_M keys over blocks of BLOCK_N queries; no atomics: the same bits every time."""
    head = tl.program_id(0)
    sequence, block = _find_tile(starts, sequences, rows, tiles_each, BLOCK_M)
    if sequence >= sequences:
        return
    start, length, owned = _extent(sequence, starts, lengths, sequences, rows)
    tile = start + block * BLOCK_M
    within = tl.arange(0, BLOCK_M)
    keys = block * BLOCK_M + within
    channels = tl.arange(0, BLOCK_D)
    real = (keys < length)[:, None] & (channels < HEAD_DIM)[None, :]

    dk_sum = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    dv_sum = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    if block * BLOCK_M < length:
        k += tile * k_row + head * k_head
        v += tile * v_row + head * v_head
        key = tl.load(k + within[:, None] * k_row + channels[None, :], mask=real, other=0.0)
        value = tl.load(v + within[:, None] * v_row + channels[None, :], mask=real, other=0.0)
        q += start * q_row + head * q_head
        grad += (start * heads + head) * HEAD_DIM
        lse += start * heads + head
        delta += start * heads + head
        if bias is not None:
            bias += sequence.to(tl.int64) * bias_sequence + head * bias_head
        first = 0
        if CAUSAL:
            first = block * BLOCK_M // BLOCK_N * BLOCK_N
        whole = tl.where((block + 1) * BLOCK_M > length, length - 1, length) // BLOCK_N * BLOCK_N
        dk_sum, dv_sum = _key_gradients(
            dk_sum, dv_sum, key, value, q, grad, lse, delta, q_row, bias, bias_row, scale, seed, sequence, head, keys,
            first, whole, length, heads, HEAD_DIM, BLOCK_D, BLOCK_N, CAUSAL, False, PRECISION, DROPPED,
        )  # fmt: skip
        if whole < length:
            dk_sum, dv_sum = _key_gradients(
                dk_sum, dv_sum, key, value, q, grad, lse, delta, q_row, bias, bias_row, scale, seed, sequence, head,
                keys, tl.maximum(first, whole), length, length, heads, HEAD_DIM, BLOCK_D, BLOCK_N, CAUSAL, True,
                PRECISION, DROPPED,
            )  # fmt: skip
            dk_sum = tl.where((keys < length)[:, None], dk_sum, 0.0)
            dv_sum = tl.where((keys < length)[:, None], dv_sum, 0.0)
    base = (tile * heads + head) * HEAD_DIM
    place = within[:, None] * (heads * HEAD_DIM) + channels[None, :]
    written = (keys < owned)[:, None] & (channels < HEAD_DIM)[None, :]
    if seed is not None:
        dk_sum = _scaled_up(dk_sum, DROPPED)
        dv_sum = _scaled_up(dv_sum, DROPPED)
    tl.store(dk + base + place, dk_sum * (scale / LOG2E), mask=written)
    tl.store(dv + base + place, dv_sum, mask=written)


def _bias_strides(bias: Tensor | None) -> tuple[int, int, int]:
    """Strides of a sequence, a head and a query; a bias that all sequences share has no step between them."""
    if bias is None:
        return 0, 0, 0
    return 0 if bias.dim() == 3 else bias.stride(0), bias.stride(-3), bias.stride(-2)


def _launch(
    kernel: triton.JITFunction,
    qkv: tuple[Tensor, Tensor, Tensor],
    pointers: tuple[Tensor | None, ...],
    starts: Tensor,
    lengths: Tensor,
    width: int,
    tiles: Tiles,
    scale: float,
    causal: bool,
    bias: Tensor | None,
    dropout: float,
    seed: Tensor | None,
) -> None:
    """Run one of the three kernels, which share all arguments except the pointers after q, k and v."""
    rows, heads, head_dim = qkv[0].shape
    if width and max(len(starts), -(-width // tiles.rows)) <= MOST.value:
        grid = heads, -(-width // tiles.rows), len(starts)
    else:
        width = 0
        # Σ ceil(rows of a sequence / tile) is at most this, whatever the lengths.
        most = (rows + len(starts) * (tiles.rows - 1)) // tiles.rows
        grid = heads, min(most, MOST.value), -(-most // MOST.value)
    launch(
        kernel, grid, *qkv, *pointers, starts.contiguous(), lengths.contiguous(), bias, seed,
        len(starts), rows, -(-width // tiles.rows), scale * LOG2E.value,
        *(tensor.stride(1) for tensor in qkv), *_bias_strides(bias),
        # Constants of a model: the distance between a tile's rows then fits into the instruction's address.
        heads=heads, q_row=qkv[0].stride(0), k_row=qkv[1].stride(0), v_row=qkv[2].stride(0),
        HEAD_DIM=head_dim, BLOCK_D=_block_d(head_dim), BLOCK_M=tiles.rows, BLOCK_N=tiles.columns,
        CAUSAL=causal, PRECISION=dot_precision(qkv[0].dtype), DROPPED=round(dropout * ONE.value),
        num_warps=tiles.num_warps, num_stages=tiles.num_stages,
    )  # fmt: skip


def _block_d(head_dim: int) -> int:
    return max(16, power_of_2(head_dim))


def _tiles(table: dict[tuple[int, int], Tiles], q: Tensor, longest: int, bias: Tensor | None, dropout: float) -> Tiles:
    tiles = table[q.element_size() * 8, _block_d(q.shape[2])]
    if bias is not None or (dropout and q.shape[2] > 64):  # a bias takes registers, a mask those that wide heads leave
        warps = max(tiles.num_warps, _block_d(q.shape[2]) // 16)
        tiles = tiles._replace(columns=max(tiles.columns // 2, 16), num_warps=warps)
    if longest <= SHORT_ROWS < tiles.rows:
        return tiles._replace(rows=SHORT_ROWS, num_warps=tiles.num_warps // 2)
    return tiles


def _attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    starts: Tensor,
    lengths: Tensor,
    longest: int,
    width: int,
    scale: float,
    causal: bool,
    bias: Tensor | None,
    dropout: float,
    seed: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The output, and L = log₂ Σ 2^S of every row and head, which backward needs."""
    lse = torch.empty(q.shape[:2], dtype=torch.float32, device=q.device)
    return _output(lse, q, k, v, starts, lengths, longest, width, scale, causal, bias, dropout, seed), lse


def _output(
    lse: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    starts: Tensor,
    lengths: Tensor,
    longest: int,
    width: int,
    scale: float,
    causal: bool,
    bias: Tensor | None,
    dropout: float,
    seed: Tensor | None,
) -> Tensor:
    """The output; `lse` is filled where it is given."""
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    tiles = _tiles(FORWARD, q, longest, bias, dropout)
    shared = (starts, lengths, width, tiles, scale, causal, bias, dropout, seed)
    _launch(_attention_forward, (q, k, v), (out, lse), *shared)
    return out


_node = torch.library.custom_op("minitrans::attention", _attention, mutates_args=())


@_node.register_fake
def _(q: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), q.new_empty(q.shape[:2], dtype=torch.float32)


def _attention_gradients(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    starts: Tensor,
    lengths: Tensor,
    longest: int,
    width: int,
    scale: float,
    causal: bool,
    bias: Tensor | None,
    dropout: float,
    seed: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    grad = grad.contiguous()
    dq, dk, dv = (torch.empty(q.shape, dtype=q.dtype, device=q.device) for _ in range(3))
    delta = torch.empty_like(lse)
    rest = scale, causal, bias, dropout, seed
    for kernel, table, pointers in (
        (_attention_backward_query, BACKWARD_QUERY, (out, grad, dq, delta, lse)),
        (_attention_backward_key, BACKWARD_KEY, (grad, dk, dv, delta, lse)),
    ):
        tiles = _tiles(table, q, longest, bias, dropout)
        _launch(kernel, (q, k, v), pointers, starts, lengths, width, tiles, *rest)
    return dq, dk, dv


_gradients = torch.library.custom_op("minitrans::attention_backward", _attention_gradients, mutates_args=())


@_gradients.register_fake
def _(grad: Tensor, q: Tensor, *_: object) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), q.new_empty(q.shape), q.new_empty(q.shape)


def _remember(ctx: Any, inputs: tuple, output: tuple) -> None:
    q, k, v, starts, lengths, ctx.longest, ctx.width, ctx.scale, ctx.causal, bias, ctx.dropout, seed = inputs
    ctx.save_for_backward(q, k, v, *output, starts, lengths, bias, seed)


def _through(compute: Callable[..., tuple[Tensor, ...]], ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    *saved, bias, seed = ctx.saved_tensors
    rest = ctx.longest, ctx.width, ctx.scale, ctx.causal, bias, ctx.dropout, seed
    return (*compute(grad, *saved, *rest), *[None] * 9)


_node.register_autograd(lambda ctx, grad, _: _through(_gradients, ctx, grad), setup_context=_remember)


class _Eager(torch.autograd.Function):
    """The same node without the dispatcher, which takes a tenth of a millisecond each way."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        output = _attention(*inputs)
        _remember(ctx, inputs, output)
        return output[0]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _through(_attention_gradients, ctx, grad)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    starts: Tensor,
    lengths: Tensor,
    longest: int,
    *,
    width: int = 0,
    scale: float | None = None,
    causal: bool = False,
    bias: Tensor | None = None,
    dropout: float = 0,
) -> Tensor:
    """softmax(scale · q kᵀ + bias) v within each sequence: (T, heads, D) rows in, contiguous (T, heads, D) rows out.

    Sequence b has the rows `starts[b]` to `starts[b] + lengths[b]` (exclusive); `starts` ascends from 0, so that the
    rows up to the next start belong to no sequence: they come out as zeros. `longest` bounds the lengths and only
    chooses the tile. `width` is the number of rows each sequence owns if it is the same for all, else 0. `bias` is
    additive, (heads, longest, longest) or (B, heads, longest, longest). `scale` is positive and D**-0.5 by default.
    `dropout` is the probability, in steps of 1/65536, of dropping a weight; those that are kept are scaled up. The
    seed comes from torch's generator of the device.
    """
    scale = q.shape[2] ** -0.5 if scale is None else scale
    # Drawn on the device and read by the kernels there, so that the host does not wait. The default of dropout is
    # 0, not 0.0, which a dynamic torch.compile makes a variable, to compile a second time for its value.
    seed = torch.randint(2**63 - 1, (1,), device=q.device) if dropout else None
    arguments = (q, k, v, starts, lengths, longest, width, scale, causal, bias, dropout, seed)
    wanted = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    if torch.compiler.is_compiling():
        return _node(*arguments)[0]
    return _Eager.apply(*arguments) if wanted else _output(None, *arguments)


def why_not(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    starts: Tensor,
    lengths: Tensor,
    longest: int,
    *,
    width: int = 0,
    scale: float | None = None,
    causal: bool = False,
    bias: Tensor | None = None,
    dropout: float = 0,
) -> str | None:
    """The reason why `attention` cannot take these arguments, or None."""
    reason = why_not_here((q, k, v), backward=True) or why_not_here((bias,))
    reason = reason or why_not_indices((starts, lengths), q.device)
    if reason:
        return reason
    if bias is not None and bias.device != q.device:
        return f"the bias is on {bias.device}, q on {q.device}"
    if bias is not None and (
        bias.shape[:-2] not in ((q.shape[1],), (len(starts), q.shape[1])) or min(bias.shape[-2:]) < longest
    ):
        return f"the bias is {tuple(bias.shape)}; the kernel takes one number a head, query and key"
    largest = 64 if q.dtype is torch.float32 else 128
    if q.shape[2] > largest:
        return f"the head size is {q.shape[2]}; the kernel holds {q.dtype} heads of up to {largest}"
    reason = why_not_sizes(k=(k, tuple(q.shape)), v=(v, tuple(q.shape)))
    if reason or starts.shape != lengths.shape:
        return reason or f"there are {starts.numel()} starts and {lengths.numel()} lengths"
    if q.dtype is torch.float32 and not exact_on_tensor_cores():
        return "the dtype is float32, in which the kernel beats torch's own attention on compute capability 9 alone"
    if any(tensor.stride(-1) != 1 for tensor in (q, k, v, bias) if tensor is not None):
        return "the last dimension of q, k, v or bias is not contiguous"
    if not 0 <= dropout <= 1:
        return f"dropout is {dropout}; a probability is 0 to 1"
    if scale is not None and scale <= 0:
        return f"the scale is {scale}; the kernel takes the maximum before it scales, which needs a positive one"
    heads, head_dim = q.shape[1:]
    steps = [tensor.stride()[:2] for tensor in (q, k, v)]
    if bias is not None:
        steps.append((bias.stride(-2), bias.stride(-3)))
    # The output and its gradient are contiguous, whatever q, k and v are.
    if any(max(row, heads * head_dim) * longest + heads * head > FURTHEST for row, head in steps):
        return f"a sequence of {longest} rows spans more than {FURTHEST} elements; offsets in it have 32 bits"
    return None
