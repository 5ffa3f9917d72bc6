"""The FP8 product beside the one in float64, and rows in FP8."""

from __future__ import annotations

import pytest
import torch

from inlay.ops.fp8 import Fp8Product, can_multiply_fp8
from inlay.ops.linear import Weights
from inlay.ops.rows import FP8, Form, Rows


def test_rows_in_fp8_have_their_largest_value_at_the_end_of_the_range() -> None:
    x = torch.randn(4, 32)
    x[2] = 0
    rows = Rows.of(x, Form(FP8))
    assert rows.values.dtype == FP8
    assert rows.scales is not None
    assert rows.values.float().abs().amax(dim=1).tolist() == [448, 448, 0, 448]
    torch.testing.assert_close(rows.full(), x, rtol=0.0626, atol=1e-2)


@pytest.mark.parametrize("has_bias", [True, False])
def test_the_product_is_that_of_the_rounded_factors(has_bias: bool) -> None:
    parts = tuple(torch.randn(width, 32).bfloat16() * scale for width, scale in ((16, 1), (32, 100)))
    biases = tuple(torch.randn(len(part)).bfloat16() for part in parts) if has_bias else ()
    product = Fp8Product(Weights(parts, biases), torch.bfloat16)
    x = Rows.of(torch.randn(5, 32) * torch.tensor([1, 1e-4, 1e3, 7, 0])[:, None], product.takes)
    found = product(x).full()
    weight = Rows.of(torch.cat(parts).float(), Form(FP8)).full()
    expected = x.full().double() @ weight.double().T
    if has_bias:
        expected += torch.cat(biases).double()
    torch.testing.assert_close(found.double(), expected, rtol=1e-2, atol=1e-2)


def test_widths_that_tensor_cores_do_not_take_are_known() -> None:
    assert can_multiply_fp8(torch.empty(32, 48))
    assert not can_multiply_fp8(torch.empty(32, 40))
    assert not can_multiply_fp8(torch.empty(36, 48))
