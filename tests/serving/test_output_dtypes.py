"""Vectors in smaller types keep the field's conventions, and what they stand for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sentence_transformers import quantize_embeddings
from sentence_transformers.util import pairwise_cos_sim

from inlay.serving.output_dtypes import OutputDtype, convert_rows, int8_scale


def unit_vectors(number: int, width: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((number, width)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("output_dtype", [OutputDtype.BINARY, OutputDtype.UBINARY])
@pytest.mark.parametrize("width", [8, 384, 1024])
def test_bits_are_those_of_sentence_transformers(output_dtype: OutputDtype, width: int) -> None:
    vectors = unit_vectors(5, width)
    vectors[0, :3] = 0.0
    found, expected = convert_rows(vectors, output_dtype), quantize_embeddings(vectors, precision=output_dtype.value)
    assert found.dtype == expected.dtype
    assert np.array_equal(found, expected)


@given(st.integers(1, 40))
def test_bits_can_be_undone_and_the_tail_is_zeros(width: int) -> None:
    vectors = unit_vectors(3, width, seed=width)
    packed, signed = convert_rows(vectors, OutputDtype.UBINARY), convert_rows(vectors, OutputDtype.BINARY)
    assert np.array_equal((signed.astype(np.int16) + 128).astype(np.uint8), packed)
    bits = np.unpackbits(packed, axis=1)
    assert np.array_equal(bits[:, :width], vectors > 0)
    assert not bits[:, width:].any()


@pytest.mark.parametrize("width", [64, 384, 1024])
def test_integers_keep_cosines_and_dot_products(width: int) -> None:
    vectors = unit_vectors(200, width)
    whole = convert_rows(vectors, OutputDtype.INT8).astype(np.float32)
    assert float(pairwise_cos_sim(vectors, whole).min()) > 0.9995
    products = whole @ whole.T / int8_scale(width) ** 2
    assert np.abs(products - vectors @ vectors.T).max() < 0.01
    unsigned = convert_rows(vectors, OutputDtype.UINT8)
    assert np.array_equal(unsigned.astype(np.int16) - 128, whole)


def test_integers_do_not_depend_on_the_other_vectors_and_clip() -> None:
    vectors = unit_vectors(50, 384)
    together = convert_rows(vectors, OutputDtype.INT8)
    assert np.array_equal(together[7:8], convert_rows(vectors[7:8], OutputDtype.INT8))
    lone = np.zeros((1, 384), dtype=np.float32)
    lone[0, 0], lone[0, 1] = 1.0, -0.0
    assert convert_rows(lone, OutputDtype.INT8)[0, :3].tolist() == [127, 0, 0]
    assert convert_rows(-lone, OutputDtype.UINT8)[0, :3].tolist() == [0, 128, 128]
