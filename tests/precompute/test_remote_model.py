"""`inlay embed` and `inlay rerank` ask any running server, which may speak OpenAI's API or TEI's alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from command import run_inlay
from rerankers import make_reranker
from servers import RunningServer

from inlay.precompute import remote_server
from inlay.precompute.remote_model import RemoteModel

TEXTS = ["a stone in a ring", "", "stone " * 600, "a railway timetable"]


@pytest.fixture(scope="module")
def ranker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_reranker(tmp_path_factory.mktemp("remote") / "ranker", "bert")


@pytest.fixture(scope="module", params=[("openai", "jina"), ("tei",)], ids="-".join)
def server(request: pytest.FixtureRequest, ranker: Path) -> Iterator[RunningServer]:
    models = ["demo", str(ranker), "--served-model-name=demo", "--served-model-name=ranker"]
    spoken = [f"--dialects={name}" for name in request.param]
    with RunningServer(*models, *spoken, "--api-key=secret", "--dtype=float32") as running:
        yield running


def test_rows_at_fault_cost_only_themselves(server: RunningServer) -> None:
    with RemoteModel(server.url, None, "secret") as remote:
        found = remote.embed_rows(TEXTS)
        assert found.rows == [0, 3]
        assert found.errors.keys() == {1, 2}
        assert "is empty" in found.errors[1].message
        whole = remote.embed_rows([TEXTS[0], TEXTS[3]])
        assert np.array_equal(found.vectors, whole.vectors)
        assert found.vectors.shape == (2, 384)
        assert len(remote.embed_rows([]).vectors) == 0


def test_the_verbs_ask_a_server(server: RunningServer, tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("a stone in a ring\na railway timetable\n")
    asked = ["--server", server.url, "--api-key", "secret"]
    done = run_inlay("embed", str(texts), "--output", str(tmp_path / "out.npy"), *asked)
    assert done.returncode == 0, done.stderr
    local = run_inlay("embed", str(texts), "--output", str(tmp_path / "own.npy"), "--dtype", "float32")
    assert local.returncode == 0, local.stderr
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), np.load(tmp_path / "own.npy"), atol=1e-6)
    ranked = run_inlay("rerank", "ranker", "hello", str(texts), "--json", *asked)
    assert ranked.returncode == 0, ranked.stderr
    scores = [json.loads(line)["score"] for line in ranked.stdout.splitlines()]
    assert scores == sorted(scores, reverse=True)
    assert len(scores) == 2
    refused = run_inlay("embed", str(texts), "--server", server.url, "--api-key", "wrong")
    assert (refused.returncode, "API key" in refused.stderr) == (2, True), refused.stderr
    unknown = run_inlay("embed", str(texts), "--model", "nobody", *asked)
    assert (unknown.returncode, "not served here" in unknown.stderr) == (2, True), unknown.stderr


def test_not_now_is_waited_out_as_long_as_the_server_says(monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx

    answers = [
        httpx.Response(429, headers={"retry-after": "7"}),
        httpx.Response(503),
        httpx.Response(200, json=[[1.0]]),
    ]
    slept: list[float] = []
    monkeypatch.setattr(remote_server.time, "sleep", slept.append)
    remote = RemoteModel("http://127.0.0.1:1", "m", None)
    monkeypatch.setattr(remote._server._client, "request", lambda *given, **more: answers.pop(0))
    assert remote.embed_rows(["a"]).vectors.tolist() == [[1.0]]
    assert slept == [7.0, 1.0]
