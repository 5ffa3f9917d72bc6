"""A server without a socket for tests of dialects: an embedding model and a reranker, both real and tiny."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from checkpoints import make_bge_m3
from rerankers import make_reranker

from inlay.api.app import make_app
from inlay.api.auth import Keyring
from inlay.api.keys import read_keys
from inlay.cache.urls import make_cache
from inlay.config_values import make_settings
from inlay.engine.starting import start_worker
from inlay.models.spec import read_spec
from inlay.types import Worker

Ask = Callable[..., httpx.Response]


def asker(workers: dict[str, Worker], *keys: str, **settings: object) -> Ask:
    """Sends JSON, or nothing, to a path."""
    app = make_app(
        workers, make_cache(["memory://8MiB"]), {}, Keyring(read_keys([*keys], None)), make_settings(settings)
    ).envelope

    def send(path: str, body: object = None, method: str = "POST", **headers: str) -> httpx.Response:
        async def story() -> httpx.Response:
            transport = httpx.ASGITransport(app=app)  # type: ignore[arg-type]
            async with httpx.AsyncClient(transport=transport, base_url="http://inlay") as client:
                content = None if method == "GET" else json.dumps(body).encode()
                return await client.request(method, path, content=content, headers=headers)

        return asyncio.run(story())

    return send


def start(path: Path, name: str) -> Worker:
    worker = start_worker(read_spec(path, name), make_settings({"device": "cpu", "dtype": "float32"}))
    worker.wait_loaded()
    return worker


@pytest.fixture(scope="package")
def dialect_workers(
    checkpoint: Callable[[str], Path], demo_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Worker]]:
    """`demo` (MiniLM itself), `qwen` (with prompts), `m3` (with sparse outputs) and `ranker`."""
    folder = tmp_path_factory.mktemp("dialects")
    workers = {
        "demo": start(demo_path, "demo"),
        "qwen": start(checkpoint("qwen3"), "qwen"),
        "m3": start(make_bge_m3(folder / "m3"), "m3"),
        "ranker": start(make_reranker(folder / "ranker", "bert"), "ranker"),
    }
    yield workers
    for worker in workers.values():
        worker.close(10)


@pytest.fixture(scope="package")
def ask(dialect_workers: dict[str, Worker]) -> Ask:
    return asker(dialect_workers)
