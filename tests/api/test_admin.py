"""`/admin/models` on real servers: a model in the place of another while requests come, with and without processes."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from checkpoints import make_checkpoint
from children import children_of, is_running
from servers import RunningServer
from waiting import until

from inlay.library.embedder import Embedder

KEY = "the admin's"
SHORT = ("--request-timeout", "2", "--shutdown-timeout", "1")
ADMIN = {"authorization": f"Bearer {KEY}"}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("revisions")
    return make_checkpoint(folder / "one", "bert", seed=1), make_checkpoint(folder / "two", "bert", seed=2)


@pytest.fixture(scope="module", params=["thread", "process"])
def server(request: pytest.FixtureRequest, models: tuple[Path, Path]) -> Iterator[RunningServer]:
    arguments = (str(models[0]), "--served-model-name", "tiny", "--isolation", request.param)
    with RunningServer(*arguments, env={"INLAY_ADMIN_KEY": KEY, "INLAY_API_KEY": "a user's"}) as running:
        yield running


def replace(server: RunningServer, body: Any, headers: dict[str, str] = ADMIN) -> httpx.Response:
    return httpx.post(f"{server.url}/admin/models", json=body, headers=headers, timeout=60)


def last(server: RunningServer) -> Any:
    return server.get("/admin/models", headers=ADMIN).json()["replacements"][0]


def test_while_requests_come_each_is_answered_by_one_of_the_two(
    server: RunningServer, models: tuple[Path, ...]
) -> None:
    texts = [f"text {number}" for number in range(20)]
    expected = {}
    for path in models:
        with Embedder(path, cache="none") as embedder:
            expected[embedder.spec.fingerprint] = {text: embedder.embed([text])[0].tolist() for text in texts}

    async def ask(client: httpx.AsyncClient, is_over: asyncio.Event, answers: list[tuple[str, str, Any]]) -> None:
        number = 0
        while not is_over.is_set():
            text = texts[number % len(texts)]
            control = {"cache-control": "no-cache"} if number % 2 else {}  # new work, and hits
            reply = await client.post("/v1/embeddings", json={"model": "tiny", "input": text}, headers=control)
            assert reply.status_code == 200, reply.text
            answers.append((text, reply.headers["x-inlay-fingerprint"], reply.json()["data"][0]["embedding"]))
            number += 1

    async def story(path: Path) -> list[tuple[str, str, Any]]:
        is_over = asyncio.Event()
        answers: list[tuple[str, str, Any]] = []
        headers = {"authorization": "Bearer a user's"}
        async with httpx.AsyncClient(base_url=server.url, headers=headers, timeout=60) as client:
            asking = [asyncio.create_task(ask(client, is_over, answers)) for _ in range(4)]
            reply = await client.post("/admin/models", json={"name": "tiny", "model": str(path)}, headers=ADMIN)
            assert (reply.status_code, reply.json()["state"]) == (202, "loading")
            await asyncio.to_thread(until, lambda: last(server)["state"] == "done")
            is_over.set()
            await asyncio.gather(*asking)
            after = await client.post("/v1/embeddings", json={"model": "tiny", "input": texts[0]})
            answers.append((texts[0], after.headers["x-inlay-fingerprint"], after.json()["data"][0]["embedding"]))
        return answers

    for path in (models[1], models[0], models[1]):
        answers = asyncio.run(story(path))
        fingerprints = [fingerprint for _, fingerprint, _ in answers]
        assert len({*fingerprints}) == 2
        with Embedder(path, cache="none") as embedder:
            assert fingerprints[-1] == embedder.spec.fingerprint == last(server)["fingerprint"]
        assert all(vector == pytest.approx(expected[which][text], abs=1e-6) for text, which, vector in answers)


def test_one_that_cannot_be_loaded_is_told_of_and_the_server_goes_on(server: RunningServer, tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "torn", "bert")
    weights = tmp_path / "torn" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    reply = replace(server, {"name": "tiny", "model": str(tmp_path / "torn")})
    if reply.status_code == 202:
        until(lambda: last(server)["state"] == "failed")
        assert last(server)["reason"]
    else:
        assert reply.json()["error"]["param"] == "model"
    assert server.get("/ready").status_code == 200
    headers = {"authorization": "Bearer a user's"}
    assert server.post({"model": "tiny", "input": "still here"}, headers).status_code == 200


def test_the_processes_of_the_model_before_are_gone(server: RunningServer) -> None:
    until(lambda: last(server)["ended"])
    num_engines = int("process" in server.process.args)  # type: ignore[operator]
    until(lambda: len([one for one in children_of(server.process.pid) if is_running(one)]) == num_engines)


@pytest.mark.parametrize(
    ("body", "headers", "status", "told"),
    [
        ({"name": "tiny", "model": "/nowhere"}, ADMIN, 400, "/nowhere"),
        ({"name": "tiny", "model": "/a" * 5000}, ADMIN, 400, "cannot be read"),
        ({"name": "tiny", "model": "~nobody-here/x"}, ADMIN, 400, "nobody-here"),
        ({"name": "other", "model": "demo"}, ADMIN, 404, "these are: tiny"),
        ({"name": "tiny"}, ADMIN, 400, "model"),
        ({"name": "tiny", "model": "demo"}, {}, 401, "admin key"),
        ({"name": "tiny", "model": "demo"}, {"authorization": "Bearer a user's"}, 401, "admin key"),
    ],
)
def test_mistakes_are_told(server: RunningServer, body: Any, headers: dict[str, str], status: int, told: str) -> None:
    reply = replace(server, body, headers)
    assert reply.status_code == status
    assert told in reply.json()["error"]["message"]


def test_lines_of_one_reply_are_of_one_model(server: RunningServer, models: tuple[Path, ...]) -> None:
    """A reply line by line goes on with the model that began it, or says that it is gone."""
    body = {"model": "tiny", "input": [f"line {number}" for number in range(3000)]}
    headers = {"authorization": "Bearer a user's", "accept": "application/x-ndjson", "cache-control": "no-cache"}
    before = server.get("/admin/models", headers=ADMIN).json()["models"][0]["fingerprint"]
    with httpx.stream("POST", f"{server.url}/v1/embeddings", json=body, headers=headers, timeout=60) as reply:
        lines = reply.iter_lines()
        rows = [json.loads(next(lines))]
        other = next(path for path in models if str(path) != last(server)["model"])
        assert replace(server, {"name": "tiny", "model": str(other)}).status_code == 202
        until(lambda: last(server)["state"] in ("draining", "done"))
        rows += [json.loads(line) for line in lines]
    assert reply.headers["x-inlay-fingerprint"] == before
    until(lambda: last(server)["state"] == "done")
    vectors = {row["index"]: row["embedding"] for row in rows if row["object"] == "embedding"}
    if rows[-1]["object"] == "error":
        assert rows[-1]["error"]["code"] == "fingerprint_mismatch"
    else:
        assert rows[-1]["fingerprint"] == before
        assert len(vectors) == 3000
    old = next(path for path in models if path != other)
    with Embedder(old, cache="none") as embedder:
        expected = embedder.embed([body["input"][index] for index in vectors])  # type: ignore[index]
    assert np.allclose(np.array([*vectors.values()]), expected, atol=1e-6)


def test_files_that_cannot_be_read_cost_one_request(
    server: RunningServer, models: tuple[Path, ...], tmp_path: Path
) -> None:
    shutil.copytree(models[0], tmp_path / "hangs")
    (tmp_path / "hangs" / "config.json").unlink()
    os.mkfifo(tmp_path / "hangs" / "config.json")
    with RunningServer(*SHORT, str(models[0]), env={"INLAY_ADMIN_KEY": KEY}) as running:
        reply = replace(running, {"name": "one", "model": str(tmp_path / "hangs")})
        assert (reply.status_code, reply.json()["error"]["code"]) == (504, "deadline_exceeded")
        assert running.stop() == 0, "it ends, though a thread still hangs"


def test_one_that_does_not_load_can_be_given_up(
    server: RunningServer, models: tuple[Path, ...], tmp_path: Path
) -> None:
    if "thread" in server.process.args:  # type: ignore[operator]
        pytest.skip("a thread that hangs cannot be ended: the server says so in a minute")
    shutil.copytree(models[0], tmp_path / "hangs")
    (tmp_path / "hangs" / "model.safetensors").unlink()
    os.mkfifo(tmp_path / "hangs" / "model.safetensors")
    assert replace(server, {"name": "tiny", "model": str(tmp_path / "hangs")}).status_code == 202
    assert replace(server, {"name": "tiny", "model": str(models[0])}).status_code == 409
    given_up = httpx.delete(f"{server.url}/admin/models/tiny", headers=ADMIN)
    assert given_up.status_code == 200
    until(lambda: last(server)["state"] == "failed")
    assert last(server)["reason"] == "was given up"


def test_an_empty_key_is_no_key(checkpoint: Callable[[str], Path]) -> None:
    command = [sys.executable, "-m", "inlay", "serve", str(checkpoint("bert")), "--port", "0"]
    env = {**os.environ, "INLAY_ADMIN_KEY": " \n"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "--admin-key (INLAY_ADMIN_KEY) is empty" in done.stderr


def test_without_an_admin_key_nobody_may(checkpoint: Callable[[str], Path]) -> None:
    with RunningServer(str(checkpoint("bert"))) as running:
        reply = replace(running, {"name": "tiny-bert", "model": "demo"}, {})
        assert reply.status_code == 403
        assert "--admin-key" in reply.json()["error"]["message"]
        assert running.get("/admin/models").status_code == 403
