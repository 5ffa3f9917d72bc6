"""The Redis tier: entries that many servers share, in Redis or Valkey.

In and out: entries by key. Look-ups are MGETs under a deadline; writes wait in a bounded queue and go out in
pipelines behind the reply. Values are records (`cache.record`), signed where there is a secret, so what was torn, or
put there by somebody else, is a miss.
Nothing is retried, and a breaker keeps requests from waiting for a server that does not answer. A caller
that leaves never cancels a call under way: its reply would be read as the next one's.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import TypeVar

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from inlay.cache.breaker import Breaker
from inlay.cache.record import NEVER, Record, Signer, decode_record, encode_record
from inlay.telemetry.logs import Complaints, get_logger
from inlay.types import Entry

log = get_logger("cache")
T = TypeVar("T")

PREFIX, SIGNED_PREFIX = b"inlay:2:", b"inlay:2s:"  # of every key, with the version of the record
CHUNK = 256  # keys of one command
CONNECTIONS = 16
READ_BYTES = 1 << 20
SLOWEST_RATE = 20_000  # entries a second: for so many keys the deadline grows by a second
MAX_QUEUED_BYTES = 64 << 20
FLUSH_SECONDS = 2.0  # for what is queued when the tier closes


class RedisTier:
    """Entries in a Redis server, each for at most `ttl` seconds; `timeout` (seconds) bounds one command."""

    name = "redis"
    lookup_seconds = None  # the tier keeps its own deadline, so that what came in time is not lost

    def __init__(
        self, url: str, ttl: float | None = None, timeout: float = 0.075, signer: Signer | None = None
    ) -> None:
        self._signer = signer
        self._prefix = PREFIX if signer is None else SIGNED_PREFIX
        self._ttl_ms = None if ttl is None else max(1, round(ttl * 1000))
        self._timeout = timeout
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=CONNECTIONS,
            timeout=timeout,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            socket_read_size=READ_BYTES,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
        )
        self._client = Redis.from_pool(pool)
        self._breaker = Breaker(self.name, self._client.ping)
        self._calls: set[asyncio.Task[None]] = set()
        self._queue: deque[tuple[bytes, Entry]] = deque()
        self._queued_bytes = 0
        self._writer: asyncio.Task[None] | None = None
        self._errors = self._dropped = 0
        self._complaints = Complaints(log)

    async def get_many(self, keys: Iterable[bytes]) -> dict[bytes, Entry]:
        """The entries that came whole and in time."""
        wanted = list(keys)
        found: dict[bytes, Entry] = {}
        if self._breaker.is_open or not wanted:
            return found
        seconds = self._timeout + len(wanted) / SLOWEST_RATE
        call = asyncio.get_running_loop().create_task(self._read(wanted, found, time.monotonic() + seconds))
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        await asyncio.wait([call], timeout=seconds)
        return dict(found)

    async def put_many(self, entries: Mapping[bytes, Entry]) -> None:
        """Queue entries; those that find the queue full, or the breaker open, are dropped and counted."""
        for key, entry in entries.items():
            size = len(entry.payload)
            if self._breaker.is_open or self._queued_bytes + size > MAX_QUEUED_BYTES:
                self._dropped += 1
                continue
            self._queue.append((key, entry))
            self._queued_bytes += size
        if self._queue and (self._writer is None or self._writer.done()):
            self._writer = asyncio.get_running_loop().create_task(self._write_queued())

    def numbers(self) -> Mapping[str, float]:
        return {
            "errors": self._errors,
            "dropped": self._dropped,
            "queued_bytes": self._queued_bytes,
            "breaker_open": int(self._breaker.is_open),
        }

    async def flush(self) -> None:
        """Wait until what is queued is written or dropped."""
        if self._writer is not None:
            await asyncio.wait([self._writer])

    async def close(self) -> None:
        """Write what is queued, within a bound, and hang up."""
        if self._writer is not None:
            await asyncio.wait([self._writer], timeout=FLUSH_SECONDS)
            self._writer.cancel()
        if self._calls:
            await asyncio.wait(self._calls)  # bounded by the socket's timeout
        await self._breaker.close()
        await self._client.aclose()

    async def _read(self, keys: list[bytes], found: dict[bytes, Entry], deadline: float) -> None:
        """Fill `found` chunk by chunk, as long as somebody waits for it."""
        for start in range(0, len(keys), CHUNK):
            chunk = keys[start : start + CHUNK]
            if self._breaker.is_open or time.monotonic() > deadline:
                return
            names = [self._prefix + key for key in chunk]
            values = await self._call("read", partial(self._client.mget, names))
            if values is not None and not (isinstance(values, list) and len(values) == len(chunk)):
                self._errors += 1
                self._complaints.tell("cache tier answered what was not asked", self.name, ValueError(type(values)))
                continue
            for key, value in zip(chunk, values or (), strict=False):
                record = self._decode(value)
                if record is not None and record.key == key:
                    found[key] = record.entry
                elif value is not None:
                    self._errors += 1

    async def _write_queued(self) -> None:
        """One pipeline after the other until nothing waits."""
        while self._queue:
            chunk = [self._queue.popleft() for _ in range(min(CHUNK, len(self._queue)))]
            self._queued_bytes -= sum(len(entry.payload) for _, entry in chunk)
            pipeline = self._client.pipeline(transaction=False)
            for key, entry in chunk:
                pipeline.set(self._prefix + key, self._encode(Record(key, NEVER, entry)), px=self._ttl_ms)
            if self._breaker.is_open or await self._call("write", pipeline.execute) is None:
                self._dropped += len(chunk)

    def _encode(self, record: Record) -> bytes:
        data = encode_record(record)
        return data if self._signer is None else self._signer.sign(data)

    def _decode(self, value: object) -> Record | None:
        """The record of a value; None where it is none, or not one of ours."""
        data = value if isinstance(value, bytes) else None
        if data is not None and self._signer is not None:
            data = self._signer.verified(data)
        return None if data is None else decode_record(data)

    async def _call(self, kind: str, command: Callable[[], Awaitable[T]]) -> T | None:
        """One raw call; None when it failed, which the breaker is told."""
        try:
            answer = await command()
        except ResponseError as error:  # an answer all the same: out of memory, read-only, …
            self._errors += 1
            self._complaints.tell("cache tier refused a command", self.name, error)
            return None
        except (RedisError, OSError, TimeoutError) as error:
            self._errors += 1
            self._breaker.fail(kind, error)
            return None
        except Exception as error:  # noqa: BLE001 - what a server that is no Redis makes of the client
            self._errors += 1
            self._complaints.tell("cache tier answered what is no answer", self.name, error)
            await self._client.connection_pool.disconnect(inuse_connections=False)
            return None
        self._breaker.succeed(kind)
        return answer
