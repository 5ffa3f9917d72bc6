"""Jina's embeddings, as its clients send and read them."""

from __future__ import annotations

import base64

import numpy as np
from asking_dialects import Ask

TEXTS = ["a stone in a ring", "a railway timetable"]


def test_embeddings_have_its_shape(ask: Ask) -> None:
    said = ask("/v1/embeddings", {"input": [{"text": TEXTS[0]}, TEXTS[1]], "model": "demo", "normalized": True}).json()
    assert said["usage"].keys() == {"total_tokens", "prompt_tokens"}
    openai = ask("/v1/embeddings", {"input": TEXTS, "model": "demo"}).json()
    assert said["data"] == openai["data"]


def test_types_are_as_its_readers_undo_them(ask: Ask) -> None:
    body = {"input": TEXTS, "model": "demo"}
    floats = np.array([row["embedding"] for row in ask("/v1/embeddings", body).json()["data"]])
    for field in ("embedding_type", "encoding_type"):
        binary = ask("/v1/embeddings", {**body, field: "binary"}).json()["data"]
        bits = np.unpackbits((np.array([row["embedding"] for row in binary]) + 128).astype("uint8"), axis=1)
        assert np.array_equal(bits, floats > 0)
    coded = ask("/v1/embeddings", {**body, "embedding_type": "base64"}).json()["data"]
    found = np.stack([np.frombuffer(base64.b64decode(row["embedding"]), "<f4") for row in coded])
    np.testing.assert_allclose(found, floats, atol=1e-7)
    both = ask("/v1/embeddings", {**body, "embedding_type": ["float", "ubinary"]}).json()["data"][0]["embedding"]
    assert both.keys() == {"float", "ubinary"}


def test_tasks_are_prompts_and_too_long_is_an_error(ask: Ask) -> None:
    body = {"input": "hello world", "model": "qwen"}
    found = ask("/v1/embeddings", {**body, "task": "retrieval.query"}).json()["data"]
    assert found == ask("/v1/embeddings", {**body, "prompt_name": "query"}).json()["data"]
    refused = ask("/v1/embeddings", {"input": "stone " * 600, "model": "demo", "task": "text-matching"})
    assert (refused.status_code, refused.json().keys()) == (422, {"detail"})
    cut = ask("/v1/embeddings", {"input": "stone " * 600, "model": "demo", "task": "separation", "truncate": True})
    assert cut.status_code == 200
    assert "late_chunking" in ask("/v1/embeddings", {**body, "late_chunking": True}).json()["detail"]
