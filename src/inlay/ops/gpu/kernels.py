"""Calls the GPU's kernels on tensors.

In: CUDA tensors whose rows are contiguous. Out: tensors; each method is the kernel of the op of that name, and says
nothing that the op does not. Nothing here makes the host wait for the device, so that all of it can be captured in a
graph. Sizes that a model fixes are compiled in; numbers of rows are not, so no kernel is compiled while serving.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from inlay.ops.gpu import activation, attention, embedding, norm, rotary
from inlay.ops.layout import TILE, Layout, tiles_of
from inlay.ops.rows import FP8, Form, Rows

LOG2_E = math.log2(math.e)
ELEMENTS = 1024  # of a row that one program has where a row may be shared
SMALLEST_DOT = 16  # rows and columns of a tile that the tensor cores take


@dataclass(frozen=True, slots=True)
class Tile:
    """How one program of `attend` is cut."""

    heads: int  # that share a key head, at once
    keys: int  # in a step
    warps: int
    stages: int


class GpuKernels:
    """The kernels of one process; it keeps nothing."""

    def add_rms_norm(self, hidden: Tensor, delta: Rows | None, weight: Tensor, eps: float, to: Form) -> Rows:
        rows, width = hidden.shape
        out = _empty_rows((rows, width), to, hidden.device)
        block = _power_of_two(width)
        norm.add_rms_norm[(rows,)](
            *(hidden, _values(delta, hidden), weight, out.values, _scales(out), eps),
            **dict(WIDTH=width, HAS_DELTA=delta is not None, IS_FP8=to.dtype == FP8, BLOCK=block),
            num_warps=_warps(block),
        )
        return out

    def add_layer_norm(
        self,
        hidden: Tensor,
        delta: Rows | None,
        weight: Tensor,
        bias: Tensor,
        eps: float,
        to: Form,
        *,
        keeps_sum: bool = False,
    ) -> Rows:
        rows, width = hidden.shape
        has_out = keeps_sum or to.dtype != hidden.dtype
        out = _empty_rows((rows, width), to, hidden.device) if has_out else Rows(hidden)
        block = _power_of_two(width)
        norm.add_layer_norm[(rows,)](
            *(hidden, _values(delta, hidden), weight, bias, out.values, _scales(out), eps),
            **dict(WIDTH=width, HAS_DELTA=delta is not None, KEEPS_SUM=keeps_sum, IS_FP8=to.dtype == FP8),
            **dict(HAS_OUT=has_out, BLOCK=block),
            num_warps=_warps(block),
        )
        return out

    def convert(self, x: Tensor, to: Form) -> Rows:
        return self.activate(Rows(x.contiguous()), 0, to)

    def activate(self, x: Rows, function: int, to: Form) -> Rows:
        rows, width = x.shape
        out = _empty_rows((rows, width), to, x.values.device)
        block, programs = _blocks(width, to)
        activation.activate[(rows, programs)](
            *(x.values, x.values if x.bias is None else x.bias, out.values, _scales(out)),
            **dict(WIDTH=width, FUNCTION=function, HAS_BIAS=x.bias is not None, IS_FP8=to.dtype == FP8, BLOCK=block),
            num_warps=_warps(block),
        )
        return out

    def gated_product(self, x: Rows, function: int, to: Form, *, is_gate_first: bool) -> Rows:
        rows, width = len(x.values), x.shape[1] // 2
        out = _empty_rows((rows, width), to, x.values.device)
        block, programs = _blocks(width, to)
        activation.gated_product[(rows, programs)](
            *(x.values, out.values, _scales(out)),
            **dict(WIDTH=width, FUNCTION=function, GATE=0 if is_gate_first else width),
            **dict(IS_FP8=to.dtype == FP8, BLOCK=block),
            num_warps=_warps(block),
        )
        return out

    def rotate_heads(
        self,
        qkv: Rows,
        heads: tuple[int, int, int],
        weights: tuple[Tensor, Tensor] | None,
        eps: float,
        tables: tuple[Tensor, Tensor],
        positions: Tensor,
    ) -> Tensor:
        num_heads, kv_heads, head_dim = heads
        block_heads = min(8, _power_of_two(num_heads + kv_heads))
        rotary.rotate_heads[(len(positions), -(-(num_heads + kv_heads) // block_heads))](
            *(qkv.values, *(tables if weights is None else weights), *tables, positions, eps),
            **dict(HEADS=num_heads, KV_HEADS=kv_heads, WIDTH=head_dim, HAS_NORM=weights is not None),
            **dict(BLOCK_HEADS=block_heads, BLOCK=_power_of_two(head_dim // 2)),
            num_warps=4,
        )
        return qkv.values

    def look_up(self, tables: tuple[tuple[Tensor, Tensor | None], ...], rows: int) -> Tensor:
        first, ids = tables[0]
        out = torch.empty(rows, first.shape[1], device=first.device)
        block = _power_of_two(first.shape[1])
        given = [*tables, *[tables[0]] * (3 - len(tables))]
        embedding.look_up[(rows,)](
            *(tensor if tensor is not None else ids for table in given for tensor in table),
            out,
            **dict(WIDTH=first.shape[1], TABLES=len(tables), BLOCK=block),
            **dict(HAS_SECOND_IDS=given[1][1] is not None, HAS_THIRD_IDS=given[2][1] is not None),
            num_warps=_warps(block),
        )
        return out

    def mean_of_rows(self, hidden: Tensor, layout: Layout) -> Tensor:
        width = hidden.shape[1]
        sequences = len(layout.cu_seqlens) - 1
        out = torch.empty(sequences, width, device=hidden.device)
        block = min(128, _power_of_two(width))
        embedding.mean_of_rows[(sequences, -(-width // block))](
            *(hidden, layout.cu_seqlens, out), **dict(WIDTH=width, ROWS=SMALLEST_DOT, BLOCK=block), num_warps=4
        )
        return out

    def attention(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        queries: Layout,
        keys: Layout,
        *,
        is_causal: bool,
        window: int | None = None,
        distance_bias: Tensor | None = None,
    ) -> Tensor:
        _, heads, width = q.shape
        q, k, v = (_with_near_heads(x) for x in (q, k, v))
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        group = heads // k.shape[1]
        tile = _tile_of(group, width, q.dtype, has_one_row_each=queries.has_one_row_each)
        tokens = SMALLEST_DOT // tile.heads if queries.has_one_row_each else TILE
        tiles = _tiles_of(queries)
        programs = len(queries.cu_seqlens) - 1 if queries.has_one_row_each else len(tiles)
        kept = keys.kept
        attention.attend[(programs, heads // tile.heads)](
            *(q, k, v, out, tiles, queries.cu_seqlens, keys.cu_seqlens),
            *((k, v, tiles, tiles) if kept is None else (kept.k, kept.v, kept.starts, kept.lengths)),
            *(q.stride(0), k.stride(0), v.stride(0), 0 if kept is None else kept.k.stride(0)),
            width**-0.5 * LOG2_E,
            *((tiles, 0) if distance_bias is None else (distance_bias, distance_bias.shape[1] // 2)),
            **dict(HEADS=heads, GROUP=group, HEADS_AT_ONCE=tile.heads, TOKENS=tokens),
            **dict(WIDTH=width, BLOCK_WIDTH=max(SMALLEST_DOT, _power_of_two(width)), BLOCK_KEYS=tile.keys),
            **dict(IS_CAUSAL=is_causal, IS_ONE_ROW=queries.has_one_row_each, HAS_PREFIX=kept is not None),
            **dict(WINDOW=-1 if window is None else window, HAS_BIAS=distance_bias is not None),
            PRECISION="ieee" if q.dtype == torch.float32 else "tf32",
            num_warps=tile.warps,
            num_stages=tile.stages,
        )
        return out


def _tile_of(group: int, width: int, dtype: torch.dtype, *, has_one_row_each: bool) -> Tile:
    """The same for any batch, as it decides the order of sums. Measured on Hopper; see benchmarks/results."""
    heads = 2 if group % 2 == 0 else 1
    if dtype == torch.float32:
        return Tile(heads, 32, 4, 1)
    if has_one_row_each:
        return Tile(heads, 64 if width > 64 else 32, 4, 2)
    if width > 64:
        return Tile(2, 32, 8, 3) if heads == 2 else Tile(1, 64, 4, 2)
    return Tile(1, 64, 4, 3)


def _tiles_of(queries: Layout) -> Tensor:
    """Any address will do where they are not read."""
    if queries.tiles is not None or queries.has_one_row_each:
        return queries.cu_seqlens if queries.tiles is None else queries.tiles
    return torch.from_numpy(tiles_of(queries.host.numpy())).to(queries.cu_seqlens.device)


def _with_near_heads(x: Tensor) -> Tensor:
    """x [T, heads, width] with a token's heads one behind the other; rows may be apart."""
    return x if x.stride(2) == 1 and x.stride(1) == x.shape[2] else x.contiguous()


def _empty_rows(shape: tuple[int, int], to: Form, device: torch.device) -> Rows:
    scales = torch.empty(shape[0], device=device) if to.dtype == FP8 else None
    return Rows(torch.empty(shape, dtype=to.dtype, device=device), scales)


def _values(delta: Rows | None, otherwise: Tensor) -> Tensor:
    return otherwise if delta is None else delta.values


def _scales(out: Rows) -> Tensor:
    """Any address will do where none are written."""
    return out.values if out.scales is None else out.scales


def _blocks(width: int, to: Form) -> tuple[int, int]:
    """Values of one program, and programs of a row: one where it must find the row's scale."""
    block = _power_of_two(width) if to.dtype == FP8 else min(ELEMENTS, _power_of_two(width))
    return block, -(-width // block)


def _warps(block: int) -> int:
    return min(max(block // 256, 1), 16)


@cache
def _power_of_two(width: int) -> int:
    """The next one."""
    return 1 << (width - 1).bit_length()
