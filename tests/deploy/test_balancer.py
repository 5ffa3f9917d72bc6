"""Two servers behind HAProxy, configured as in deploy/haproxy: restarted one after the other, nothing is lost."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import time
from collections import Counter
from pathlib import Path

import httpx
import pytest
from servers import RunningServer
from test_watching import free_port
from waiting import until

CONFIG = Path(__file__).resolve().parents[2] / "deploy" / "haproxy" / "haproxy.cfg"
CLIENTS, FEWEST = 6, 1000
pytestmark = pytest.mark.skipif(shutil.which("haproxy") is None, reason="needs haproxy")


class Balanced:
    """Two servers at fixed ports, and HAProxy before them."""

    def __init__(self) -> None:
        self.ports = [free_port(), free_port()]
        self.servers = [self.start(port) for port in self.ports]
        self.url = f"http://127.0.0.1:{free_port()}"
        names = dict(zip(("INLAY_A", "INLAY_B"), (f"127.0.0.1:{port}" for port in self.ports), strict=True))
        env = {**os.environ, **names, "INLAY_BIND": self.url.removeprefix("http://")}
        self._process = subprocess.Popen(["haproxy", "-db", "-f", str(CONFIG)], env=env, stderr=subprocess.DEVNULL)
        until(lambda: self.answers() == 200)

    def start(self, port: int) -> RunningServer:
        return RunningServer("demo", "--port", str(port), "--shutdown-delay", "2")

    def answers(self) -> int:
        try:
            return httpx.get(f"{self.url}/ready").status_code
        except httpx.TransportError:
            return 0

    def restart(self, number: int) -> None:
        """In good order, and back among those that are asked."""
        with self.servers[number] as old:
            assert old.stop() == 0
        self.servers[number] = self.start(self.ports[number])
        time.sleep(1.5)  # three looks of the balancer

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(10)
        for server in self.servers:
            with server:
                server.stop()


async def ask(url: str, counts: Counter[int], is_over: asyncio.Event) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        while not is_over.is_set():
            try:
                reply = await client.post("/v1/embeddings", json={"input": f"text {counts.total() % 50}"})
                counts[reply.status_code] += 1
            except httpx.TransportError:
                counts[0] += 1
            await asyncio.sleep(0.005)


async def ask_while(balanced: Balanced) -> Counter[int]:
    counts: Counter[int] = Counter()
    is_over = asyncio.Event()
    asking = [asyncio.create_task(ask(balanced.url, counts, is_over)) for _ in range(CLIENTS)]
    for number in range(2):
        await asyncio.to_thread(balanced.restart, number)
    await asyncio.to_thread(until, lambda: counts.total() >= FEWEST)
    is_over.set()
    await asyncio.gather(*asking)
    return counts


def test_a_rolling_restart_loses_no_request() -> None:
    balanced = Balanced()
    try:
        counts = asyncio.run(ask_while(balanced))
    finally:
        balanced.close()
    assert set(counts) == {200}, counts
    assert counts.total() >= FEWEST
