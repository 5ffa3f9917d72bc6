"""A second kind of output, of any length, goes through tiers, flights and service untouched."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes import SPEC, FakeWorker, vector_of
from redis_servers import RedisServer

from inlay.cache.tiers import Cache
from inlay.cache.urls import make_cache
from inlay.errors import InvalidInput
from inlay.models.registry import OUTPUTS, OutputKind
from inlay.requests import EmbedOptions, EmbedRequest, EmbedResult
from inlay.serving.service import Service
from inlay.types import DENSE, Entry

PAIRS, PAIR = "pairs", np.dtype([("id", "S4"), ("weight", "S4")])
TEXTS = ["a", "some words", "x" * 37]


class TwoKinds(FakeWorker):
    """Gives pairs too: as many as a text has characters, so that each payload has another length."""

    def __init__(self) -> None:
        super().__init__(replace(SPEC, outputs=(DENSE, PAIRS)))

    def payload_of(self, kind: str, content: str | list[int]) -> bytes:
        return (
            b"".join(b"%08d" % n for n in range(len(content))) if kind == PAIRS else super().payload_of(kind, content)
        )


@pytest.fixture(autouse=True)
def pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OUTPUTS, PAIRS, OutputKind("none:None", PAIR, lambda number, spec: True))


@pytest.fixture(params=["memory", "disk", "redis"])
def cache_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "redis":
        with RedisServer(tmp_path) as server:
            yield server.url
    else:
        yield {"memory": "memory://1MiB", "disk": f"disk://{tmp_path}/cache?size=4MiB"}[request.param]


def request_of(texts: list[str], *outputs: str, **options: object) -> EmbedRequest:
    return EmbedRequest(None, texts, EmbedOptions(outputs=outputs, **options))  # type: ignore[arg-type]


def expected(texts: list[str]) -> list[bytes]:
    return [TwoKinds().payload_of(PAIRS, text) for text in texts]


def bytes_of(result: EmbedResult) -> dict[str, list[bytes]]:
    return {kind: [array.tobytes() for array in arrays] for kind, arrays in result.others.items()}


def test_both_kinds_are_computed_together_kept_apart_and_come_back_from_any_tier(cache_url: str) -> None:
    async def story() -> None:
        worker = TwoKinds()
        service = Service({"fake": worker}, make_cache([cache_url]))
        first = await service.embed(request_of(TEXTS, DENSE, PAIRS))
        assert bytes_of(first) == {PAIRS: expected(TEXTS)}
        assert np.array_equal(first.vectors, [vector_of(text) for text in TEXTS])
        assert [work.outputs for work in worker.submitted] == [(DENSE, PAIRS)] * 3, "one computation for both"
        await service.flights.finish()
        await flush(service.cache)
        for outputs in ((PAIRS,), (DENSE,), (PAIRS, DENSE)):
            again = await service.embed(request_of(TEXTS, *outputs))
            assert again.cache_status == "hit"
            assert bytes_of(again) == ({PAIRS: expected(TEXTS)} if PAIRS in outputs else {})
            assert again.vectors.shape == (3, SPEC.width if DENSE in outputs else 0)
        assert len(worker.submitted) == 3
        await service.close()

    asyncio.run(story())


def test_only_the_kind_that_is_missing_is_computed() -> None:
    async def story() -> None:
        worker = TwoKinds()
        service = Service({"fake": worker}, make_cache(["memory://1MiB"]))
        await service.embed(request_of(["a"], DENSE))
        await service.flights.finish()
        both = await service.embed(request_of(["a"], DENSE, PAIRS))
        assert [work.outputs for work in worker.submitted] == [(DENSE,), (PAIRS,)]
        assert (bytes_of(both)[PAIRS], both.num_hits) == (expected(["a"]), 0)

    asyncio.run(story())


def test_requests_of_different_kinds_share_what_they_have_in_common() -> None:
    async def story() -> None:
        worker = TwoKinds()
        worker.gate.clear()
        service = Service({"fake": worker}, Cache([]))
        kinds = [(DENSE,), (DENSE, PAIRS), (PAIRS,), (PAIRS, DENSE)]
        tasks = [asyncio.create_task(service.embed(request_of(TEXTS, *outputs))) for outputs in kinds]
        await asyncio.sleep(0.01)
        worker.gate.set()
        for task, outputs in zip(tasks, kinds, strict=True):
            result = await task
            assert bytes_of(result) == ({PAIRS: expected(TEXTS)} if PAIRS in outputs else {})
        assert sorted(work.outputs for work in worker.submitted) == [(DENSE,)] * 3 + [(PAIRS,)] * 3

    asyncio.run(story())


def test_an_entry_of_another_kind_under_the_key_is_a_miss() -> None:
    async def story() -> None:
        worker = TwoKinds()
        service = Service({"fake": worker}, make_cache(["memory://1MiB"]))
        await service.embed(request_of(["abcdefgh"], PAIRS))
        await service.flights.finish()
        (key,) = service.cache.tiers[0]._places  # type: ignore[attr-defined]
        wrong = Entry(DENSE, bytes(SPEC.width * 4), 1, False)
        await service.cache.tiers[0].put_many({key: wrong})
        again = await service.embed(request_of(["abcdefgh"], PAIRS))
        assert (bytes_of(again)[PAIRS], again.cache_status) == (expected(["abcdefgh"]), "miss")

    asyncio.run(story())


def test_a_kind_that_the_model_does_not_give_is_refused() -> None:
    service = Service({"fake": FakeWorker()}, Cache([]))
    with pytest.raises(InvalidInput, match="gives no 'pairs' output: it gives dense"):
        asyncio.run(service.embed(request_of(["a"], PAIRS)))


async def flush(cache: Cache) -> None:
    for tier in cache.tiers:
        if hasattr(tier, "flush"):
            await tier.flush()
