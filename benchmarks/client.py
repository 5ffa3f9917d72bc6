"""A load client that costs little: keep-alive connections over plain asyncio, each sending the next body in line.

    python benchmarks/client.py PORT BODIES.jsonl CONNECTIONS

Prints one JSON object: answered, errors, seconds, mean, P50, P95, P99 in ms, requests and cache hits.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import uvloop


class Connection(asyncio.Protocol):
    """One request at a time, the next as soon as the answer is whole."""

    def __init__(self, requests: Iterator[bytes], latencies: list[float], counts: dict[str, int]) -> None:
        self._requests = requests
        self._latencies = latencies
        self._counts = counts
        self._buffer = bytearray()
        self._missing = -1
        self._began = 0.0
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.WriteTransport) -> None:
        self._transport = transport
        self._next()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._missing < 0:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self._buffer[:end]).lower()
            self._missing = end + 4 + int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
            self._counts["errors"] += not head.startswith(b"http/1.1 200")
            self._counts["hits"] += b"x-inlay-cache: hit" in head
        if len(self._buffer) >= self._missing:
            self._latencies.append(time.perf_counter() - self._began)
            self._buffer.clear()
            self._missing = -1
            self._next()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)

    def _next(self) -> None:
        request = next(self._requests, None)
        if request is None:
            self._transport.close()
            return
        self._began = time.perf_counter()
        self._transport.write(request)


async def run(port: int, bodies: list[bytes], connections: int) -> dict[str, float]:
    head = b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    requests = iter([head % len(body) + body for body in bodies])
    latencies: list[float] = []
    counts = {"errors": 0, "hits": 0}
    loop = asyncio.get_running_loop()
    began = time.perf_counter()
    made = [
        loop.create_connection(lambda: Connection(requests, latencies, counts), "127.0.0.1", port)
        for _ in range(connections)
    ]
    protocols = [protocol for _, protocol in await asyncio.gather(*made)]
    await asyncio.gather(*(protocol.ended for protocol in protocols))
    seconds = time.perf_counter() - began
    latencies.sort()

    def percentile(share: float) -> float:
        return round(latencies[min(int(len(latencies) * share), len(latencies) - 1)] * 1000, 3)

    return {
        "answered": len(latencies) - counts["errors"],
        "errors": counts["errors"],
        "seconds": round(seconds, 3),
        "mean_ms": round(sum(latencies) / len(latencies) * 1000, 3),
        "p50_ms": percentile(0.5),
        "p95_ms": percentile(0.95),
        "p99_ms": percentile(0.99),
        "qps": round(len(latencies) / seconds, 1),
        "hits": counts["hits"],
    }


if __name__ == "__main__":
    uvloop.install()
    bodies = Path(sys.argv[2]).read_bytes().splitlines()
    print(json.dumps(asyncio.run(run(int(sys.argv[1]), bodies, int(sys.argv[3])))))
