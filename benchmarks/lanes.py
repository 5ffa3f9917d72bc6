"""Bulk work of the low lane beside one query a second, and requests whose time is over before they run.

    python benchmarks/lanes.py [--tokens 1000000] [--rate 1]

The bulk is sent by eight clients in requests of 64 texts; queries are of normal priority, with a text of their own.
A batch's seconds are those of the bulk alone, before the first query, as the engine counts them. Every tenth query is
followed by a request of one long text with a deadline of a millisecond: none of these may run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import httpx

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from processes import processor
from servers import RunningServer

CLIENTS, TEXTS, WORDS = 8, 64, 120
ALONE = 5.0  # seconds of bulk before the first query


class Numbers:
    """What the engine counts."""

    def __init__(self, text: str) -> None:
        self._text = text

    def of(self, name: str) -> float:
        found = re.search(rf'^inlay_engine_{name}_total{{model="demo"}} ([\d.e+]+)$', self._text, re.MULTILINE)
        if found is None:
            raise RuntimeError(f"no {name} in /metrics")
        return float(found[1])


async def numbers(client: httpx.AsyncClient) -> Numbers:
    return Numbers((await client.get("/metrics")).text)


async def bulk(client: httpx.AsyncClient, number: int, is_over: asyncio.Event) -> int:
    """Its texts, all of them new."""
    sent = 0
    while not is_over.is_set():
        texts = [f"bulk {number} {sent + row} " + "word " * WORDS for row in range(TEXTS)]
        reply = await client.post("/v1/embeddings", json={"input": texts, "priority": "low"})
        if reply.status_code == 200:
            sent += TEXTS
        else:
            await asyncio.sleep(float(reply.headers.get("retry-after", 1)))
    return sent


async def measure(url: str, tokens: int, rate: float) -> dict[str, Any]:
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=httpx.Limits(max_connections=64)) as client:
        is_over = asyncio.Event()
        first = await numbers(client)
        sending = [asyncio.create_task(bulk(client, number, is_over)) for number in range(CLIENTS)]
        await asyncio.sleep(1)
        begun = await numbers(client)
        await asyncio.sleep(ALONE)
        alone = await numbers(client)
        batch_ms = 1000 * (alone.of("busy_seconds") - begun.of("busy_seconds"))
        batch_ms /= alone.of("batches") - begun.of("batches")
        latencies: list[float] = []
        expired: list[int] = []
        while (await numbers(client)).of("tokens") - first.of("tokens") < tokens:
            latencies.append(await query(client, len(latencies)))
            if len(latencies) % 10 == 0:
                body = {"input": f"expired {len(expired)} " + "word " * WORDS}
                reply = await client.post("/v1/embeddings", json=body, headers={"x-request-deadline-ms": "1"})
                expired.append(reply.status_code)
            await asyncio.sleep(max(1 / rate - latencies[-1] / 1000, 0))
        is_over.set()
        num_bulk = sum(await asyncio.gather(*sending))
        last = await numbers(client)
    computed = last.of("sequences") - first.of("sequences")
    p99 = statistics.quantiles(latencies, n=100)[-1]
    return {
        "tokens": last.of("tokens") - first.of("tokens"),
        "batch_ms": batch_ms,
        "query_ms": {"p50": statistics.median(latencies), "p99": p99, "max": max(latencies), "asked": len(latencies)},
        "p99_in_batches": p99 / batch_ms,
        "expired": {"asked": len(expired), "refused": expired.count(504)},
        "computed_beyond_bulk_and_queries": computed - num_bulk - len(latencies),
    }


async def query(client: httpx.AsyncClient, number: int) -> float:
    began = time.monotonic()
    reply = await client.post("/v1/embeddings", json={"input": f"a query of its own, number {number}"})
    reply.raise_for_status()
    return (time.monotonic() - began) * 1000


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--rate", type=float, default=1.0)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with RunningServer("demo") as server:
        told = asyncio.run(measure(server.url, given.tokens, given.rate))
    result = {"processor": processor(), "cores": len(os.sched_getaffinity(0)), **told}
    print(json.dumps(result, indent=2))
    if given.json:
        given.json.write_text(json.dumps(result, indent=2) + "\n")
