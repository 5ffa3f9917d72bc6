"""The server as an application of Ray Serve, behind HAProxy: its answers, a replica that is killed, and scaling."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from waiting import until

from inlay.errors import ConfigError
from inlay.library.embedder import Embedder


@pytest.fixture(scope="module")
def url(cluster: str) -> Iterator[str]:
    from ray import serve

    from inlay.distributed.ray_serve import build

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    arguments = {"model": "demo", "dtype": "float32", "max_replicas": "2", "num_cpus": "1", "shutdown_timeout": "5"}
    serve.run(build(arguments), route_prefix="/")
    yield f"http://127.0.0.1:{port}"
    serve.shutdown()


def replicas() -> set[int]:
    """The processes of those that serve."""
    found = subprocess.run(["pgrep", "-f", "ray::ServeReplica:default:Inlay"], capture_output=True, text=True)
    return {int(line) for line in found.stdout.split()}


def test_it_answers_as_the_server_does(url: str) -> None:
    texts = ["a", "an apple", "a long text " * 50]
    reply = httpx.post(f"{url}/v1/embeddings", json={"input": texts}, timeout=60)
    got = np.array([row["embedding"] for row in reply.json()["data"]], np.float32)
    with Embedder("demo", dtype="float32", cache="none") as embedder:
        assert np.array_equal(got, embedder.embed(texts))
    again = httpx.post(f"{url}/v1/embeddings", json={"input": texts}, timeout=60)
    assert again.headers["x-inlay-cache"] == "hit"
    assert httpx.post(f"{url}/v1/embeddings", json={"input": []}).status_code == 400
    assert httpx.get(f"{url}/health").json() == {"status": "ok"}


def num_serving() -> int:
    from ray import serve

    states = serve.status().applications["default"].deployments["Inlay"].replica_states
    return int(states.get("RUNNING", 0))


async def flood(url: str, seconds: float) -> list[int]:
    """Statuses of what many clients ask, each thing anew."""
    end = asyncio.get_running_loop().time() + seconds

    async def ask(client: httpx.AsyncClient, number: int) -> list[int]:
        statuses = []
        while asyncio.get_running_loop().time() < end:
            texts = [f"{number} {len(statuses)} {row} " + "word " * 60 for row in range(16)]
            reply = await client.post("/v1/embeddings", json={"input": texts, "encoding_format": "base64"})
            statuses.append(reply.status_code)
        return statuses

    async with httpx.AsyncClient(base_url=url, timeout=60, limits=httpx.Limits(max_connections=64)) as client:
        return [status for one in await asyncio.gather(*(ask(client, n) for n in range(24))) for status in one]


@pytest.mark.timeout(240)
def test_under_load_there_are_more_replicas_and_one_that_is_killed_is_replaced(url: str) -> None:
    asyncio.run(asyncio.wait_for(flood_until_scaled(url), 120))
    killed = min(replicas())
    os.kill(killed, signal.SIGKILL)
    statuses = asyncio.run(flood(url, 3))
    assert {status for status in statuses if status != 200} <= {500, 502, 503}
    assert statuses.count(200) > 10
    until(lambda: httpx.get(f"{url}/health").status_code == 200)
    until(lambda: replicas() - {killed})


async def flood_until_scaled(url: str) -> None:
    while await asyncio.to_thread(num_serving) < 2:
        statuses = await flood(url, 2)
        assert {*statuses} == {200}


def test_what_is_rays_is_refused() -> None:
    from inlay.distributed.ray_serve import build

    with pytest.raises(ConfigError, match="max_replicas"):
        build({"model": "demo", "data_parallel_size": "2"})
