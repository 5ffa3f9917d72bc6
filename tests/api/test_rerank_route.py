"""`POST /v1/rerank`: scores by their order, each computed once, and refusals that name the field."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from checkpoints import text_of
from rerankers import make_reranker, reference_of

from inlay.api.app import make_app
from inlay.api.auth import Keyring
from inlay.cache.urls import make_cache
from inlay.config_values import make_settings
from inlay.engine.loading import load_engine
from inlay.engine.worker import DeviceWorker
from inlay.models.spec import read_spec
from inlay.types import ModelSpec

QUERY = text_of(3, seed=1)
DOCUMENTS = [text_of(length, seed=length) for length in (4, 30, 11)]
Ask = Callable[..., httpx.Response]


def worker_of(spec: ModelSpec) -> DeviceWorker:
    settings = make_settings({"device": "cpu", "dtype": "float32"})
    return DeviceWorker(spec, lambda spec, stats: load_engine(spec, settings, stats), 1000)


@pytest.fixture(scope="module")
def reranker_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_reranker(tmp_path_factory.mktemp("rerank") / "causal", "causal")


@pytest.fixture(scope="module")
def workers(checkpoint: Callable[[str], Path], reranker_path: Path) -> Iterator[dict[str, DeviceWorker]]:
    """An embedding model, which comes first, and a reranker."""
    specs = [read_spec(checkpoint("bert"), "embedder"), read_spec(reranker_path, "ranker")]
    workers = {spec.name: worker_of(spec) for spec in specs}
    for worker in workers.values():
        worker.wait_loaded()
    yield workers
    for worker in workers.values():
        worker.close(10)


@pytest.fixture(scope="module")
def ask(workers: dict[str, DeviceWorker]) -> Ask:
    app = make_app(workers, make_cache(["memory://8MiB"]), {}, Keyring({}), make_settings({})).envelope

    def send(path: str = "/v1/rerank", method: str = "POST", **body: object) -> httpx.Response:
        async def story() -> httpx.Response:
            transport = httpx.ASGITransport(app=app)  # type: ignore[arg-type]
            async with httpx.AsyncClient(transport=transport, base_url="http://inlay") as client:
                return await client.request(method, path, content=json.dumps(body) if method == "POST" else None)

        return asyncio.run(story())

    return send


def scores_of(reply: httpx.Response) -> dict[int, float]:
    assert reply.status_code == 200, reply.text
    return {row["index"]: row["relevance_score"] for row in reply.json()["results"]}


def test_documents_come_by_their_scores(ask: Ask, reranker_path: Path) -> None:
    logits = reference_of(reranker_path, "causal")(QUERY, DOCUMENTS)
    reply = ask(query=QUERY, documents=DOCUMENTS, model="ranker", raw_scores=True)
    order = sorted(range(3), key=lambda index: -logits[index])
    assert list(scores_of(reply)) == order
    assert scores_of(reply) == pytest.approx(dict(enumerate(logits)), abs=1e-4)
    scores = scores_of(ask(query=QUERY, documents=DOCUMENTS, model="ranker"))
    assert all(0 <= score <= 1 for score in scores.values())
    assert list(scores) == order
    assert reply.json()["usage"]["total_tokens"] > sum(len(document.split()) for document in DOCUMENTS)


def test_the_reranker_is_found_without_its_name(ask: Ask) -> None:
    reply = ask(query=QUERY, documents=DOCUMENTS)
    assert reply.json()["model"] == "ranker"
    assert ask("/v1/embeddings", input=QUERY).json()["model"] == "embedder"


def test_only_the_best_and_their_texts_on_request(ask: Ask) -> None:
    texts = [{"text": document} for document in DOCUMENTS]
    (row,) = ask(query=QUERY, documents=texts, top_n=1, return_documents=True).json()["results"]
    assert row["document"] == texts[row["index"]]
    assert "document" not in ask(query=QUERY, documents=texts).json()["results"][0]


def test_the_same_pair_is_never_scored_twice(ask: Ask, workers: dict[str, DeviceWorker]) -> None:
    query = text_of(6, seed=60)
    first = ask(query=query, documents=DOCUMENTS)
    assert first.headers["x-inlay-cache"] == "miss"
    before = workers["ranker"].stats.sequences
    again = ask(query=query, documents=DOCUMENTS[::-1], raw_scores=None)
    assert again.headers["x-inlay-cache"] == "hit"
    assert {2 - index: score for index, score in scores_of(again).items()} == scores_of(first)
    assert again.json()["usage"]["prompt_tokens_details"]["cached_tokens"] == again.json()["usage"]["total_tokens"]
    assert workers["ranker"].stats.sequences == before
    partial = ask(query=query, documents=[*DOCUMENTS, text_of(8, seed=77)])
    assert partial.headers["x-inlay-cache"] == "partial"
    assert workers["ranker"].stats.sequences == before + 1
    assert ask(query=query, documents=[DOCUMENTS[0]], instruction="another task").headers["x-inlay-cache"] == "miss"
    assert ask(query=DOCUMENTS[0], documents=[query]).headers["x-inlay-cache"] == "miss"


def test_equal_documents_of_one_request_are_scored_once(ask: Ask, workers: dict[str, DeviceWorker]) -> None:
    before = workers["ranker"].stats.sequences
    scores = scores_of(ask(query=text_of(5, seed=50), documents=[DOCUMENTS[1]] * 4))
    assert len(set(scores.values())) == 1
    assert workers["ranker"].stats.sequences == before + 1


def test_parts_of_a_long_document_are_kept_too(ask: Ask, workers: dict[str, DeviceWorker]) -> None:
    body: dict[str, Any] = {"query": QUERY, "documents": [text_of(1500, seed=2)], "long_documents": "best_chunk"}
    reply = ask(**body)
    first = scores_of(reply)
    assert reply.headers["x-inlay-in-parts"] == "0"
    before = workers["ranker"].stats.sequences
    reply = ask(**body, user="another body")
    assert scores_of(reply) == first
    assert workers["ranker"].stats.sequences == before
    assert reply.headers["x-inlay-cache"] == "hit"


@pytest.mark.parametrize(
    ("body", "status", "named"),
    [
        ({"query": "", "documents": ["a"]}, 400, "query"),
        ({"query": "a", "documents": []}, 400, "documents"),
        ({"query": "a", "documents": ["a", ""]}, 400, "documents[1]"),
        ({"query": "a", "documents": ["a", "b\ud800"]}, 400, "documents[1]"),
        ({"query": "a\ud800", "documents": ["a"]}, 400, "query"),
        ({"query": "a", "documents": ["a"], "instruction": "\ud800"}, 400, "instruction"),
        ({"query": text_of(800), "documents": ["a", "b"]}, 400, "query"),
        ({"query": text_of(800), "documents": ["a", "b"], "truncate": True}, 400, "query"),
        ({"query": "a", "documents": ["a"], "top_n": 0}, 400, "top_n"),
        ({"query": "a", "documents": "a"}, 400, "documents"),
        ({"query": "a", "documents": [{"title": "a"}]}, 400, "documents[0]"),
        ({"documents": ["a"]}, 400, "query"),
        ({"query": "a", "documents": ["a", text_of(800)]}, 400, "documents[1]"),
        ({"query": "a", "documents": ["a"], "truncate": True, "long_documents": "refuse"}, 400, "truncate"),
        ({"query": "a", "documents": ["a"], "long_documents": "shred"}, 400, "long_documents"),
        ({"query": "a", "documents": ["a"], "model": "embedder"}, 400, "model"),
        ({"query": "a", "documents": ["a"], "model": "nobody"}, 404, "model"),
        ({"query": "a", "documents": ["a"] * 3000}, 400, "documents"),
    ],
)
def test_what_is_wrong_is_named(ask: Ask, body: dict[str, object], status: int, named: str) -> None:
    reply = ask(**body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (status, named), reply.text


def test_a_reranker_gives_no_vectors(ask: Ask) -> None:
    reply = ask("/v1/embeddings", input="a", model="ranker")
    assert reply.status_code == 400
    assert "/v1/rerank" in reply.json()["error"]["message"]


def test_metrics_and_models_tell_of_it(ask: Ask) -> None:
    query = text_of(6, seed=61)
    ask(query=query, documents=DOCUMENTS)
    metrics = ask("/metrics", "GET").text
    assert 'inlay_inputs_total{model="ranker",source="model"}' in metrics
    assert 'route="/v1/rerank",status="200"' in metrics
    tasks = {model["id"]: model["task"] for model in ask("/v1/models", "GET").json()["data"]}
    assert tasks == {"embedder": "embed", "ranker": "rank"}


def test_a_document_at_fault_costs_only_itself_where_that_is_asked(ask: Ask) -> None:
    documents = [DOCUMENTS[0], "", DOCUMENTS[1]]
    reply = ask(query=QUERY, documents=documents, model="ranker", on_error="skip", return_documents=True)
    rows = reply.json()["results"]
    assert (reply.status_code, reply.headers["x-inlay-failed"], rows[-1]["index"]) == (200, "1", 1)
    assert rows[-1]["error"]["code"] == "empty_input"
    alone = ask(query=QUERY, documents=[DOCUMENTS[0], DOCUMENTS[1]], model="ranker").json()["results"]
    assert [row["relevance_score"] for row in rows[:2]] == [row["relevance_score"] for row in alone]
    assert all(row["document"]["text"] == documents[row["index"]] for row in rows[:2])
    assert ask(query=QUERY, documents=documents, model="ranker").status_code == 400
