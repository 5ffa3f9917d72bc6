"""Softmax attention over a packed batch, in one kernel for whole sequences, pooled rows and kept prefixes.

A tile is some rows of one sequence, for the query heads that share a key head: each key is read once for them. Keys
come in two ranges, those of a kept prefix first. Online softmax (Milakov & Gimelshein 2018) in base 2; keys are never
split between programs, and each row's order is that of its own sequence, so it has the same bits in any batch.
"""

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
# Their places in the staging buffer differ from batch to batch, and each would be a kernel of its own.
UNALIGNED = ["tiles", "query_offsets", "key_offsets", "prefix_starts", "prefix_lengths"]


@triton.jit(do_not_specialize_on_alignment=UNALIGNED)
def attend(
    q, k, v, out, tiles, query_offsets, key_offsets, prefix_k, prefix_v, prefix_starts, prefix_lengths,
    q_stride, k_stride, v_stride, prefix_stride, scale, bias, bias_middle,
    HEADS: tl.constexpr, GROUP: tl.constexpr, HEADS_AT_ONCE: tl.constexpr, TOKENS: tl.constexpr,
    WIDTH: tl.constexpr, BLOCK_WIDTH: tl.constexpr, BLOCK_KEYS: tl.constexpr,
    IS_CAUSAL: tl.constexpr, IS_ONE_ROW: tl.constexpr, HAS_PREFIX: tl.constexpr,
    WINDOW: tl.constexpr, HAS_BIAS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """q [Tq, HEADS, WIDTH], k and v [T, HEADS / GROUP, WIDTH] → out [Tq, HEADS, WIDTH].

    tiles [N, 2]: a sequence (−1: nothing to do) and the first of its rows; where each sequence has one row, they are
    not read. `scale` is that of the scores times log2(e). Rows end where the keys end. With a WINDOW (−1: none) keys
    further away are not seen; bias [HEADS, 2 · bias_middle + 1] is added to scores by the key's place less the row's.
    Neither is for prefixes.
    """
    tile = tl.program_id(0)
    first_head = tl.program_id(1) * HEADS_AT_ONCE
    if IS_ONE_ROW:
        sequence, first, query_start, num_queries = tile, 0, tile, 1
    else:
        sequence, first = tl.load(tiles + 2 * tile), tl.load(tiles + 2 * tile + 1)
        if sequence < 0:
            return
        query_start = tl.load(query_offsets + sequence)
        num_queries = tl.load(query_offsets + sequence + 1) - query_start
    key_start = tl.load(key_offsets + sequence)
    num_keys = tl.load(key_offsets + sequence + 1) - key_start
    if num_keys == 0:
        return
    rows = tl.arange(0, TOKENS * HEADS_AT_ONCE)
    tokens, heads = first + rows // HEADS_AT_ONCE, first_head + rows % HEADS_AT_ONCE
    columns = tl.arange(0, BLOCK_WIDTH)
    inside = (tokens < num_queries)[:, None] & (columns < WIDTH)[None, :]
    place = (query_start + tokens).to(tl.int64)[:, None]
    queries = tl.load(q + place * q_stride + heads[:, None] * WIDTH + columns[None, :], mask=inside, other=0.0)

    peaks = tl.full([TOKENS * HEADS_AT_ONCE], float("-inf"), tl.float32)
    totals = tl.zeros([TOKENS * HEADS_AT_ONCE], tl.float32)
    mixed = tl.zeros([TOKENS * HEADS_AT_ONCE, BLOCK_WIDTH], tl.float32)
    kv_head = first_head // GROUP * WIDTH
    if HAS_PREFIX:
        length = tl.load(prefix_lengths + sequence)
        start = tl.load(prefix_starts + sequence).to(tl.int64) * prefix_stride + kv_head
        last = rows * 0 + length - 1
        peaks, totals, mixed = _see(
            queries, peaks, totals, mixed, prefix_k + start, prefix_v + start, prefix_stride, prefix_stride, 0, length,
            last, last, scale, bias, WIDTH, BLOCK_WIDTH, BLOCK_KEYS, True, -1, False, PRECISION,
        )  # fmt: skip
    own = tl.minimum(num_keys - num_queries + tokens, num_keys - 1)  # each row's place among the keys
    own_bias = bias + heads * (2 * bias_middle + 1) + bias_middle - own if HAS_BIAS else bias
    if IS_CAUSAL:
        seen_by_first = num_keys - num_queries + first + 1
        last = own  # the last key that each row sees
        end = tl.minimum(num_keys, seen_by_first + TOKENS - 1)
    else:
        seen_by_first = num_keys
        last = rows * 0 + num_keys - 1
        end = num_keys
    whole = seen_by_first // BLOCK_KEYS * BLOCK_KEYS  # up to here every row sees every key
    begin = 0
    if WINDOW >= 0:
        begin = tl.maximum(num_keys - num_queries + first - WINDOW, 0) // BLOCK_KEYS * BLOCK_KEYS
        end = tl.minimum(end, num_keys - num_queries + first + TOKENS + WINDOW)
        last = tl.minimum(last, own + WINDOW)
        whole = begin
    own_k = k + key_start.to(tl.int64) * k_stride + kv_head
    own_v = v + key_start.to(tl.int64) * v_stride + kv_head
    peaks, totals, mixed = _see(
        queries, peaks, totals, mixed, own_k, own_v, k_stride, v_stride, begin, whole,
        last, own, scale, own_bias, WIDTH, BLOCK_WIDTH, BLOCK_KEYS, False, -1, HAS_BIAS, PRECISION,
    )  # fmt: skip
    peaks, totals, mixed = _see(
        queries, peaks, totals, mixed, own_k, own_v, k_stride, v_stride, whole, end,
        last, own, scale, own_bias, WIDTH, BLOCK_WIDTH, BLOCK_KEYS, True, WINDOW, HAS_BIAS, PRECISION,
    )  # fmt: skip
    result = (mixed / totals[:, None]).to(out.dtype.element_ty)
    tl.store(out + place * (HEADS * WIDTH) + heads[:, None] * WIDTH + columns[None, :], result, mask=inside)


@triton.jit
def _see(
    queries, peaks, totals, mixed, k, v, k_stride, v_stride, begin, end, last, own, scale, bias,
    WIDTH: tl.constexpr, BLOCK_WIDTH: tl.constexpr, BLOCK_KEYS: tl.constexpr,
    IS_MASKED: tl.constexpr, WINDOW: tl.constexpr, HAS_BIAS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The online softmax over the keys from `begin` to `end`, of which a row sees those from `own` − WINDOW to `last`.

    `bias`: of each row, where that of key 0 lies.
    """
    columns = tl.arange(0, BLOCK_WIDTH)
    for start in range(begin, end, BLOCK_KEYS):
        keys = start + tl.arange(0, BLOCK_KEYS)
        inside = (columns < WIDTH)[:, None]
        if IS_MASKED:
            inside = inside & (keys < end)[None, :]
        place = keys.to(tl.int64)
        key_tile = tl.load(k + place[None, :] * k_stride + columns[:, None], mask=inside, other=0.0)
        scores = tl.dot(queries, key_tile, input_precision=PRECISION)
        if HAS_BIAS:
            is_seen = keys[None, :] <= last[:, None]
            scores = scores * scale + tl.load(bias[:, None] + keys[None, :], mask=is_seen, other=0.0) * LOG2_E
        if IS_MASKED:
            scores = tl.where(keys[None, :] <= last[:, None], scores, float("-inf"))
        if WINDOW >= 0:
            scores = tl.where(keys[None, :] >= (own - WINDOW)[:, None], scores, float("-inf"))
        factor = 1.0 if HAS_BIAS else scale
        higher = tl.maximum(peaks, tl.max(scores, axis=1) * factor)
        if WINDOW >= 0:  # a row may see none of these keys, and none before
            higher = tl.where(higher == float("-inf"), 0.0, higher)
        weights = tl.exp2(scores * factor - higher[:, None])
        shrink = tl.exp2(peaks - higher)
        inside = (columns < WIDTH)[None, :]
        if IS_MASKED:
            inside = inside & (keys < end)[:, None]
        value_tile = tl.load(v + place[:, None] * v_stride + columns[None, :], mask=inside, other=0.0)
        totals = totals * shrink + tl.sum(weights, axis=1)
        mixed = tl.dot(weights.to(v.dtype.element_ty), value_tile, mixed * shrink[:, None], input_precision=PRECISION)
        peaks = higher
    return peaks, totals, mixed
