"""Sets of texts whose answers are known: what is read of files, and the scores beside scipy's and by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from inlay.errors import ConfigError
from inlay.evaluation.retrieval import DOCUMENT, QUERY, ndcg, read_retrieval
from inlay.evaluation.similarity import read_similarity, spearman


@pytest.mark.parametrize("seed", range(5))
def test_spearman_is_scipys_with_equals_too(seed: int) -> None:
    chance = np.random.default_rng(seed)
    found, given = chance.integers(0, 8, 50).astype(float), chance.integers(0, 5, 50).astype(float)
    assert spearman(found, given) == pytest.approx(spearmanr(found, given).statistic)
    assert spearman(np.ones(5), given[:5]) == 0.0


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", 'one,two,5.0\n"a, b",c,0\n'),
        ("a.csv", 'score,sentence1,sentence2\n5.0,one,two\n0,"a, b",c\n'),
        ("a.tsv", "text1\ttext2\tlabel\none\ttwo\t5\na, b\tc\t0\n"),
    ],
)
def test_pairs_are_read_with_names_and_without(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    pairs = read_similarity(tmp_path / name)
    assert (pairs.first, pairs.second, pairs.scores) == (["one", "a, b"], ["two", "c"], [5.0, 0.0])
    assert pairs.texts() == {None: ["one", "a, b", "two", "c"]}
    vectors = np.array([[1, 0], [1, 0], [1, 0], [0, 1]], np.float32)
    assert pairs.score({None: vectors}) == {"Spearman": pytest.approx(1.0)}


@pytest.mark.parametrize(("content", "told"), [("", "no pairs"), ("a,b\nc,d\n", "row 1"), ("a,b,1\na,b,x\n", "row 2")])
def test_what_is_no_pair_is_told(tmp_path: Path, content: str, told: str) -> None:
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(ConfigError, match=told):
        read_similarity(tmp_path / "a.csv")


def write_beir(folder: Path, judgements: str = "query-id\tcorpus-id\tscore\nq1\td2\t2\nq1\td3\t1\nq2\td1\t0\n") -> Path:
    documents = [{"_id": f"d{n}", "title": "t", "text": f"text {n}"} for n in range(1, 5)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in documents))
    queries = [{"_id": "q1", "text": "first"}, {"_id": "q2", "text": "second"}]
    (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in queries))
    (folder / "qrels").mkdir()
    (folder / "qrels" / "test.tsv").write_text(judgements)
    return folder


def test_a_collection_as_beir_has_it(tmp_path: Path) -> None:
    collection = read_retrieval(write_beir(tmp_path))
    assert collection.texts() == {QUERY: ["first"], DOCUMENT: [f"t text {n}" for n in range(1, 5)]}
    assert collection.grades == {"q1": {"d2": 2, "d3": 1}}
    documents = np.array([[0.9, 0], [1, 0], [0, 1], [0.5, 0]], np.float32)
    scores = collection.score({QUERY: np.array([[1, 0]], np.float32), DOCUMENT: documents})
    # found: d2 (2), d1 (0), d4 (0), d3 (1)
    ideal = 2 / np.log2(2) + 1 / np.log2(3)
    assert scores == {"nDCG@10": pytest.approx((2 + 1 / np.log2(5)) / ideal), "recall@100": 1.0}


def test_ndcg_looks_at_ten_and_at_the_best_that_could_be() -> None:
    found = [str(n) for n in range(20)]
    assert ndcg(found, {"0": 3, "1": 2}) == pytest.approx(1.0)
    assert ndcg(found, {"10": 1}) == 0.0
    assert ndcg(found[:3], {str(n): 1 for n in range(20)}) == pytest.approx(
        (1 / np.log2(np.arange(2, 5))).sum() / (1 / np.log2(np.arange(2, 12))).sum()
    )


def test_a_collection_as_trec_has_it(tmp_path: Path) -> None:
    (tmp_path / "docs.xml").write_text(
        "<doc><docno>1</docno><text>a\n b</text></doc><doc><docno>2</docno><text>c</text></doc>"
    )
    (tmp_path / "topics.xml").write_text(
        "<top><num> 7</num><title>\nwhat\n</title></top><top><num> 9</num><title>how</title></top>"
    )
    (tmp_path / "qrels.txt").write_text("7 0 1 1\n9 0 2 -1\n")
    collection = read_retrieval(tmp_path)
    assert (collection.documents, collection.queries) == ({"1": "a b", "2": "c"}, {"7": "what"})
    (tmp_path / "qrels.txt").write_text("1 0 1 1\n2 0 2 1\n")  # topics counted from 1, whatever their numbers
    assert read_retrieval(tmp_path).queries == {"1": "what", "2": "how"}


@pytest.mark.parametrize(
    ("remove", "judgements", "told"),
    [
        ("corpus.jsonl", "", "is no collection"),
        ("queries.jsonl", "", "cannot be read"),
        ("qrels/test.tsv", "", "no judgements"),
        (None, "query-id\tcorpus-id\tscore\nq9\td1\t1\n", "none of the queries"),
        (None, "query-id\tcorpus-id\tscore\nq1\td1\tmuch\n", "line 2"),
    ],
)
def test_what_a_collection_lacks_is_told(tmp_path: Path, remove: str | None, judgements: str, told: str) -> None:
    write_beir(tmp_path, judgements)
    if remove is not None:
        (tmp_path / remove).unlink()
    with pytest.raises(ConfigError, match=told):
        read_retrieval(tmp_path)
