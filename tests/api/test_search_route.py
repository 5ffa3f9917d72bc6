"""`POST /v1/search` over a socket, and a served corpus as a cache."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from corpus.sources import write_rows
from rerankers import make_reranker
from running import are_same
from servers import RunningServer

from inlay import Embedder
from inlay.types import FloatArray

TEXTS = [f"{colour} {thing} in the {place}" for colour in ("red", "blue", "green") for thing in ("stone", "train")
         for place in ("river", "museum", "attic")]  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    rows = [{"id": n, "text": text, "colour": text.split()[0]} for n, text in enumerate(TEXTS)]
    file = write_rows(folder / "a.jsonl", rows)
    command = [sys.executable, "-m", "inlay", "precompute", str(file), "-o", str(folder / "c"), "--id", "id"]
    subprocess.run([*command, "--keep", "colour"], check=True, capture_output=True)
    return folder / "c"


@pytest.fixture(scope="module")
def running(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    reranker = make_reranker(tmp_path_factory.mktemp("models") / "ranker", "bert")
    with RunningServer("demo", str(reranker), "--corpus", f"things={corpus}") as server:
        yield server


def vectors_in(reply: httpx.Response) -> FloatArray:
    return np.stack([np.frombuffer(base64.b64decode(row["embedding"]), np.float32) for row in reply.json()["data"]])


def ask(server: RunningServer, body: dict[str, Any] | bytes) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.post(f"{server.url}/v1/search", content=content, timeout=60)


def test_the_nearest_rows_come_first_with_their_columns(running: RunningServer) -> None:
    reply = ask(running, {"corpus": "things", "query": "a blue train inside a museum", "top_k": 3}).json()
    assert reply["object"] == "list"
    assert reply["model"] == "demo"
    assert len(reply["data"]) == 3
    best = reply["data"][0]
    assert best.keys() == {"object", "id", "score", "text", "colour"}
    assert (best["text"], best["colour"]) == ("blue train in the museum", "blue")
    with Embedder("demo") as embedder:
        query, document = embedder.embed(["a blue train inside a museum", best["text"]])
    assert best["score"] == pytest.approx(float(query @ document), abs=1e-5)
    assert reply["usage"]["prompt_tokens"] == 8


def test_an_embedding_may_be_sent_instead(running: RunningServer) -> None:
    with Embedder("demo") as embedder:
        vector = embedder.embed("a blue train inside a museum")
    as_query = ask(running, {"query": "a blue train inside a museum"}).json()["data"]
    for embedding in (vector.tolist(), base64.b64encode(vector.tobytes()).decode()):
        hits = ask(running, {"embedding": embedding}).json()["data"]
        assert [hit["id"] for hit in hits] == [hit["id"] for hit in as_query]


def test_filters_choose_and_texts_can_be_left_out(running: RunningServer) -> None:
    body = {"query": "train", "filter": {"colour": ["red", "green"]}, "top_k": 100, "include_text": False}
    hits = ask(running, body).json()["data"]
    assert len(hits) == 12
    assert all(hit.keys() == {"object", "id", "score"} for hit in hits)
    assert all(TEXTS[hit["id"]].startswith(("red", "green")) for hit in hits)


def test_hits_come_by_a_rerankers_scores_on_request(running: RunningServer) -> None:
    query = "the blue train in the museum"
    found = ask(running, {"query": query, "top_k": 8}).json()
    texts = [hit["text"] for hit in found["data"]]
    body = json.dumps({"query": query, "documents": texts}).encode()
    ranked = httpx.post(f"{running.url}/v1/rerank", content=body, timeout=60).json()
    expected = [(texts[row["index"]], row["relevance_score"]) for row in ranked["results"]]
    assert [text for text, _ in expected] != texts
    reply = ask(running, {"query": query, "top_k": 8, "rerank": {"model": "ranker", "top_n": 5}}).json()
    assert [(hit["text"], hit["score"]) for hit in reply["data"]] == expected[:5]
    assert reply["usage"]["total_tokens"] == found["usage"]["total_tokens"] + ranked["usage"]["total_tokens"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"query": "a", "rerank": {"model": "demo"}}, "rerank.model"),
        ({"query": "a", "rerank": {"model": "nobody"}}, "rerank.model"),
        ({"query": "a", "rerank": {"instruction": "find"}}, "rerank.instruction"),
        ({"query": "a", "rerank": {"top_n": 0}}, "rerank.top_n"),
        ({"query": "a", "rerank": {"top": 1}}, "rerank"),
        ({"embedding": [0.1] * 384, "rerank": {}}, "query"),
    ],
)
def test_what_cannot_be_reranked_is_named(running: RunningServer, body: dict[str, Any], param: str) -> None:
    reply = ask(running, body)
    assert reply.status_code in (400, 404)
    assert reply.json()["error"]["param"] == param, reply.text


def test_many_searches_at_once_get_their_own_hits(running: RunningServer) -> None:
    with ThreadPoolExecutor(16) as threads:
        replies = threads.map(lambda text: ask(running, {"query": text, "top_k": 1}).json(), TEXTS * 5)
        assert [reply["data"][0]["text"] for reply in replies] == TEXTS * 5


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        ({"corpus": "other", "query": "x"}, 404, "things"),
        ({"query": "x", "embedding": [1.0]}, 400, "one of the two"),
        ({}, 400, "one of the two"),
        ({"query": ""}, 400, "is empty"),
        ({"embedding": [1.0, 2.0]}, 400, "384"),
        ({"embedding": "&"}, 400, "base64"),
        (b'{"embedding": [' + b", ".join([b"1e999"] * 384) + b"]}", 400, "out of range"),
        ({"embedding": [1e39] * 384}, 400, "not finite"),
        ({"query": "x", "top_k": 0}, 400, "top_k"),
        ({"query": "x", "top_k": "many"}, 400, "top_k"),
        ({"query": "x", "filter": {"size": 1}}, 400, "colour"),
        ({"query": "x", "prompt_name": "none such"}, 400, "prompt"),
        ({"query": "long " * 400}, 400, "tokens"),
        ({"query": "x", "filters": {"colour": "red"}}, 400, "filters"),
        ({"query": "x", "model": "another"}, 400, "demo"),
        (b"{", 400, "JSON"),
        (b"\xff", 400, "JSON"),
    ],
)
def test_what_cannot_be_searched_is_refused_with_its_reason(
    running: RunningServer, body: dict[str, Any] | bytes, status: int, word: str
) -> None:
    reply = ask(running, body)
    assert reply.status_code == status
    assert word in reply.json()["error"]["message"]


def test_a_served_corpus_answers_for_its_texts(running: RunningServer) -> None:
    body = {"input": TEXTS[:4], "encoding_format": "base64"}
    reply = running.post(body)
    assert reply.headers["x-inlay-cache"] == "hit"
    computed = running.post(body, headers={"cache-control": "no-cache"})
    assert are_same(vectors_in(computed), vectors_in(reply))
    assert computed.json()["usage"]["prompt_tokens"] == reply.json()["usage"]["prompt_tokens"]
    metrics = running.get("/metrics").text
    assert float(re.search(r'inlay_cache_hits_total{tier="corpus"} (.*)', metrics)[1]) >= 4  # type: ignore[index]


def test_what_is_served_is_told(running: RunningServer) -> None:
    (row,) = running.get("/info").json()["corpora"]
    assert (row["name"], row["rows"], row["index"]) == ("things", 18, None)
    assert "/v1/search" in running.get("/openapi.json").json()["paths"]


def test_a_corpus_of_another_model_is_not_searched(corpus: Path, tmp_path: Path) -> None:
    with RunningServer("demo", "--dtype", "float32", "--corpus", f"things={corpus}") as server:
        about = json.loads((corpus / "manifest.json").read_text())["recipe"]
        if server.get("/v1/models").json()["data"][0]["fingerprint"] == about["fingerprint"]:
            pytest.skip("this machine computes in float32 by default")
        reply = ask(server, {"query": "train"})
        assert reply.status_code == 409
        assert about["fingerprint"] in reply.json()["error"]["message"]
        assert "no served model has made this corpus" in server.output()
        vector = np.ones(384).tolist()
        assert ask(server, {"embedding": vector}).status_code == 200


def test_who_searches_is_told_of_rows_that_are_damaged_and_left_out(corpus: Path, tmp_path: Path) -> None:
    shutil.copytree(corpus, tmp_path / "c")
    records = tmp_path / "c" / "part-0001" / "records.jsonl"
    with RunningServer("demo", "--corpus", f"things={tmp_path / 'c'}") as server:
        whole = ask(server, {"query": "train"})
        assert "x-inlay-warning" not in whole.headers
        found = whole.json()["data"][0]
        content = records.read_bytes()
        records.write_bytes(content.replace(found["text"].encode(), found["text"].upper().encode()))
        damaged = ask(server, {"query": "train"})
        assert damaged.status_code == 200
        assert found["id"] not in [hit["id"] for hit in damaged.json()["data"]]
        assert damaged.headers["x-inlay-warning"].startswith("1 row of the corpus is damaged and left out")
        assert server.get("/info").json()["corpora"][0]["broken_rows"] == 1


@pytest.mark.parametrize("value", ["things", "=dir", "things=/nowhere"])
def test_a_corpus_that_cannot_be_opened_ends_the_start(value: str) -> None:
    command = [sys.executable, "-m", "inlay", "serve", "demo", "--port", "0", "--corpus", value]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "inlay: " in done.stderr
