"""Text Embeddings Inference's dialect, beside values from its own snapshots and tests."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from asking_dialects import Ask, asker, start
from checkpoints import write_json
from tokenizers import Tokenizer

from inlay.types import Worker

GOLDEN = [0.020964134, 0.04565805, -0.066505864, 0.10739273]  # its snapshot of all-MiniLM-L6-v2, "test", 128 dimensions


def test_vectors_are_those_of_its_snapshot(demo_path: Path, tmp_path: Path) -> None:
    """It takes tanh's approximation wherever a config says `gelu`; with a config that asks for that, to 1e-5."""
    path = shutil.copytree(demo_path, tmp_path / "approximated")
    config = json.loads((path / "config.json").read_text())
    write_json(path / "config.json", {**config, "hidden_act": "gelu_new"})
    worker = start(path, "approximated")
    reply = asker({"approximated": worker})("/embed", {"inputs": "test", "dimensions": 128})
    worker.close(10)
    np.testing.assert_allclose(reply.json()[0][:4], GOLDEN, atol=1e-6)


def test_any_model_is_cut_with_a_warning(ask: Ask) -> None:
    reply = ask("/embed", {"inputs": "test", "dimensions": 128})
    assert (reply.status_code, len(reply.json()[0])) == (200, 128)
    np.testing.assert_allclose(reply.json()[0][:4], GOLDEN, atol=2e-4)  # its approximation of gelu is as far away
    assert "was not trained to be cut" in reply.headers["x-inlay-warning"]
    assert {"x-compute-time", "x-total-time", "x-queue-time", "x-inference-time"} <= reply.headers.keys()


@pytest.mark.parametrize("path", ["/embed", "/", "/invocations"])
def test_embeddings_are_bare_lists(ask: Ask, path: str) -> None:
    texts = ["a stone in a ring", "a railway timetable"]
    expected = [row["embedding"] for row in ask("/v1/embeddings", {"input": texts, "model": "demo"}).json()["data"]]
    assert ask(path, {"inputs": texts}).json() == expected
    assert ask(path, {"inputs": texts[0], "truncate": None, "normalize": None}).json() == expected[:1]


def test_too_long_is_cut_unless_it_is_forbidden(ask: Ask) -> None:
    text = "stone " * 600 + "timetable"
    right, left = (ask("/embed", {"inputs": text, "truncation_direction": side}) for side in ("Right", "left"))
    assert right.headers["x-inlay-truncated"] == left.headers["x-inlay-truncated"] == "0"
    assert right.json() != left.json()
    refused = ask("/embed", {"inputs": ["a", text], "truncate": False})
    assert (refused.status_code, refused.json()["error_type"]) == (422, "Validation")
    assert refused.json()["error"].startswith("inputs[1] has")


@pytest.mark.parametrize(
    ("path", "body", "status", "kind"),
    [
        ("/embed", {"inputs": ""}, 400, "Empty"),
        ("/embed", {"inputs": []}, 400, "Empty"),
        ("/embed", {"inputs": ["fine", ""]}, 400, "Empty"),
        ("/embed", {"inputs": 3}, 422, "Validation"),
        ("/embed", {"inputs": "a", "dimensions": 0}, 422, "Validation"),
        ("/embed", {"inputs": "a", "dimensions": 385}, 422, "Validation"),
        ("/embed", {"inputs": "a", "prompt_name": "no such"}, 422, "Validation"),
        ("/embed", {"inputs": "a", "model": "nobody"}, 404, "Validation"),
        ("/embed", {"inputs": "a", "model": "ranker"}, 424, "Backend"),
        ("/embed_sparse", {"inputs": "a", "model": "demo"}, 424, "Backend"),
        ("/rerank", {"query": "a", "texts": ["b"], "model": "demo"}, 424, "Backend"),
        ("/rerank", {"query": "a", "texts": []}, 400, "Empty"),
        ("/rerank", {"query": "", "texts": ["b"]}, 400, "Empty"),
        ("/predict", {"inputs": "a"}, 424, "Backend"),
        ("/predict", {"inputs": [["a"]]}, 422, "Validation"),
        ("/similarity", {"inputs": {"source_sentence": "a", "sentences": []}}, 400, "Empty"),
        ("/", {"inputs": {"source_sentence": "a"}}, 422, "Validation"),
        ("/tokenize", {"inputs": ""}, 400, "Empty"),
        ("/decode", {"ids": [10**9]}, 422, "Validation"),
        ("/decode", {"ids": [[1], 2]}, 422, "Validation"),
    ],
)
def test_errors_have_a_text_and_a_kind(ask: Ask, path: str, body: object, status: int, kind: str) -> None:
    reply = ask(path, body)
    assert (reply.status_code, reply.json().get("error_type")) == (status, kind), reply.text
    assert isinstance(reply.json()["error"], str)


def test_sparse_weights_come_from_the_first_model_that_has_them(ask: Ask) -> None:
    found = ask("/embed_sparse", {"inputs": ["hello world", "way"]}).json()
    said = ask("/v1/embeddings", {"input": ["hello world", "way"], "model": "m3", "outputs": ["sparse"]}).json()
    for row, one in zip(found, said["data"], strict=True):
        assert [value["index"] for value in row] == one["sparse"]["indices"]
        assert [value["value"] for value in row] == one["sparse"]["values"]


def test_all_tokens_have_a_vector_with_the_mean_that_is_the_texts(ask: Ask) -> None:
    texts = ["a stone in a ring", "a"]
    reply = ask("/embed_all", {"inputs": texts})
    tokens = ask("/tokenize", {"inputs": texts}).json()
    vectors = ask("/embed", {"inputs": texts, "normalize": False}).json()
    assert [len(rows) for rows in reply.json()] == [len(own) for own in tokens]
    for rows, vector in zip(reply.json(), vectors, strict=True):
        np.testing.assert_allclose(np.mean(rows, axis=0), vector, atol=1e-5)
    assert reply.headers["x-compute-tokens"] == str(sum(map(len, tokens)))
    assert len(ask("/embed_all", {"inputs": "word " * 600}).json()[0]) == 256, "what is too long is cut"
    assert ask("/embed_all", {"inputs": "a", "model": "ranker"}).status_code == 424
    assert ask("/embed_all", {"inputs": [""]}).json()["error_type"] == "Empty"


@pytest.mark.parametrize("path", ["/rerank", "/"])
def test_reranking_gives_all_sorted(ask: Ask, path: str) -> None:
    texts = ["world", "hello hello", "way"]
    rows = ask(path, {"query": "hello", "texts": texts, "return_text": True}).json()
    assert sorted(row["index"] for row in rows) == [0, 1, 2]
    assert [row["score"] for row in rows] == sorted((row["score"] for row in rows), reverse=True)
    assert all(row["text"] == texts[row["index"]] for row in rows)
    raw = ask(path, {"query": "hello", "texts": texts, "raw_scores": True}).json()
    for one, other in zip(rows, raw, strict=True):
        assert one["score"] == pytest.approx(1 / (1 + np.exp(-other["score"])))
        assert "text" not in other


def test_predictions_of_pairs(ask: Ask) -> None:
    rows = {row["index"]: row["score"] for row in ask("/rerank", {"query": "hello", "texts": ["world", "way"]}).json()}
    one = ask("/predict", {"inputs": ["hello", "world"]}).json()
    assert one == [{"score": pytest.approx(rows[0], abs=1e-6), "label": "LABEL_0"}]
    two = ask("/predict", {"inputs": [["hello", "world"], ["hello", "way"]]}).json()
    assert [row[0]["score"] for row in two] == [pytest.approx(rows[index], abs=1e-6) for index in (0, 1)]


@pytest.mark.parametrize("path", ["/similarity", "/", "/invocations"])
def test_similarity_gives_cosines(ask: Ask, path: str) -> None:
    body = {"inputs": {"source_sentence": "a ring", "sentences": ["a stone", "a train"]}, "parameters": {}}
    vectors = np.array(ask("/embed", {"inputs": ["a ring", "a stone", "a train"]}).json())
    np.testing.assert_allclose(ask(path, body).json(), vectors[1:] @ vectors[0], atol=1e-6)


def test_tokens_have_places_in_bytes(ask: Ask, dialect_workers: dict[str, Worker]) -> None:
    text = "Zürich, naïve 😀 stone"
    (tokens,) = ask("/tokenize", {"inputs": text}).json()
    tokenizer = Tokenizer.from_file(str(dialect_workers["demo"].spec.path / "tokenizer.json"))
    tokenizer.no_padding()
    assert [token["id"] for token in tokens] == tokenizer.encode(text).ids
    assert (tokens[0]["special"], tokens[0]["start"], tokens[0]["text"]) == (True, None, "[CLS]")
    for token in tokens[1:-1]:
        assert text.encode()[token["start"] : token["stop"]].decode() == token["text"]
    (bare,) = ask("/tokenize", {"inputs": [text], "add_special_tokens": False}).json()
    assert [token["id"] for token in bare] == [token["id"] for token in tokens[1:-1]]
    ids = [token["id"] for token in tokens]
    assert ask("/decode", {"ids": ids}).json() == [tokenizer.decode(ids)]
    assert ask("/decode", {"ids": [ids, ids[:2]], "skip_special_tokens": False}).json()[1].startswith("[CLS]")


def test_info_and_probes(ask: Ask) -> None:
    info = ask("/info", method="GET").json()
    assert info["model_type"] == {"embedding": {"pooling": "mean"}}
    assert (info["max_input_length"], info["auto_truncate"], info["served_model_name"]) == (256, True, "demo")
    assert info["name"] == "inlay"
    for path in ("/", "/ping", "/health"):
        assert ask(path, method="GET").status_code == 200


def test_who_has_no_key_is_told_with_a_text(dialect_workers: dict[str, Worker]) -> None:
    ask = asker(dialect_workers, "secret")
    for path, body in (("/embed", {"inputs": "a"}), ("/rerank", {"query": "a", "texts": ["b"]})):
        told = ask(path, body)
        assert (told.status_code, isinstance(told.json()["error"], str)) == (401, True)
    assert ask("/embed", {"inputs": "a"}, authorization="Bearer secret").status_code == 200
