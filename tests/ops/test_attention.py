from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from inlay.ops import attention as module
from inlay.ops.attention import attend_in_blocks, attention
from inlay.ops.layout import Layout

HEADS, KV_HEADS, WIDTH = 8, 4, 16  # MKL sums by alignment: with 4 kv heads it is the same wherever a sequence lies


def make(lengths: list[int], dtype: torch.dtype = torch.float32, device: str = "cpu") -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    total = sum(lengths)
    shapes = ((total, HEADS, WIDTH), (total, KV_HEADS, WIDTH), (total, KV_HEADS, WIDTH))
    return tuple(torch.randn(shape).to(device, dtype) for shape in shapes)


def layout_of(lengths: list[int], device: str = "cpu") -> Layout:
    return Layout.of(np.cumsum([0, *lengths]), torch.device(device))


def reference(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lengths: list[int], is_causal: bool) -> torch.Tensor:
    """torch's own attention, one sequence after the other."""
    out, start = [], 0
    for length in lengths:
        part = (x[start : start + length].transpose(0, 1).float() for x in (q, k, v))
        mixed = scaled_dot_product_attention(*part, is_causal=is_causal, enable_gqa=True)
        out.append(mixed.transpose(0, 1))
        start += length
    return torch.cat(out)


@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize("lengths", [[1], [5, 5, 5], [1, 7, 7, 3], [300], [256, 257, 513], [600, 600]])
def test_each_sequence_sees_itself_alone(lengths: list[int], is_causal: bool) -> None:
    q, k, v = make(lengths)
    found = attention(q, k, v, layout_of(lengths), is_causal=is_causal)
    torch.testing.assert_close(found, reference(q, k, v, lengths, is_causal), rtol=1e-5, atol=1e-6)


def test_many_short_sequences_are_split_to_keep_memory_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = [9] * 20
    q, k, v = make(lengths)
    whole = attention(q, k, v, layout_of(lengths), is_causal=True)
    monkeypatch.setattr(module, "SCORE_ELEMENTS", HEADS * 9 * 9 * 3)
    assert torch.equal(attention(q, k, v, layout_of(lengths), is_causal=True), whole)


def test_neighbours_of_equal_length_are_found() -> None:
    assert list(layout_of([2, 2, 3, 1, 1, 1]).runs()) == [(0, 2, 2), (4, 1, 3), (7, 3, 1)]
    assert list(layout_of([4]).runs()) == [(0, 1, 4)]


@pytest.mark.gpu
@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize("lengths", [[1], [5, 5, 5], [1, 7, 300, 3]])
def test_flash_attention_on_a_gpu_equals_the_reference_op(lengths: list[int], is_causal: bool) -> None:
    q, k, v = make(lengths, torch.bfloat16, "cuda")
    layout = layout_of(lengths, "cuda")
    found = attention(q, k, v, layout, is_causal=is_causal)
    expected = attend_in_blocks(q.float(), k.float(), v.float(), layout, is_causal=is_causal)
    torch.testing.assert_close(found.float(), expected, rtol=2e-2, atol=2e-2)
