"""Each kernel of the GPU beside torch's op: bit for bit where sums have one order, and wherever it writes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from triton_interpreter import DEVICE, gpu_kernels

from inlay.ops.activation import ACTIVATIONS
from inlay.ops.attention import attend_one_by_one
from inlay.ops.layout import KeptRanges, Layout, tiles_of
from inlay.ops.rows import Form, Rows

FULL, HALF, FP8 = torch.float32, torch.bfloat16, torch.float8_e4m3fn
HEADS = [(4, 4, 12), (4, 2, 16), (3, 1, 32), (8, 2, 64), (2, 2, 128)]  # heads, kv_heads, head_dim
# float32: sums in another order. bfloat16: one rounding. FP8: three bits of fraction.
CLOSE = {FULL: {"rtol": 1e-5, "atol": 2e-6}, HALF: {"rtol": 8e-3, "atol": 1e-6}, FP8: {"rtol": 0.07, "atol": 0.03}}


@pytest.fixture(autouse=True)
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kernel leaves unwritten is NaN."""
    gpu_kernels()
    whole = torch.empty

    def empty(*arguments: object, **more: object) -> Tensor:
        out = whole(*arguments, **more)
        return out.fill_(torch.nan) if out.is_floating_point() else out

    monkeypatch.setattr(torch, "empty", empty)


def random(*shape: int, dtype: torch.dtype = FULL) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(DEVICE, dtype)


def layout_of(lengths: list[int], *, filled: int = 0) -> Layout:
    """With so many sequences without rows, and tiles without sequences, behind."""
    offsets = np.array([0, *np.cumsum(lengths)])
    layout = Layout.of(offsets, DEVICE)
    tiles = np.concatenate([tiles_of(offsets), np.full((filled, 2), -1, dtype=np.int32)])
    cu_seqlens = F.pad(layout.cu_seqlens, (0, filled), value=int(offsets[-1]))
    return replace(layout, tiles=torch.from_numpy(tiles).to(DEVICE), cu_seqlens=cu_seqlens)


def assert_rows(found: Rows, expected: Tensor, to: torch.dtype) -> None:
    """As the reference gives them in this form, to the bit but for sums."""
    torch.testing.assert_close(found.full(), expected, **CLOSE[to])
    assert found.values.dtype == to
    if to == FP8:
        assert found.scales is not None
        torch.testing.assert_close(found.scales, expected.abs().amax(dim=1) / 448, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("to", [FULL, HALF, FP8])
@pytest.mark.parametrize("width", [48, 64])
@pytest.mark.parametrize("delta_dtype", [None, FULL, HALF])
def test_add_rms_norm(to: torch.dtype, width: int, delta_dtype: torch.dtype | None) -> None:
    hidden, weight = random(5, width), random(width)
    delta = None if delta_dtype is None else Rows(random(5, width, dtype=delta_dtype))
    total = hidden if delta is None else hidden + delta.full()
    found = gpu_kernels().add_rms_norm(kept := hidden.clone(), delta, weight, 1e-6, Form(to))
    assert_rows(found, F.rms_norm(total, (width,), weight, 1e-6), to)
    assert torch.equal(kept, total)


@pytest.mark.parametrize("to", [FULL, HALF, FP8])
@pytest.mark.parametrize("width", [48, 64])
def test_add_layer_norm(to: torch.dtype, width: int) -> None:
    hidden, delta, weight, bias = random(5, width), random(5, width, dtype=HALF), random(width), random(width) + 1
    total = hidden + delta.float()
    expected = F.layer_norm(total, (width,), weight, bias, 1e-6)
    found = gpu_kernels().add_layer_norm(kept := hidden.clone(), Rows(delta), weight, bias, 1e-6, Form(to))
    assert_rows(found, expected, to)
    torch.testing.assert_close(kept, expected, **CLOSE[FULL])
    found = gpu_kernels().add_layer_norm(hidden, Rows(delta), weight, bias, 1e-6, Form(to), keeps_sum=True)
    assert_rows(found, expected, to)
    assert torch.equal(hidden, total)


@pytest.mark.parametrize("to", [FULL, HALF, FP8])
@pytest.mark.parametrize("width", [40, 64])
@pytest.mark.parametrize("is_gate_first", [True, False])
def test_gated_product(to: torch.dtype, width: int, is_gate_first: bool) -> None:
    x = random(5, 2 * width, dtype=HALF)
    gate, up = x.float().chunk(2, dim=1) if is_gate_first else x.float().chunk(2, dim=1)[::-1]
    for name in ("silu", "gelu", "gelu_new"):
        number, reference = ACTIVATIONS[name]
        found = gpu_kernels().gated_product(Rows(x), number, Form(to), is_gate_first=is_gate_first)
        assert_rows(found, reference(gate) * up, to)


@pytest.mark.parametrize("to", [HALF, FP8])
@pytest.mark.parametrize("function", sorted(ACTIVATIONS))
@pytest.mark.parametrize("has_bias", [True, False])
def test_activate(to: torch.dtype, function: str, has_bias: bool) -> None:
    x, bias = random(5, 40, dtype=HALF), random(40) if has_bias else None
    number, reference = ACTIVATIONS[function]
    expected = reference(x.float() if bias is None else x.float() + bias)
    found = gpu_kernels().activate(Rows(x, bias=bias), number, Form(to))
    torch.testing.assert_close(found.full(), expected, **CLOSE[to])


def test_a_long_row_is_shared_by_programs_and_has_one_scale() -> None:
    x = random(2, 2 * 1500)
    gate, up = x.chunk(2, dim=1)
    for to in (FULL, FP8):
        found = gpu_kernels().gated_product(Rows(x), ACTIVATIONS["silu"][0], Form(to), is_gate_first=True)
        assert_rows(found, F.silu(gate) * up, to)


@pytest.mark.parametrize("dtype", [FULL, HALF])
@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("has_norm", [True, False])
def test_rotate_heads(dtype: torch.dtype, heads: tuple[int, int, int], has_norm: bool) -> None:
    num_heads, kv_heads, width = heads
    qkv = random(6, (num_heads + 2 * kv_heads) * width, dtype=dtype)
    weights, angles = (random(width), random(width) + 1), random(9, width // 2)
    positions = torch.tensor([0, 1, 2, 0, 8, 3], dtype=torch.int32, device=DEVICE)
    q, k, v = qkv.float().view(6, -1, width).split([num_heads, kv_heads, kv_heads], dim=1)
    cos, sin = angles.cos()[positions.long()][:, None], angles.sin()[positions.long()][:, None]

    def turned(x: Tensor, weight: Tensor) -> Tensor:
        first, second = (F.rms_norm(x, (width,), weight, 1e-6) if has_norm else x).chunk(2, dim=-1)
        return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)

    expected = torch.cat((turned(q, weights[0]), turned(k, weights[1]), v), dim=1).flatten(1)
    tables = angles.cos(), angles.sin()
    found = gpu_kernels().rotate_heads(Rows(qkv), heads, weights if has_norm else None, 1e-6, tables, positions)
    torch.testing.assert_close(
        found.float(), expected, rtol=8e-3 if dtype == HALF else 1e-5, atol=1e-2 if dtype == HALF else 1e-5
    )
    assert torch.equal(found.view(6, -1, width)[:, num_heads + kv_heads :].float(), v)


@pytest.mark.parametrize("dtype", [FULL, HALF])
@pytest.mark.parametrize("tables", [1, 2, 3])
@pytest.mark.parametrize("has_last_ids", [True, False])
def test_look_up(dtype: torch.dtype, tables: int, has_last_ids: bool) -> None:
    given = [
        (random(9 + n, 48, dtype=dtype), torch.tensor([n, 8, 3], dtype=torch.int32, device=DEVICE))
        for n in range(tables)
    ]
    if tables > 1 and not has_last_ids:
        given[-1] = (given[-1][0], None)
    expected = sum(table.float()[[0] * 3 if ids is None else ids.tolist()] for table, ids in given)
    assert torch.equal(gpu_kernels().look_up(tuple(given), 3), expected)


def test_mean_of_rows() -> None:
    lengths = [1, 40, 3, 17]
    hidden = random(sum(lengths), 48)
    found = gpu_kernels().mean_of_rows(hidden, layout_of(lengths, filled=2))
    expected = torch.stack([part.mean(dim=0) for part in hidden.split(lengths)])
    torch.testing.assert_close(found[:4], expected, **CLOSE[FULL])
    assert found[4:].eq(0).all(), "a sequence without rows must not make NaN"
    alone = gpu_kernels().mean_of_rows(hidden[1:41].contiguous(), layout_of([40]))
    assert torch.equal(alone[0], found[1])


@pytest.mark.parametrize("dtype", [FULL, HALF])
@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize("heads", HEADS)
def test_attention(dtype: torch.dtype, is_causal: bool, heads: tuple[int, int, int]) -> None:
    num_heads, kv_heads, width = heads
    lengths = [1, 70, 0, 7, 64]
    layout = layout_of(lengths, filled=3)
    rows = sum(lengths)
    qkv = random(rows, num_heads + 2 * kv_heads, width, dtype=dtype)  # heads that lie apart, as a projection gives them
    q, k, v = qkv.split([num_heads, kv_heads, kv_heads], dim=1)
    found = gpu_kernels().attention(q, k, v, layout, layout, is_causal=is_causal)
    own = layout_of(lengths)
    expected = attend_one_by_one(*(x.float() for x in (q, k, v)), own, own, is_causal=is_causal)
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=1e-2 if dtype == HALF else 2e-6)
    alone = layout_of([70])
    mine = slice(1, 71)
    assert torch.equal(
        gpu_kernels().attention(q[mine], k[mine], v[mine], alone, alone, is_causal=is_causal), found[mine]
    )


@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize("window", [None, 0, 5, 64])
@pytest.mark.parametrize("has_bias", [True, False])
def test_attention_by_distance(is_causal: bool, window: int | None, has_bias: bool) -> None:
    lengths = [1, 200, 0, 70]
    layout = layout_of(lengths, filled=2)
    q, k, v = random(271, 4, 16), random(271, 2, 16), random(271, 2, 16)
    bias = 3 * random(4, 2 * 200 + 1) if has_bias else None
    more = {"is_causal": is_causal, "window": window, "distance_bias": bias}
    found = gpu_kernels().attention(q, k, v, layout, layout, **more)
    own = layout_of(lengths)
    torch.testing.assert_close(found, attend_one_by_one(q, k, v, own, own, **more), rtol=0, atol=5e-6)
    alone, mine = layout_of([70]), slice(201, 271)
    assert torch.equal(gpu_kernels().attention(q[mine], k[mine], v[mine], alone, alone, **more), found[mine])


@pytest.mark.parametrize("heads", HEADS)
def test_attention_of_one_row_of_each_sequence(heads: tuple[int, int, int]) -> None:
    num_heads, kv_heads, width = heads
    lengths = [1, 70, 7]
    layout, rows = layout_of(lengths), Layout.of_one_row_each(3, DEVICE)
    q, k, v = random(3, num_heads, width), random(78, kv_heads, width), random(78, kv_heads, width)
    found = gpu_kernels().attention(q, k, v, rows, layout, is_causal=False)
    expected = attend_one_by_one(q, k, v, rows, layout, is_causal=False)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("dtype", [FULL, HALF])
@pytest.mark.parametrize("heads", [(4, 2, 16), (3, 1, 32)])
def test_attention_behind_kept_keys_is_that_of_the_whole(dtype: torch.dtype, heads: tuple[int, int, int]) -> None:
    num_heads, kv_heads, width = heads
    own, before = [5, 66, 3], [40, 0, 100]
    kept_k, kept_v = (random(160, kv_heads, width, dtype=dtype) for _ in range(2))
    starts = [10, 0, 55]
    lengths = [a + b for a, b in zip(own, before, strict=True)]
    q, k, v = (random(sum(own), n, width, dtype=dtype) for n in (num_heads, kv_heads, kv_heads))
    starts_, lengths_ = (torch.tensor(x, dtype=torch.int32, device=DEVICE) for x in (starts, before))
    kept = KeptRanges(kept_k.flatten(1), kept_v.flatten(1), starts_, lengths_)
    queries = layout_of(own)
    found = gpu_kernels().attention(q, k, v, queries, replace(queries, kept=kept), is_causal=True)
    whole_k, whole_v = (
        torch.cat(
            [
                torch.cat([held[start : start + length], x])
                for start, length, x in zip(starts, before, one.split(own), strict=True)
            ]
        )
        for held, one in ((kept_k, k), (kept_v, v))
    )
    expected = attend_one_by_one(
        *(x.float() for x in (q, whole_k, whole_v)), queries, layout_of(lengths), is_causal=True
    )
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=1e-2 if dtype == HALF else 2e-6)
