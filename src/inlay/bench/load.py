"""A load on an OpenAI-compatible server that costs little itself: keep-alive connections over plain asyncio.

In: a URL, request bodies, and how they come: each connection sends the next as soon as it is free (closed), or
they arrive at a rate whatever the server does (open; the wait for a free connection counts as latency). Out:
`Figures`. Runs in a process of its own, never in the server's.

    python -m inlay.bench.load URL BODIES.jsonl CONNECTIONS
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sys
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import httptools
import msgspec

from inlay.bench.target import Target
from inlay.errors import ConfigError

OK = 200
CONNECT_SECONDS = 10.0
REPLY_SECONDS = 120.0
LONGEST_ERROR = 200  # characters of a refusal that are shown


class Usage(msgspec.Struct):
    total_tokens: int = 0
    prompt_tokens: int = 0


class Reply(msgspec.Struct):
    """What the load reads of an answer."""

    usage: Usage = msgspec.field(default_factory=Usage)


class Figures(msgspec.Struct):
    """What a load gave. Latencies in milliseconds, of good answers alone."""

    requests: int
    errors: dict[str, int]  # what went wrong → how often
    seconds: float
    qps: float  # good answers a second
    tokens_per_s: float
    mean_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    hits: int  # answers that came from Inlay's cache whole

    @property
    def num_errors(self) -> int:
        return sum(self.errors.values())


class Load:
    """Requests that wait, and what became of those that went out."""

    def __init__(self, target: Target, bodies: Iterable[bytes], rate: float | None = None) -> None:
        self.target = target
        self._bodies = iter(bodies)
        self._rate = rate
        self._arrived: deque[tuple[float, bytes]] = deque()
        self._idle: list[Connection] = []
        self._all_arrived = rate is None
        self._latencies: list[float] = []
        self._tokens = 0
        self._hits = 0
        self._errors: Counter[str] = Counter()

    async def run(self, connections: int) -> Figures:
        """Send everything; returns when the last answer is there."""
        loop = asyncio.get_running_loop()
        began = time.perf_counter()
        made = [Connection(self, loop) for _ in range(connections)]
        try:
            await asyncio.gather(*(connection.open() for connection in made))
            if self._rate is not None:
                await self._arrive(self._rate)
            await asyncio.gather(*(connection.ended for connection in made))
        except (OSError, TimeoutError) as error:
            raise ConfigError(f"{self.target.host}:{self.target.port} does not answer: {error}") from error
        return self._figures(time.perf_counter() - began)

    def next_request(self, connection: Connection) -> tuple[float, bytes] | None:
        """What a free connection is to send, and when it was due; None: nothing now."""
        if self._rate is None:
            body = next(self._bodies, None)
            return None if body is None else (time.perf_counter(), body)
        if self._arrived:
            return self._arrived.popleft()
        if not self._all_arrived:
            self._idle.append(connection)
        return None

    @property
    def is_over(self) -> bool:
        return self._all_arrived and not self._arrived

    def record(self, due: float, status: int, body: bytes, is_hit: bool) -> None:
        if status != OK:
            self._errors[f"{status}: {body[:LONGEST_ERROR].decode(errors='replace')}"] += 1
            return
        try:
            usage = msgspec.json.decode(body, type=Reply).usage
        except msgspec.DecodeError:
            self._errors["an answer that is not JSON"] += 1
            return
        self._latencies.append(time.perf_counter() - due)
        self._hits += is_hit
        self._tokens += usage.total_tokens or usage.prompt_tokens

    def fail(self, reason: str) -> None:
        self._errors[reason] += 1

    async def _arrive(self, rate: float) -> None:
        """Poisson arrivals: the gaps are exponential."""
        gaps = random.Random(0)  # noqa: S311 - the same arrivals for every server
        due = time.perf_counter()
        for body in self._bodies:
            due += gaps.expovariate(rate)
            await asyncio.sleep(max(due - time.perf_counter(), 0))
            self._arrived.append((due, body))
            while self._idle and self._arrived:
                self._idle.pop().send_next()
        self._all_arrived = True
        for connection in self._idle:
            connection.finish()

    def _figures(self, seconds: float) -> Figures:
        taken = sorted(self._latencies)

        def percentile(share: float) -> float:
            return round(taken[min(int(len(taken) * share), len(taken) - 1)] * 1000, 3) if taken else 0.0

        return Figures(
            requests=len(taken) + sum(self._errors.values()),
            errors=dict(self._errors),
            seconds=round(seconds, 3),
            qps=round(len(taken) / seconds, 1),
            tokens_per_s=round(self._tokens / seconds, 1),
            mean_ms=round(sum(taken) / len(taken) * 1000, 3) if taken else 0.0,
            p50_ms=percentile(0.5),
            p95_ms=percentile(0.95),
            p99_ms=percentile(0.99),
            hits=self._hits,
        )


class Connection(asyncio.Protocol):
    """One request at a time; opened again when the server closes it."""

    def __init__(self, load: Load, loop: asyncio.AbstractEventLoop) -> None:
        self._load = load
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._due: float | None = None
        self._waiting: asyncio.TimerHandle | None = None
        self._opening: asyncio.Task[None] | None = None
        self.ended: asyncio.Future[None] = loop.create_future()

    async def open(self) -> None:
        target = self._load.target
        async with asyncio.timeout(CONNECT_SECONDS):
            await self._loop.create_connection(lambda: self, target.host, target.port, ssl=target.ssl)

    def send_next(self) -> None:
        following = self._load.next_request(self)
        if following is None:
            if self._load.is_over:
                self.finish()
            return
        self._due, body = following
        self._body = bytearray()
        self._is_hit = False
        self._parser = httptools.HttpResponseParser(self)
        self._waiting = self._loop.call_later(REPLY_SECONDS, self._give_up)
        if self._transport is not None:
            self._transport.write(self._load.target.request(body))

    def finish(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self.send_next()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(f"an answer that is not HTTP: {error}")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._is_hit |= name.lower() == b"x-inlay-cache" and value == b"hit"

    def on_body(self, data: bytes) -> None:
        self._body += data

    def on_message_complete(self) -> None:
        if self._due is None:
            return
        self._load.record(self._due, self._parser.get_status_code(), bytes(self._body), self._is_hit)
        self._answered()
        if self._parser.should_keep_alive():
            self.send_next()
        elif self._transport is not None:
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if self._due is not None:
            self._load.fail("the connection was closed without an answer")
            self._answered()
        if not self.ended.done():
            self._opening = self._loop.create_task(self._reopen())

    async def _reopen(self) -> None:
        try:
            await self.open()
        except (OSError, TimeoutError) as error:
            self._load.fail(f"no new connection: {error}")
            self.finish()

    def _answered(self) -> None:
        self._due = None
        if self._waiting is not None:
            self._waiting.cancel()

    def _give_up(self) -> None:
        self._fail(f"no answer within {REPLY_SECONDS:.0f} s")

    def _fail(self, reason: str) -> None:
        self._load.fail(reason)
        self._answered()
        if self._transport is not None:
            self._transport.abort()


def run_load(target: Target, bodies: Iterable[bytes], connections: int, rate: float | None = None) -> Figures:
    """Run a load to its end."""
    load = Load(target, bodies, rate)
    factory = None
    with contextlib.suppress(ImportError):  # not on Windows
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(load.run(connections))


def read_bodies(file: Path) -> Iterator[bytes]:
    yield from file.read_bytes().splitlines()


def main(arguments: list[str]) -> dict[str, Any]:
    url, bodies, connections = arguments
    figures: dict[str, Any] = msgspec.to_builtins(run_load(Target(url), read_bodies(Path(bodies)), int(connections)))
    return figures


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(sys.argv[1:])) + "\n")
