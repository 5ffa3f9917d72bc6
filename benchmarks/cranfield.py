"""Quality on real text: nDCG@10 and recall@100 on Cranfield, beside sentence-transformers with exact search.

1,400 documents, 225 queries and their judgements from a folder with the collection in TREC's XML. Inlay
precomputes and searches the corpus with its own command line's code; both compute in float32.

    .venv/bin/python benchmarks/cranfield.py ../shared/data/cranfield
"""

from __future__ import annotations

import argparse
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import semantic_search
from serving import print_table

from inlay import Embedder
from inlay.corpus.recipe import Recipe
from inlay.corpus.search.searcher import Searcher
from inlay.models.source import locate
from inlay.precompute.ingestion import Columns
from inlay.precompute.input_rows import Row
from inlay.precompute.local_source import LocalSource
from inlay.precompute.run import precompute
from inlay.types import Truncate

FOUND = 100


def read(folder: Path) -> tuple[dict[str, str], list[str], list[set[str]]]:
    """Documents by number, queries, and the relevant documents of each query."""
    documents = dict(
        re.findall(r"<docno>(\d+)</docno>.*?<text>(.*?)</text>", (folder / "cran.all.1400.xml").read_text(), re.DOTALL)
    )
    queries = re.findall(r"<title>\s*(.*?)\s*</title>", (folder / "cran.qry.xml").read_text(), re.DOTALL)
    relevant: list[set[str]] = [set() for _ in queries]
    for line in (folder / "cranqrel.trec.txt").read_text().splitlines():
        query, _, document, grade = line.split()
        if int(grade) > 0:
            relevant[int(query) - 1].add(document)  # queries are numbered by their place
    return {number: text for number, text in documents.items() if text.strip()}, queries, relevant


def score(ranked: list[list[str]], relevant: list[set[str]]) -> dict[str, float]:
    """nDCG@10 with binary gains, and recall@100, averaged over the queries."""
    gains, recalls = [], []
    discounts = 1 / np.log2(np.arange(2, 12))
    for found, wanted in zip(ranked, relevant, strict=True):
        hits = np.array([document in wanted for document in found[:10]], dtype=float)
        gains.append((hits * discounts).sum() / discounts[: min(10, len(wanted))].sum())
        recalls.append(len(wanted.intersection(found[:FOUND])) / len(wanted))
    return {"nDCG@10": round(float(np.mean(gains)), 4), "recall@100": round(float(np.mean(recalls)), 4)}


def with_inlay(documents: dict[str, str], queries: list[str]) -> list[list[str]]:
    rows = (Row(n, text, None, id_, {"id": id_}) for n, (id_, text) in enumerate(documents.items(), 1))
    with tempfile.TemporaryDirectory() as folder, Embedder("demo", dtype="float32", cache="none") as embedder:
        spec = embedder.spec
        recipe = Recipe("demo", spec.fingerprint, spec.width, spec.max_tokens, spec.dtype, "f32", truncate=Truncate.END)
        columns = Columns("text", "id", ())
        precompute(Path(folder), rows, "cranfield", columns, LocalSource(embedder), recipe, is_append=False)
        hits = Searcher(Path(folder)).search_many(embedder.embed(queries, truncate="end"), FOUND)
        return [[str(hit.record["id"]) for hit in found] for found in hits]


def with_sentence_transformers(documents: dict[str, str], queries: list[str]) -> list[list[str]]:
    model = SentenceTransformer(str(locate("demo")), device="cpu")
    corpus = model.encode(list(documents.values()), convert_to_tensor=True)
    found = semantic_search(model.encode(queries, convert_to_tensor=True), corpus, top_k=FOUND)
    numbers = list(documents)
    return [[numbers[int(hit["corpus_id"])] for hit in hits] for hits in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    documents, queries, relevant = read(parser.parse_args().folder)
    rows: dict[str, dict[str, Any]] = {
        "inlay": score(with_inlay(documents, queries), relevant),
        "sentence-transformers": score(with_sentence_transformers(documents, queries), relevant),
    }
    print_table(rows)


if __name__ == "__main__":
    main()
