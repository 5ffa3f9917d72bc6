"""A corpus that keeps dense, sparse and token vectors, and its search by all three."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import numpy as np
import pytest
from checkpoints import make_bge_m3, text_of
from command import run_inlay
from corpus.sources import Killed, recipe_of, write_rows
from servers import RunningServer

from inlay import ConfigError, Embedder, InvalidInput
from inlay.corpus.corpus import Corpus
from inlay.corpus.files.part_writer import PartWriter
from inlay.corpus.files.postings import POSTINGS, Postings, write_postings
from inlay.corpus.files.ragged import Ragged, RaggedWriter, layout_of
from inlay.corpus.recipe import Recipe
from inlay.corpus.search.hybrid import WEIGHTS, HybridQuery, weights_for
from inlay.corpus.search.searcher import Searcher
from inlay.precompute import ingestion
from inlay.precompute.ingestion import Columns, Embedded
from inlay.precompute.input_rows import read_rows
from inlay.precompute.local_source import LocalSource
from inlay.precompute.remote_source import RemoteSource
from inlay.precompute.run import precompute
from inlay.types import COLBERT, DENSE, SPARSE, SPARSE_ROW

ALL = (DENSE, SPARSE, COLBERT)
TEXTS = [text_of(2 + number % 23, number) for number in range(60)]
QUERY = text_of(5, 3)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bge_m3(tmp_path_factory.mktemp("bge") / "tiny-m3")


@pytest.fixture(scope="module")
def embedder(model: Path) -> Iterator[Embedder]:
    with Embedder(str(model), dtype="float32") as made:
        yield made


def build(embedder: Embedder, file: Path, directory: Path, recipe: Recipe | None = None, **more: bool) -> None:
    columns = Columns("text", "id", ("even",))
    rows = read_rows(str(file), "auto", "text")
    recipe = recipe_of(embedder, ALL) if recipe is None else recipe
    precompute(directory, rows, str(file), columns, LocalSource(embedder), recipe, **{"is_append": False, **more})


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Rows for two parts; the second has a text of the first again."""
    root = tmp_path_factory.mktemp("rows")
    rows = [{"id": number, "text": text, "even": number % 2 == 0} for number, text in enumerate(TEXTS)]
    again = {"id": len(TEXTS), "text": TEXTS[7], "even": True}
    return write_rows(root / "a.jsonl", rows[:40]), write_rows(root / "b.jsonl", [*rows[40:], again, again])


@pytest.fixture(scope="module")
def corpus(embedder: Embedder, files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("hybrid") / "corpus"
    build(embedder, files[0], directory)
    build(embedder, files[1], directory, is_append=True)
    return directory


def expected_scores(embedder: Embedder, weights: Mapping[str, float], texts: list[str]) -> np.ndarray:
    """FlagEmbedding 1.4.2: `compute_score_single_device`, `compute_lexical_matching_score`, `colbert_score`."""
    query, found = embedder.embed_outputs([QUERY]), embedder.embed_outputs(texts)
    weight_of = dict(zip(query.sparse[0].indices.tolist(), query.sparse[0].values.tolist(), strict=True))
    sparse = [
        sum(weight_of.get(token, 0.0) * weight for token, weight in zip(*map(np.ndarray.tolist, text), strict=True))
        for text in found.sparse
    ]
    late = [(query.colbert[0] @ rows.T).max(axis=1).mean() for rows in found.colbert]
    by_kind = {DENSE: found.dense @ query.dense[0], SPARSE: np.array(sparse), COLBERT: np.array(late)}
    return sum(weights[kind] * by_kind[kind] for kind in ALL) / sum(weights.values())


def query_of(embedder: Embedder, weights: Mapping[str, float] = WEIGHTS, candidates: int = 1000) -> HybridQuery:
    (answer,) = LocalSource(embedder).embed_texts([QUERY], recipe_of(embedder, ALL))
    assert not isinstance(answer, Exception)
    return HybridQuery.of(answer.vector, answer.others, weights, candidates)


@pytest.mark.parametrize("weights", [WEIGHTS, dict.fromkeys(ALL, 1.0), {DENSE: 0.0, SPARSE: 1.0, COLBERT: 0.0}])
def test_scores_are_flagembeddings(embedder: Embedder, corpus: Path, weights: Mapping[str, float]) -> None:
    hits = Searcher(corpus).search_hybrid(query_of(embedder, weights), len(TEXTS) + 1)
    expected = expected_scores(embedder, weights, [*TEXTS, TEXTS[7]])
    assert len(hits) == len(expected)
    np.testing.assert_allclose([hit.score for hit in hits], np.sort(expected)[::-1], atol=1e-3)
    for hit in hits:
        assert abs(hit.score - expected[hit.record["id"]]) < 1e-3  # token vectors are kept in half precision
        assert hit.scores is not None
        assert hit.scores.keys() == set(ALL)


def test_few_candidates_find_the_best_of_both_kinds(embedder: Embedder, corpus: Path) -> None:
    searcher = Searcher(corpus)
    only = {kind: Searcher(corpus).search_hybrid(query_of(embedder, one_of(kind)), 3) for kind in (DENSE, SPARSE)}
    found = {hit.row for hit in searcher.search_hybrid(query_of(embedder, candidates=3), 6)}
    for hits in only.values():
        assert found & {hit.row for hit in hits}
    assert len(found) <= 6


def one_of(kind: str) -> dict[str, float]:
    return {other: float(other == kind) for other in ALL}


def test_filters_hold_for_all_candidates(embedder: Embedder, corpus: Path) -> None:
    hits = Searcher(corpus).search_hybrid(query_of(embedder), 10, {"even": True})
    assert len(hits) == 10
    assert all(hit.record["even"] for hit in hits)


def test_what_is_kept_is_what_the_model_gave(embedder: Embedder, corpus: Path) -> None:
    opened, given = Corpus(corpus), embedder.embed_outputs(TEXTS)
    for row in (0, 7, 39, 40, 59):
        others = opened.others_of(row)
        assert others is not None
        assert others[SPARSE]["id"].tolist() == given.sparse[row].indices.tolist()
        assert np.array_equal(others[SPARSE]["weight"], given.sparse[row].values)
        np.testing.assert_allclose(others[COLBERT].astype(np.float32), given.colbert[row], atol=1e-3)
    first, again = opened.others_of(7), opened.others_of(60)
    assert first is not None
    assert again is not None
    assert all(np.array_equal(first[kind], again[kind]) for kind in (SPARSE, COLBERT))


def test_a_run_that_was_killed_ends_with_the_same_corpus(
    embedder: Embedder, files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingestion, "BLOCK", 8)
    monkeypatch.setattr(ingestion, "CHECKPOINT_SECONDS", 0.0)
    calls = 0
    embed = LocalSource.embed_texts

    def killed(source: LocalSource, texts: list[str], recipe: Recipe) -> list[Embedded]:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise Killed
        return embed(source, texts, recipe)

    monkeypatch.setattr(LocalSource, "embed_texts", killed)
    with pytest.raises(Killed):
        build(embedder, files[0], tmp_path / "corpus")
    build(embedder, files[0], tmp_path / "corpus")
    build(embedder, files[0], tmp_path / "whole")
    for name in ("sparse_values", "sparse_ends", "sparse_rows", "sparse_weights", "colbert_values", "colbert_ends"):
        one, other = (
            directory / "part-0001" / f"{name}.npy" for directory in (tmp_path / "corpus", tmp_path / "whole")
        )
        assert one.read_bytes() == other.read_bytes(), name


def test_a_file_that_got_shorter_before_it_was_taken_up_is_an_error(
    embedder: Embedder, files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingestion, "BLOCK", 8)
    monkeypatch.setattr(ingestion, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(PartWriter, "publish", lambda writer: (_ for _ in ()).throw(Killed))
    with pytest.raises(Killed):
        build(embedder, files[0], tmp_path / "corpus")
    values = tmp_path / "corpus" / "building" / "colbert_values.npy"
    values.write_bytes(values.read_bytes()[:-100])
    with pytest.raises(ConfigError, match="is shorter than it was"):
        build(embedder, files[0], tmp_path / "corpus")


@pytest.mark.parametrize("kind", [SPARSE, COLBERT])
def test_a_row_whose_bytes_changed_is_left_out(embedder: Embedder, corpus: Path, tmp_path: Path, kind: str) -> None:
    broken = tmp_path / "corpus"
    shutil.copytree(corpus, broken)
    best = Searcher(corpus).search_hybrid(query_of(embedder), 61)
    values = np.load(broken / "part-0001" / f"{kind}_values.npy", mmap_mode="r+")
    values.view(np.uint8)[0] ^= 1  # of the first row that has any
    values.flush()
    found = Searcher(broken).search_hybrid(query_of(embedder), 61)
    first = next(row for row in range(40) if len((Corpus(corpus).others_of(row) or {})[kind]))
    assert {hit.row for hit in best} - {hit.row for hit in found} == {first}


@pytest.mark.parametrize("name", [*POSTINGS, "sparse_ends.npy", "colbert_values.npy"])
def test_files_that_nothing_else_proves_are_proved_when_a_corpus_is_opened(
    corpus: Path, tmp_path: Path, name: str
) -> None:
    broken = tmp_path / "corpus"
    shutil.copytree(corpus, broken)
    file = broken / "part-0001" / name
    if name in POSTINGS:
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
        with pytest.raises(ConfigError, match=f"{name} is not the one in the manifest"):
            Corpus(broken)
    file.write_bytes(b"")
    with pytest.raises(ConfigError, match="is incomplete"):
        Corpus(broken)


def test_what_was_left_before_a_first_checkpoint_is_not_in_the_corpus(
    embedder: Embedder, files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as killed:
        killed.setattr(PartWriter, "checkpoint", lambda *arguments: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            build(embedder, files[0], tmp_path / "corpus")
    build(embedder, files[0], tmp_path / "corpus", recipe_of(embedder, (DENSE, SPARSE)))
    assert not list((tmp_path / "corpus" / "part-0001").glob("colbert*"))


def test_a_corpus_that_keeps_other_kinds_cannot_grow_by_these(
    embedder: Embedder, corpus: Path, files: tuple[Path, Path]
) -> None:
    with pytest.raises(ConfigError, match="outputs dense,sparse,colbert, not dense"):
        build(embedder, files[1], corpus, recipe_of(embedder, (DENSE,)), is_append=True)


def test_weights_are_of_kinds_that_the_corpus_keeps() -> None:
    assert weights_for(ALL, None) == pytest.approx(WEIGHTS)
    assert weights_for((DENSE, SPARSE), {SPARSE: 2.0}) == {DENSE: 0.0, SPARSE: 1.0}
    assert weights_for(ALL, dict.fromkeys(ALL, 1e308)) == pytest.approx(dict.fromkeys(ALL, 1 / 3))
    assert weights_for(ALL, {DENSE: 1e-320}) == {DENSE: 1.0, SPARSE: 0.0, COLBERT: 0.0}
    for kinds, given, named in (
        ((DENSE,), None, "keeps dense vectors alone"),
        (ALL, {"words": 1.0}, "no weights of 'words'"),
        ((DENSE, SPARSE), {COLBERT: 1.0}, "the corpus keeps dense, sparse"),
        (ALL, {DENSE: -1.0}, "dense=-1"),
        (ALL, {DENSE: float("nan")}, "dense=nan"),
        (ALL, dict.fromkeys(ALL, 0.0), "no kind has a weight"),
        (ALL, {}, "no kind has a weight"),
    ):
        with pytest.raises(InvalidInput, match=named):
            weights_for(kinds, given)


def test_a_server_and_the_command_line_search_by_all_kinds(
    embedder: Embedder, model: Path, files: tuple[Path, Path], tmp_path: Path
) -> None:
    directory = tmp_path / "corpus"
    arguments = ("--model", str(model), "--dtype", "float32", "--id", "id", "--outputs", "dense,sparse,colbert")
    refused = run_inlay("precompute", str(files[0]), "-o", str(directory), "--model", str(model), "--outputs", "sparse")
    assert "name dense, and what else a corpus keeps" in refused.stderr
    done = run_inlay("precompute", str(files[0]), "-o", str(directory), *arguments)
    assert done.returncode == 0, done.stderr
    expected = expected_scores(embedder, WEIGHTS, TEXTS[:40])
    shown = run_inlay("search", str(directory), QUERY, "--hybrid", "--json", "-k", "5", "--dtype", "float32")
    rows = [json.loads(line) for line in shown.stdout.splitlines()]
    np.testing.assert_allclose([row["score"] for row in rows], np.sort(expected)[::-1][:5], atol=1e-3)
    with RunningServer(str(model), "--dtype=float32", f"--corpus=c={directory}") as server:
        plain = httpx.post(f"{server.url}/v1/search", json={"query": QUERY}, timeout=60).json()
        assert "scores" not in plain["data"][0]
        body = {"query": QUERY, "top_k": 5, "hybrid": {}}
        reply = httpx.post(f"{server.url}/v1/search", json=body, timeout=60).json()
        assert [hit["id"] for hit in reply["data"]] == [row["id"] for row in rows]
        assert reply["data"][0]["scores"].keys() == set(ALL)
        bad = {"query": QUERY, "hybrid": {"weights": {"words": 1}}}
        answer = httpx.post(f"{server.url}/v1/search", json=bad, timeout=60)
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "hybrid"
        vector = httpx.post(f"{server.url}/v1/search", json={"embedding": [0.5] * 48, "hybrid": {}}, timeout=60)
        assert vector.status_code == 400
        source = RemoteSource(server.url, None, None)
        recipe = recipe_of(embedder, ALL)
        far, near = source.embed_texts(TEXTS[:3], recipe), LocalSource(embedder).embed_texts(TEXTS[:3], recipe)
        for one, other in zip(far, near, strict=True):
            assert not isinstance(one, Exception)
            assert not isinstance(other, Exception)
            assert np.array_equal(one.vector, other.vector)
            np.testing.assert_allclose(one.others[COLBERT], other.others[COLBERT])
            assert one.others[SPARSE]["id"].tolist() == other.others[SPARSE]["id"].tolist()
            np.testing.assert_allclose(one.others[SPARSE]["weight"], other.others[SPARSE]["weight"])
        source.close()


def test_texts_without_any_values_are_rows_all_the_same(tmp_path: Path) -> None:
    for kind in (SPARSE, COLBERT):
        dtype, shape = layout_of(kind, 8)
        writer = RaggedWriter(tmp_path, kind, 8, 0)
        for number in (0, 2, 0):
            writer.append(np.ones((number, *shape), dtype=dtype))
        writer.finish()
        opened = Ragged(tmp_path, kind)
        assert [len(opened.row(row)) for row in range(3)] == [0, 2, 0]  # type: ignore[arg-type]
    write_postings(tmp_path, Ragged(tmp_path, SPARSE))
    scores = Postings(tmp_path, 3).scores(np.array([(1, 2.0), (9, 1.0)], dtype=SPARSE_ROW))
    assert scores[0] == scores[2] == 0.0
