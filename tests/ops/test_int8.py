from __future__ import annotations

import pytest
import torch

from inlay.ops.convert import rows_in
from inlay.ops.int8 import (
    BYTES,
    QuantisedWeight,
    can_multiply_bytes,
    form_for,
    make_int8_product,
    make_quantised_product,
)
from inlay.ops.linear import Weights
from inlay.ops.native import Kernels
from inlay.ops.rows import Form, Rows

pytestmark = pytest.mark.skipif(not can_multiply_bytes(), reason="there is no product of bytes")


def exact(x: Rows, weight: QuantisedWeight) -> torch.Tensor:
    """The sums in whole numbers, then the scales."""
    sums = (x.values.long() - 128) @ weight.values.long().T
    return sums.double() * weight.scales.double()


@pytest.mark.parametrize("rows", [1, 2, 15, 16, 17, 100])
@pytest.mark.parametrize(("width_in", "width_out"), [(1024, 4096), (3072, 1024), (48, 96), (33, 7)])
def test_the_sums_are_exact(build: Kernels | None, rows: int, width_in: int, width_out: int) -> None:
    torch.manual_seed(0)
    weight = QuantisedWeight.of(torch.randn(width_out, width_in))
    x = Rows(torch.randint(1, 256, (rows, width_in), dtype=torch.uint8), torch.ones(rows))
    found = make_quantised_product(weight, None, torch.float32)(x).computed().values
    torch.testing.assert_close(found.double(), exact(x, weight), rtol=2e-7, atol=1e-9)


def test_the_largest_values_do_not_overflow(build: Kernels | None) -> None:
    weight = QuantisedWeight(torch.full((16, 4096), 127, dtype=torch.int8), torch.ones(16))
    x = Rows(torch.full((4, 4096), 255, dtype=torch.uint8), torch.ones(4))
    sums = make_quantised_product(weight, None, torch.float32)(x).computed().values
    assert (sums == 127 * 127 * 4096).all()


@pytest.mark.parametrize("out", [torch.bfloat16, torch.float32])
def test_a_row_gets_the_same_bits_alone_and_among_others(build: Kernels | None, out: torch.dtype) -> None:
    torch.manual_seed(0)
    product = make_int8_product(Weights((torch.randn(256, 512), torch.randn(64, 512))), out)
    x = rows_in(torch.randn(70, 512), product.takes)
    whole = product(x).computed().values
    for row in (0, 1, 33, 69):
        alone = product(Rows(x.values[row : row + 1], x.scales[row : row + 1]))
        assert torch.equal(alone.computed().values[0], whole[row])


def test_weights_are_held_to_half_a_step() -> None:
    weight = torch.randn(50, 333) * torch.logspace(-6, 6, 50)[:, None]
    weight[7] = 0.0
    quantised = QuantisedWeight.of(weight)
    missed = (quantised.values * quantised.scales[:, None] - weight).abs()
    assert (missed <= weight.abs().amax(dim=1, keepdim=True) / 254 * 1.0001).all()


def test_a_product_with_a_bias_and_smoothing_comes_near_the_float_product() -> None:
    torch.manual_seed(0)
    x, bias = torch.randn(40, 256), torch.randn(100)
    x[:, 5] *= 300.0  # an outlier channel, as trained models have them
    weights = Weights((torch.randn(60, 256), torch.randn(40, 256)), (bias[:60], bias[60:]))
    expected = x @ weights.joined().T + bias
    errors = []
    for takes in (BYTES, form_for(x, weights)):
        product = make_int8_product(weights, torch.float32, takes)
        errors.append(((product(rows_in(x, product.takes)).full() - expected).norm() / expected.norm()).item())
    plain, smoothed = errors
    assert smoothed < 0.02
    assert smoothed < plain


def test_behind_an_activation_bytes_spend_their_range_above_zero(build: Kernels | None) -> None:
    torch.manual_seed(0)
    x = torch.nn.functional.gelu(torch.randn(60, 256) * 2)
    weights = Weights((torch.randn(100, 256),))
    expected = x @ weights.joined().T
    takes = form_for(x, weights)
    assert takes.zero_point < 64
    errors = []
    for form in (Form(torch.uint8, takes.multipliers), takes):
        product = make_int8_product(weights, torch.float32, form)
        rows = rows_in(x, product.takes)
        assert (rows.full() / (1 if form.multipliers is None else form.multipliers) - x).abs().max() < 0.1
        errors.append((product(rows).full() - expected).norm().item())
    assert errors[1] < 0.8 * errors[0]  # what is left comes from the weights


def test_a_row_below_zero_is_held_with_a_low_zero_point(build: Kernels | None) -> None:
    rows = rows_in(torch.tensor([[-3.0, 1.0, 0.5], [0.0, 0.0, 0.0]]), Form(torch.uint8, None, 8))
    torch.testing.assert_close(rows.full(), torch.tensor([[-3.0, 1.0, 0.5], [0.0, 0.0, 0.0]]), rtol=0, atol=0.22)
