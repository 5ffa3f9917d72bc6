"""Ollama's dialect, as its clients send and read it."""

from __future__ import annotations

import numpy as np
import pytest
from asking_dialects import Ask

TEXTS = ["a stone in a ring", "a railway timetable"]
GOLDEN = [0.010071031, -0.0017594865, 0.050072223, 0.046929732]  # all-minilm, "why is the sky blue?"; half precision


def test_embeddings_have_its_shape(ask: Ask) -> None:
    said = ask("/api/embed", {"model": "demo:latest", "input": TEXTS, "options": {}, "keep_alive": "5m"}).json()
    assert said.keys() == {"model", "embeddings", "total_duration", "load_duration", "prompt_eval_count"}
    openai = ask("/v1/embeddings", {"model": "demo", "input": TEXTS}).json()
    assert said["embeddings"] == [row["embedding"] for row in openai["data"]]
    assert said["prompt_eval_count"] == openai["usage"]["total_tokens"]
    old = ask("/api/embeddings", {"model": "demo", "prompt": TEXTS[0]}).json()
    assert old == {"embedding": said["embeddings"][0]}


def test_vectors_are_those_of_its_tests(ask: Ask) -> None:
    (vector,) = ask("/api/embed", {"model": "demo", "input": "why is the sky blue?"}).json()["embeddings"]
    np.testing.assert_allclose(vector[:4], GOLDEN, atol=2e-4)


@pytest.mark.parametrize("nothing", [[], "", None])
def test_no_input_is_no_error(ask: Ask, nothing: object) -> None:
    assert ask("/api/embed", {"model": "demo", "input": nothing}).json()["embeddings"] == []
    assert ask("/api/embeddings", {"model": "demo", "prompt": ""}).json() == {"embedding": []}


@pytest.mark.parametrize(
    ("body", "status", "part"),
    [
        ({"model": "nobody", "input": "a"}, 404, "not found"),
        ({"model": "demo", "input": 3}, 400, "input"),
        ({"input": "a"}, 400, "model"),
        ({"model": "demo", "input": "stone " * 600, "truncate": False}, 400, "exceeds maximum context length"),
        ({"model": "ranker", "input": "a"}, 400, "rerank"),
    ],
)
def test_errors_have_a_text(ask: Ask, body: dict[str, object], status: int, part: str) -> None:
    reply = ask("/api/embed", body)
    assert (reply.status_code, reply.json().keys()) == (status, {"error"})
    assert part in reply.json()["error"]


def test_any_model_is_cut_and_too_long_texts_are(ask: Ask) -> None:
    reply = ask("/api/embed", {"model": "demo", "input": "stone " * 600, "dimensions": 16})
    (vector,) = reply.json()["embeddings"]
    assert (len(vector), np.linalg.norm(vector)) == (16, pytest.approx(1))
    assert {"x-inlay-warning", "x-inlay-truncated"} <= reply.headers.keys()


def test_models_are_listed_and_shown(ask: Ask) -> None:
    models = ask("/api/tags", method="GET").json()["models"]
    assert [model["name"] for model in models] == ["demo:latest", "qwen:latest", "m3:latest", "ranker:latest"]
    assert all(len(model["digest"]) == 64 for model in models)
    assert ask("/api/ps", method="GET").json()["models"] == models
    assert ask("/api/version", method="GET").json()["version"]
    shown = ask("/api/show", {"model": "demo:latest"}).json()
    assert (shown["model_info"]["bert.embedding_length"], shown["capabilities"]) == (384, ["embedding"])
    assert ask("/api/show", {"name": "nobody"}).status_code == 404
    assert ask("/api/show", {}).json().keys() == {"error"}
