"""The embedded default with its real weights, beside sentence-transformers."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr
from sentence_transformers import SentenceTransformer

from inlay import Embedder


@pytest.fixture(scope="module")
def reference(demo_path: Path) -> SentenceTransformer:
    return SentenceTransformer(str(demo_path), device="cpu")


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 0.999999), ("bfloat16", 0.9999)])
def test_vectors_equal_sentence_transformers_at_every_length(
    reference: SentenceTransformer, dtype: str, bound: float
) -> None:
    texts = [" ".join(["glacier"] * length) for length in (1, 2, 3, 8, 60, 127, 128, 200, 254)]
    texts += ["Ünïcödé, 中文, emoji 🙂", "UPPER lower", " leading and trailing ", "a\nb\tc"]
    with Embedder("demo", dtype=dtype) as embedder:
        vectors = embedder.embed(texts)
    assert (vectors * reference.encode(texts)).sum(axis=1).min() >= bound


def test_cutting_at_the_end_is_what_sentence_transformers_does(reference: SentenceTransformer) -> None:
    text = " ".join(f"number {i}" for i in range(400))
    with Embedder("demo", dtype="float32") as embedder:
        vector = embedder.embed(text, truncate="end")
    assert vector @ reference.encode(text) >= 0.999999


def test_stsb_gives_the_spearman_of_sentence_transformers(reference: SentenceTransformer, shared: Path) -> None:
    with (shared / "stsb-dev" / "stsb-en-dev.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    texts = [row[0] for row in rows] + [row[1] for row in rows]
    gold = [float(row[2]) for row in rows]

    def score(vectors: np.ndarray) -> float:
        first, second = np.split(vectors, 2)
        return float(spearmanr((first * second).sum(axis=1), gold).statistic)

    with Embedder("demo", dtype="float32") as embedder:
        ours = embedder.embed(texts)
    theirs = reference.encode(texts, batch_size=64)
    assert (ours * theirs).sum(axis=1).min() >= 0.999999
    assert round(score(ours), 4) == round(score(theirs), 4) == 0.8672
