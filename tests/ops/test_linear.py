from __future__ import annotations

import pytest
import torch

from inlay.ops.activation import activate, gated_product
from inlay.ops.convert import rows_in
from inlay.ops.int8 import can_multiply_bytes, make_int8_product
from inlay.ops.linear import Product, Weights, make_product
from inlay.ops.native import Kernels
from inlay.ops.norm import add_layer_norm, add_rms_norm
from inlay.ops.rotary import RotaryTable, rotate_heads
from inlay.ops.rows import Form, Rows

DTYPES = [torch.float32, torch.bfloat16, torch.uint8]
FULL, BYTES = Form(torch.float32), Form(torch.uint8)


def weights_of(width_in: int, width_out: int, *, biased: bool) -> Weights:
    torch.manual_seed(width_in)
    weight, bias = torch.randn(width_out, width_in) / width_in**0.5, torch.randn(width_out)
    return Weights((weight[: width_out // 2], weight[width_out // 2 :]), (bias,) if biased else ())


def product_of(weights: Weights, dtype: torch.dtype) -> Product:
    if dtype == torch.uint8:
        return make_int8_product(weights, torch.bfloat16)
    return make_product(Weights(tuple(part.to(dtype) for part in weights.parts), weights.biases))


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    if request.param == torch.uint8 and not can_multiply_bytes():
        pytest.skip("there is no product of bytes")
    chosen: torch.dtype = request.param
    return chosen


@pytest.mark.parametrize("rows", [1, 13, 300])
@pytest.mark.parametrize(("width_in", "width_out"), [(1024, 96), (48, 130), (36, 7), (35, 64)])
def test_a_product_is_the_matrix_product(
    build: Kernels | None, dtype: torch.dtype, rows: int, width_in: int, width_out: int
) -> None:
    weights, x = weights_of(width_in, width_out, biased=True), torch.randn(rows, width_in)
    product = product_of(weights, dtype)
    found = product(rows_in(x, product.takes)).full()
    near = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.uint8: 5e-2}[dtype]
    torch.testing.assert_close(found, x @ weights.joined().T + weights.biases[0], rtol=near, atol=near)


def at_once_and_apart(product: Product, x: torch.Tensor) -> tuple[Rows, Rows]:
    rows = rows_in(x, product.takes)
    return product(rows), product(rows).computed()


@pytest.mark.parametrize("rows", [1, 20, 70, 500])  # few are computed together, many in blocks
def test_an_op_that_computes_its_product_gives_the_bits_of_one_that_does_not(
    build: Kernels | None, dtype: torch.dtype, rows: int
) -> None:
    weights, x = weights_of(64, 96, biased=True), torch.randn(rows, 64)
    pending, there = at_once_and_apart(product_of(weights, dtype), x)
    if pending.panels is None:
        pytest.skip("this build computes such a product at once")
    scale, shift, hidden = torch.rand(96), torch.randn(96), torch.randn(rows, 96)

    def equal(found: Rows, expected: Rows) -> None:
        assert torch.equal(found.values, expected.values)
        assert found.scales is None or torch.equal(found.scales, expected.scales)

    for to in (FULL, BYTES):
        equal(activate(pending, "gelu", to), activate(there, "gelu", to))
        equal(gated_product(pending, "gelu", to), gated_product(there, "gelu", to))
        first, second = hidden.clone(), hidden.clone()
        equal(add_rms_norm(first, pending, scale, 1e-6, to), add_rms_norm(second, there, scale, 1e-6, to))
        assert torch.equal(first, second)
        first, second = hidden.clone(), hidden.clone()
        found = add_layer_norm(first, pending, scale, shift, 1e-6, to)
        equal(found, add_layer_norm(second, there, scale, shift, 1e-6, to))
    positions, rotary = torch.arange(rows), RotaryTable(rows, 16, 1e4)
    arguments = ((4, 1, 16), (scale[:16], shift[:16]), 1e-6, rotary, positions)
    for one, other in zip(rotate_heads(pending, *arguments), rotate_heads(there, *arguments), strict=True):
        torch.testing.assert_close(one.float(), other.float(), rtol=1e-2, atol=1e-2)


def test_a_weight_that_no_cache_holds_is_computed_together(build: Kernels | None, dtype: torch.dtype) -> None:
    weights, x = weights_of(2048, 4100, biased=False), torch.randn(200, 2048)
    product = product_of(weights, dtype)
    pending = product(rows_in(x, product.takes))
    found = activate(pending, "none", FULL).values
    torch.testing.assert_close(found, x @ weights.joined().T, rtol=1e-1, atol=1e-1)
