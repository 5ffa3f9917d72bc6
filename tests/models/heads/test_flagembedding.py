"""BGE-M3's outputs and scores beside FlagEmbedding itself, where it is installed (make test-flagembedding)."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import make_bge_m3, text_of, write_json
from corpus.sources import recipe_of

from inlay import Embedder
from inlay.corpus.search.hybrid import HybridQuery, score_outputs
from inlay.precompute.local_source import LocalSource
from inlay.types import COLBERT, DENSE, SPARSE

pytest.importorskip("FlagEmbedding", reason="make test-flagembedding installs FlagEmbedding beside the tests")

TEXTS = [text_of(length, length) for length in (1, 2, 9, 60, 200)] + ["the way the water", "hello zebra </s> world"]
PAIRS = [(TEXTS[2], TEXTS[3]), (TEXTS[5], TEXTS[4]), (TEXTS[2], TEXTS[2]), (TEXTS[1], TEXTS[0])]
NAMES = {"dense": DENSE, "sparse": SPARSE, "colbert": COLBERT}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = make_bge_m3(tmp_path_factory.mktemp("bge") / "tiny-m3")
    tokens = {"cls": "<s>", "bos": "<s>", "eos": "</s>", "sep": "</s>", "pad": "<pad>", "unk": "<unk>"}
    names = {f"{kind}_token": token for kind, token in tokens.items()}
    write_json(made / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **names})
    return made


@pytest.fixture(scope="module")
def flag(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from FlagEmbedding.inference.embedder.encoder_only.m3 import M3Embedder

        return M3Embedder(str(path), use_fp16=False, devices="cpu", pooling_method="cls", normalize_embeddings=True)


@pytest.fixture(scope="module")
def embedder(path: Path) -> Any:
    with Embedder(str(path), dtype="float32", cache="none") as made:
        yield made


@pytest.mark.filterwarnings("ignore")
def test_outputs_are_those_of_flagembedding(embedder: Embedder, flag: Any) -> None:
    expected = flag.encode(TEXTS, max_length=512, return_dense=True, return_sparse=True, return_colbert_vecs=True)
    found = embedder.embed_outputs(TEXTS)
    for index in range(len(TEXTS)):
        assert found.dense[index] @ expected["dense_vecs"][index] >= 0.99999
        weights = dict(zip(found.sparse[index].indices.tolist(), found.sparse[index].values.tolist(), strict=True))
        lexical = {int(token): float(weight) for token, weight in expected["lexical_weights"][index].items()}
        assert weights == pytest.approx(lexical, abs=1e-3)
        rows = expected["colbert_vecs"][index]
        assert found.colbert[index].shape == rows.shape
        assert (found.colbert[index] * rows).sum(axis=1).min() >= 0.9999


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("weights", [[0.4, 0.2, 0.4], [1.0, 1.0, 1.0], [1.0, 0.3, 1.0]])
def test_scores_of_a_hybrid_search_are_those_of_flagembedding(
    embedder: Embedder,
    flag: Any,
    weights: list[float],
) -> None:
    expected = flag.compute_score(PAIRS, max_query_length=512, weights_for_different_modes=weights)
    recipe = recipe_of(embedder, tuple(NAMES.values()))
    for place, pair in enumerate(PAIRS):
        query, text = LocalSource(embedder).embed_texts(list(pair), recipe)
        asked = HybridQuery.of(query.vector, query.others, dict(zip(NAMES.values(), weights, strict=True)))
        kept = HybridQuery.of(text.vector, text.others, {})
        total, by_kind = score_outputs(asked, text.vector, kept.others)
        for name, kind in NAMES.items():
            np.testing.assert_allclose(by_kind[kind], expected[name][place], atol=1e-3)
        np.testing.assert_allclose(total, expected["colbert+sparse+dense"][place], atol=1e-3)
