"""A corpus in Qdrant and in Milvus, as far as both run here: their clients' local modes."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from corpus.sources import RECIPE, FakeSource, make_corpus, vector_of, write_rows

from inlay.corpus.corpus import Corpus
from inlay.corpus.export.database import export, open_database
from inlay.corpus.search.exact import Found, search
from inlay.corpus.search.index import recall_of
from inlay.errors import ConfigError, DatabaseError

KINDS = ["qdrant", "milvus"]


def url_of(kind: str, folder: Path) -> str:
    return f"{kind}://{folder / ('q' if kind == 'qdrant' else 'm.db')}?collection=rows"


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    rows = [{"id": f"id{n}", "text": f"t{n}", "lang": "de"} for n in range(1000)]
    make_corpus(tmp_path / "c", write_rows(tmp_path / "a.jsonl", rows))
    return Corpus(tmp_path / "c")


@pytest.mark.parametrize("kind", KINDS)
def test_a_search_there_finds_what_exact_search_finds_here(corpus: Corpus, tmp_path: Path, kind: str) -> None:
    written: list[int] = []
    with open_database(url_of(kind, tmp_path)) as database:
        export(corpus, database, written.append)
    assert sum(written) == 1000
    queries = np.stack([vector_of(f"q{n}") for n in range(20)])
    truth = search(corpus.parts, queries, 10)
    with open_database(url_of(kind, tmp_path)) as database:
        found = []
        for query in queries:
            hits = database.search(query, 10)
            assert all(hit.record == corpus.record(hit.row) for hit in hits)
            found.append(Found(np.array([hit.row for hit in hits]), np.array([hit.score for hit in hits])))
    assert recall_of(found, truth) >= 0.99


@pytest.mark.parametrize("kind", KINDS)
def test_exporting_again_adds_what_is_new(corpus: Corpus, tmp_path: Path, kind: str) -> None:
    with open_database(url_of(kind, tmp_path)) as database:
        export(corpus, database, lambda number: None)
    more = write_rows(tmp_path / "b.jsonl", [{"id": "new", "text": "q1"}])
    make_corpus(tmp_path / "c", more, is_append=True)
    with open_database(url_of(kind, tmp_path)) as database:
        export(Corpus(tmp_path / "c"), database, lambda number: None)
        hits = database.search(vector_of("q1"), 3)
    assert hits[0].record == {"id": "new", "text": "q1"}
    assert len({hit.row for hit in hits}) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_a_collection_of_another_model_is_refused(corpus: Corpus, tmp_path: Path, kind: str) -> None:
    with open_database(url_of(kind, tmp_path)) as database:
        export(corpus, database, lambda number: None)
    other = msgspec.structs.replace(RECIPE, fingerprint="another")
    make_corpus(tmp_path / "d", tmp_path / "a.jsonl", FakeSource(), recipe=other)
    with pytest.raises(ConfigError, match="another model"), open_database(url_of(kind, tmp_path)) as database:
        export(Corpus(tmp_path / "d"), database, lambda number: None)


@pytest.mark.parametrize("kind", KINDS)
def test_a_database_that_does_not_answer_is_named(kind: str) -> None:
    url = f"{kind}://127.0.0.1:1/rows"
    with pytest.raises(DatabaseError), open_database(url) as database:
        database.fingerprint()


@pytest.mark.parametrize("url", ["pinecone://h/c", "qdrant://host", "qdrant:///path", "milvus://", "nonsense"])
def test_a_url_that_is_off_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="use qdrant"), open_database(url):
        pass
