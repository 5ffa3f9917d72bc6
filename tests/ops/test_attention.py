from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from inlay.ops import attention as module
from inlay.ops.attention import attend_in_blocks, attend_one_by_one, attention
from inlay.ops.layout import Layout
from inlay.ops.native import Kernels

HEADS, KV_HEADS, WIDTH = 8, 4, 16  # MKL sums by alignment: with 4 kv heads it is the same wherever a sequence lies


def make(lengths: list[int], dtype: torch.dtype = torch.float32, device: str = "cpu") -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    total = sum(lengths)
    shapes = ((total, HEADS, WIDTH), (total, KV_HEADS, WIDTH), (total, KV_HEADS, WIDTH))
    return tuple(torch.randn(shape).to(device, dtype) for shape in shapes)


def layout_of(lengths: list[int], device: str = "cpu") -> Layout:
    return Layout.of(np.cumsum([0, *lengths]), torch.device(device))


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lengths: list[int], *, is_causal: bool) -> torch.Tensor:
    layout = layout_of(lengths, str(q.device))
    return attention(q, k, v, layout, layout, is_causal=is_causal)


def reference(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lengths: list[int], is_causal: bool) -> torch.Tensor:
    """torch's own attention, one sequence after the other."""
    out, start = [], 0
    for length in lengths:
        part = (x[start : start + length].transpose(0, 1).float() for x in (q, k, v))
        mixed = scaled_dot_product_attention(*part, is_causal=is_causal, enable_gqa=True)
        out.append(mixed.transpose(0, 1))
        start += length
    return torch.cat(out)


@pytest.mark.usefixtures("build")
@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize("lengths", [[1], [5, 5, 5], [1, 7, 7, 3], [300], [256, 257, 513], [600, 600]])
def test_each_sequence_sees_itself_alone(lengths: list[int], is_causal: bool) -> None:
    q, k, v = make(lengths)
    found = attend(q, k, v, lengths, is_causal=is_causal)
    torch.testing.assert_close(found, reference(q, k, v, lengths, is_causal), rtol=1e-5, atol=1e-6)


def test_many_short_sequences_are_split_to_keep_memory_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = [9] * 20
    q, k, v = make(lengths)
    whole = attend_in_blocks(q, k, v, layout_of(lengths), is_causal=True)
    monkeypatch.setattr(module, "SCORE_ELEMENTS", HEADS * 9 * 9 * 3)
    assert torch.equal(attend_in_blocks(q, k, v, layout_of(lengths), is_causal=True), whole)


@pytest.mark.usefixtures("build")
@pytest.mark.parametrize("is_causal", [True, False])
def test_queries_may_be_the_last_rows_alone(is_causal: bool) -> None:
    lengths, wanted = [3, 1, 30, 70], [1, 1, 2, 7]
    q, k, v = make(lengths)
    whole = reference(q, k, v, lengths, is_causal)
    ends = np.cumsum(lengths)
    rows = np.concatenate([np.arange(end - count, end) for end, count in zip(ends, wanted, strict=True)])
    found = attention(q[rows], k, v, layout_of(wanted), layout_of(lengths), is_causal=is_causal)
    torch.testing.assert_close(found, whole[rows], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("width", [12, 16, 24, 33, 64, 128])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_kernel_takes_any_width_of_head_and_views(build: Kernels | None, width: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    lengths = [1, 2, 17, 40, 700]
    fused = torch.randn(sum(lengths), (8 + 2 + 2) * width).to(dtype)
    q, k, v = fused.view(len(fused), 12, width).split([8, 2, 2], dim=1)
    found = attend(q, k, v, lengths, is_causal=True)
    expected = reference(q, k, v, lengths, True)
    near = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(found.float(), expected, rtol=near, atol=near)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_sequence_gets_the_same_bits_alone_and_among_others(build: Kernels | None, dtype: torch.dtype) -> None:
    lengths = [3, 50, 50, 600]
    q, k, v = make(lengths, dtype)
    together = attend(q, k, v, lengths, is_causal=True)
    for start, length in zip(np.cumsum([0, *lengths]), lengths, strict=False):
        rows = slice(start, start + length)
        assert torch.equal(attend(q[rows], k[rows], v[rows], [length], is_causal=True), together[rows])


@pytest.mark.usefixtures("build")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize("window", [None, 0, 1, 7, 64, 2000])
@pytest.mark.parametrize("has_bias", [True, False])
def test_attention_by_distance(dtype: torch.dtype, is_causal: bool, window: int | None, has_bias: bool) -> None:
    lengths = [1, 40, 40, 300, 1100]
    q, k, v = make(lengths, dtype)
    bias = 3 * torch.randn(HEADS, 2 * 1200 + 1) if has_bias else None
    layout = layout_of(lengths)
    more = {"is_causal": is_causal, "window": window, "distance_bias": bias}
    found = attention(q, k, v, layout, layout, **more)
    expected = attend_one_by_one(q.float(), k.float(), v.float(), layout, layout, **more)
    near = 2e-5 if dtype == torch.float32 else 3e-2
    torch.testing.assert_close(found.float(), expected, rtol=near, atol=near)
    mine, alone = slice(381, 1481), layout_of([1100])
    assert torch.equal(attention(q[mine], k[mine], v[mine], alone, alone, **more), found[mine])


def test_the_reference_sees_a_window_and_adds_what_distances_say() -> None:
    """Beside torch's own attention with a mask."""
    q, k, v = make([9])
    distances = torch.arange(9) - torch.arange(9)[:, None]
    bias = torch.randn(HEADS, 21)
    mask = bias[:, distances + 10].masked_fill(distances.abs() > 2, float("-inf"))
    part = (x.transpose(0, 1) for x in (q, k, v))
    expected = scaled_dot_product_attention(*part, attn_mask=mask, enable_gqa=True).transpose(0, 1)
    layout = layout_of([9])
    found = attend_one_by_one(q, k, v, layout, layout, is_causal=False, window=2, distance_bias=bias)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    last = attend_one_by_one(q[-1:], k, v, layout_of([1]), layout, is_causal=False, window=2, distance_bias=bias)
    torch.testing.assert_close(last, expected[-1:], rtol=1e-5, atol=1e-6)


def test_neighbours_of_equal_length_are_found() -> None:
    assert list(layout_of([2, 2, 3, 1, 1, 1]).runs()) == [(0, 2, 2), (4, 1, 3), (7, 3, 1)]
    assert list(layout_of([4]).runs()) == [(0, 1, 4)]


@pytest.mark.gpu
@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize("lengths", [[1], [5, 5, 5], [1, 7, 300, 3]])
def test_flash_attention_on_a_gpu_equals_the_reference_op(lengths: list[int], is_causal: bool) -> None:
    q, k, v = make(lengths, torch.bfloat16, "cuda")
    layout = layout_of(lengths, "cuda")
    found = attention(q, k, v, layout, layout, is_causal=is_causal)
    expected = attend_in_blocks(q.float(), k.float(), v.float(), layout, is_causal=is_causal)
    torch.testing.assert_close(found.float(), expected, rtol=2e-2, atol=2e-2)
