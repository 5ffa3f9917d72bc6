"""A model in the place of another: every request is answered by one of them, and the one before ends when unused."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine, Mapping
from dataclasses import replace as changed
from typing import Any

import pytest
from fakes import SPEC, FakeWorker

from inlay.cache.memory import MemoryTier
from inlay.cache.tiers import Cache
from inlay.errors import Conflict, FingerprintMismatch, ModelError, UnknownModel
from inlay.requests import EmbedOptions, EmbedRequest, EmbedResult
from inlay.serving.replacement import Replacement, Replacer, State
from inlay.serving.service import Service
from inlay.types import ModelSpec, Ranking, Worker

NEXT = changed(SPEC, fingerprint="next")


class LoadingWorker(FakeWorker):
    """Loaded when `loaded` is set; with a failure it never is."""

    def __init__(self, spec: ModelSpec, failure: ModelError | None) -> None:
        super().__init__(spec)
        self.loaded = threading.Event()
        self.failure = failure

    def wait_loaded(self) -> None:
        self.loaded.wait(30)
        if self.failure is not None:
            raise self.failure


class House:
    """A service with a model that is being replaced."""

    def __init__(self, patience: float = 20.0, failure: ModelError | None = None) -> None:
        self.before = FakeWorker(SPEC)
        self.next = LoadingWorker(NEXT, failure)
        self.ended: list[Mapping[str, Worker]] = []
        self.seen: list[str] = []  # fingerprints at each switch
        workers: dict[str, Worker] = {SPEC.name: self.before}
        self.service = Service(workers, Cache([MemoryTier(1 << 20)]))
        self.replacer = Replacer(
            self.service.router,
            self.service.uses,
            self,
            patience,
            lambda: self.seen.append(workers[SPEC.name].spec.fingerprint),
        )

    def _see(self) -> None:
        self.seen.append(self.service.workers[SPEC.name].spec.fingerprint)

    def start(self, spec: ModelSpec) -> Mapping[str, Worker]:
        return {spec.name: self.next}

    def end(self, workers: Mapping[str, Worker]) -> None:
        self.ended.append(workers)

    async def ask(self, text: str) -> EmbedResult:
        return await self.service.embed(EmbedRequest(SPEC.name, [text], deadline=time.monotonic() + 20))

    async def begin_while_busy(self) -> tuple[asyncio.Task[EmbedResult], Replacement]:
        """The next one is loaded, and the one before still has a request under way, until its gate opens."""
        self.next.loaded.set()
        self.before.gate.clear()
        asked = asyncio.create_task(self.ask("a"))
        await asyncio.sleep(0.01)
        return asked, self.replacer.begin(NEXT, "there")

    async def wait_for(self, replacement: Replacement, *states: State) -> None:
        async with asyncio.timeout(20):
            while replacement.state not in states:  # noqa: ASYNC110 - as a client would look
                await asyncio.sleep(0.001)


def run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(story)


def test_the_name_is_the_next_ones_from_one_request_to_the_next_and_only_when_it_serves() -> None:
    async def story() -> None:
        house = House()
        replacement = house.replacer.begin(NEXT, "there")
        await asyncio.sleep(0.01)
        assert (await house.ask("a")).fingerprint == SPEC.fingerprint
        assert replacement.state is State.LOADING
        house.next.loaded.set()
        await house.wait_for(replacement, State.DONE)
        assert (await house.ask("a")).fingerprint == "next"
        assert house.next.computed == ["a"], "the cache has nothing of the model before for it"
        assert house.ended == [{SPEC.name: house.before}]
        assert house.seen == ["next"]
        assert (replacement.fingerprint_before, replacement.fingerprint) == (SPEC.fingerprint, "next")

    run(story())


def test_what_the_one_before_has_begun_it_finishes_before_it_ends() -> None:
    async def story() -> None:
        house = House()
        asked, replacement = await house.begin_while_busy()
        await house.wait_for(replacement, State.DRAINING)
        assert (await house.ask("b")).fingerprint == "next"
        await asyncio.sleep(0.05)
        assert house.ended == []
        house.before.gate.set()
        assert (await asked).fingerprint == SPEC.fingerprint
        await house.wait_for(replacement, State.DONE)
        assert house.ended == [{SPEC.name: house.before}]

    run(story())


def test_the_one_before_ends_after_the_time_that_a_request_has() -> None:
    async def story() -> None:
        house = House(patience=0.05)
        asked, replacement = await house.begin_while_busy()
        await house.wait_for(replacement, State.DONE)
        assert house.ended == [{SPEC.name: house.before}]
        assert not asked.done()
        house.before.gate.set()
        await asked

    run(story())


def test_one_that_cannot_be_loaded_changes_nothing_and_says_why() -> None:
    async def story() -> None:
        house = House(failure=ModelError("there is nothing"))
        house.next.loaded.set()
        replacement = house.replacer.begin(NEXT, "there")
        await house.wait_for(replacement, State.FAILED)
        assert replacement.reason == "there is nothing"
        assert house.ended == [{SPEC.name: house.next}]
        assert (await house.ask("a")).fingerprint == SPEC.fingerprint
        assert house.seen == []
        again = house.replacer.begin(NEXT, "there")
        assert [one.number for one in house.replacer.replacements] == [again.number, replacement.number]
        house.replacer.close()

    run(story())


def test_who_expects_the_fingerprint_of_the_one_before_has_it_as_long_as_it_is_there() -> None:
    async def story() -> None:
        house = House()
        asked, replacement = await house.begin_while_busy()
        await house.wait_for(replacement, State.DRAINING)
        expecting = EmbedOptions(expect_fingerprint=SPEC.fingerprint)
        late = asyncio.create_task(house.service.embed(EmbedRequest(SPEC.name, ["b"], expecting)))
        await asyncio.sleep(0.01)
        house.before.gate.set()
        assert (await asked).fingerprint == (await late).fingerprint == SPEC.fingerprint
        await house.wait_for(replacement, State.DONE)
        with pytest.raises(FingerprintMismatch):
            await house.service.embed(EmbedRequest(SPEC.name, ["b"], expecting))

    run(story())


def test_one_that_does_not_load_can_be_given_up() -> None:
    async def story() -> None:
        house = House()
        replacement = house.replacer.begin(NEXT, "there")
        await asyncio.sleep(0.01)
        with pytest.raises(UnknownModel):
            house.replacer.cancel("another")
        assert house.replacer.cancel(SPEC.name) is replacement
        await house.wait_for(replacement, State.FAILED)
        assert replacement.reason == "was given up"
        assert house.ended == [{SPEC.name: house.next}]
        house.replacer.begin(NEXT, "there")
        house.replacer.close()

    run(story())


def test_one_at_a_time_and_for_the_same_task() -> None:
    async def story() -> None:
        house = House()
        with pytest.raises(Conflict, match="is for embed, and the next one is for rank"):
            house.replacer.begin(changed(NEXT, ranking=Ranking("one")), "there")
        house.replacer.begin(NEXT, "there")
        with pytest.raises(Conflict, match="is being replaced already"):
            house.replacer.begin(NEXT, "there")
        await asyncio.sleep(0.01)
        assert [*house.replacer.close().values()] == [house.next]

    run(story())


def test_one_with_adapters_and_one_that_is_not_loaded_yet_stay() -> None:
    async def story() -> None:
        house = House()
        house.before.spec = changed(SPEC, adapters={"fine": SPEC})
        with pytest.raises(Conflict, match="has adapters"):
            house.replacer.begin(NEXT, "there")
        house.before.spec = changed(SPEC, fingerprint="")
        with pytest.raises(Conflict, match="still loading"):
            house.replacer.begin(NEXT, "there")

    run(story())
