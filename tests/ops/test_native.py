"""Each build of the kernels against the reference: the same op with no kernels."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from inlay.ops import native
from inlay.ops.activation import ACTIVATIONS, activate, gated_product
from inlay.ops.convert import rows_in, tensor_of
from inlay.ops.native import Kernels, runnable_kernels
from inlay.ops.norm import add_layer_norm, add_rms_norm
from inlay.ops.processor import runnable_builds
from inlay.ops.rotary import RotaryTable, rotate_heads
from inlay.ops.rows import Form, Rows

FULL, HALF, BYTES = Form(torch.float32), Form(torch.bfloat16), Form(torch.uint8)
NEAR = {
    torch.float32: 2e-6,
    torch.bfloat16: 8e-3,
    torch.uint8: 8e-3,
}  # of the largest value; half a step of the dtype for the last two
WIDTHS = [1, 7, 16, 48, 129]


def of_reference(monkeypatch: pytest.MonkeyPatch, op: Callable[..., Any], *arguments: object) -> Any:
    with monkeypatch.context() as patch:
        patch.setattr(native, "load_kernels", lambda: None)
        return op(*arguments)


def incoming(width: int, dtype: Form, *, scaled: bool, biased: bool) -> Rows:
    generator = torch.Generator().manual_seed(width)
    values = torch.randn(9, width, generator=generator).to(dtype.dtype)
    scales = torch.rand(9, generator=generator) + 0.5 if scaled else None
    return Rows(values, scales, torch.randn(width, generator=generator) if biased else None)


def assert_near(found: Rows, expected: Rows, dtype: Form) -> None:
    assert found.values.dtype == expected.values.dtype == dtype.dtype
    bound = NEAR[dtype.dtype] * expected.full().abs().max().item()
    torch.testing.assert_close(found.full(), expected.full(), rtol=0, atol=bound)


def test_the_builds_of_this_processor_are_there() -> None:
    """In a checkout the kernels are compiled with the package; a failed compilation must not pass unseen."""
    names = [build.name for build in runnable_kernels()]
    assert names == runnable_builds()


@pytest.mark.parametrize("to", [FULL, HALF, BYTES])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scaled", [False, True])
def test_norms(build: Kernels | None, monkeypatch: pytest.MonkeyPatch, to: Form, width: int, scaled: bool) -> None:
    torch.manual_seed(1)
    hidden, weight, bias = torch.randn(9, width), torch.rand(width) + 0.5, torch.randn(width)
    for delta in (None, *(incoming(width, dtype, scaled=scaled, biased=False) for dtype in (HALF, FULL))):
        found, expected = hidden.clone(), hidden.clone()
        rows = add_rms_norm(found, delta, weight, 1e-6, to)
        assert_near(rows, of_reference(monkeypatch, add_rms_norm, expected, delta, weight, 1e-6, to), to)
        torch.testing.assert_close(found, expected)
    for delta in (None, *(incoming(width, dtype, scaled=scaled, biased=scaled) for dtype in (HALF, FULL))):
        found, expected = hidden.clone(), hidden.clone()
        rows = add_layer_norm(found, delta, weight, bias, 1e-5, to)
        assert_near(rows, of_reference(monkeypatch, add_layer_norm, expected, delta, weight, bias, 1e-5, to), to)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-5)
        total = hidden.clone() if delta is None else hidden + delta.full()
        pre_norm = partial(add_layer_norm, keeps_sum=True)
        assert_near(pre_norm(kept := hidden.clone(), delta, weight, bias, 1e-5, to), rows, to)
        torch.testing.assert_close(kept, total)


@pytest.mark.parametrize("to", [FULL, HALF, BYTES])
@pytest.mark.parametrize("dtype", [FULL, HALF])
@pytest.mark.parametrize("width", WIDTHS)
def test_activations(build: Kernels | None, monkeypatch: pytest.MonkeyPatch, to: Form, dtype: Form, width: int) -> None:
    for scaled in (False, True):
        for name in ACTIVATIONS:
            x = incoming(width, dtype, scaled=scaled, biased=scaled)
            assert_near(activate(x, name, to), of_reference(monkeypatch, activate, x, name, to), to)
        x = incoming(2 * width, dtype, scaled=scaled, biased=False)
        for name, is_gate_first in (("silu", True), ("gelu", True), ("gelu", False), ("gelu_new", True)):
            product = partial(gated_product, is_gate_first=is_gate_first)
            assert_near(product(x, name, to), of_reference(monkeypatch, product, x, name, to), to)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_hold_at_the_ends_of_the_range(
    build: Kernels | None, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    x = Rows(torch.tensor([[-1e30, -200.0, -90.0, -12.0, -1e-20, 0.0, 1e-20, 5.0, 90.0, 1e30]]))
    expected = of_reference(monkeypatch, activate, x, name, FULL).values
    torch.testing.assert_close(activate(x, name, FULL).values, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [FULL, HALF])
@pytest.mark.parametrize(("heads", "kv_heads", "width"), [(4, 2, 16), (3, 1, 10), (0, 2, 64), (2, 0, 128)])
@pytest.mark.parametrize("has_norm", [True, False])
def test_heads_are_normalised_and_rotated(
    build: Kernels | None,
    monkeypatch: pytest.MonkeyPatch,
    dtype: Form,
    heads: int,
    kv_heads: int,
    width: int,
    has_norm: bool,
) -> None:
    torch.manual_seed(2)
    positions, weights = torch.tensor([0, 1, 2, 31, 0, 7, 8, 9, 5]), (torch.rand(width) + 0.5, torch.rand(width) + 0.5)
    rotary = RotaryTable(32, width, 1e4)
    for scaled in (False, True):
        qkv = incoming((heads + 2 * kv_heads) * width, dtype, scaled=scaled, biased=scaled)
        arguments = ((heads, kv_heads, width), weights if has_norm else None, 1e-6, rotary, positions)
        copy = Rows(qkv.values.clone(), qkv.scales, qkv.bias)
        expected = of_reference(monkeypatch, rotate_heads, copy, *arguments)
        for found, wanted in zip(rotate_heads(qkv, *arguments), expected, strict=True):
            near = 1e-5 if dtype == FULL else 3e-2
            torch.testing.assert_close(found, wanted, rtol=near, atol=near)


def test_bytes_hold_each_row_to_half_a_step(build: Kernels | None) -> None:
    x = torch.randn(20, 333) * torch.logspace(-20, 20, 20)[:, None]
    x[3] = 0.0
    rows = rows_in(x, BYTES)
    steps = x.abs().amax(dim=1, keepdim=True) / 127
    assert ((rows.full() - x).abs() <= steps * 0.5001).all()
    assert (rows.values[3] == 128).all()
    assert rows.values.min() >= 1  # symmetric: −127 … 127


def test_bytes_are_the_same_whatever_made_them(monkeypatch: pytest.MonkeyPatch, build: Kernels | None) -> None:
    x = torch.randn(50, 100)
    expected = of_reference(monkeypatch, rows_in, x, BYTES)
    found = rows_in(x, BYTES)
    assert torch.equal(found.values, expected.values)
    assert torch.equal(found.scales, expected.scales)


def test_what_is_finished_is_not_copied() -> None:
    x = torch.randn(3, 4)
    assert tensor_of(Rows(x), torch.float32) is x
    assert rows_in(x, FULL).values is x
