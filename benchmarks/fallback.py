"""A model that is flooded, and requests that allow another one to answer: how many are answered in time, and by whom.

    python benchmarks/fallback.py [--requests 100] [--deadline 2000]

The flood is a hundred long requests at a time for the model that is asked for, without a cache. Requests with one short
text and a deadline (milliseconds) come beside it, half of them with `fallback`. Whatever the first model answers
afterwards is computed: nothing of the other one is in its cache.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from checkpoints import make_checkpoint
from processes import processor
from servers import RunningServer

FLOOD, TEXTS = 100, 16
NAMES = ("--served-model-name", "first", "--served-model-name", "second", "--fallback", "first=second")


async def flood(client: httpx.AsyncClient, number: int, is_over: asyncio.Event) -> None:
    asked = 0
    while not is_over.is_set():
        asked += 1
        texts = [f"{number} {asked} {row} " + "word " * 150 for row in range(TEXTS)]
        await client.post(
            "/v1/embeddings", json={"input": texts, "model": "first"}, headers={"cache-control": "no-store"}
        )


async def ask(client: httpx.AsyncClient, number: int, deadline: int, *, allows: bool) -> tuple[int, float, str, str]:
    """Status, milliseconds, the model that answered, and why another one."""
    began = time.monotonic()
    body = {"input": f"a short text {number}", "model": "first", "fallback": allows}
    reply = await client.post("/v1/embeddings", json=body, headers={"x-request-deadline-ms": str(deadline)})
    milliseconds = (time.monotonic() - began) * 1000
    model = reply.json()["model"] if reply.status_code == 200 else ""
    return reply.status_code, milliseconds, model, reply.headers.get("x-inlay-fallback", "")


async def measure(url: str, requests: int, deadline: int) -> dict[str, Any]:
    limits = httpx.Limits(max_connections=FLOOD + 100)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as client:
        is_over = asyncio.Event()
        flooding = [asyncio.create_task(flood(client, number, is_over)) for number in range(FLOOD)]
        await asyncio.sleep(5)
        found: dict[bool, list[tuple[int, float, str, str]]] = {True: [], False: []}
        for number in range(2 * requests):
            allows = number % 2 == 0
            found[allows].append(await ask(client, number, deadline, allows=allows))
        is_over.set()
        await asyncio.gather(*flooding)
        wrong_keys = 0
        for number in range(0, 2 * requests, 2):
            reply = await client.post("/v1/embeddings", json={"input": f"a short text {number}", "model": "first"})
            by_other = found[True][number // 2][2] == "second"
            wrong_keys += by_other and reply.headers["x-inlay-cache"] != "miss"
    return {
        "allowed": told_of(found[True], deadline),
        "not_allowed": told_of(found[False], deadline),
        "kept_under_the_wrong_name": wrong_keys,
    }


def told_of(found: list[tuple[int, float, str, str]], deadline: int) -> dict[str, Any]:
    answered = [milliseconds for status, milliseconds, _, _ in found if status == 200]
    return {
        "asked": len(found),
        "answered_in_time": sum(milliseconds <= deadline for milliseconds in answered),
        "statuses": Counter(str(status) for status, *_ in found),
        "models": Counter(model for *_, model, _ in found if model),
        "marks": Counter(mark for *_, mark in found if mark),
        "p50_ms": statistics.median(answered) if answered else None,
        "max_ms": max(answered, default=None),
    }


def lighter(folder: str) -> Path:
    """Another model, with random weights."""
    return make_checkpoint(Path(folder) / "second", "bert")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=100)
    parser.add_argument("--deadline", type=int, default=2000)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, RunningServer("demo", str(lighter(folder)), *NAMES) as server:
        told = asyncio.run(measure(server.url, given.requests, given.deadline))
    result = {"processor": processor(), "cores": len(os.sched_getaffinity(0)), "deadline_ms": given.deadline, **told}
    print(json.dumps(result, indent=2))
    if given.json:
        given.json.write_text(json.dumps(result, indent=2) + "\n")
