"""Search against the plain definition: all cosines in float64, sorted."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import faiss
import msgspec
import numpy as np
import pytest
from corpus.sources import RECIPE, make_corpus, vector_of, write_rows
from fakes import WIDTH
from hypothesis import given, settings
from hypothesis import strategies as st

from inlay.corpus.files.part import Part
from inlay.corpus.search import index as index_module
from inlay.corpus.search.batcher import SearchBatcher
from inlay.corpus.search.binary import BinaryIndex
from inlay.corpus.search.exact import search, unit_rows
from inlay.corpus.search.index import build_index, recall_of
from inlay.corpus.search.searcher import Searcher
from inlay.errors import ConfigError, InvalidInput
from inlay.types import FloatArray

LANGUAGES = ["de", "en", "fr"]


class MemoryPart(Part):
    """A part without files."""

    def __init__(self, vectors: FloatArray, first_row: int) -> None:
        self.vectors = vectors
        self.first_row = first_row
        lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
        self.scales = np.where(lengths > 0, 1 / np.maximum(lengths, 1e-30), 0).astype(np.float32)

    def check_map(self) -> None:
        """There is no file."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """900 rows in two parts; every third text twice."""
    folder = tmp_path_factory.mktemp("corpus")
    rows = [{"id": n, "text": f"t{n - n % 3}" if n % 3 < 2 else f"t{n}", "lang": LANGUAGES[n % 3]} for n in range(900)]
    make_corpus(folder / "c", write_rows(folder / "a.jsonl", rows[:600]))
    make_corpus(folder / "c", write_rows(folder / "b.jsonl", rows[600:]), is_append=True)
    return folder / "c"


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_best_rows_are_found_in_their_order(data: st.DataObject) -> None:
    seed = data.draw(st.integers(0, 1000))
    sizes = data.draw(st.lists(st.integers(1, 60), min_size=1, max_size=3))
    top_k = data.draw(st.integers(1, 70))
    dtype = data.draw(st.sampled_from([np.float32, np.float16]))
    generator = np.random.default_rng(seed)
    vectors = generator.integers(-2, 3, (sum(sizes), 4)).astype(np.float32)  # small numbers: many equal scores
    ends = np.cumsum(sizes)
    parts = [
        MemoryPart(vectors[end - size : end].astype(dtype), int(end - size))
        for size, end in zip(sizes, ends, strict=True)
    ]
    queries = generator.standard_normal((data.draw(st.integers(1, 5)), 4)).astype(np.float32)
    mask = generator.random(len(vectors)) < 0.5 if data.draw(st.booleans()) else None
    lengths = np.maximum(np.linalg.norm(vectors.astype(np.float64), axis=1), 1e-30)
    cosines = (queries.astype(np.float64) @ vectors.T.astype(np.float64)) / lengths
    cosines /= np.linalg.norm(queries.astype(np.float64), axis=1, keepdims=True)
    allowed = np.arange(len(vectors)) if mask is None else np.flatnonzero(mask)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("inlay.corpus.search.exact.BLOCK_BYTES", 7 * 4 * 4)
        found = search(list(parts), queries, top_k, mask)
    for one, truth in zip(found, cosines, strict=True):
        assert len(one.rows) == min(top_k, len(allowed))
        assert len(set(one.rows.tolist())) == len(one.rows)
        assert set(one.rows.tolist()) <= set(allowed.tolist())
        np.testing.assert_allclose(one.scores, truth[one.rows], atol=1e-5)
        np.testing.assert_allclose(one.scores, np.sort(truth[allowed])[::-1][: len(one.rows)], atol=1e-5)


def test_equal_rows_come_in_the_order_of_the_corpus() -> None:
    part = MemoryPart(np.ones((100, 4), dtype=np.float32), 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("inlay.corpus.search.exact.BLOCK_BYTES", 7 * 4 * 4)
        (found,) = search([part], np.ones((1, 4), dtype=np.float32), 10)
    assert found.rows.tolist() == list(range(10))


def test_hits_have_their_records_over_all_parts(corpus: Path) -> None:
    searcher = Searcher(corpus)
    (hits,) = searcher.search_many(vector_of("t603")[None], 3)
    assert [hit.record["id"] for hit in hits[:2]] == [603, 604]
    assert hits[0].record == {"id": 603, "text": "t603", "lang": "de"}
    assert hits[0].score == pytest.approx(1, abs=1e-6)


def test_a_filter_finds_only_what_has_the_values(corpus: Path) -> None:
    searcher = Searcher(corpus)
    (hits,) = searcher.search_many(vector_of("t603")[None], 300, {"lang": "en"})
    assert len(hits) == 300
    assert {hit.record["lang"] for hit in hits} == {"en"}
    assert hits[0].record["id"] == 604
    (several,) = searcher.search_many(vector_of("t603")[None], 900, {"lang": ["en", "fr"], "id": [4, 5, 6]})
    assert {hit.record["id"] for hit in several} == {4, 5}
    (none,) = searcher.search_many(vector_of("t603")[None], 10, {"lang": "es"})
    assert none == []


@pytest.mark.parametrize("fault", ["vectors.npy", "scales.npy", "records.jsonl"])
def test_a_broken_row_is_left_out_and_costs_nobody_else(tmp_path: Path, fault: str) -> None:
    rows = [{"id": n, "text": f"t{n}", "lang": "de"} for n in range(300)]
    make_corpus(tmp_path / "c", write_rows(tmp_path / "a.jsonl", rows))
    path = tmp_path / "c" / "part-0001" / fault
    whole = Searcher(tmp_path / "c").search_many(vector_of("t5")[None], 5)[0]
    data = bytearray(path.read_bytes())
    if fault == "records.jsonl":
        data[data.index(b'"id":5,') + 6] ^= 1
    else:
        row_bytes = (len(data) - 128) // 300
        data[128 + 5 * row_bytes + 3] ^= 0x40  # an exponent
    path.write_bytes(data)
    for wanted in (None, {"lang": "de"}):
        (hits,) = Searcher(tmp_path / "c").search_many(vector_of("t5")[None], 5, wanted)
        assert [hit.row for hit in hits[:4]] == [hit.row for hit in whole[1:]]


def test_a_part_of_another_corpus_is_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        rows = [{"id": n, "text": f"{name}{n}"} for n in range(30)]
        make_corpus(tmp_path / name, write_rows(tmp_path / f"{name}.jsonl", rows))
    shutil.rmtree(tmp_path / "a" / "part-0001")
    shutil.copytree(tmp_path / "b" / "part-0001", tmp_path / "a" / "part-0001")
    with pytest.raises(ConfigError, match="manifest"):
        Searcher(tmp_path / "a")


@pytest.mark.parametrize("scale", [1e-30, 1e38])
def test_the_length_of_a_query_does_not_matter(corpus: Path, scale: float) -> None:
    unit = vector_of("t603") / np.linalg.norm(vector_of("t603"))
    (hits,) = Searcher(corpus).search_many((unit * np.float32(scale))[None], 2)
    assert hits[0].score == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("wanted", [{"size": 1}, {"text": "t1"}, {"lang": {"a": 1}}, {"lang": [["en"]]}])
def test_a_filter_that_makes_no_sense_is_refused(corpus: Path, wanted: dict[str, object]) -> None:
    with pytest.raises(InvalidInput, match="filter"):
        Searcher(corpus).search_many(vector_of("t1")[None], 10, wanted)


@pytest.mark.parametrize(
    ("query", "top_k", "message"),
    [
        (np.ones(3), 1, "components"),
        (np.full(WIDTH, np.nan), 1, "finite"),
        (np.ones(WIDTH), 0, "top_k"),
        (np.ones(WIDTH), 5000, "top_k"),
    ],
)
def test_a_query_that_makes_no_sense_is_refused(corpus: Path, query: FloatArray, top_k: int, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        Searcher(corpus).search_many(query[None], top_k)


@pytest.mark.parametrize(  # bits of 8 components tell little apart
    ("kind", "least"), [("hnsw", 0.9), ("ivf", 0.9), ("binary", 0.6), ("int8", 0.99)]
)
def test_an_index_finds_what_exact_search_finds_and_says_how_well(tmp_path: Path, kind: str, least: float) -> None:
    rows = [{"id": n, "text": f"t{n}"} for n in range(3000)]
    make_corpus(tmp_path / "c", write_rows(tmp_path / "a.jsonl", rows))
    exact = Searcher(tmp_path / "c")
    info = build_index(exact.corpus, kind, lambda line: None)
    indexed = Searcher(tmp_path / "c")
    assert indexed.index is not None
    assert info.recall_at_10 >= 0.95
    queries = np.stack([vector_of(f"q{n}") for n in range(50)])
    truth = search(exact.corpus.parts, queries, 10)
    assert recall_of(indexed.index.search(queries, 10), truth) >= least
    more = write_rows(tmp_path / "b.jsonl", [{"id": "new", "text": "q7"}])
    make_corpus(tmp_path / "c", more, is_append=True)
    (hits,) = Searcher(tmp_path / "c").search_many(vector_of("q7")[None], 5)
    assert hits[0].record["id"] == "new", "rows newer than the index are not found"
    assert len(hits) == 5


def test_the_recall_that_is_printed_is_less_than_one_where_the_search_is_poor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_module, "EFFORTS", (1,))
    rows = [{"id": n, "text": f"t{n}"} for n in range(3000)]
    make_corpus(tmp_path / "c", write_rows(tmp_path / "a.jsonl", rows))
    assert build_index(Searcher(tmp_path / "c").corpus, "ivf", lambda line: None).recall_at_10 < 0.9


@given(st.integers(1, 30), st.integers(1, 6), st.integers(1, 12), st.integers(0, 2**16))
def test_bits_with_every_row_scored_again_are_exact_search(rows: int, parts: int, top_k: int, seed: int) -> None:
    """Over parts of any sizes; also where fewer rows are there than are asked for."""
    generator = np.random.default_rng(seed)
    vectors = generator.standard_normal((rows, 12)).astype(np.float32)
    borders = np.sort(generator.integers(0, rows + 1, parts - 1))
    listed = [
        MemoryPart(part, int(first)) for first, part in zip([0, *borders], np.split(vectors, borders), strict=True)
    ]
    corpus: Any = SimpleNamespace(parts=listed, recipe=SimpleNamespace(width=12))
    index = BinaryIndex(faiss, corpus)
    index.rescored = 40
    for part in listed:
        index.add(unit_rows(part.vectors))
    queries = unit_rows(generator.standard_normal((3, 12)).astype(np.float32))
    scores, found = index.search(queries, top_k)
    for one_scores, one_rows, truth in zip(scores, found, search(listed, queries, top_k), strict=True):
        np.testing.assert_allclose(one_scores, truth.scores, atol=1e-6)
        assert set(one_rows.tolist()) == set(truth.rows.tolist()) or len(np.unique(truth.scores)) < len(truth.scores)


@pytest.mark.parametrize("kind", ["hnsw", "binary", "int8"])
@pytest.mark.parametrize("fault", ["other vectors", "no file", "garbage", "flipped bit"])
def test_an_index_that_cannot_be_used_leaves_exact_search(tmp_path: Path, fault: str, kind: str) -> None:
    file = write_rows(tmp_path / "a.jsonl", [{"id": n, "text": f"t{n}"} for n in range(300)])
    make_corpus(tmp_path / "c", file)
    build_index(Searcher(tmp_path / "c").corpus, kind, lambda line: None)
    about = tmp_path / "c" / "index.json"
    info = msgspec.json.decode(about.read_bytes())
    if fault == "other vectors":
        info["parts"]["part-0001"] = "0" * 64
        about.write_bytes(msgspec.json.encode(info))
    elif fault == "no file":
        (tmp_path / "c" / info["file"]).unlink()
    elif fault == "garbage":
        (tmp_path / "c" / info["file"]).write_bytes(b"garbage")
    else:
        data = bytearray((tmp_path / "c" / info["file"]).read_bytes())
        data[len(data) // 2] ^= 1
        (tmp_path / "c" / info["file"]).write_bytes(data)
    searcher = Searcher(tmp_path / "c")
    assert searcher.index is None
    assert searcher.search_many(vector_of("t5")[None], 1)[0][0].record["id"] == 5


def test_searches_that_meet_get_what_they_would_get_alone(corpus: Path) -> None:
    searcher = Searcher(corpus)

    async def story() -> None:
        batcher = SearchBatcher(searcher)
        together = 0
        run = searcher.search_many

        def counted(queries: FloatArray, *rest: object, **more: bool) -> object:
            nonlocal together
            together = max(together, len(queries))
            return run(queries, *rest, **more)  # type: ignore[arg-type]

        searcher.search_many = counted  # type: ignore[method-assign,assignment]

        async def ask(number: int) -> None:
            wanted = {"lang": "en"} if number % 5 == 0 else None
            top_k = 1 + number % 4
            hits = await batcher.search(vector_of(f"t{number}"), top_k, wanted)
            (alone,) = run(vector_of(f"t{number}")[None], top_k, wanted)
            assert [hit.row for hit in hits] == [hit.row for hit in alone]

        await asyncio.gather(*(ask(number) for number in range(200)))
        assert together > 10
        with pytest.raises(InvalidInput, match="filter has no field"):
            await batcher.search(vector_of("t1"), 1, {"size": 1})

    asyncio.run(story())


def test_f16_finds_nearly_the_same(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "a.jsonl", [{"id": n, "text": f"t{n}"} for n in range(3000)])
    make_corpus(tmp_path / "exact", file)
    make_corpus(tmp_path / "rounded", file, recipe=msgspec.structs.replace(RECIPE, store_dtype="f16"))
    queries = np.stack([vector_of(f"q{n}") for n in range(20)])
    found = [search(Searcher(tmp_path / name).corpus.parts, queries, 10) for name in ("rounded", "exact")]
    for one, truth in zip(*found, strict=True):
        np.testing.assert_allclose(one.scores, truth.scores, atol=2e-3)
