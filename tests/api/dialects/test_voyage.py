"""Voyage's dialect, as its clients send and read it."""

from __future__ import annotations

import base64

import numpy as np
import pytest
from asking_dialects import Ask, asker

from inlay.types import Worker

# What voyageai's Python client sends: all fields, null or not.
SENT = {"input_type": None, "truncation": True, "output_dtype": None, "output_dimension": None}
TEXTS = ["a stone in a ring", "a railway timetable"]


def test_embeddings_have_its_shape(ask: Ask) -> None:
    body = {"input": TEXTS, "model": "demo", **SENT, "encoding_format": None}
    reply = ask("/v1/embeddings", body)
    assert reply.status_code == 200
    said = reply.json()
    assert said.keys() == {"object", "data", "model", "usage"}
    assert said["usage"].keys() == {"total_tokens"}
    assert [(row["object"], row["index"]) for row in said["data"]] == [("embedding", 0), ("embedding", 1)]
    openai = ask("/v1/embeddings", {"input": TEXTS, "model": "demo"}).json()
    assert said["data"] == openai["data"]


@pytest.mark.parametrize(
    ("output_dtype", "kind", "width"),
    [(None, "<f4", 384), ("int8", "i1", 384), ("uint8", "u1", 384), ("binary", "i1", 48), ("ubinary", "u1", 48)],
)
def test_base64_holds_the_bytes_of_the_dtype(ask: Ask, output_dtype: str | None, kind: str, width: int) -> None:
    body = {"input": TEXTS, "model": "demo", **SENT, "output_dtype": output_dtype}
    plain = np.array([row["embedding"] for row in ask("/v1/embeddings", body).json()["data"]])
    coded = ask("/v1/embeddings", {**body, "encoding_format": "base64"}).json()["data"]
    found = np.stack([np.frombuffer(base64.b64decode(row["embedding"]), kind) for row in coded])
    assert found.shape == (2, width)
    np.testing.assert_allclose(found, plain, atol=1e-6)


def test_too_long_texts_are_cut_unless_it_is_forbidden(ask: Ask) -> None:
    body = {"input": "stone " * 600, "model": "demo", **SENT}
    cut = ask("/v1/embeddings", body)
    assert (cut.status_code, cut.headers["x-inlay-truncated"]) == (200, "0")
    refused = ask("/v1/embeddings", {**body, "truncation": False})
    assert (refused.status_code, refused.json().keys()) == (400, {"detail"})


def test_input_types_are_prompts(ask: Ask) -> None:
    body = {"input": "hello world", "model": "qwen", **SENT}
    found = ask("/v1/embeddings", {**body, "input_type": "query"}).json()["data"]
    expected = ask("/v1/embeddings", {"input": "hello world", "model": "qwen", "prompt_name": "query"}).json()["data"]
    assert found == expected


def test_reranking_gives_data_with_plain_documents(ask: Ask) -> None:
    body = {"query": "hello", "documents": ["world", "hello hello"], "model": "ranker", "top_k": None}
    said = ask("/v1/rerank", {**body, "return_documents": True, "truncation": True}).json()
    assert said.keys() == {"object", "data", "model", "usage"}
    assert sorted(row["document"] for row in said["data"]) == ["hello hello", "world"]
    common = ask("/v1/rerank", {"query": "hello", "documents": ["world", "hello hello"], "model": "ranker"}).json()
    assert [row["index"] for row in common["data"]] == [row["index"] for row in said["data"]]
    assert [row["relevance_score"] for row in common["results"]] == [row["relevance_score"] for row in said["data"]]
    assert len(ask("/v1/rerank", {**body, "top_k": 1}).json()["data"]) == 1
    assert ask("/v1/rerank", {**body, "top_k": 0}).json().keys() == {"detail"}


def test_who_has_no_key_is_told_in_its_words(dialect_workers: dict[str, Worker]) -> None:
    ask = asker(dialect_workers, "secret")
    told = ask("/v1/embeddings", {"input": "a", **SENT})
    assert (told.status_code, told.json().keys()) == (401, {"detail"})
    other = ask("/v1/embeddings", {"input": "a"})
    assert (other.status_code, other.json().keys()) == (401, {"error", "detail"})
    assert ask("/v1/embeddings", {"input": "a " * 100_000, **SENT}).status_code == 401
