"""What an adapter adds to a product, in each build, against plain matrices in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from inlay.ops.low_rank import LowRankFactors, add_low_rank
from inlay.ops.native import Kernels
from inlay.ops.rows import Form, Rows

SHAPES = [(1, 64, 16, 64), (8, 48, 4, 50), (9, 100, 17, 33), (40, 7, 1, 129), (3, 64, 32, 1)]  # rows, in, rank, out


def given(rows: int, width_in: int, rank: int, width_out: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(rows)
    a, b = torch.randn(rank, width_in) / 8, torch.randn(width_out, rank)
    return torch.randn(rows, width_in), torch.randn(rows, width_out + 6), a, b


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("y_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("x_dtype", [torch.float32, torch.bfloat16])
def test_both_products_are_added_to_the_columns(
    build: Kernels | None,
    shape: tuple[int, int, int, int],
    dtype: torch.dtype,
    y_dtype: torch.dtype,
    x_dtype: torch.dtype,
) -> None:
    x, y, a, b = given(*shape)
    x, y = x.to(x_dtype), y.to(y_dtype)
    expected = y.double()
    expected[:, 2:-4] += (x.double() @ a.to(dtype).double().T) @ b.to(dtype).double().T
    add_low_rank(Rows(y), Rows(x), LowRankFactors.of(a, b, dtype), slice(2, y.shape[1] - 4))
    is_rough = torch.bfloat16 in (dtype, y_dtype)
    torch.testing.assert_close(y.double(), expected, rtol=2e-2 if is_rough else 1e-5, atol=5e-2 if is_rough else 1e-5)


def test_results_that_wait_for_scales_and_a_bias_get_theirs_later(build: Kernels | None) -> None:
    x, y, a, b = given(11, 64, 8, 30)
    scales, bias = torch.rand(11) + 0.1, torch.randn(36)
    scales[3] = 0.0  # of a row of zeros
    x[3] = 0.0
    expected = y.double() * scales[:, None] + bias
    expected[:, :30] += (x.double() @ a.double().T) @ b.double().T
    rows = Rows(y, scales, bias)
    add_low_rank(rows, Rows(x), LowRankFactors.of(a, b, torch.float32), slice(0, 30))
    torch.testing.assert_close(rows.full().double(), expected, rtol=1e-5, atol=1e-5)


def test_a_sum_is_multiplied_and_shifted_by_column(build: Kernels | None) -> None:
    x, y, a, b = given(11, 64, 8, 36)
    columns, shift = torch.rand(42), torch.randn(42)
    b = torch.randn(42, 8)
    total = y.double() + (x.double() @ a.double().T) @ b.double().T
    factors = LowRankFactors.of(a, b, torch.float32, columns, shift)
    with_bias, without = Rows(y.clone()), Rows(y.clone(), bias=torch.zeros(42))
    for rows, expected in ((with_bias, total * columns + shift), (without, total * columns)):
        add_low_rank(rows, Rows(x), factors, slice(0, 42))
        torch.testing.assert_close(rows.values.double(), expected, rtol=1e-5, atol=1e-5)


def test_rows_of_bytes_are_taken_for_what_they_stand_for(build: Kernels | None) -> None:
    x, y, a, b = given(9, 64, 8, 36)
    b = torch.randn(42, 8)
    rows = Rows.of(x, Form(torch.uint8, zero_point=96))
    expected = y.double() + (rows.full().double() @ a.double().T) @ b.double().T
    add_low_rank(Rows(y), rows, LowRankFactors.of(a, b, torch.float32), slice(0, 42))
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_has_the_same_bits_alone_and_among_others(build: Kernels | None, dtype: torch.dtype) -> None:
    if build is None:
        pytest.skip("torch's own products take other sums for other numbers of rows")
    x, y, a, b = given(29, 100, 20, 44)
    b = torch.randn(50, 20)
    factors, whole = LowRankFactors.of(a, b, dtype), y.clone()
    add_low_rank(Rows(whole), Rows(x), factors, slice(0, 50))
    for row in range(29):
        alone = y[row : row + 1].clone()
        add_low_rank(Rows(alone), Rows(x[row : row + 1]), factors, slice(0, 50))
        assert torch.equal(alone[0], whole[row])
