"""A vector for each token, beside the publishers' own hidden states."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from references import load_reference
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer

from inlay import Embedder
from inlay.models.registry import OUTPUTS
from inlay.models.spec import read_spec
from inlay.types import DENSE, TOKEN_EMBEDDINGS

TEXTS = ["hello world", "a", "the way the water " * 12, "hello world"]
KINDS = (DENSE, TOKEN_EMBEDDINGS)


def test_rows_are_the_hidden_states_of_every_family(family: str, checkpoint: Callable[[str], Path]) -> None:
    path = checkpoint(family)
    hidden = load_reference(path)
    tokenizer = Tokenizer.from_file(str(next(path.rglob("tokenizer.json"))))
    tokenizer.no_padding()
    with Embedder(str(path), dtype="float32") as embedder:
        found = embedder.embed_outputs(TEXTS, KINDS)
        np.testing.assert_allclose(found.dense, embedder.embed(TEXTS), atol=1e-5)
        spec = embedder.spec
    for text, rows in zip(TEXTS, found.token_embeddings, strict=True):
        ids = tokenizer.encode(text, add_special_tokens=spec.adds_special_tokens).ids
        assert rows.shape == (len(ids), spec.hidden_width)
        np.testing.assert_allclose(rows, hidden(ids).detach().numpy(), atol=2e-4)


def test_they_are_sentence_transformers_token_embeddings(demo_path: Path) -> None:
    reference = SentenceTransformer(str(demo_path), device="cpu")
    expected = reference.encode(TEXTS, output_value="token_embeddings")
    with Embedder("demo", dtype="float32") as embedder:
        found = embedder.embed_outputs(TEXTS, KINDS)
        unit = embedder.embed_outputs(TEXTS, [TOKEN_EMBEDDINGS], normalize=True).token_embeddings
    for rows, other, normalised in zip(found.token_embeddings, expected, unit, strict=True):
        other = other.numpy()
        np.testing.assert_allclose(rows, other, atol=1e-4)
        np.testing.assert_allclose(normalised, other / np.linalg.norm(other, axis=1, keepdims=True), atol=1e-5)


def test_a_vector_of_whole_texts_is_all_that_is_given_unasked(checkpoint: Callable[[str], Path]) -> None:
    with Embedder(str(checkpoint("bert")), dtype="float32") as embedder:
        assert embedder.spec.outputs == KINDS
        assert embedder.embed_outputs(TEXTS).token_embeddings == []


@pytest.mark.parametrize(
    ("numbers", "is_good"), [(0, False), (48, True), (47, False), (48 * 512, True), (48 * 513, False)]
)
def test_what_the_model_cannot_give_is_no_payload(
    numbers: int, is_good: bool, checkpoint: Callable[[str], Path]
) -> None:
    spec = read_spec(checkpoint("bert"), "m")
    assert (spec.hidden_width, spec.max_tokens) == (48, 512)
    assert OUTPUTS[TOKEN_EMBEDDINGS].is_payload(bytes(4 * numbers), spec) is is_good
