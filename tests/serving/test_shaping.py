from __future__ import annotations

import base64

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from inlay.serving.shaping import shape_vectors, to_base64_many

vectors = arrays(np.float32, (3, 16), elements=st.floats(-100, 100, width=32))


@given(vectors, st.integers(1, 16))
def test_the_cut_comes_before_the_normalisation(array: np.ndarray, dimensions: int) -> None:
    expected = torch.nn.functional.normalize(torch.from_numpy(array)[:, :dimensions], dim=1).numpy()
    found = shape_vectors(array, dimensions, normalize=True)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


def test_a_zero_vector_stays_zero() -> None:
    assert not shape_vectors(np.zeros((1, 4), dtype=np.float32), None, normalize=True).any()


def test_without_normalisation_the_canonical_components_come_back() -> None:
    array = np.arange(8, dtype=np.float32).reshape(2, 4)
    assert shape_vectors(array, 2, normalize=False).tolist() == [[0, 1], [4, 5]]


def test_base64_is_of_little_endian_float32_also_for_a_cut_row() -> None:
    array = np.arange(8, dtype=">f4").reshape(2, 4)[1, :2]
    assert np.frombuffer(base64.b64decode(to_base64_many(array[None])[0]), dtype="<f4").tolist() == [4, 5]


def test_with_a_norm_before_the_cut_a_vector_is_layer_normalised_as_a_whole() -> None:
    """Nomic's card: layer_norm, cut, normalize."""
    rows = np.random.default_rng(0).normal(3.0, 2.0, (5, 48)).astype(np.float32)
    tensor = torch.from_numpy(rows)
    cut = torch.nn.functional.layer_norm(tensor, (48,))[:, :16]
    expected = torch.nn.functional.normalize(cut, dim=1).numpy()
    found = shape_vectors(rows, 16, normalize=True, has_norm_before_cut=True)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    whole = shape_vectors(rows, 48, normalize=True, has_norm_before_cut=True)
    assert np.array_equal(whole, shape_vectors(rows, None, normalize=True)), "nothing is cut"
