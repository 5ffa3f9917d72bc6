"""Rows of tables and means of rows, in each build, against torch's own."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from inlay.ops.embedding import look_up, mean_of_rows
from inlay.ops.layout import Layout
from inlay.ops.native import Kernels


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("width", [1, 7, 48, 129])
def test_rows_are_looked_up_and_summed_in_float32(build: Kernels | None, dtype: torch.dtype, width: int) -> None:
    torch.manual_seed(1)
    words, positions, types = (torch.randn(rows, width).to(dtype) for rows in (50, 20, 2))
    ids, places = torch.randint(0, 50, (300,)), torch.randint(0, 20, (300,))
    expected = (F.embedding(ids, words).float() + F.embedding(places, positions).float()) + types[0].float()
    assert torch.equal(look_up((words, ids), (positions, places), (types, None)), expected)
    assert torch.equal(look_up((words, ids)), F.embedding(ids, words).float())


@pytest.mark.parametrize("row", [-1, 50, 2**40])
def test_a_row_that_is_not_there_is_an_error(build: Kernels | None, row: int) -> None:
    with pytest.raises(IndexError):
        look_up((torch.randn(50, 8), torch.tensor([3, row])))


@pytest.mark.parametrize("width", [1, 7, 48, 129])
def test_each_sequence_gets_the_mean_of_its_rows(build: Kernels | None, width: int) -> None:
    torch.manual_seed(2)
    offsets = np.array([0, 1, 3, 5, 40, 400])
    hidden = torch.randn(400, width)
    expected = torch.stack([hidden[a:b].double().mean(dim=0).float() for a, b in pairwise(offsets)])
    found = mean_of_rows(hidden, Layout.of(offsets, torch.device("cpu")))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    alone = mean_of_rows(hidden[40:].clone(), Layout.of(np.array([0, 360]), torch.device("cpu")))
    assert torch.equal(found[-1:], alone)
