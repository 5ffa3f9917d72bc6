"""The Redis tier against a real redis-server: never a wrong vector, never a wait worth speaking of."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from entries import dense, vector_in
from fakes import FakeWorker, vector_of
from redis import Redis
from redis_servers import RedisServer
from servers import RunningServer

from inlay.cache.breaker import FAILURES
from inlay.cache.record import NEVER, Record, Signer, encode_record
from inlay.cache.redis import CHUNK, PREFIX, SIGNED_PREFIX, RedisTier
from inlay.cache.tiers import Cache
from inlay.cache.urls import make_cache, read_secret
from inlay.errors import ConfigError
from inlay.requests import EmbedRequest
from inlay.serving.service import Service
from inlay.types import Entry

WIDTH = 8


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path) as running:
        yield running


def key_of(number: int) -> bytes:
    return hashlib.sha256(b"%d" % number).digest()


def entry_of(number: int) -> Entry:
    return dense(np.full(WIDTH, number, dtype=np.float32), number + 1, bool(number % 2))


def entries_of(numbers: range) -> dict[bytes, Entry]:
    return {key_of(number): entry_of(number) for number in numbers}


async def until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < end, "it did not come about"
        await asyncio.sleep(0.01)


def run(url: str, story: Callable[[RedisTier], Awaitable[None]], **options: float) -> None:
    """Tell a story with a tier; a generous timeout, as this is not about speed."""

    async def tell() -> None:
        tier = RedisTier(url, **{"timeout": 1.0, **options})
        try:
            await story(tier)
        finally:
            await tier.close()

    asyncio.run(tell())


async def put(tier: RedisTier, entries: dict[bytes, Entry]) -> None:
    await tier.put_many(entries)
    await tier.flush()


def test_entries_come_back_as_they_were_in_more_than_one_command(redis: RedisServer) -> None:
    async def story(tier: RedisTier) -> None:
        numbers = range(2 * CHUNK + 3)
        await put(tier, entries_of(numbers))
        found = await tier.get_many([key_of(number) for number in range(2 * CHUNK + 10)])
        assert len(found) == len(numbers)
        for number in numbers:
            assert found[key_of(number)] == entry_of(number)

    run(redis.url, story)
    calls = Redis.from_url(redis.url).info("commandstats")
    assert calls["cmdstat_mget"]["calls"] == 3


def test_what_was_tampered_with_is_a_miss(redis: RedisServer) -> None:
    async def story(tier: RedisTier) -> None:
        await put(tier, entries_of(range(6)))
        client = Redis.from_url(redis.url)
        good = client.get(PREFIX + key_of(0))
        client.set(PREFIX + key_of(1), good)  # whole, but another key's
        client.set(PREFIX + key_of(2), good[:-4])
        client.set(PREFIX + key_of(3), good[:70] + bytes([good[70] ^ 1]) + good[71:])
        client.set(PREFIX + key_of(4), b"")
        client.delete(PREFIX + key_of(5))
        client.lpush(PREFIX + key_of(5), "a list")
        assert (await tier.get_many([key_of(number) for number in range(6)])).keys() == {key_of(0)}
        assert tier.numbers()["breaker_open"] == 0
        assert tier.numbers()["errors"] == 4, "what is broken is counted"

    run(redis.url, story)


def test_a_record_of_another_width_is_computed_anew(redis: RedisServer) -> None:
    async def story() -> None:
        tier = RedisTier(redis.url, timeout=1.0)
        service = Service({"fake": FakeWorker()}, Cache([tier]))
        request = EmbedRequest("fake", ["a"])
        await service.embed(request)
        await tier.flush()
        client = Redis.from_url(redis.url)
        (name,) = client.keys()
        digest = name.removeprefix(PREFIX)
        client.set(name, encode_record(Record(digest, NEVER, dense(np.ones(3, dtype=np.float32), 1, False))))
        result = await service.embed(request)
        assert (result.vectors == [vector_of("a")]).all()
        assert result.cache_status == "miss"
        await service.close()

    asyncio.run(story())


def test_entries_end_with_their_time(redis: RedisServer) -> None:
    async def story(tier: RedisTier) -> None:
        await put(tier, entries_of(range(1)))
        assert 0 < Redis.from_url(redis.url).pttl(PREFIX + key_of(0)) <= 60_000

    run(redis.url, story, ttl=60)


def test_a_full_server_keeps_answering_look_ups(redis: RedisServer) -> None:
    async def story(tier: RedisTier) -> None:
        await put(tier, entries_of(range(4)))
        client = Redis.from_url(redis.url)
        client.config_set("maxmemory", 1)
        for _ in range(FAILURES + 1):
            await put(tier, entries_of(range(4, 8)))
        assert tier.numbers()["errors"] == FAILURES + 1
        assert tier.numbers()["breaker_open"] == 0
        assert len(await tier.get_many(entries_of(range(8)))) == 4

    run(redis.url, story)


def test_the_queue_of_writes_is_bounded(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inlay.cache.redis.MAX_QUEUED_BYTES", 10 * WIDTH * 4)

    async def story(tier: RedisTier) -> None:
        await put(tier, entries_of(range(25)))
        assert tier.numbers()["dropped"] == 15
        assert len(await tier.get_many(entries_of(range(25)))) == 10

    run(redis.url, story)


def test_closing_writes_what_is_queued(redis: RedisServer) -> None:
    async def story(tier: RedisTier) -> None:
        await tier.put_many(entries_of(range(1000)))

    run(redis.url, story)
    assert Redis.from_url(redis.url).dbsize() == 1000


def test_a_caller_that_leaves_does_not_mix_up_replies(redis: RedisServer) -> None:
    async def story(tier: RedisTier) -> None:
        await put(tier, entries_of(range(200)))

        async def look_up(number: int) -> None:
            found = await tier.get_many([key_of(number)])
            assert (vector_in(found[key_of(number)]) == number).all()

        for turn in range(20):
            calls = [asyncio.create_task(look_up(number)) for number in range(turn, 200, 10)]
            await asyncio.sleep(0)
            for call in calls[::2]:
                call.cancel()
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert all(result is None or isinstance(result, asyncio.CancelledError) for result in results)

    run(redis.url, story)


@pytest.mark.parametrize("fault", ["kill", "hang"])
def test_a_server_that_is_gone_is_asked_no_more_until_it_is_back(redis: RedisServer, fault: str) -> None:
    async def story(tier: RedisTier) -> None:
        await put(tier, entries_of(range(3)))
        getattr(redis, fault)()
        for _ in range(FAILURES):
            assert await tier.get_many([key_of(0)]) == {}
        await until(lambda: tier.numbers()["breaker_open"] == 1)
        errors = tier.numbers()["errors"]
        assert await tier.get_many([key_of(0)]) == {}
        await tier.put_many(entries_of(range(5)))
        assert tier.numbers()["errors"] == errors, "somebody was sent to a server that is known to be gone"
        assert tier.numbers()["dropped"] == 5
        redis.start() if fault == "kill" else redis.go_on()
        await until(lambda: tier.numbers()["breaker_open"] == 0)
        await put(tier, entries_of(range(3)))
        assert (await tier.get_many(entries_of(range(3)))).keys() == entries_of(range(3)).keys()

    run(redis.url, story, timeout=0.2)


def test_requests_stay_right_while_the_server_dies_hangs_and_returns(redis: RedisServer) -> None:
    async def story() -> None:
        tier = RedisTier(redis.url, timeout=0.1)
        service = Service({"fake": FakeWorker()}, Cache([tier]))
        is_over = False
        slowest = 0.0

        async def client(number: int) -> int:
            nonlocal slowest
            asked = 0
            while not is_over:
                texts = [f"{(number + asked) % 50}", f"{asked}"]
                began = time.monotonic()
                result = await service.embed(EmbedRequest("fake", texts))
                slowest = max(slowest, time.monotonic() - began)
                assert (result.vectors == [vector_of(text) for text in texts]).all()
                asked += 1
                await asyncio.sleep(0.001)
            return asked

        clients = [asyncio.create_task(client(number)) for number in range(10)]
        for fault, remedy in [(redis.kill, redis.start), (redis.hang, redis.go_on)] * 2:
            await asyncio.sleep(0.3)
            await asyncio.to_thread(fault)
            await until(lambda: tier.numbers()["breaker_open"] == 1)
            await asyncio.to_thread(remedy)
            await until(lambda: tier.numbers()["breaker_open"] == 0)
            hits = service.cache.stats[0].hits
            await until(lambda hits=hits: service.cache.stats[0].hits > hits)
        is_over = True
        assert all(asked > 0 for asked in await asyncio.gather(*clients))
        assert slowest < 5, "somebody waited for a server that is gone"
        await service.close()

    asyncio.run(story())


def test_two_servers_share_their_hits(redis: RedisServer) -> None:
    body = {"input": ["shared between two servers"], "encoding_format": "base64"}
    tiers = ["--cache", "memory://1MiB", "--cache", redis.url]
    with RunningServer("demo", *tiers) as first, RunningServer("demo", *tiers) as second:
        computed = first.post(body)
        assert computed.headers["x-inlay-cache"] == "miss"
        client = Redis.from_url(redis.url)
        asyncio.run(until(lambda: client.dbsize() == 1))
        shared = second.post(body)
        assert shared.headers["x-inlay-cache"] == "hit"
        assert shared.json()["data"] == computed.json()["data"]
        assert 'inlay_cache_hits_total{tier="redis"} 1.0' in second.get("/metrics").text
        assert 'inlay_cache_breaker_open{tier="redis"} 0.0' in second.get("/metrics").text


@pytest.mark.parametrize("url", ["redis://", "redis://host:6379/name", "redis://host?size=1GiB", "redis://h:99999"])
def test_a_url_that_is_off_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="--cache redis:"):
        make_cache([url])


def test_no_message_has_the_password() -> None:
    with pytest.raises(ConfigError) as caught:
        make_cache(["redis://user:secret@host:6379/0?colour=red"])
    assert "secret" not in caught.value.message


SECRET = "a secret of some length"


def test_with_a_secret_only_signed_entries_are_hits(redis: RedisServer) -> None:
    async def story() -> None:
        ours, theirs, plain = (RedisTier(redis.url, timeout=1.0, signer=signer) for signer in signers)
        await ours.put_many(entries_of(range(3)))
        await ours.flush()
        assert (await ours.get_many(entries_of(range(3)))).keys() == entries_of(range(3)).keys()
        assert await theirs.get_many(entries_of(range(3))) == {}
        assert await plain.get_many(entries_of(range(3))) == {}
        client = Redis.from_url(redis.url)
        forged = encode_record(Record(key_of(7), NEVER, entry_of(8)))  # well-formed, of another number
        client.set(SIGNED_PREFIX + key_of(7), forged)
        client.set(SIGNED_PREFIX + key_of(0), client.get(SIGNED_PREFIX + key_of(1)) or b"")
        assert (await ours.get_many(entries_of(range(8)))).keys() == {key_of(1), key_of(2)}
        client.close()
        for tier in (ours, theirs, plain):
            await tier.close()

    signers = (Signer(SECRET), Signer(SECRET + "!"), None)
    asyncio.run(story())


def test_a_secret_is_read_from_a_file_and_must_be_long(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(SECRET + "\n")
    assert read_secret(None, str(tmp_path / "secret")) == SECRET
    with pytest.raises(ConfigError, match="under 16 characters"):
        read_secret("short", None)
    with pytest.raises(ConfigError, match="leave one out"):
        read_secret(SECRET, str(tmp_path / "secret"))
    with pytest.raises(ConfigError, match="cannot be read"):
        read_secret(None, str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    "answer", [b":1\r\n", b"*1\r\n" * 5000, b"$-1\r\n", b"+OK\r\n", b"*2\r\n:1\r\n:2\r\n", b"nonsense\r\n", b"%5\r\n"]
)
def test_a_server_that_answers_nonsense_is_a_miss_and_nothing_is_left_behind(answer: bytes) -> None:
    async def story() -> None:
        complaints: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with suppress(ConnectionError):
                while await reader.read(65536):
                    writer.write(answer)
                    await writer.drain()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        tier = RedisTier(f"redis://127.0.0.1:{port}/0", timeout=0.5)
        for _ in range(3):
            assert await tier.get_many([key_of(0), key_of(1)]) == {}
            await tier.put_many(entries_of(range(2)))
            await tier.flush()
        await tier.close()
        server.close()
        gc.collect()
        await asyncio.sleep(0)
        assert tier.numbers()["errors"] > 0 or answer == b"$-1\r\n"
        assert complaints == []

    asyncio.run(story())
