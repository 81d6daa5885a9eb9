# mypy: allow-untyped-defs
# ruff: noqa: N803
"""Attention within the (shifted) windows of a map, from the qkv projection to the output in map order.

Mathematics (Swin, Liu et al. 2021). The map is padded at the bottom and right to whole windows, rolled by −shift,
and cut into window × window tokens; in each window and head

    O = softmax(D^−½ · Q Kᵀ + bias[Δy, Δx] − 100 · [regions differ]) V

where bias is a table over relative positions and the regions are those that the roll brought together from opposite
edges. Then all of this is undone. Padded positions take part as keys, with the projection's bias as their q, k and v.

Here none of these steps moves anything. A program computes where a token of its window lies on the unpadded, unrolled
map, reads q, k and v there, and writes the output there: padding, roll, partition, region mask and their inverses
are integer arithmetic. One program serves several windows with one head, so that the gathered bias stays in its
registers. A window of up to 64 tokens is one tile; a larger one is processed in tiles with an online softmax.

Cost. 4·window²·D FLOPs per token and head, and 4·D elements moved (q, k, v read once, out written once). Swin-T's
first stage at batch 64 in 16 bits: 64·56² tokens · 3 heads · 32 · 4 · 2 bytes = 154 MB / 3.35 TB/s = 46 µs, and 3.8
GFLOP / 989 TFLOP/s = 4 µs, or 6.4 µs with 49 tokens padded to 64. Roofline bound on an H100: 46 µs. Unfused, the roll,
the partition and their inverses alone would add two more passes over the data.

Backward, for windows of up to 64 tokens: the weights P are recomputed, and with dP = dO Vᵀ

    dS = P ∘ (dP − rowsum(P ∘ dP)),   dV = Pᵀ dO,   dQ = D^−½ · dS K,   dK = D^−½ · dSᵀ Q

A pixel lies in one window, so its gradient is written once. dS is summed over a program's windows in registers, and
over programs and then for each relative position afterwards, in one order; so is what padded keys and values get.
"""

from itertools import accumulate

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import (
    FURTHEST,
    Tiles,
    dot_precision,
    gradient_wanted,
    launch,
    operator,
    power_of_2,
    why_not_here,
    why_not_sizes,
)

LOG2E = tl.constexpr(1.4426950408889634)

REGION_PENALTY = tl.constexpr(-100.0)
"""Published checkpoints were trained with this finite value, not with −∞."""

# (element bits, head size rounded up to a power of two) → the largest tile of queries × keys, for windows of up to
# 64 tokens and for larger ones.
SMALL_WINDOWS = {
    (16, 16): Tiles(64, 64, 4, 3),
    (16, 32): Tiles(64, 64, 4, 3),
    (16, 64): Tiles(64, 64, 4, 2),
    (16, 128): Tiles(64, 64, 8, 2),
    (32, 16): Tiles(64, 64, 4, 2),
    (32, 32): Tiles(64, 64, 4, 2),
    (32, 64): Tiles(64, 32, 8, 1),
}
LARGE_WINDOWS = {
    (16, 16): Tiles(64, 32, 4, 1),
    (16, 32): Tiles(64, 32, 4, 1),
    (16, 64): Tiles(64, 32, 4, 2),
    (16, 128): Tiles(64, 32, 8, 2),
    (32, 16): Tiles(64, 32, 4, 1),
    (32, 32): Tiles(64, 32, 4, 1),
    (32, 64): Tiles(64, 16, 8, 1),
}
LARGEST_BACKWARD = 32
"""The head size that the backward pass has registers for, which is every published Swin's."""
WIDEST_BACKWARD = 8
"""The window that one tile of the backward pass holds."""

ENOUGH_PROGRAMS = 1000
"""About two for each place on an H100 (132 multiprocessors × 4); past it, a program serves more windows."""

MOST_GROUPS = 2**15
"""A grid's third dimension ends at twice this."""


@triton.jit
def _place(token, y, x, down, across, shift, WINDOW: tl.constexpr):
    """Where the tokens of the window in row y and column x lie on the map before it was rolled, as row and column."""
    y = y * WINDOW + token // WINDOW + shift
    x = x * WINDOW + token % WINDOW + shift
    # Both are less than twice the padded size, so one subtraction brings them back.
    y = tl.where(y >= down * WINDOW, y - down * WINDOW, y)
    return y, tl.where(x >= across * WINDOW, x - across * WINDOW, x)


@triton.jit
def _relative(table, head, heads, queries, keys, WINDOW: tl.constexpr):
    """The bias by relative position, with −inf for keys after the window's end."""
    side: tl.constexpr = 2 * WINDOW - 1
    # The place in the table is a difference of one number per query and one per key. Queries after the end read the
    # last one's biases, and are not stored.
    queries = tl.minimum(queries, WINDOW * WINDOW - 1)
    rows = (queries + queries // WINDOW * (side - WINDOW)) * heads
    columns = (keys + keys // WINDOW * (side - WINDOW)) * heads
    middle = table + head + (WINDOW - 1) * (side + 1) * heads
    inside = (keys < WINDOW * WINDOW)[None, :]
    return tl.load(middle + (rows[:, None] - columns[None, :]), mask=inside, other=float("-inf")).to(tl.float32)


@triton.jit
def _penalty(queries, keys, at_bottom, at_right, shift, WINDOW: tl.constexpr):
    """The penalty between regions; only windows at the rolled map's far edges hold more than one region."""
    down = (queries // WINDOW >= WINDOW - shift)[:, None] != (keys // WINDOW >= WINDOW - shift)[None, :]
    across = (queries % WINDOW >= WINDOW - shift)[:, None] != (keys % WINDOW >= WINDOW - shift)[None, :]
    return tl.where((at_bottom & down) | (at_right & across), REGION_PENALTY * LOG2E, 0.0)


@triton.jit
def _load(part, place, real, padding, channels, HEAD_DIM: tl.constexpr):
    """Rows of q, k or v; a padded position has the projection's bias, or zeros where it has none."""
    inside = real[:, None] & (channels < HEAD_DIM)[None, :]
    tile = tl.load(part + place[:, None] + channels[None, :], mask=inside, other=0.0)
    if padding is not None:
        fill = tl.load(padding + channels, mask=channels < HEAD_DIM, other=0.0)
        tile = tl.where(real[:, None], tile, fill[None, :].to(tile.dtype))
    return tile


@triton.jit
def _keys_and_values(
    source, keys, top, left, down, across, shift, height, width, width_qkv, padding, channels,
    WINDOW: tl.constexpr, HEAD_DIM: tl.constexpr,
):  # fmt: skip
    """Rows of k and v of a window, zeros after its end."""
    y, x = _place(keys, top, left, down, across, shift, WINDOW)
    real = (keys < WINDOW * WINDOW) & (y < height) & (x < width)
    place = (y * width + x) * 3 * width_qkv
    key_fill = padding
    value_fill = padding
    if padding is not None:
        key_fill += width_qkv
        value_fill += 2 * width_qkv
    key = _load(source + width_qkv, place, real, key_fill, channels, HEAD_DIM)
    return key, _load(source + 2 * width_qkv, place, real, value_fill, channels, HEAD_DIM)


@triton.jit
def _windows_of(group, windows_each, down, across, right, bottom, corner, SHIFTED: tl.constexpr):
    """The windows of a program: whether they are of the last column and row, how many rows and columns of such there
    are, and the first one's number, image, row and column.

    All are of one kind, so that one tile of biases, penalties included, fits them all: in a shifted map groups from
    `right` on are of its last column, from `bottom` on of its last row, then its corners.
    """
    at_right = SHIFTED & (((group >= right) & (group < bottom)) | (group >= corner))
    at_bottom = SHIFTED & (group >= bottom)
    rows, columns = down, across
    if SHIFTED:
        rows = tl.where(at_bottom, 1, down - 1)
        columns = tl.where(at_right, 1, across - 1)
        group -= tl.where(group >= corner, corner, tl.where(at_bottom, bottom, tl.where(at_right, right, 0)))
    first = group * windows_each
    return (
        at_right,
        at_bottom,
        rows,
        columns,
        first,
        first // (rows * columns),
        first // columns % rows,
        first % columns,
    )


@triton.jit
def _next(image, y, x, rows, columns):
    """The next window: additions, where a division for each would be a fifth of the loop."""
    x += 1
    y += (x == columns).to(tl.int32)
    x = tl.where(x == columns, 0, x)
    image += (y == rows).to(tl.int32)
    y = tl.where(y == rows, 0, y)
    return image, y, x


@triton.jit(do_not_specialize=["heads"])
def _spread_bias(table, bias, heads, WINDOW: tl.constexpr, BLOCK: tl.constexpr, KEYS: tl.constexpr):
    """The bias of one query to all keys, from the table: what a large window reads tile by tile."""
    query, head = tl.program_id(0), tl.program_id(1)
    keys = tl.arange(0, BLOCK)
    row = _relative(table, head, heads, query + tl.zeros([1], tl.int32), keys, WINDOW)
    tl.store(bias + (head * WINDOW * WINDOW + query) * KEYS + keys[None, :], row, mask=(keys < KEYS)[None, :])


@triton.jit(
    do_not_specialize=[
        "batch", "windows_each", "height", "width", "down", "across", "shift", "heads", "right", "bottom", "corner",
    ]
)  # fmt: skip
def _window_attention_forward(
    qkv, table, padding, out, batch, windows_each, height, width, down, across, shift, heads, right, bottom, corner,
    scale, WINDOW: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, KEYS: tl.constexpr, SHIFTED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    tokens: tl.constexpr = WINDOW * WINDOW
    # Heads vary fastest: programs running at the same time read neighbouring columns of the same pixels.
    head = tl.program_id(0)
    block = tl.program_id(1) if tokens > BLOCK_M else 0
    group = tl.program_id(2)
    queries = block * BLOCK_M + tl.arange(0, BLOCK_M)
    channels = tl.arange(0, BLOCK_D)
    width_qkv = heads * HEAD_DIM
    if padding is not None:
        padding += head * HEAD_DIM

    at_right, at_bottom, rows, columns, first, image, y, x = _windows_of(
        group, windows_each, down, across, right, bottom, corner, SHIFTED
    )  # fmt: skip
    if tokens <= BLOCK_N:
        keys = tl.arange(0, BLOCK_N)
        bias = _relative(table, head, heads, queries, keys, WINDOW) * LOG2E
        if SHIFTED:
            bias += _penalty(queries, keys, at_bottom, at_right, shift, WINDOW)
    else:
        table += (head * tokens + queries[:, None]) * KEYS

    for _ in range(first, tl.minimum(first + windows_each, batch * rows * columns)):
        top = y + tl.where(at_bottom, down - 1, 0)
        left = x + tl.where(at_right, across - 1, 0)
        place_y, place_x = _place(queries, top, left, down, across, shift, WINDOW)
        real = (queries < tokens) & (place_y < height) & (place_x < width)
        place = place_y * width + place_x
        pixels = image.to(tl.int64) * height * width
        source = qkv + pixels * 3 * width_qkv + head * HEAD_DIM
        query = _load(source, place * 3 * width_qkv, real, padding, channels, HEAD_DIM)
        if tokens <= BLOCK_N:
            key, value = _keys_and_values(
                source, tl.arange(0, BLOCK_N), top, left, down, across, shift, height, width, width_qkv, padding,
                channels, WINDOW, HEAD_DIM,
            )  # fmt: skip
            s = tl.dot(query, tl.trans(key), input_precision=PRECISION) * scale + bias
            p = tl.exp2(s - tl.max(s, 1)[:, None])
            z = tl.sum(p, 1)
            acc = tl.dot(p.to(value.dtype), value, input_precision=PRECISION)
        else:
            m = tl.full([BLOCK_M], float("-inf"), tl.float32)
            z = tl.zeros([BLOCK_M], tl.float32)
            acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
            for n in range(0, tokens, BLOCK_N):
                keys = n + tl.arange(0, BLOCK_N)
                key, value = _keys_and_values(
                    source, keys, top, left, down, across, shift, height, width, width_qkv, padding,
                    channels, WINDOW, HEAD_DIM,
                )  # fmt: skip
                added = tl.load(table + keys[None, :], mask=(queries < tokens)[:, None], other=0.0)
                s = tl.dot(query, tl.trans(key), input_precision=PRECISION) * scale + added.to(tl.float32) * LOG2E
                if at_bottom | at_right:
                    s += _penalty(queries, keys, at_bottom, at_right, shift, WINDOW)
                highest = tl.maximum(m, tl.max(s, 1))
                p = tl.exp2(s - highest[:, None])
                shrink = tl.exp2(m - highest)
                z = z * shrink + tl.sum(p, 1)
                acc = tl.dot(p.to(value.dtype), value, acc * shrink[:, None], input_precision=PRECISION)
                m = highest
        target = out + (pixels + place[:, None]) * width_qkv + head * HEAD_DIM + channels[None, :]
        tl.store(target, acc / z[:, None], mask=real[:, None] & (channels < HEAD_DIM)[None, :])
        image, y, x = _next(image, y, x, rows, columns)


@triton.jit(
    do_not_specialize=[
        "batch", "windows_each", "height", "width", "down", "across", "shift", "heads", "right", "bottom", "corner",
    ]
)  # fmt: skip
def _window_attention_backward(
    grad, qkv, table, padding, dqkv, dbias, dpadding,
    batch, windows_each, height, width, down, across, shift, heads, right, bottom, corner,
    scale, WINDOW: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr,
    SHIFTED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of windows that one tile holds; those of biases and padding are summed over a program's windows."""
    tokens: tl.constexpr = WINDOW * WINDOW
    head, group = tl.program_id(0), tl.program_id(1)
    inside = tl.arange(0, BLOCK_M)
    channels = tl.arange(0, BLOCK_D)
    width_qkv = heads * HEAD_DIM
    if padding is not None:
        padding += head * HEAD_DIM
    at_right, at_bottom, rows, columns, first, image, y, x = _windows_of(
        group, windows_each, down, across, right, bottom, corner, SHIFTED
    )  # fmt: skip
    bias = _relative(table, head, heads, inside, inside, WINDOW) * LOG2E
    if SHIFTED:
        bias += _penalty(inside, inside, at_bottom, at_right, shift, WINDOW)
    bias_sum = tl.zeros([BLOCK_M, BLOCK_M], tl.float32)
    key_sum = tl.zeros([BLOCK_D], tl.float32)
    value_sum = tl.zeros([BLOCK_D], tl.float32)

    for _ in range(first, tl.minimum(first + windows_each, batch * rows * columns)):
        top = y + tl.where(at_bottom, down - 1, 0)
        left = x + tl.where(at_right, across - 1, 0)
        place_y, place_x = _place(inside, top, left, down, across, shift, WINDOW)
        real = (inside < tokens) & (place_y < height) & (place_x < width)
        place = place_y * width + place_x
        pixels = image.to(tl.int64) * height * width
        source = qkv + pixels * 3 * width_qkv + head * HEAD_DIM
        query = _load(source, place * 3 * width_qkv, real, padding, channels, HEAD_DIM)
        key, value = _keys_and_values(
            source, inside, top, left, down, across, shift, height, width, width_qkv, padding, channels,
            WINDOW, HEAD_DIM,
        )  # fmt: skip
        # Padded queries and those after the window's end have no gradient, and so their scores have none.
        upstream = _load(
            grad + pixels * width_qkv + head * HEAD_DIM, place * width_qkv, real, None, channels, HEAD_DIM
        )
        s = tl.dot(query, tl.trans(key), input_precision=PRECISION) * (scale * LOG2E) + bias
        p = tl.exp2(s - tl.max(s, 1)[:, None])
        p /= tl.sum(p, 1)[:, None]
        dp = tl.dot(upstream, tl.trans(value), input_precision=PRECISION)
        ds = p * (dp - tl.sum(p * dp, 1)[:, None])
        dvalue = tl.dot(tl.trans(p.to(value.dtype)), upstream, input_precision=PRECISION)
        scores = ds.to(value.dtype)
        dkey = tl.dot(tl.trans(scores), query, input_precision=PRECISION) * scale
        if dbias is not None:
            bias_sum += ds
        if dpadding is not None:
            key_sum += tl.sum(tl.where(real[:, None], 0.0, dkey), 0)
            value_sum += tl.sum(tl.where(real[:, None], 0.0, dvalue), 0)
        if dqkv is not None:
            dquery = tl.dot(scores, key, input_precision=PRECISION) * scale
            target = (
                dqkv + pixels * 3 * width_qkv + head * HEAD_DIM + place[:, None] * 3 * width_qkv + channels[None, :]
            )
            written = real[:, None] & (channels < HEAD_DIM)[None, :]
            tl.store(target, dquery, mask=written)
            tl.store(target + width_qkv, dkey, mask=written)
            tl.store(target + 2 * width_qkv, dvalue, mask=written)
        image, y, x = _next(image, y, x, rows, columns)

    if dbias is not None:
        dbias += (group * heads + head).to(tl.int64) * tokens * tokens
        within = (inside < tokens)[:, None] & (inside < tokens)[None, :]
        tl.store(dbias + inside[:, None] * tokens + inside[None, :], bias_sum, mask=within)
    if dpadding is not None:
        dpadding += group * 3 * width_qkv + head * HEAD_DIM + channels
        tl.store(dpadding + width_qkv, key_sum, mask=channels < HEAD_DIM)
        tl.store(dpadding + 2 * width_qkv, value_sum, mask=channels < HEAD_DIM)


def _groups(batch: int, down: int, across: int, heads: int, shift: int, *, alone: bool) -> tuple[int, list[int], int]:
    """How many windows a program has, where the groups of each kind end, and how many groups there are.

    `alone`: a program's windows have nothing in common, so that it has one.
    """
    windows = batch * down * across
    windows_each = max(0 if alone else windows * heads // ENOUGH_PROGRAMS, -(-windows // MOST_GROUPS))
    # How many windows an image has of each kind: inside, last column, last row, corner; of one kind without a shift.
    kinds = ((down - 1) * (across - 1), down - 1, across - 1, 1) if shift else (down * across, 0, 0, 0)
    *edges, groups = accumulate(-(-batch * kind // windows_each) for kind in kinds)
    return windows_each, edges, groups


def _padded(qkv: Tensor, window: int, padding: Tensor | None) -> Tensor | None:
    """The values at padded positions, or None where there are none or zeros."""
    whole = qkv.shape[1] % window == 0 and qkv.shape[2] % window == 0
    return None if whole or padding is None else padding.contiguous()


def _fake_gradients(
    grad: Tensor,
    qkv: Tensor,
    bias_table: Tensor,
    window: int,
    shift: int,
    padding: Tensor | None,
    into_qkv: bool,
    into_table: bool,
    into_padding: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        qkv.new_empty(qkv.shape if into_qkv else 0),
        qkv.new_empty(bias_table.shape if into_table else 0),
        qkv.new_empty((3, *qkv.shape[4:]) if into_padding else 0),
    )


@operator(_fake_gradients)
def window_attention_backward(
    grad: Tensor,
    qkv: Tensor,
    bias_table: Tensor,
    window: int,
    shift: int,
    padding: Tensor | None,
    into_qkv: bool,
    into_table: bool,
    into_padding: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """From the gradient of `window_attention`, those of qkv, the table and the padding; empty where not wanted."""
    batch, height, width, _, heads, head_dim = qkv.shape
    tokens = window * window
    down, across = -(-height // window), -(-width // window)
    windows_each, edges, groups = _groups(batch, down, across, heads, shift, alone=False)
    filled = _padded(qkv, window, padding)
    precision = dot_precision(qkv.dtype)  # not three TF32 products, whose operands take more registers than there are
    dqkv = torch.empty(qkv.shape if into_qkv else 0, dtype=qkv.dtype, device=qkv.device)
    dbias = torch.empty((groups, heads, tokens**2), dtype=torch.float32, device=qkv.device) if into_table else None
    sums = torch.zeros((groups, 3, heads, head_dim), dtype=torch.float32, device=qkv.device) if into_padding else None
    launch(
        _window_attention_backward, (heads, groups),
        grad.contiguous(), qkv, bias_table.contiguous(), filled,
        dqkv if into_qkv else None, dbias, None if filled is None else sums,
        batch, windows_each, height, width, down, across, shift, heads, *edges, head_dim**-0.5,
        WINDOW=window, HEAD_DIM=head_dim, BLOCK_D=max(16, power_of_2(head_dim)), BLOCK_M=max(16, power_of_2(tokens)),
        SHIFTED=shift > 0, PRECISION="ieee" if precision == "tf32x3" else precision,
        # Eight warps would compute the scores of 64 rows twice; in float32 four have too few registers.
        num_warps=8 if qkv.dtype is torch.float32 else 4, num_stages=1,
    )  # fmt: skip
    dtable = dqkv.new_empty(0) if dbias is None else _into_table(dbias.sum(0), window)
    dpadding = dqkv.new_empty(0) if sums is None else sums.sum(0)
    return dqkv, dtable.to(qkv.dtype), dpadding.to(qkv.dtype)


def _into_table(dbias: Tensor, window: int) -> Tensor:
    """The gradient of the table, from that of the biases (heads, queries · keys) which were taken from it."""
    side = 2 * window - 1
    place = torch.arange(window, device=dbias.device)
    place = (place[:, None] * side + place).flatten()
    index = place[:, None] - place + (window - 1) * (side + 1)
    return torch.ops.aten.embedding_dense_backward(dbias.T.contiguous(), index, side * side, -1, False)


def _gradients(
    needed: tuple[bool, ...],
    upstream: tuple[Tensor],
    qkv: Tensor,
    bias_table: Tensor,
    window: int,
    shift: int,
    padding: Tensor | None,
) -> tuple[Tensor | None, ...]:
    wanted = needed[0], needed[1], needed[4]
    dqkv, dtable, dpadding = window_attention_backward(*upstream, qkv, bias_table, window, shift, padding, *wanted)
    return dqkv, dtable, None, None, dpadding


def _fake(qkv: Tensor, bias_table: Tensor, window: int, shift: int, padding: Tensor | None) -> Tensor:
    batch, height, width, _, heads, head_dim = qkv.shape
    return qkv.new_empty(batch, height, width, heads * head_dim)


@operator(_fake, _gradients)
def window_attention(qkv: Tensor, bias_table: Tensor, window: int, shift: int, padding: Tensor | None) -> Tensor:
    """Swin's attention from qkv (B, H, W, 3, heads, D) to (B, H, W, heads·D), with all that surrounds it.

    `bias_table` is ((2·window − 1)², heads) in the published order; `shift` is 0 or the roll of every other block,
    less than `window`; `padding` (3, heads, D) is what q, k and v are at padded positions, zeros where None.
    """
    batch, height, width, _, heads, head_dim = qkv.shape
    block_d = max(16, power_of_2(head_dim))
    tiles = (SMALL_WINDOWS if window <= 8 else LARGE_WINDOWS)[qkv.element_size() * 8, block_d]
    tokens = window * window
    precision = dot_precision(qkv.dtype)
    warps = 8 if precision == "ieee" else tiles.num_warps  # where the products themselves are made in registers
    rows, columns = (min(size, max(16, power_of_2(tokens))) for size in (tiles.rows, tiles.columns))
    down, across = -(-height // window), -(-width // window)
    blocks, keys = -(-tokens // rows), -(-tokens // columns) * columns
    # A larger window than a tile keeps no biases, which would be all that a program's windows have in common.
    windows_each, edges, groups = _groups(batch, down, across, heads, shift, alone=tokens > columns)
    out = torch.empty((batch, height, width, heads * head_dim), dtype=qkv.dtype, device=qkv.device)
    bias = bias_table.contiguous()
    if tokens > columns:
        bias = torch.empty((heads, tokens, keys), dtype=bias.dtype, device=bias.device)
        launch(
            _spread_bias, (tokens, heads), bias_table.contiguous(), bias, heads,
            WINDOW=window, BLOCK=power_of_2(keys), KEYS=keys, num_warps=4,
        )  # fmt: skip
    launch(
        _window_attention_forward, (heads, blocks, groups),
        qkv, bias, _padded(qkv, window, padding), out,
        batch, windows_each, height, width, down, across, shift, heads, *edges, head_dim**-0.5 * LOG2E.value,
        WINDOW=window, HEAD_DIM=head_dim, BLOCK_D=block_d, BLOCK_M=rows, BLOCK_N=columns, KEYS=keys,
        SHIFTED=shift > 0, PRECISION=precision, num_warps=warps, num_stages=tiles.num_stages,
    )  # fmt: skip
    return out


def why_not(qkv: Tensor, bias_table: Tensor, window: int, shift: int, padding: Tensor | None) -> str | None:
    """The reason why `window_attention` cannot take these arguments, or None."""
    tensors = qkv, bias_table, padding
    reason = why_not_here(tensors, backward=True)
    if reason:
        return reason
    largest = 64 if qkv.dtype is torch.float32 else 128
    if gradient_wanted(tensors):
        largest = LARGEST_BACKWARD
        if window > WIDEST_BACKWARD:
            widest = f"the backward pass holds windows of up to {WIDEST_BACKWARD}"
            return f"a gradient is wanted, and {widest}, not {window}"
    if qkv.shape[5] > largest:
        return f"the head size is {qkv.shape[5]}; the kernel holds {qkv.dtype} heads of up to {largest}"
    heads, size = qkv.shape[4:]
    table = ((2 * window - 1) ** 2, heads)
    reason = why_not_sizes(bias_table=(bias_table, table), padding=(padding, (3, heads, size)))
    if reason:
        return reason
    if not qkv.is_contiguous():
        return "qkv is not contiguous"
    if qkv.shape[1:].numel() > FURTHEST:
        return f"an image's q, k and v are more than {FURTHEST} elements; offsets in it have 32 bits"
    if heads * (window**2 + 64) ** 2 > FURTHEST:  # with a tile's rows and columns past the window's end
        return f"windows of {window} have more than {FURTHEST} biases; offsets in them have 32 bits"
    return None
