"""Replies line by line, as whoever accepts `application/x-ndjson` gets them."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from asking_dialects import Ask, asker

from inlay.types import Worker

LINES = "application/x-ndjson"


def lines_of(reply: httpx.Response) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The items in their order, and the last line."""
    assert (reply.status_code, reply.headers["content-type"]) == (200, LINES)
    *items, last = (json.loads(line) for line in reply.text.splitlines())
    return sorted(items, key=lambda item: item["index"]), last


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"encoding_format": "base64"},
        {"include_tokens": True},
        {"output_dtype": "int8", "model": "demo"},
        {"outputs": ["dense", "sparse"], "model": "m3"},
        {"input_type": "query", "model": "qwen"},
    ],
)
def test_items_are_those_of_a_whole_reply(ask: Ask, more: dict[str, Any]) -> None:
    body = {"model": "demo", "input": [f"text {i % 150}" for i in range(200)], **more}
    whole = ask("/v1/embeddings", body)
    items, last = lines_of(ask("/v1/embeddings", body, accept=LINES))
    assert items == whole.json()["data"]
    assert last["object"] == "end"
    assert (last["num_items"], last["num_failed"], last["model"]) == (200, 0, body["model"])
    assert last["usage"]["total_tokens"] == whole.json()["usage"]["total_tokens"]
    assert last["fingerprint"] == whole.headers["x-inlay-fingerprint"]


def test_scores_are_those_of_a_whole_reply_in_the_order_they_are_done(ask: Ask) -> None:
    documents = [f"document {i}" for i in range(150)]
    body = {"model": "ranker", "query": "which?", "documents": documents, "return_documents": True}
    whole = ask("/v1/rerank", body).json()
    items, last = lines_of(ask("/v1/rerank", body, accept=LINES))
    assert items == sorted(whole["results"], key=lambda row: row["index"])
    assert last["usage"]["total_tokens"] == whole["usage"]["total_tokens"]


def test_there_is_no_limit_of_inputs_for_lines(dialect_workers: dict[str, Worker]) -> None:
    ask = asker(dialect_workers, max_inputs_per_request=3)
    body = {"model": "demo", "input": ["a"] * 10}
    assert ask("/v1/embeddings", body).status_code == 400
    assert lines_of(ask("/v1/embeddings", body, accept=LINES))[1]["num_items"] == 10


def test_an_input_at_fault_has_its_error_in_its_place(ask: Ask) -> None:
    body = {"model": "demo", "input": ["a"] * 100 + [""] + ["b"] * 9, "on_error": "skip"}
    items, last = lines_of(ask("/v1/embeddings", body, accept=LINES))
    assert items == ask("/v1/embeddings", body).json()["data"]
    assert items[100]["error"]["param"] == "input[100]"
    assert (last["num_items"], last["num_failed"]) == (110, 1)


def test_what_refuses_the_first_inputs_refuses_the_request(ask: Ask) -> None:
    for body in ({"model": "demo", "input": [""] + ["a"] * 100}, {"model": "demo", "input": []}, {"model": "none"}):
        said = ask("/v1/embeddings", body, accept=LINES)
        plain = ask("/v1/embeddings", body)
        assert said.status_code == plain.status_code >= 400
        assert said.json() == plain.json()


def test_a_later_fault_is_told_in_the_last_line(ask: Ask) -> None:
    body = {"model": "ranker", "query": "q", "documents": ["a"] * 100 + [""]}
    items, last = lines_of(ask("/v1/rerank", body, accept=LINES))
    assert {*range(64)} <= {item["index"] for item in items} <= {*range(100)}
    assert (last["object"], last["status"], last["error"]["param"]) == ("error", 400, "documents[100]")
    assert last["error"]["message"].startswith("documents[100] is empty")


def test_a_line_tells_what_was_cut(ask: Ask) -> None:
    body = {"model": "demo", "input": ["a"] * 70 + ["word " * 600], "truncate": "end"}
    items, _ = lines_of(ask("/v1/embeddings", body, accept=LINES))
    assert [item["index"] for item in items if item.get("is_truncated")] == [70]
    ranked = {"model": "ranker", "query": "q", "documents": ["a"] * 70 + ["word " * 600]}
    items, _ = lines_of(ask("/v1/rerank", {**ranked, "truncate": True}, accept=LINES))
    assert [item["index"] for item in items if item.get("is_truncated")] == [70]
    items, _ = lines_of(ask("/v1/rerank", {**ranked, "long_documents": "best_chunk"}, accept=LINES))
    assert [item["index"] for item in items if item.get("is_in_parts")] == [70]


def test_the_best_of_all_cannot_be_told_line_by_line(ask: Ask) -> None:
    said = ask("/v1/rerank", {"model": "ranker", "query": "q", "documents": ["a"], "top_n": 1}, accept=LINES)
    assert (said.status_code, said.json()["error"]["param"]) == (400, "top_n")


@pytest.mark.parametrize(
    "accept",
    [
        "application/json, application/x-ndjson",
        "*/*",
        "application/json",
        "application/x-ndjson;q=0, application/json",
        "application/x-ndjson;q=0.1, application/json; q=0.9",
        "application/x-ndjson;q=no",
        "text/plain",
    ],
)
def test_whoever_takes_json_rather_gets_it(ask: Ask, accept: str) -> None:
    said = ask("/v1/embeddings", {"model": "demo", "input": ["a"]}, accept=accept)
    assert said.headers["content-type"] == "application/json"
    assert said.json()["data"]


@pytest.mark.parametrize(
    "accept",
    ["*/*, application/x-ndjson", "application/X-NDJSON;q=0.9, application/json;q=0.5", "a/b,application/x-ndjson"],
)
def test_whoever_takes_lines_rather_gets_them(ask: Ask, accept: str) -> None:
    assert lines_of(ask("/v1/embeddings", {"model": "demo", "input": ["a"]}, accept=accept))[1]["num_items"] == 1


def test_a_dialect_without_lines_answers_whole(ask: Ask) -> None:
    said = ask("/embed", {"inputs": ["a"]}, accept=LINES)
    assert said.headers["content-type"] == "application/json"
    assert len(said.json()) == 1


def test_lines_are_in_the_description(ask: Ask) -> None:
    paths = ask("/openapi.json", method="GET").json()["paths"]
    for path in ("/v1/embeddings", "/v1/rerank"):
        schema = paths[path]["post"]["responses"]["200"]["content"][LINES]["schema"]
        assert {"$ref": "#/components/schemas/EndLine"} in schema["anyOf"]
