"""Softmax attention over a packed batch: each sequence sees itself and nothing else.

Behind one function: the compiled kernel of a CPU or a GPU; on CUDA in float32, or without that kernel, torch's
memory-efficient or varlen flash attention; and for everything else grouped matrix products in query blocks, which skip
the keys above the diagonal and keep memory bounded for long inputs. There, sequences of equal length that lie side by
side share one product.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor

from inlay.ops.dispatch import kernels_for
from inlay.ops.layout import Layout

QUERY_BLOCK = 256  # rows of one score block; above 128 the products run at full speed
AMPERE, LARGEST_FLASH_HEAD = (8, 0), 256
NOT_CAUSAL, CAUSAL_FROM_THE_END = 0, 2  # of the memory-efficient kernel
SCORE_ELEMENTS = 1 << 24  # scores alive at once: 64 MiB in float32


def attention(
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
    """q [Tq, heads, head_dim], k and v [T, kv_heads, head_dim] → [Tq, heads, head_dim]; scale 1/√head_dim.

    With fewer kv_heads than heads, each serves heads / kv_heads neighbouring query heads. `queries` says which
    rows of q belong to each sequence of `keys`: all positions, or only its last ones. With a `window` a token sees
    those alone that are at most so many positions away. `distance_bias` [heads, 2 · d + 1] in float32 is added to
    scores: at d + n where the key is n positions behind the query; d is at least the longest distance.
    """
    is_plain = window is None and distance_bias is None
    if is_plain and q.is_cuda and q.dtype == torch.float32 and q.shape[-1] % 4 == 0:
        return attend_efficiently(q, k, v, queries, keys, is_causal=is_causal)  # it has tiles for float32
    if (kernels := kernels_for(q)) is not None:
        return kernels.attention(
            q, k, v, queries, keys, is_causal=is_causal, window=window, distance_bias=distance_bias
        )
    if is_plain and q.is_cuda and has_flash(q.device, q.dtype, q.shape[-1]):
        return attend_by_flash(q, k, v, queries, keys, is_causal=is_causal)
    if is_plain and q.is_cuda and q.shape[-1] % 4 == 0:
        return attend_efficiently(q, k, v, queries, keys, is_causal=is_causal)
    if queries is keys:
        return attend_in_blocks(q, k, v, keys, is_causal=is_causal, window=window, distance_bias=distance_bias)
    return attend_one_by_one(q, k, v, queries, keys, is_causal=is_causal, window=window, distance_bias=distance_bias)


@dataclass(frozen=True, slots=True)
class Scores:
    """What happens to scaled scores by the distance of a key from its query; see `attention`."""

    is_causal: bool
    window: int | None = None
    distance_bias: Tensor | None = None

    def placed(self, scores: Tensor, first_query: int, first_key: int = 0) -> Tensor:
        """scores [..., heads, queries, keys] of queries and keys from these positions on, biased and masked."""
        count, seen = scores.shape[-2:]
        device = scores.device
        queries = torch.arange(first_query, first_query + count, device=device)
        distances = torch.arange(first_key, first_key + seen, device=device) - queries[:, None]  # [queries, keys]
        if self.distance_bias is not None:
            scores = scores + self.distance_bias[:, distances + self.distance_bias.shape[1] // 2]
        if self.is_causal:
            scores = scores.masked_fill(distances > 0, float("-inf"))
        if self.window is not None:
            scores = scores.masked_fill(distances.abs() > self.window, float("-inf"))
        return scores

    def keys_of(self, first_query: int, end_query: int, num_keys: int) -> slice:
        """Those that queries from one position to before another see together."""
        begin, end = 0, end_query if self.is_causal else num_keys
        if self.window is None:
            return slice(begin, end)
        return slice(max(0, first_query - self.window), min(end, end_query + self.window))


def attend_one_by_one(
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
    """The same sequence by sequence: plain, and what the others are compared with."""
    scores = Scores(is_causal, window, distance_bias)
    out = torch.empty_like(q)
    group = q.shape[1] // k.shape[1]
    for (q_start, q_end), (start, end) in zip(pairwise(queries.offsets), pairwise(keys.offsets), strict=True):
        own_k, own_v = (x[start:end].transpose(0, 1).repeat_interleave(group, dim=0) for x in (k, v))
        scaled = q[q_start:q_end].transpose(0, 1) @ own_k.mT * q.shape[-1] ** -0.5  # [heads, queries, keys]
        placed = scores.placed(scaled, (end - start) - (q_end - q_start))
        weights = torch.softmax(placed, dim=-1, dtype=torch.float32).to(v.dtype)
        out[q_start:q_end] = (weights @ own_v).transpose(0, 1)
    return out


def attend_in_blocks(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: Layout,
    *,
    is_causal: bool,
    window: int | None = None,
    distance_bias: Tensor | None = None,
) -> Tensor:
    """The same on any device and in any dtype, from plain matrix products; the softmax is in float32."""
    scores = Scores(is_causal, window, distance_bias)
    out = torch.empty_like(q)
    heads = q.shape[1]
    for first, count, length in layout.runs():
        if length == 0:
            continue
        step = max(1, SCORE_ELEMENTS // (heads * length * min(length, QUERY_BLOCK)))
        for start in range(0, count, step):
            number = min(step, count - start)
            rows = slice(first + start * length, first + (start + number) * length)
            _attend_run(q[rows], k[rows], v[rows], out[rows], number, scores)
    return out


def _attend_run(q: Tensor, k: Tensor, v: Tensor, out: Tensor, count: int, scores: Scores) -> None:
    """Attention of `count` sequences of equal length, written to out."""
    rows, heads, width = q.shape
    kv_heads, length = k.shape[1], rows // count
    group = heads // kv_heads
    # Always copied, never viewed: MKL sums in another order for another memory layout.
    keys = k.view(count, length, kv_heads, width).permute(0, 2, 3, 1).contiguous().flatten(0, 1)
    values = v.view(count, length, kv_heads, width).transpose(1, 2).contiguous().flatten(0, 1)
    queries = q.view(count, length, kv_heads, group, width)
    target = out.view(count, length, kv_heads, group, width)
    for start in range(0, length, QUERY_BLOCK):
        end = min(start + QUERY_BLOCK, length)
        seen = scores.keys_of(start, end, length)
        block = queries[:, start:end].permute(0, 2, 3, 1, 4).contiguous()
        block = block.view(-1, group * (end - start), width)
        scaled = torch.bmm(block * width**-0.5, keys[:, :, seen])  # [count·kv, group·block, seen]
        placed = scores.placed(scaled.view(count, heads, end - start, -1), start, seen.start).view(scaled.shape)
        weights = torch.softmax(placed, dim=-1, dtype=torch.float32).to(v.dtype)
        mixed = torch.bmm(weights, values[:, seen])
        target[:, start:end] = mixed.view(count, kv_heads, group, end - start, width).permute(0, 3, 1, 2, 4)


def attend_efficiently(q: Tensor, k: Tensor, v: Tensor, queries: Layout, keys: Layout, *, is_causal: bool) -> Tensor:
    """The same by torch's memory-efficient kernel, which takes float32 and older GPUs: one launch for all sequences."""
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    out = torch.ops.aten._efficient_attention_forward(
        *(q[None], k[None], v[None], None),
        *(queries.cu_seqlens, keys.cu_seqlens, queries.max_length, keys.max_length),
        *(0.0, CAUSAL_FROM_THE_END if is_causal else NOT_CAUSAL),
    )
    return cast(Tensor, out[0][0])


@cache
def has_flash(device: torch.device, dtype: torch.dtype, head_dim: int) -> bool:
    """Does the flash kernel take these? Half precision, from Ampere on, widths that it has tiles for."""
    if dtype not in (torch.float16, torch.bfloat16) or head_dim % 8 or head_dim > LARGEST_FLASH_HEAD:
        return False
    return torch.cuda.get_device_capability(device) >= AMPERE


@cache
def _varlen_parameters() -> frozenset[str]:
    """They differ between torch 2.10 and 2.14."""
    from torch.nn.attention.varlen import varlen_attn

    return frozenset(inspect.signature(varlen_attn).parameters)


def attend_by_flash(q: Tensor, k: Tensor, v: Tensor, queries: Layout, keys: Layout, *, is_causal: bool) -> Tensor:
    """torch's varlen flash attention. Before it asks for `enable_gqa`, it takes fewer kv_heads without a word."""
    from torch.nn.attention.varlen import varlen_attn

    arguments: dict[str, Any] = {}
    known = _varlen_parameters()
    if "is_causal" in known:
        arguments["is_causal"] = is_causal
    elif is_causal:
        arguments["window_size"] = (-1, 0)
    if "enable_gqa" in known:
        arguments["enable_gqa"] = k.shape[1] != q.shape[1]
    if "num_splits" in known:
        arguments["num_splits"] = 1  # the same sums whatever else is in the batch
    lengths = (queries.cu_seqlens, keys.cu_seqlens, queries.max_length, keys.max_length)
    return cast(Tensor, varlen_attn(q, k, v, *lengths, **arguments))
