"""Rows of tables, summed in float32; and means of rows."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize_on_alignment=["ids", "second_ids", "third_ids"])
def look_up(
    first, ids, second, second_ids, third, third_ids, out,
    WIDTH: tl.constexpr, TABLES: tl.constexpr, HAS_SECOND_IDS: tl.constexpr, HAS_THIRD_IDS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """The sum of a row of each of one to three tables; without ids a table behind the first gives its first row."""
    token = tl.program_id(0)
    columns = tl.arange(0, BLOCK)
    inside = columns < WIDTH
    row = tl.load(ids + token).to(tl.int64)
    total = tl.load(first + row * WIDTH + columns, mask=inside, other=0.0).to(tl.float32)
    if TABLES > 1:
        row = row * 0
        if HAS_SECOND_IDS:
            row = tl.load(second_ids + token).to(tl.int64)
        total += tl.load(second + row * WIDTH + columns, mask=inside, other=0.0).to(tl.float32)
    if TABLES > 2:
        row = row * 0
        if HAS_THIRD_IDS:
            row = tl.load(third_ids + token).to(tl.int64)
        total += tl.load(third + row * WIDTH + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + token.to(tl.int64) * WIDTH + columns, total, mask=inside)


@triton.jit(do_not_specialize_on_alignment=["offsets"])
def mean_of_rows(hidden, offsets, out, WIDTH: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """The mean of the rows of each sequence; summed in an order that its length alone decides."""
    sequence = tl.program_id(0)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < WIDTH
    begin, end = tl.load(offsets + sequence), tl.load(offsets + sequence + 1)
    totals = tl.zeros([ROWS, BLOCK], tl.float32)
    for start in range(begin, end, ROWS):
        rows = start + tl.arange(0, ROWS)
        mask = (rows < end)[:, None] & inside[None, :]
        totals += tl.load(hidden + rows.to(tl.int64)[:, None] * WIDTH + columns[None, :], mask=mask, other=0.0)
    mean = tl.sum(totals, axis=0) / tl.maximum(end - begin, 1).to(tl.float32)
    tl.store(out + sequence * WIDTH + columns, mean, mask=inside)
