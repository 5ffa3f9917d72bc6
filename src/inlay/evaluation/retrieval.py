"""Queries, documents, and which of these answer which of those: nDCG@10 and recall@100 by exact search.

In: a folder as BEIR has it (`corpus.jsonl`, `queries.jsonl`, `qrels/*.tsv`) or as TREC (documents and topics in XML,
`*qrel*.txt`). Out: texts, and a score of their vectors. Gains are the grades, as trec_eval takes them. Knows no model.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from inlay.errors import ConfigError
from inlay.types import FloatArray

BEST, FOUND = 10, 100
SPLITS = ("test", "dev", "train")
QUERY, DOCUMENT = "query", "document"  # prompts, which every model has
TOGETHER = 256  # queries that are compared at a time
Grades = dict[str, dict[str, int]]  # by query, of the documents that answer it

_DOCUMENT = re.compile(r"<docno>\s*(\S+?)\s*</docno>.*?<text>(.*?)</text>", re.DOTALL | re.IGNORECASE)
_TOPIC = re.compile(r"<num>\s*(?:Number:)?\s*(\S+?)\s*</num>.*?<title>(.*?)</title>", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Retrieval:
    """A collection; queries that no document answers are left out."""

    METRICS: ClassVar = (f"nDCG@{BEST}", f"recall@{FOUND}")
    name: str
    documents: dict[str, str]
    queries: dict[str, str]
    grades: Grades

    def texts(self) -> dict[str | None, list[str]]:
        """What is to be embedded, by the prompt that it gets."""
        return {QUERY: list(self.queries.values()), DOCUMENT: list(self.documents.values())}

    def score(self, vectors: Mapping[str | None, FloatArray]) -> dict[str, float]:
        """Of vectors in the order of the texts, of unit length."""
        gains, recalls, numbers = [], [], list(self.documents)
        for query, places in zip(self.queries, _best(vectors[QUERY], vectors[DOCUMENT]), strict=True):
            found = [numbers[place] for place in places.tolist()]
            gains.append(ndcg(found, self.grades[query]))
            recalls.append(len(self.grades[query].keys() & set(found)) / len(self.grades[query]))
        return {self.METRICS[0]: float(np.mean(gains)), self.METRICS[1]: float(np.mean(recalls))}


def ndcg(found: list[str], grades: Mapping[str, int]) -> float:
    """Of the first ten, beside the best that could be (Järvelin and Kekäläinen 2002, with the grades as gains)."""
    discounts = 1 / np.log2(np.arange(2, BEST + 2))
    ideal = sorted(grades.values(), reverse=True)[:BEST]
    gains = [grades.get(document, 0) for document in found[:BEST]]
    return float(np.dot(gains, discounts[: len(gains)]) / np.dot(ideal, discounts[: len(ideal)]))


def _best(queries: FloatArray, documents: FloatArray) -> Iterator[FloatArray]:
    """Of each query the places of the nearest documents, the nearest first, and of equals the first."""
    for start in range(0, len(queries), TOGETHER):
        scores = queries[start : start + TOGETHER] @ documents.T
        yield from np.argsort(-scores, axis=1, kind="stable")[:, :FOUND]


def read_retrieval(folder: Path) -> Retrieval:
    """A folder of either kind; `ConfigError` says what it lacks."""
    if (folder / "corpus.jsonl").exists():
        return _read_beir(folder)
    grades = next((file for file in sorted(folder.glob("*qrel*")) if file.is_file()), None)
    if grades is None:
        raise ConfigError(
            f"{folder} is no collection: it needs corpus.jsonl, queries.jsonl and qrels/test.tsv (as BEIR has), or "
            "documents and topics in XML with a file of judgements (*qrel*.txt, as TREC)"
        )
    return _read_trec(folder, grades)


def _read_beir(folder: Path) -> Retrieval:
    documents = {
        str(row["_id"]): f"{row.get('title') or ''} {row.get('text') or ''}".strip()
        for row in _json_lines(folder / "corpus.jsonl")
    }
    queries = {str(row["_id"]): str(row["text"]) for row in _json_lines(folder / "queries.jsonl")}
    split = next((one for one in SPLITS if (folder / "qrels" / f"{one}.tsv").exists()), None)
    if split is None:
        raise ConfigError(f"{folder} has no judgements: qrels/test.tsv (query-id, corpus-id, score)")
    path, grades = folder / "qrels" / f"{split}.tsv", Grades()
    with path.open(newline="", encoding="utf-8") as file:
        for number, row in enumerate(csv.reader(file, delimiter="\t"), start=1):
            if number > 1 or (row and row[-1].lstrip("-").isdecimal()):
                _note(grades, path, number, row)
    return _made(folder.name, documents, queries, grades, path)


def _read_trec(folder: Path, path: Path) -> Retrieval:
    pages = [file.read_text(encoding="utf-8", errors="replace") for file in sorted(folder.glob("*.xml"))]
    documents = {number: " ".join(text.split()) for page in pages for number, text in _DOCUMENT.findall(page)}
    topics = {number: " ".join(text.split()) for page in pages for number, text in _TOPIC.findall(page)}
    grades = Grades()
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        fields = line.split()
        if fields:
            _note(grades, path, number, [fields[0], *fields[2:]])
    if not grades.keys() <= topics.keys():  # as in Cranfield: judgements count topics from 1, whatever their numbers
        topics = {str(place): text for place, text in enumerate(topics.values(), start=1)}
    return _made(folder.name, documents, topics, grades, path)


def _note(grades: Grades, path: Path, number: int, row: list[str]) -> None:
    try:
        query, document, grade = row[0], row[1], int(row[2])
    except (IndexError, ValueError) as error:
        raise ConfigError(f"{path}: line {number} is not a query, a document and a grade") from error
    if grade > 0:
        grades.setdefault(query, {})[document] = grade


def _made(name: str, documents: dict[str, str], queries: dict[str, str], grades: Grades, path: Path) -> Retrieval:
    documents = {number: text for number, text in documents.items() if text}
    answered = {query: text for query, text in queries.items() if query in grades and text.strip()}
    if not documents or not answered:
        raise ConfigError(f"{path} judges none of the queries that are there: do its ids belong to this collection?")
    return Retrieval(name, documents, answered, grades)


def _json_lines(path: Path) -> Iterator[dict[str, object]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            if not isinstance(row, dict) or "_id" not in row or "text" not in row:
                raise ValueError("no _id and text")
        except ValueError as error:
            raise ConfigError(f"{path}: line {number} is not an object with _id and text") from error
        yield row
