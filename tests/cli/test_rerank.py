"""`inlay rerank`, `inlay verify` of a reranker, and `inlay search --rerank`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import run_inlay
from corpus.sources import write_rows
from rerankers import make_reranker, reference_of

DOCUMENTS = ["the first people of the world", "water and oil", "hello world, hello people", "oil"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_reranker(tmp_path_factory.mktemp("reranker") / "ranker", "bert")


def test_documents_of_a_file_come_by_their_scores(model: Path, tmp_path: Path) -> None:
    file = tmp_path / "documents.txt"
    file.write_text("\n".join(DOCUMENTS))
    done = run_inlay("rerank", str(model), "hello people", str(file), "--json", "--raw-scores", "--dtype", "float32")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    logits = reference_of(model, "bert")("hello people", DOCUMENTS)
    assert [row["score"] for row in rows] == pytest.approx(sorted(logits, reverse=True), abs=1e-4)
    assert [DOCUMENTS[row["row"] - 1] for row in rows] == [row["text"] for row in rows]
    best = run_inlay("rerank", str(model), "hello people", "--top-n", "1", "--dtype", "float32", text=file.read_text())
    assert best.stdout.split(maxsplit=2)[2].strip() == rows[0]["text"]


def test_a_row_without_text_is_an_error(model: Path) -> None:
    done = run_inlay("rerank", str(model), "hello", "-", "--input-format", "jsonl", text='{"text": "a"}\n{"t": 1}\n')
    assert done.returncode == 2
    assert "row 2" in done.stderr


def test_errors_name_rows_of_the_file(model: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("hello\n\nworld\n")
    done = run_inlay("rerank", str(model), "hello", str(file))
    assert f"{file}: row 2: has no text" in done.stderr
    file.write_text("hello\n" + "world " * 900)
    done = run_inlay("rerank", str(model), "hello", str(file))
    assert done.returncode == 1
    assert "row 2 has 9" in done.stderr
    assert "--long-documents" in done.stderr


def test_an_embedding_model_ranks_nothing(tmp_path: Path) -> None:
    done = run_inlay("rerank", "demo", "hello", text="a\n")
    assert done.returncode == 1
    assert "demo is an embedding model" in done.stderr


def test_verify_compares_a_reranker_with_its_reference(model: Path) -> None:
    done = run_inlay("verify", str(model), "--dtype", "float32", COLUMNS="150")
    assert done.returncode == 0, done.stdout
    assert "scores of sentence-transformers in float32" in done.stdout
    assert "skipped" not in done.stdout


def test_a_search_is_reranked(model: Path, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "a.jsonl", [{"id": n, "text": text} for n, text in enumerate(DOCUMENTS)])
    made = run_inlay("precompute", str(file), "-o", str(tmp_path / "c"), "--id", "id")
    assert made.returncode == 0, made.stderr
    done = run_inlay(
        *("search", str(tmp_path / "c"), "hello people", "--json"),
        *("--rerank", str(model), "--top-n", "3", "--dtype", "auto"),
    )
    hits = [json.loads(line) for line in done.stdout.splitlines()]
    logits = reference_of(model, "bert")("hello people", DOCUMENTS)
    expected = sorted(range(len(DOCUMENTS)), key=lambda index: -logits[index])[:3]
    assert [hit["id"] for hit in hits] == expected
    assert run_inlay("search", str(tmp_path / "c"), "a", "--top-n", "3").returncode == 2
