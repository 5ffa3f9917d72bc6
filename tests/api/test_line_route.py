"""Long lists over a socket: bounded in memory, and ended with their client."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import openai
import pytest
from servers import RunningServer

HEADERS = {"accept": "application/x-ndjson"}
MANY = 60_000


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with RunningServer(
        "demo", "--max-queue-tokens", "3000", "--max-batch-tokens", "1024", "--cache", "none"
    ) as running:
        yield running


def value_of(server: RunningServer, name: str) -> float:
    found = re.findall(rf"^{name}(?:\{{.*\}})? (\S+)$", server.get("/metrics").text, re.MULTILINE)
    return sum(float(value) for value in found)


def wait(until: Callable[[], bool]) -> None:
    for _ in range(300):
        if until():
            return
        time.sleep(0.05)
    raise AssertionError("it did not come so far")


def peak_bytes(server: RunningServer) -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) << 10


def test_a_list_that_the_queue_cannot_hold_is_answered_whole(server: RunningServer) -> None:
    texts = [f"number {i} " * 20 for i in range(640)]
    refused = server.post({"input": texts})
    assert (refused.status_code, refused.json()["error"]["code"]) == (413, "request_too_large")
    reply = server.post({"input": texts}, HEADERS)
    *items, last = (json.loads(line) for line in reply.text.splitlines())
    assert sorted(item["index"] for item in items) == [*range(640)]
    assert last["object"] == "end"


def test_a_client_that_leaves_ends_the_work(server: RunningServer) -> None:
    before = value_of(server, "inlay_inputs_total")
    body = {"input": [f"number {i}" for i in range(MANY)]}
    with httpx.stream("POST", f"{server.url}/v1/embeddings", json=body, headers=HEADERS, timeout=60) as reply:
        assert json.loads(next(reply.iter_lines()))["object"] == "embedding"
    wait(lambda: value_of(server, "inlay_requests_in_flight") == 1)  # whoever asks for the metrics
    wait(lambda: value_of(server, "inlay_engine_queued_tokens") == 0)
    assert value_of(server, "inlay_inputs_total") - before < MANY / 4
    assert server.post({"input": "still here"}).status_code == 200


def test_a_client_that_does_not_read_on_is_waited_for_in_bounded_memory(server: RunningServer) -> None:
    texts = [f"{i} a" for i in range(MANY)]
    server.post({"input": texts[:100]}, HEADERS)
    before = peak_bytes(server)
    computed = value_of(server, "inlay_inputs_total")
    with httpx.stream("POST", f"{server.url}/v1/embeddings", json={"input": texts}, headers=HEADERS, timeout=60):
        seen = [-1.0, computed]
        while seen[-1] != seen[-2]:
            time.sleep(0.5)
            seen.append(value_of(server, "inlay_inputs_total"))
        assert seen[-1] - computed < MANY / 4
    assert peak_bytes(server) - before < 64 << 20


def test_another_client_of_the_same_server_is_answered_beside_a_long_list(server: RunningServer) -> None:
    body = {"input": [f"number {i}" for i in range(MANY)], "priority": "low"}
    with (
        httpx.stream("POST", f"{server.url}/v1/embeddings", json=body, headers=HEADERS, timeout=60) as reply,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0) as client,
    ):
        lines = reply.iter_lines()
        for number in range(3):
            next(lines)
            assert client.embeddings.create(model="demo", input=f"beside {number}").data[0].embedding
