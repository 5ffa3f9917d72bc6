"""Search by all outputs of a model: candidates by dense and by sparse vectors, scored by those and by token vectors.

In: the outputs of a query. Out: rows with one score, and that of each kind. The scores and their weights are those of
BGE-M3's authors (FlagEmbedding, `compute_score`; weights of its model card): dense the cosine, sparse the sum of the
products of shared tokens, colbert the mean over the query's rows of the best product with any row of the text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from inlay.corpus.corpus import Corpus
from inlay.corpus.search.exact import Mask, cosine, unit_rows
from inlay.errors import InvalidInput
from inlay.types import COLBERT, DENSE, SPARSE, FloatArray, IntArray

Array = npt.NDArray[Any]
WEIGHTS: Mapping[str, float] = {DENSE: 0.4, SPARSE: 0.2, COLBERT: 0.4}
CANDIDATES = 100  # of each kind that finds some


class HybridQuery(NamedTuple):
    """The outputs of one query, and how they count."""

    dense: FloatArray  # [width]
    others: Mapping[str, Array]  # by kind: SPARSE_ROW [tokens], colbert [tokens, width]
    weights: Mapping[str, float]
    candidates: int = CANDIDATES

    @classmethod
    def of(
        cls, dense: FloatArray, others: Mapping[str, Array], weights: Mapping[str, float], candidates: int = CANDIDATES
    ) -> Self:
        """From what a model gave; token vectors get unit length."""
        units = {kind: unit_rows(array) if kind == COLBERT else array for kind, array in others.items()}
        return cls(dense, units, weights, candidates)


class Scored(NamedTuple):
    """A row with its score, and that of each kind."""

    row: int
    score: float
    by_kind: Mapping[str, float]


def weights_for(kinds: tuple[str, ...], given: Mapping[str, float] | None) -> dict[str, float]:
    """A share for each kind that a corpus keeps; `InvalidInput` where one is no weight."""
    if len(kinds) < 2:
        raise InvalidInput(
            "the corpus keeps dense vectors alone: precompute it with --outputs dense,sparse,colbert, of a model that "
            "gives them",
            param="hybrid",
        )
    for kind, weight in (given or {}).items():
        if kind not in kinds:
            raise InvalidInput(
                f"there are no weights of {kind!r}: the corpus keeps {', '.join(kinds)}; what it keeps is said by "
                "--outputs when it is precomputed",
                param="hybrid",
            )
        if not 0 <= weight < float("inf"):
            raise InvalidInput(f"weights are finite numbers from 0 on, not {kind}={weight}", param="hybrid")
    weights = {kind: (WEIGHTS if given is None else given).get(kind, 0.0) for kind in kinds}
    largest = max(weights.values())
    if not largest > 0:
        raise InvalidInput("no kind has a weight above 0: name one that has, or leave out the weights", param="hybrid")
    scaled = {kind: weight / largest for kind, weight in weights.items()}  # sums of what was given may overflow
    return {kind: weight / sum(scaled.values()) for kind, weight in scaled.items()}


def sparse_candidates(corpus: Corpus, query: HybridQuery, mask: Mask | None) -> IntArray:
    """The rows that share most with the query's sparse output."""
    rows, scores = [], []
    for part in corpus.parts:
        if part.postings is None or SPARSE not in query.others:
            continue
        own = part.postings.scores(query.others[SPARSE])
        if mask is not None:
            own[~mask[part.first_row : part.first_row + len(own)]] = 0.0
        number = min(query.candidates, len(own))
        best = np.argpartition(-own, number - 1)[:number]
        rows.append(best[own[best] > 0] + part.first_row)
        scores.append(own[best[own[best] > 0]])
    if not rows:
        return np.empty(0, dtype=np.int64)
    every, order = np.concatenate(rows), np.argsort(-np.concatenate(scores), kind="stable")
    return every[order[: query.candidates]]


def score_row(corpus: Corpus, query: HybridQuery, row: int) -> Scored | None:
    """A row's scores; None where its bytes are not what they were."""
    entry, others = corpus.vector_of(row), corpus.others_of(row)
    if entry is None or others is None:
        return None
    return Scored(row, *score_outputs(query, entry.vector, others))


def score_outputs(query: HybridQuery, vector: Array, others: Mapping[str, Array]) -> tuple[float, dict[str, float]]:
    """The weighted mean of the scores of all kinds, and each of them."""
    by_kind = {DENSE: cosine(query.dense, vector)}
    for kind, score in ((SPARSE, _shared), (COLBERT, _late)):
        if kind in others and kind in query.others:
            by_kind[kind] = score(query.others[kind], others[kind])
    total = sum(query.weights[kind] for kind in by_kind)
    weighted = sum(query.weights[kind] * score for kind, score in by_kind.items())
    return (weighted / total if total else 0.0), by_kind


def _shared(query: Array, text: Array) -> float:
    _, own, others = np.intersect1d(query["id"], text["id"], assume_unique=True, return_indices=True)
    return float(query["weight"][own].astype(np.float64) @ text["weight"][others].astype(np.float64))


def _late(query: Array, text: Array) -> float:
    """The late interaction of two lists of unit rows."""
    if not len(query) or not len(text):
        return 0.0
    return float((query.astype(np.float32) @ text.astype(np.float32).T).max(axis=1).mean())
