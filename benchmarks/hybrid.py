"""Hybrid search on real text: nDCG@10 and recall@100 on Cranfield, of dense vectors, of sparse ones, and of both.

Dense vectors are all-MiniLM-L6-v2's. The sparse outputs are BM25's (Robertson 1994; k1 1.2, b 0.75) over the model's
tokens, put where BGE-M3's would be: weights of a text are its saturated counts, those of a query inverse document
frequencies, by 1/20, so that scores lie where cosines do. All goes through the code of `inlay precompute` and of
`inlay search --hybrid`. With a model that has sparse and token outputs, give it by --model: then those count.

    .venv/bin/python benchmarks/hybrid.py ../shared/data/cranfield
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from cranfield import FOUND, read, score
from serving import print_table

from inlay import Embedder
from inlay.corpus.files.part import TextVector
from inlay.corpus.recipe import Recipe
from inlay.corpus.search.hybrid import CANDIDATES, WEIGHTS, HybridQuery
from inlay.corpus.search.searcher import Searcher
from inlay.engine.tokenizer import make_tokenizer
from inlay.precompute.ingestion import Columns, Embedded
from inlay.precompute.input_rows import Row
from inlay.precompute.local_source import LocalSource
from inlay.precompute.run import precompute
from inlay.types import DENSE, SPARSE, SPARSE_ROW, ModelSpec, Truncate

K1, B, SCALE = 1.2, 0.75, 1 / 20


class WithBM25:
    """An embedder's dense vectors, and BM25's weights for its sparse outputs."""

    def __init__(self, embedder: Embedder, documents: list[str]) -> None:
        self._dense = LocalSource(embedder)
        self._tokenizer = make_tokenizer(embedder.spec)
        counts = [self._counts(text) for text in documents]
        self._mean = float(np.mean([sum(one.values()) for one in counts]))
        frequencies = Counter(token for one in counts for token in one)
        self._inverse = {
            token: float(np.log(1 + (len(documents) - number + 0.5) / (number + 0.5)))
            for token, number in frequencies.items()
        }

    @property
    def spec(self) -> ModelSpec:
        return self._dense.spec

    def embed_texts(self, texts: list[str], recipe: Recipe) -> list[Embedded]:
        from msgspec.structs import replace

        found = self._dense.embed_texts(texts, replace(recipe, outputs=(DENSE,)))
        return [
            one._replace(others={SPARSE: self._document(text)}) if isinstance(one, TextVector) else one
            for one, text in zip(found, texts, strict=True)
        ]

    def query(self, text: str) -> Any:  # noqa: ANN401 - an array of SPARSE_ROW
        return _rows({token: self._inverse.get(token, 0.0) * SCALE for token in self._counts(text)})

    def _document(self, text: str) -> Any:  # noqa: ANN401
        counts = self._counts(text)
        length = sum(counts.values()) / self._mean
        return _rows({t: n * (K1 + 1) / (n + K1 * (1 - B + B * length)) for t, n in counts.items()})

    def _counts(self, text: str) -> Counter[int]:
        (ids,) = self._tokenizer.encode_many([text])
        return Counter(ids.tolist()[1:-1])


def _rows(weights: dict[int, float]) -> Any:  # noqa: ANN401
    return np.array(sorted(weights.items()), dtype=SPARSE_ROW)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="demo")
    options = parser.parse_args()
    documents, queries, relevant = read(options.folder)
    with tempfile.TemporaryDirectory() as folder, Embedder(options.model, dtype="float32", cache="none") as embedder:
        spec = embedder.spec
        has_own = SPARSE in spec.outputs
        source = LocalSource(embedder) if has_own else WithBM25(embedder, list(documents.values()))
        about = (options.model, spec.fingerprint, spec.width, spec.max_tokens, spec.dtype, "f32")
        outputs = spec.outputs if has_own else (DENSE, SPARSE)
        recipe = Recipe(*about, truncate=Truncate.END, outputs=outputs)
        rows = (Row(n, text, None, id_, {"id": id_}) for n, (id_, text) in enumerate(documents.items(), 1))
        precompute(Path(folder), rows, "cranfield", Columns("text", "id", ()), source, recipe, is_append=False)
        searcher = Searcher(Path(folder))
        answers = [one for one in source.embed_texts(queries, recipe) if isinstance(one, TextVector)]
        if isinstance(source, WithBM25):
            answers = [a._replace(others={SPARSE: source.query(q)}) for a, q in zip(answers, queries, strict=True)]
        table: dict[str, dict[str, Any]] = {}
        kinds = {kind: {other: float(other == kind) for other in outputs} for kind in outputs}
        equal = dict.fromkeys(outputs, 1.0)
        authors = {kind: WEIGHTS[kind] for kind in outputs}
        for name, weights in {**kinds, "all alike": equal, "0.4, 0.2, 0.4": authors}.items():
            began = time.perf_counter()
            ranked = [
                [
                    str(hit.record["id"])
                    for hit in searcher.search_hybrid(
                        HybridQuery.of(answer.vector, answer.others, weights, CANDIDATES), FOUND
                    )
                ]
                for answer in answers
            ]
            seconds = (time.perf_counter() - began) / len(queries)
            table[name] = {**score(ranked, relevant), "ms a query": round(1000 * seconds, 1)}
    print_table(table)


if __name__ == "__main__":
    main()
