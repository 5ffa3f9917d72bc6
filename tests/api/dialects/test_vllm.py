"""vLLM's dialect, as its tests send and read it."""

from __future__ import annotations

import base64

import numpy as np
import pytest
from asking_dialects import Ask

NAMES = [("queries", "documents"), ("queries", "items"), ("text_1", "text_2"), ("data_1", "data_2")]
DOCUMENTS = ["world", "hello hello", "way"]


@pytest.mark.parametrize("path", ["/score", "/v1/score"])
@pytest.mark.parametrize(
    "names", [("queries", "documents"), ("queries", "items"), ("text_1", "text_2"), ("data_1", "data_2")]
)
def test_scores_are_in_the_order_of_the_input(ask: Ask, path: str, names: tuple[str, str]) -> None:
    ranked = ask("/rerank", {"query": "hello", "documents": DOCUMENTS, "model": "ranker"}).json()["results"]
    expected = [row["relevance_score"] for row in sorted(ranked, key=lambda row: row["index"])]
    said = ask(path, {"model": "ranker", names[0]: "hello", names[1]: DOCUMENTS}).json()
    assert (said["object"], said["usage"]["completion_tokens"]) == ("list", 0)
    assert [row["score"] for row in said["data"]] == pytest.approx(expected, abs=1e-6)
    raw = ask(path, {"model": "ranker", names[0]: ["hello"] * 3, names[1]: DOCUMENTS, "use_activation": False}).json()
    assert [1 / (1 + np.exp(-row["score"])) for row in raw["data"]] == pytest.approx(expected, abs=1e-6)


def test_an_embedding_model_gives_cosines(ask: Ask) -> None:
    vectors = [
        row["embedding"]
        for row in ask("/v1/embeddings", {"model": "demo", "input": ["a ring", "a stone"]}).json()["data"]
    ]
    said = ask("/score", {"model": "demo", "text_1": "a ring", "text_2": "a stone"}).json()
    assert said["data"][0]["score"] == pytest.approx(float(np.dot(*vectors)), abs=1e-6)
    assert ask("/score", {"text_1": "hello", "text_2": "way"}).json()["model"] == "ranker"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/score", {"text_1": ["a", "b"], "text_2": ["a", "b", "c"]}),
        ("/score", {"text_1": "a"}),
        ("/score", {"text_1": "", "text_2": "a"}),
        ("/score", {"text_1": "a", "text_2": []}),
        ("/pooling", {"input": "a", "task": "classify"}),
        ("/pooling", {"input": "a", "model": "ranker"}),
        ("/detokenize", {"tokens": [-1]}),
    ],
)
def test_errors_have_the_status_as_code(ask: Ask, path: str, body: dict[str, object]) -> None:
    reply = ask(path, body)
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["type"]) == (400, 400, "BadRequestError")


def test_pooling_embeds(ask: Ask) -> None:
    (row,) = ask("/pooling", {"input": "a ring", "task": "embed"}).json()["data"]
    (vector,) = ask("/v1/embeddings", {"input": "a ring"}).json()["data"]
    assert (row["object"], row["data"]) == ("pooling", vector["embedding"])
    (coded,) = ask("/pooling", {"input": "a ring", "encoding_format": "base64"}).json()["data"]
    assert np.array_equal(np.frombuffer(base64.b64decode(coded["data"]), "<f4"), np.array(row["data"], "<f4"))


def test_pooling_embeds_tokens_at_unit_length_unless_asked_otherwise(ask: Ask) -> None:
    body = {"input": ["a ring", "a"], "task": "token_embed"}
    rows = [np.array(row["data"]) for row in ask("/pooling", body).json()["data"]]
    raw = [np.array(row["data"]) for row in ask("/pooling", {**body, "use_activation": False}).json()["data"]]
    assert [one.shape for one in rows] == [(4, 384), (3, 384)]
    for one, other in zip(rows, raw, strict=True):
        np.testing.assert_allclose(one, other / np.linalg.norm(other, axis=1, keepdims=True), atol=1e-6)
    (coded, _) = ask("/pooling", {**body, "encoding_format": "base64"}).json()["data"]
    assert np.allclose(np.frombuffer(base64.b64decode(coded["data"]), "<f4").reshape(4, 384), rows[0])


def test_tokens_there_and_back(ask: Ask) -> None:
    said = ask("/tokenize", {"prompt": "a stone", "return_token_strs": True}).json()
    assert (said["count"], said["max_model_len"]) == (len(said["tokens"]), 256)
    assert said["token_strs"][0] == "[CLS]"
    bare = ask("/tokenize", {"prompt": "a stone", "add_special_tokens": False}).json()["tokens"]
    assert ask("/detokenize", {"tokens": bare}).json() == {"prompt": "a stone"}
    assert ask("/v1/tokenize", {"text": "a stone", "model": "demo"}).json()["tokens"] == bare
