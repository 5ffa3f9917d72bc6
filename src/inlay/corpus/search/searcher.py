"""A corpus ready to be searched: exact search, its index where there is one, filters, and records for the hits.

In: query vectors. Out: hits with id, score and record. Knows nothing of models but the fingerprint that the
corpus was made with.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from inlay.corpus.corpus import Corpus
from inlay.corpus.search.exact import Found, cosine, search, unit_rows
from inlay.corpus.search.filters import Filters
from inlay.corpus.search.hybrid import HybridQuery, Scored, score_row, sparse_candidates
from inlay.corpus.search.index import Index, open_index
from inlay.errors import InvalidInput
from inlay.telemetry.logs import Complaints, get_logger
from inlay.types import FloatArray

log = get_logger("corpus")

MAX_TOP_K = 1000
SCORE_ERROR = 1e-3  # more than any rounding, float16 included


class Hit(NamedTuple):
    """One row that was found; the record has id, text and the columns that were kept."""

    row: int
    score: float
    record: Mapping[str, Any]
    scores: Mapping[str, float] | None = None  # of each kind of output, of a hybrid search


class Searcher:
    """Searches one corpus. May be used by many threads."""

    def __init__(self, directory: Path) -> None:
        self.corpus = Corpus(directory)
        self.index: Index | None = open_index(self.corpus)
        self.broken_rows: set[int] = set()  # that searches have met, and left out
        self._filters = Filters(self.corpus)
        self._complaints = Complaints(log)

    def search_many(
        self, queries: FloatArray, top_k: int, wanted: Mapping[str, Any] | None = None, *, is_exact: bool = False
    ) -> list[list[Hit]]:
        """For each query [q, width] its best rows; filtered searches, and rows newer than the index, are exact."""
        self.check(queries, top_k)
        found = self._find(queries, top_k, wanted, is_exact)
        return [self._hits(query, one) for query, one in zip(unit_rows(queries), found, strict=True)]

    def search_hybrid(
        self, query: HybridQuery, top_k: int, wanted: Mapping[str, Any] | None = None, *, is_exact: bool = False
    ) -> list[Hit]:
        """The best rows by all kinds of output that the corpus keeps and the query has."""
        self.check(query.dense[None], top_k)
        if not 1 <= query.candidates <= MAX_TOP_K:
            raise InvalidInput(f"candidates must be from 1 to {MAX_TOP_K}, not {query.candidates}", param="hybrid")
        query = query._replace(candidates=max(query.candidates, top_k))
        (dense,) = self._find(query.dense[None], query.candidates, wanted, is_exact)
        sparse = sparse_candidates(self.corpus, query, self._filters.mask(wanted) if wanted else None)
        scored = [self._proven(query, row) for row in np.union1d(dense.rows, sparse).tolist()]
        best = sorted((one for one in scored if one is not None), key=lambda one: (-one.score, one.row))
        hits = ((one, self.corpus.record(one.row)) for one in best[:top_k])
        return [Hit(one.row, one.score, record, one.by_kind) for one, record in hits if record is not None]

    def _proven(self, query: HybridQuery, row: int) -> Scored | None:
        if (scored := score_row(self.corpus, query, row)) is None:
            self._leave_out(row)
        return scored

    def check(self, queries: FloatArray, top_k: int) -> None:
        """`InvalidInput` for what cannot be searched."""
        width = self.corpus.recipe.width
        if queries.shape[1] != width:
            raise InvalidInput(
                f"the embedding has {queries.shape[1]} components; the corpus has {width}", param="embedding"
            )
        if not np.isfinite(queries).all():
            raise InvalidInput("the embedding has components that are not finite", param="embedding")
        if not 1 <= top_k <= MAX_TOP_K:
            raise InvalidInput(f"top_k must be from 1 to {MAX_TOP_K}, not {top_k}", param="top_k")

    def _find(self, queries: FloatArray, top_k: int, wanted: Mapping[str, Any] | None, is_exact: bool) -> list[Found]:
        parts = self.corpus.parts
        if wanted or is_exact or self.index is None:
            return search(parts, queries, top_k, self._filters.mask(wanted) if wanted else None)
        indexed = self.index.search(queries, top_k)
        newer = search(parts[self.index.num_parts :], queries, top_k)
        return [_merge(one, other, top_k) for one, other in zip(indexed, newer, strict=True)]

    def _hits(self, query: FloatArray, found: Found) -> list[Hit]:
        """Rows with their records; what does not prove itself, or has another score than its vector, is left out."""
        hits = []
        for row, score in zip(found.rows.tolist(), found.scores.tolist(), strict=True):
            entry, record = self.corpus.vector_of(row), self.corpus.record(row)
            if entry is None or record is None or abs(cosine(query, entry.vector) - score) > SCORE_ERROR:
                self._leave_out(row)
            else:
                hits.append(Hit(row, score, record))
        return hits

    def _leave_out(self, row: int) -> None:
        self.broken_rows.add(row)
        self._complaints.tell("a row is broken and was left out", str(self.corpus.path), ValueError(row))


def _merge(one: Found, other: Found, top_k: int) -> Found:
    rows, scores = np.concatenate([one.rows, other.rows]), np.concatenate([one.scores, other.scores])
    order = np.lexsort((rows, -scores))[:top_k]
    return Found(rows[order], scores[order])
