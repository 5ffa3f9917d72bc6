"""Search by bits or by bytes: the time of a query over a million rows, and recall over real texts.

The time is over made-up vectors, as it does not depend on them; the recall is over the distinct lines of text files,
embedded by the demo model, against exact search, with lines of the corpus as queries (without their own row).

    .venv/bin/python benchmarks/binary_search.py --texts '../shared/data/cranfield/*'
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from glob import glob
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import faiss
import numpy as np
from exact_search import BarePart

from inlay import Embedder
from inlay.corpus.search.exact import Found, search, unit_rows
from inlay.corpus.search.index import INT8, SMALL_CODES, recall_of
from inlay.corpus.search.rescored import RescoredIndex

TOP_K, QUERIES, CHUNK, MOST_LINES = 10, 300, 50_000, 20_000
RESCORED = (20, 40, 80, 160)


class GivenPart(BarePart):
    """Vectors in memory."""

    def __init__(self, vectors: np.ndarray) -> None:
        self.first_row = 0
        self.vectors = vectors
        self.scales = (1 / np.linalg.norm(vectors, axis=1)).astype(np.float32)

    def check_map(self) -> None:
        """There is no file."""


def index_of(part: BarePart, width: int, kind: str) -> RescoredIndex:
    corpus: Any = SimpleNamespace(parts=[part], recipe=SimpleNamespace(width=width))
    index: RescoredIndex = SMALL_CODES[kind](faiss, corpus)
    if kind == INT8:
        index.train(unit_rows(np.asarray(part.vectors[:CHUNK])))
    for start in range(0, len(part.vectors), CHUNK):
        index.add(unit_rows(np.asarray(part.vectors[start : start + CHUNK])))
    return index


def time_one(rows: int, width: int, kind: str) -> float:
    """ms of one query, median."""
    with tempfile.TemporaryDirectory(dir=".") as folder:
        part = BarePart(Path(folder), rows, width)
        part.check_map = lambda: None  # type: ignore[method-assign]
        index = index_of(part, width, kind)
        taken = []
        for query in unit_rows(np.random.default_rng(1).standard_normal((50, width)).astype(np.float32)):
            began = time.perf_counter()
            index.search(query[None], TOP_K)
            taken.append(time.perf_counter() - began)
    return statistics.median(taken) * 1000


def recalls(texts: list[str], kind: str) -> dict[int, float]:
    """recall@10 by how many rows are scored again."""
    with Embedder("demo", cache="none") as embedder:
        vectors = embedder.embed(texts, truncate="end")
    part = GivenPart(vectors)
    queries = unit_rows(
        vectors[np.random.default_rng(0).choice(len(vectors), min(QUERIES, len(vectors)), replace=False)]
    )
    exact = [Found(one.rows[1:], one.scores[1:]) for one in search([part], queries, TOP_K + 1)]
    index = index_of(part, vectors.shape[1], kind)
    found = {}
    for number in RESCORED:
        index.rescored = number // 2  # for each ten begun of 11 rows, the query's own among them
        scores, rows = index.search(queries, TOP_K + 1)
        found[number] = recall_of([Found(r[1:], s[1:]) for r, s in zip(rows, scores, strict=True)], exact)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--kind", default="binary", choices=list(SMALL_CODES))
    parser.add_argument("--texts", help="a pattern of text files, ** included")
    options = parser.parse_args()
    taken = time_one(options.rows, options.width, options.kind)
    print(f"one query over {options.rows} x {options.width}, {options.kind}: {taken:.1f} ms")
    if options.texts:
        files = sorted(path for path in glob(options.texts, recursive=True) if Path(path).is_file())
        lines = dict.fromkeys(
            line.strip() for file in files for line in Path(file).read_text(errors="replace").splitlines()
        )
        texts = [line for line in lines if line][:MOST_LINES]
        shown = ", ".join(f"{found:.4f} of {number} rescored" for number, found in recalls(texts, options.kind).items())
        print(f"recall@{TOP_K} over {len(texts)} lines of text: {shown}")


if __name__ == "__main__":
    main()
