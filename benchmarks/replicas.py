"""Two engines that hold one model, one of them killed again and again while requests come: what clients see of it.

    python benchmarks/replicas.py [--kills 10] [--rate 40] [--words 60]

Requests come at a steady rate, whether others are answered or not, and no cache answers them. The loss lasts from a
kill until the engine serves again; it is compared with the four seconds before. Each vector is compared with the
library's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from inlay import Embedder

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from children import child_of
from processes import processor
from servers import RunningServer

AGAIN = r"lost is computed[^\n]*?sequences\W+(\d+)"
CALM = 4.0  # seconds before a kill


class Load:
    """Requests at a steady rate, with what became of each."""

    def __init__(self, url: str, rate: float, words: int) -> None:
        self._url = url
        self._rate = rate
        self._filler = "word " * words
        self.texts: list[str] = []
        self.began: list[float] = []
        self.replies: dict[int, tuple[float, int, Any]] = {}  # when, status, vector
        self.is_over = False

    async def run(self) -> None:
        limits = httpx.Limits(max_connections=512)
        async with httpx.AsyncClient(base_url=self._url, timeout=60, limits=limits) as client:
            asking = []
            next_at = time.monotonic()
            while not self.is_over:
                self.texts.append(f"{len(self.texts)} {self._filler}")
                self.began.append(time.monotonic())
                asking.append(asyncio.create_task(self._ask(client, len(self.texts) - 1)))
                next_at += 1 / self._rate
                await asyncio.sleep(max(next_at - time.monotonic(), 0))
            await asyncio.gather(*asking)

    async def _ask(self, client: httpx.AsyncClient, number: int) -> None:
        reply = await client.post("/v1/embeddings", json={"input": self.texts[number]})
        vector = reply.json()["data"][0]["embedding"] if reply.status_code == 200 else None
        self.replies[number] = (time.monotonic(), reply.status_code, vector)

    def p99_ms(self, spans: list[tuple[float, float]]) -> float:
        """Of the requests that came within some spans of time."""
        times = [
            (self.replies[number][0] - began) * 1000
            for number, began in enumerate(self.began)
            if any(start <= began < stop for start, stop in spans)
        ]
        return statistics.quantiles(times, n=100)[-1]


async def measure(server: RunningServer, given: argparse.Namespace) -> dict[str, Any]:
    load = Load(server.url, given.rate, given.words)
    running = asyncio.create_task(load.run())
    await asyncio.sleep(2)
    before: list[tuple[float, float]] = []
    during: list[tuple[float, float]] = []
    for number in range(given.kills):
        calm = time.monotonic()
        await asyncio.sleep(CALM)
        engine = child_of(server, f"engine-{number % 2}")
        killed = time.monotonic()
        os.kill(engine, signal.SIGKILL)
        await until_back(server, number % 2, number // 2 + 1)
        before.append((calm, killed))
        during.append((killed, time.monotonic()))
        await asyncio.sleep(1)
    load.is_over = True
    await running
    statuses = [status for _, status, _ in load.replies.values()]
    p99 = {"before": load.p99_ms(before), "during": load.p99_ms(during)}
    return {
        "requests": len(load.texts),
        "answered": statuses.count(200),
        "wrong": count_wrong(load),
        "p99_ms": {**p99, "ratio": p99["during"] / p99["before"]},
        "back_seconds": statistics.median(stop - start for start, stop in during),
        "computed_again": sum(int(found) for found in re.findall(AGAIN, plain(server))),
    }


def plain(server: RunningServer) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", server.output())


async def until_back(server: RunningServer, engine: int, restarts: int) -> None:
    async with httpx.AsyncClient(timeout=60) as client:
        while True:
            text = (await client.get(f"{server.url}/metrics")).text
            is_up = f'inlay_process_up{{process="engine-{engine}"}} 1.0' in text
            if is_up and f'inlay_process_restarts_total{{process="engine-{engine}"}} {restarts}.0' in text:
                return
            await asyncio.sleep(0.05)


def count_wrong(load: Load) -> int:
    answered = [number for number, (_, status, _) in load.replies.items() if status == 200]
    with Embedder("demo", cache="none") as embedder:
        expected = embedder.embed([load.texts[number] for number in answered])
    got = np.array([load.replies[number][2] for number in answered], dtype=np.float32)
    return int((np.vecdot(got, expected) < 0.999).sum())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--rate", type=float, default=40.0)
    parser.add_argument("--words", type=int, default=60)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with RunningServer("demo", "--data-parallel-size", "2", "--cache", "none") as server:
        result = {
            "processor": processor(),
            "cores": len(os.sched_getaffinity(0)),
            "rate": given.rate,
            "words": given.words,
            "kills": given.kills,
            **asyncio.run(measure(server, given)),
        }
    print(json.dumps(result, indent=2))
    if given.json:
        given.json.write_text(json.dumps(result, indent=2) + "\n")
