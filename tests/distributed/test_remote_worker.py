"""The whole service over a worker that it knows by a socket alone: nothing is shared across the seam."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from fakes import HEAVY, POISON, SPEC, FakeRunner, make_engine
from remote import RemoteEngine

from inlay.api.app import make_app
from inlay.api.auth import Keyring
from inlay.cache.memory import MemoryTier
from inlay.cache.tiers import Cache
from inlay.config_values import make_settings
from inlay.distributed.remote_worker import RemoteWorker
from inlay.engine.loading import load_engine
from inlay.engine.worker import DeviceWorker
from inlay.errors import ContextLengthExceeded, EngineError, OutOfMemory
from inlay.models.spec import read_spec
from inlay.requests import EmbedOptions, EmbedRequest
from inlay.serving.service import Service
from inlay.types import Priority


@pytest.fixture
def runner() -> FakeRunner:
    return FakeRunner()


@pytest.fixture
def engine(runner: FakeRunner, tmp_path: Path) -> Iterator[RemoteEngine]:
    made = RemoteEngine(tmp_path, worker_of(runner))
    yield made
    runner.gate.set()
    made.close()


@pytest.fixture
def worker(engine: RemoteEngine) -> RemoteWorker:
    return engine.remote()


def worker_of(runner: FakeRunner) -> DeviceWorker:
    made = DeviceWorker(SPEC, lambda spec, stats: make_engine(runner, stats), stall_timeout=60)
    made.wait_loaded()
    return made


def service_over(worker: RemoteWorker) -> Service:
    return Service({"fake": worker}, Cache([MemoryTier(1 << 20)]))


def sums_of(result: object) -> list[float]:
    return [float(vector[0]) for vector in result.vectors]  # type: ignore[attr-defined]


def test_requests_are_answered_shared_and_cached(worker: RemoteWorker, engine: RemoteEngine) -> None:
    async def story() -> None:
        service = service_over(worker)
        requests = [EmbedRequest(None, ["a", "b", "a"]), EmbedRequest(None, ["b", "c"])]
        first, second = await asyncio.gather(*(service.embed(request) for request in requests))
        assert (sums_of(first), sums_of(second)) == ([97, 98, 97], [98, 99])
        await service.flights.finish()
        again = await service.embed(EmbedRequest(None, ["c", "a"]))
        assert (sums_of(again), again.cache_status) == ([99, 97], "hit")
        assert engine.worker.stats.sequences == 3

    asyncio.run(story())


@pytest.mark.parametrize(
    ("content", "error"),
    [([POISON], EngineError), ([HEAVY], OutOfMemory), ("x" * 65, ContextLengthExceeded)],
)
def test_an_error_comes_back_as_what_it_was(worker: RemoteWorker, content: object, error: type[Exception]) -> None:
    async def story() -> None:
        service = service_over(worker)
        with pytest.raises(error, match=r"input\[1\]") as caught:
            await service.embed(EmbedRequest(None, [[1], content]))  # type: ignore[list-item]
        assert type(caught.value) is error

    asyncio.run(story())


def test_cancelling_and_hurrying_are_messages(worker: RemoteWorker, engine: RemoteEngine, runner: FakeRunner) -> None:
    async def story() -> None:
        service = service_over(worker)
        runner.gate.clear()
        first = asyncio.create_task(service.embed(EmbedRequest(None, ["first"])))
        await until(lambda: bool(runner.events) and worker.queued_tokens == 0)
        slow = EmbedOptions(priority=Priority.LOW)
        leaving = asyncio.create_task(service.embed(EmbedRequest(None, ["x" * 60], slow)))
        low = asyncio.create_task(service.embed(EmbedRequest(None, ["low priority"], slow)))
        await until(lambda: worker.queued_tokens == 72)
        leaving.cancel()
        await until(lambda: worker.queued_tokens == 12)
        joined = asyncio.create_task(
            service.embed(EmbedRequest(None, ["low priority"], EmbedOptions(priority=Priority.HIGH)))
        )
        await until(lambda: risen_in(engine))
        runner.gate.set()
        assert sums_of(await low) == sums_of(await joined)
        await first
        assert engine.worker.stats.dropped_sequences == 1

    asyncio.run(story())


def risen_in(engine: RemoteEngine) -> bool:
    """Has the engine work of high priority?"""
    sequences = list(engine.worker._engine.unanswered._sequences.values())  # type: ignore[attr-defined]
    return any(sequence.priority is Priority.HIGH for sequence in sequences)


def test_a_server_over_a_socket_gives_the_same_bits(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    """Through HTTP's routes, with a real model: vectors, health, readiness, metrics."""
    settings = make_settings({"dtype": "float32", "cache": ["none"]})
    spec = read_spec(checkpoint("qwen3"), "tiny")
    texts = ["hello world", "one word after the other", "a"]

    def answers(is_remote: bool) -> tuple[list[object], str]:
        inner = DeviceWorker(spec, lambda spec, stats: load_engine(spec, settings, stats), 60)
        inner.wait_loaded()
        engine = RemoteEngine(tmp_path, inner)
        worker = engine.remote() if is_remote else inner
        app = make_app({"tiny": worker}, Cache([]), {}, Keyring({}), settings).envelope

        async def ask() -> tuple[list[object], str]:
            transport = httpx.ASGITransport(app=app)  # type: ignore[arg-type]
            async with httpx.AsyncClient(transport=transport, base_url="http://inlay") as client:
                reply = await client.post("/v1/embeddings", json={"input": texts, "normalize": False})
                assert (await client.get("/ready")).status_code == 200
                assert (await client.get("/health")).status_code == 200
                metrics = (await client.get("/metrics")).text
            assert reply.status_code == 200
            return [row["embedding"] for row in reply.json()["data"]], metrics

        try:
            return asyncio.run(ask())
        finally:
            engine.close()
            Path(engine.address).unlink()

    remote, metrics = answers(True)
    plain, own_metrics = answers(False)
    assert np.array_equal(np.array(remote), np.array(plain))
    assert 'inlay_engine_sequences_total{model="tiny"} 3.0' in own_metrics
    assert "inlay_engine_sequences_total" not in metrics, "the engine's process counts"
    assert 'inlay_engine_ready{model="tiny"} 1.0' in metrics


async def until(is_so: Callable[[], bool]) -> None:
    for _ in range(4000):
        if is_so():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not come about")
