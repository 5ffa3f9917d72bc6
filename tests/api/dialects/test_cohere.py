"""Cohere's dialect, as its clients send and read it."""

from __future__ import annotations

import base64

import numpy as np
import pytest
from asking_dialects import Ask

TEXTS = ["a stone in a ring", "a railway timetable"]


def test_version_2_gives_embeddings_by_type(ask: Ask) -> None:
    kinds = ["float", "int8", "uint8", "binary", "ubinary", "base64"]
    body = {"texts": TEXTS, "model": "demo", "input_type": "search_document", "embedding_types": kinds}
    said = ask("/v2/embed", body).json()
    assert said.keys() == {"id", "embeddings", "texts", "meta", "response_type"}
    assert (said["response_type"], said["texts"]) == ("embeddings_by_type", TEXTS)
    assert said["meta"]["billed_units"]["input_tokens"] == 12
    assert list(said["embeddings"]) == kinds
    floats = np.array(said["embeddings"]["float"])
    openai = ask("/v1/embeddings", {"input": TEXTS, "model": "demo"}).json()["data"]
    assert np.array_equal(floats, [row["embedding"] for row in openai])
    assert all(isinstance(value, int) for value in said["embeddings"]["int8"][0])
    coded = [np.frombuffer(base64.b64decode(one), "<f4") for one in said["embeddings"]["base64"]]
    np.testing.assert_allclose(coded, floats, atol=1e-7)
    assert np.array_equal(np.unpackbits(np.array(said["embeddings"]["ubinary"], "uint8"), axis=1), floats > 0)


def test_inputs_of_parts_are_texts(ask: Ask) -> None:
    inputs = [{"content": [{"type": "text", "text": text}]} for text in TEXTS]
    said = ask("/v2/embed", {"inputs": inputs, "model": "demo"}).json()
    assert said["embeddings"] == ask("/v2/embed", {"texts": TEXTS, "model": "demo"}).json()["embeddings"]
    image = {"content": [{"type": "image_url", "image_url": {"url": "x"}}]}
    refused = ask("/v2/embed", {"inputs": [image], "model": "demo"})
    assert (refused.status_code, refused.json().keys()) == (400, {"message"})
    assert "inputs[0] has parts that are no texts" in refused.json()["message"]


def test_version_1_tells_two_shapes_apart(ask: Ask) -> None:
    plain = ask("/v1/embed", {"texts": TEXTS, "model": "demo"}).json()
    assert (plain["response_type"], len(plain["embeddings"])) == ("embeddings_floats", 2)
    by_type = ask("/v1/embed", {"texts": TEXTS, "model": "demo", "embedding_types": ["float"]}).json()
    assert (by_type["response_type"], by_type["embeddings"]["float"]) == ("embeddings_by_type", plain["embeddings"])


def test_too_long_texts_are_cut_at_the_end_unless_it_is_forbidden(ask: Ask) -> None:
    body = {"texts": ["stone " * 600], "model": "demo"}
    assert ask("/v2/embed", body).headers["x-inlay-truncated"] == "0"
    refused = ask("/v2/embed", {**body, "truncate": "NONE"})
    assert (refused.status_code, "texts[0]" in refused.json()["message"]) == (400, True)


@pytest.mark.parametrize(
    ("body", "status"),
    [({"texts": ["a"], "model": "nobody"}, 404), ({"texts": [], "model": "demo"}, 400), ({"model": "demo"}, 400)],
)
def test_errors_have_a_message(ask: Ask, body: dict[str, object], status: int) -> None:
    reply = ask("/v2/embed", body)
    assert (reply.status_code, reply.json().keys()) == (status, {"message"})


def test_reranking_of_both_versions(ask: Ask) -> None:
    body = {"query": "hello", "documents": ["world", "hello hello", "way"], "model": "ranker"}
    second = ask("/v2/rerank", {**body, "top_n": 9, "return_documents": True, "max_tokens_per_doc": 4096}).json()
    assert second.keys() == {"id", "results", "meta"}
    assert second["meta"]["billed_units"] == {"search_units": 1}
    assert [row.keys() for row in second["results"]] == [{"index", "relevance_score"}] * 3
    first = ask("/v1/rerank", {**body, "return_documents": True, "top_n": 2}).json()
    assert [row["index"] for row in first["results"]] == [row["index"] for row in second["results"][:2]]
    assert first["results"][0]["document"].keys() == {"text"}
    assert {"id", "meta"} <= first.keys()
    assert "data" not in first
    assert ask("/v2/rerank", {**body, "top_n": 0}).status_code == 400
