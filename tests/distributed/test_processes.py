"""Real servers with processes of their own: what they answer, what a kill costs, and what they leave behind."""

from __future__ import annotations

import asyncio
import base64
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from children import child_of, children_of, is_running
from prometheus_client.parser import text_string_to_metric_families
from servers import RunningServer
from waiting import until

from inlay import Embedder

TOLD = re.compile(r"processes are told.*?(http://[^\s\"]+)/metrics")
HIT = {"input": "a text that is in the cache"}
TEXTS = ["one text", "another one, which is longer", "ünïcode 文"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the servers' sockets are."""
    return tmp_path_factory.mktemp("sockets")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[RunningServer]:
    """One front end, one engine."""
    with RunningServer("demo", "--isolation", "process", env={"TMPDIR": str(folder)}) as running:
        running.post(HIT)
        yield running
        assert running.stop() == 0
    assert list(folder.iterdir()) == []


@pytest.fixture(scope="module")
def pair(folder: Path) -> Iterator[RunningServer]:
    """Two front ends, one engine."""
    folder = folder.parent / "sockets-of-two"
    folder.mkdir()
    arguments = ("demo", "--front-ends", "2", "--shutdown-delay", "0")
    with RunningServer(*arguments, env={"TMPDIR": str(folder)}) as running:
        until(lambda: httpx.get(admin_of(running, "/ready")).status_code == 200)
        yield running
        children = children_of(running.process.pid)
        assert running.stop() == 0
    assert list(folder.iterdir()) == []
    assert not any(is_running(child) for child in children)


def admin_of(server: RunningServer, path: str) -> str:
    until(lambda: TOLD.search(server.output()))
    (url,) = TOLD.findall(server.output())
    return str(url) + path


def samples(url: str, name: str) -> dict[str, float]:
    """The sums of the numbers of a name, by process."""
    families = text_string_to_metric_families(httpx.get(url, timeout=60).text)
    found: Counter[str] = Counter()
    for sample in (sample for family in families for sample in family.samples if sample.name == name):
        found[sample.labels["process"]] += sample.value
    return found


def test_an_engine_of_its_own_gives_the_bits_of_one_within(server: RunningServer) -> None:
    reply = server.post({"input": TEXTS, "encoding_format": "base64"}).json()
    got = [np.frombuffer(base64.b64decode(row["embedding"]), np.float32) for row in reply["data"]]
    with Embedder("demo", cache="none") as embedder:
        assert np.array_equal(np.array(got), embedder.embed(TEXTS))


def test_each_process_tells_what_it_counts(server: RunningServer) -> None:
    url = f"{server.url}/metrics"
    assert samples(url, "inlay_engine_sequences_total").keys() == {"engine-0"}
    assert samples(url, "inlay_engine_ready") == {"front-end": 1}
    assert samples(url, "process_resident_memory_bytes").keys() == {"front-end", "engine-0"}
    assert samples(url, "inlay_process_up") == {"engine-0": 1}


def test_a_kill_costs_what_was_under_way_and_no_more(server: RunningServer) -> None:
    """Hits are served on, everything else is refused with the time to come back, and nothing is left behind."""
    descriptors = Path(f"/proc/{server.process.pid}/fd")
    before = len(list(descriptors.iterdir()))
    url, restarts = f"{server.url}/metrics", 2
    for number in range(restarts):
        engine = child_of(server, "engine_process")
        under_way = asyncio.run(killed_under_load(server, engine, number))
        statuses = {reply.status_code for reply in under_way}
        assert statuses <= {200, 503}
        assert 503 in statuses
        assert all("retry-after" in reply.headers for reply in under_way if reply.status_code == 503)
        assert server.post(HIT).headers["x-inlay-cache"] == "hit"
        assert server.get("/health").status_code == 200
        until(lambda: server.get("/ready").status_code == 200)
        assert child_of(server, "engine_process") != engine
        assert not is_running(engine)
        assert server.post({"input": f"after the kill {number}"}).status_code == 200
        assert samples(url, "inlay_process_restarts_total") == {"engine-0": number + 1}
    assert len(children_of(server.process.pid)) == 1
    until(lambda: len(list(descriptors.iterdir())) <= before)
    assert "signal 9" in server.output()


async def killed_under_load(server: RunningServer, engine: int, number: int) -> list[httpx.Response]:
    async with httpx.AsyncClient(base_url=server.url, timeout=60, limits=httpx.Limits(max_connections=64)) as client:
        bodies = [{"input": [f"{number} {i} {j} " + "word " * 60 for j in range(8)]} for i in range(40)]
        asked = [asyncio.create_task(client.post("/v1/embeddings", json=body)) for body in bodies]
        await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        os.kill(engine, signal.SIGKILL)
        killed = time.monotonic()
        hit = await client.post("/v1/embeddings", json=HIT)
        assert hit.headers["x-inlay-cache"] == "hit"
        replies = await asyncio.gather(*asked)
        assert time.monotonic() - killed < 5, "refused at once, not when the next engine has come"
        return replies


def test_a_text_that_many_want_of_all_front_ends_is_computed_once(pair: RunningServer) -> None:
    url = admin_of(pair, "/metrics")
    engine = child_of(pair, "engine_process")

    async def ask() -> list[bytes]:
        limits = httpx.Limits(max_connections=200)  # a connection each, which the kernel shares out
        async with httpx.AsyncClient(base_url=pair.url, timeout=60, limits=limits) as client:
            body = {"input": "nobody has asked for this yet"}
            asked = [asyncio.create_task(client.post("/v1/embeddings", json=body)) for _ in range(200)]
            await asyncio.sleep(1)  # the engine stands still meanwhile
            os.kill(engine, signal.SIGCONT)
            replies = await asyncio.gather(*asked)
        assert {reply.status_code for reply in replies} == {200}
        return [reply.content for reply in replies]

    computed = samples(url, "inlay_engine_sequences_total")["engine-0"]
    before = samples(url, "inlay_requests_total")
    os.kill(engine, signal.SIGSTOP)
    assert len(set(asyncio.run(ask()))) == 1
    assert samples(url, "inlay_engine_sequences_total")["engine-0"] == computed + 1
    after = samples(url, "inlay_requests_total")
    assert all(after[name] > before[name] for name in ("front-end-0", "front-end-1"))


def test_one_port_tells_of_all_processes(pair: RunningServer) -> None:
    names = {"main", "front-end-0", "front-end-1", "engine-0"}
    assert samples(admin_of(pair, "/metrics"), "process_resident_memory_bytes").keys() == names
    assert httpx.get(admin_of(pair, "/health")).json() == {"status": "ok"}
    assert httpx.get(admin_of(pair, "/ready")).json() == {"status": "ready"}
    moved = httpx.get(f"{pair.url}/metrics")
    assert (moved.status_code, moved.headers["location"]) == (307, admin_of(pair, "/metrics"))
    assert b"inlay_process_up" in httpx.get(f"{pair.url}/metrics", follow_redirects=True).content


def test_a_front_end_that_is_killed_is_started_again_and_the_others_serve_on(pair: RunningServer) -> None:
    killed = child_of(pair, "front-end-1")
    os.kill(killed, signal.SIGKILL)
    until(lambda: not is_running(killed))
    for _ in range(20):
        assert httpx.post(f"{pair.url}/v1/embeddings", json=HIT, timeout=60).status_code == 200
    until(lambda: samples(admin_of(pair, "/metrics"), "inlay_process_restarts_total")["front-end-1"] == 1)
    until(lambda: httpx.get(admin_of(pair, "/ready")).status_code == 200)
    assert child_of(pair, "front-end-1") != killed


def test_an_engine_that_is_killed_is_told_of_by_all_front_ends(pair: RunningServer) -> None:
    os.kill(child_of(pair, "engine_process"), signal.SIGKILL)
    until(lambda: httpx.get(admin_of(pair, "/ready")).status_code == 503, 5)
    assert httpx.get(admin_of(pair, "/health")).status_code == 200
    until(lambda: httpx.get(admin_of(pair, "/ready")).status_code == 200)
    assert pair.post({"input": "after the kill"}).status_code == 200


def test_what_stands_still_is_ended_and_started_again(tmp_path: Path) -> None:
    """A front end and an engine that were stopped; requests to the other front end are answered meanwhile."""
    arguments = ("demo", "--front-ends", "2", "--stall-timeout", "3", "--shutdown-delay", "0")
    with RunningServer(*arguments, env={"TMPDIR": str(tmp_path)}) as running:
        for what, name in [("front-end-1", "front-end-1"), ("engine_process", "engine-0")]:
            until(lambda: httpx.get(admin_of(running, "/ready")).status_code == 200)
            stopped = child_of(running, what)
            os.kill(stopped, signal.SIGSTOP)
            until(lambda: not is_running(stopped))  # noqa: B023
            numbers = admin_of(running, "/metrics")
            until(lambda: samples(numbers, "inlay_process_restarts_total")[name] >= 1)  # noqa: B023
        until(lambda: httpx.get(admin_of(running, "/ready")).status_code == 200)
        assert "has not spoken" in running.output()


def test_a_server_that_stood_still_itself_ends_no_engine(tmp_path: Path) -> None:
    arguments = ("demo", "--isolation", "process", "--stall-timeout", "2", "--shutdown-delay", "0")
    with RunningServer(*arguments, env={"TMPDIR": str(tmp_path)}) as running:
        engine = child_of(running, "engine_process")
        os.kill(running.process.pid, signal.SIGSTOP)
        time.sleep(4)
        os.kill(running.process.pid, signal.SIGCONT)
        assert running.post({"input": "after the pause"}).status_code == 200
        time.sleep(2)  # two looks
        assert child_of(running, "engine_process") == engine


def test_the_port_that_tells_of_all_bounds_what_it_waits_for(tmp_path: Path) -> None:
    arguments = ("demo", "--front-ends", "2", "--head-timeout", "1", "--shutdown-delay", "0")
    with RunningServer(*arguments, env={"TMPDIR": str(tmp_path)}) as running:
        host, _, port = admin_of(running, "").removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port)), timeout=30) as slow:
            slow.sendall(b"GET /metrics HTTP/1.1\r\n")
            while slow.recv(4096):  # the end comes by itself
                pass


def test_what_one_of_two_engines_loses_is_answered_by_the_other(tmp_path: Path) -> None:
    arguments = ("demo", "--data-parallel-size", "2", "--cache", "none", "--shutdown-delay", "0")

    async def ask(running: RunningServer) -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=64)
        async with httpx.AsyncClient(base_url=running.url, timeout=60, limits=limits) as client:
            bodies = [{"input": [f"{i} {j} " + "word " * 60 for j in range(8)]} for i in range(64)]
            asked = [asyncio.create_task(client.post("/v1/embeddings", json=body)) for body in bodies]
            await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
            os.kill(child_of(running, "engine-1"), signal.SIGKILL)
            return await asyncio.gather(*asked)

    with RunningServer(*arguments, env={"TMPDIR": str(tmp_path)}) as running:
        until(lambda: samples(f"{running.url}/metrics", "inlay_process_up") == {"engine-0": 1, "engine-1": 1})
        replies = asyncio.run(ask(running))
        assert {reply.status_code for reply in replies} == {200}
        assert "what a replica lost is computed by another" in running.output()
        vector = running.post({"input": "0 0 " + "word " * 60}).json()["data"][0]["embedding"]
        assert np.dot(replies[0].json()["data"][0]["embedding"], vector) > 0.999
        until(lambda: samples(f"{running.url}/metrics", "inlay_engine_ready") == {"front-end": 1})


@pytest.mark.parametrize("arguments", [["--isolation", "process"], ["--front-ends", "2"]])
def test_all_processes_end_with_the_one_that_started_them(arguments: list[str], tmp_path: Path) -> None:
    with RunningServer("demo", *arguments, env={"TMPDIR": str(tmp_path)}) as running:
        children = children_of(running.process.pid)
        assert children
        running.process.kill()
        running.process.wait()
        until(lambda: not any(is_running(child) for child in children), 5)


@pytest.mark.parametrize("arguments", [["--isolation", "process"], ["--front-ends", "2"]])
def test_an_engine_that_still_loads_holds_no_end_up(arguments: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "inlay", "serve", "demo", "--port", "0", "--shutdown-delay", "0", *arguments]
    process = subprocess.Popen(command, env={**os.environ, "TMPDIR": str(tmp_path)}, stderr=subprocess.DEVNULL)
    until(lambda: any("engine_process" in line for line in children_of(process.pid).values()))
    engine = next(child for child, line in children_of(process.pid).items() if "engine_process" in line)
    os.kill(engine, signal.SIGSTOP)  # it loads for good
    process.terminate()
    assert process.wait(20) == 0
    assert not is_running(engine)
    assert list(tmp_path.iterdir()) == []


def test_sockets_of_a_server_that_was_killed_are_taken_away_by_the_next(tmp_path: Path) -> None:
    def start() -> RunningServer:
        return RunningServer("demo", "--isolation", "process", env={"TMPDIR": str(tmp_path)})

    with start() as first, start() as second:
        second.process.kill()
        second.process.wait()
        assert len(list(tmp_path.iterdir())) == 2
        with start() as third:
            assert len(list(tmp_path.iterdir())) == 2
            assert third.post(HIT).status_code == first.post(HIT).status_code == 200


def ended(*arguments: str, env: dict[str, str] | None = None) -> tuple[int, str]:
    """How a server ends that cannot serve, and what it says."""
    command = [sys.executable, "-m", "inlay", "serve", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, **(env or {})})
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (["--isolation", "process", "--device", "cuda"], 2, "cuda"),
        (["--front-ends", "2", "--device", "cuda"], 2, "cuda"),
        (["--front-ends", "2", "--isolation", "thread"], 2, "leave --isolation thread out"),
        (["--front-ends", "2", "--jobs", "jobs"], 2, "--jobs are run by one front end"),
        (["--front-ends", "2", "--corpus", "name=/nowhere"], 2, "/nowhere"),
        (["--front-ends", "2", "--cache", "disk:///proc/nowhere"], 2, "disk:///proc/nowhere"),
        (["--front-ends", "2", "--api-key-file", "/nowhere"], 2, "/nowhere"),
        (["--front-ends", "0"], 2, ">= 1"),
        (["--isolation", "node"], 2, "thread, process"),
    ],
)
def test_what_cannot_be_served_ends_the_server_with_the_reason(
    arguments: list[str], status: int, told: str, tmp_path: Path
) -> None:
    if "cuda" in arguments and Path("/dev/nvidiactl").exists():
        pytest.skip("there is a GPU")
    found, said = ended("demo", "--port", "0", *arguments, env={"TMPDIR": str(tmp_path)})
    assert found == status, said
    assert told in said
    assert said.count("inlay: ") == 1, "said once, whoever finds it"
    assert list(tmp_path.iterdir()) == []


def test_a_port_that_is_taken_is_refused_also_for_front_ends() -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        status, said = ended("demo", "--port", port, "--front-ends", "2", "--admin-port", "0")
    assert status == 2
    assert f"cannot listen on 127.0.0.1:{port}" in said


def test_an_admin_port_that_is_taken_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        status, said = ended("demo", "--port", "0", "--front-ends", "2", "--admin-port", port)
    assert status == 2
    assert "choose others with --host and --admin-port" in said


def test_without_a_directory_for_sockets_the_remedy_is_named(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    status, said = ended("demo", "--port", "0", "--isolation", "process", env={"TMPDIR": str(long)})
    assert (status, "shorter path" in said) == (2, True), said
    assert list(long.iterdir()) == []
