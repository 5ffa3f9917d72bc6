"""What a client may send, and how slowly: a real server, talked to over bare sockets."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from servers import RunningServer

LIMITS = ["--max-connections", "32", "--head-timeout", "1", "--body-timeout", "1", "--max-concurrent-requests", "8"]


@pytest.fixture(scope="module")
def strict() -> Iterator[RunningServer]:
    """A server with small bounds, and no cache."""
    with RunningServer("demo", *LIMITS, "--cache", "none", "--max-inflight-bytes", "4MiB") as running:
        yield running


def connect(server: RunningServer, timeout: float = 20) -> socket.socket:
    parts = urlsplit(server.url)
    return socket.create_connection((parts.hostname, parts.port), timeout=timeout)


def request_of(body: object, *headers: str, length: int | None = None) -> bytes:
    data = json.dumps(body).encode()
    lines = ["POST /v1/embeddings HTTP/1.1", "host: x", f"content-length: {length or len(data)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + data


def read_all(connection: socket.socket) -> bytes:
    received = b""
    with suppress(ConnectionResetError):
        while chunk := connection.recv(65536):
            received += chunk
    return received


def error_in(reply: bytes) -> dict[str, str]:
    head, _, body = reply.partition(b"\r\n\r\n")
    assert b"content-type: application/json" in head
    assert b"connection: close" in head
    error: dict[str, str] = json.loads(body)["error"]
    return error


@pytest.mark.parametrize(
    "sent", [b"\x16\x03\x01\x02\x00\x01", b"NONSENSE\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET /\x01 HTTP/1.1\r\n\r\n"]
)
def test_what_is_no_http_is_answered_in_json(strict: RunningServer, sent: bytes) -> None:
    with connect(strict) as connection:
        connection.sendall(sent)
        assert error_in(read_all(connection))["code"] == "invalid_request"


@pytest.mark.parametrize(
    "line", [b"A: b\r\n", b"x-%d: " + b"y" * 1000 + b"\r\n", b"z" * 100_000], ids=["many", "large", "one endless"]
)
def test_a_head_is_bounded(strict: RunningServer, line: bytes) -> None:
    sent = 0
    with connect(strict) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\n")
        with suppress(OSError):
            while sent < 8 << 20:
                connection.sendall(line)
                sent += len(line)
        reply = read_all(connection)
    assert sent < 8 << 20, "the server goes on reading"
    assert not reply or error_in(reply)["code"] == "request_head_too_large"


def test_a_long_url_is_refused(strict: RunningServer) -> None:
    with connect(strict) as connection:
        connection.sendall(b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n")
        assert b" 431 " in read_all(connection).splitlines()[0]


def test_a_head_that_does_not_come_whole_is_a_408_and_silence_is_closed(strict: RunningServer) -> None:
    with connect(strict) as half, connect(strict) as silent:
        half.sendall(b"GET /health HTTP/1.1\r\nhost:")
        assert error_in(read_all(half))["code"] == "head_timeout"
        assert read_all(silent) == b""


def test_silent_connections_do_not_keep_others_out(strict: RunningServer) -> None:
    with ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(connect(strict))
        began = time.monotonic()
        assert strict.get("/health").status_code == 200
        assert time.monotonic() - began < 0.9, "it came only when the silent ones had timed out"


def test_under_a_low_limit_of_descriptors_health_still_answers(checkpoint: Callable[[str], Path]) -> None:
    with RunningServer(str(checkpoint("bert")), prefix=["prlimit", "--nofile=256:256"]) as server, ExitStack() as stack:
        for _ in range(300):
            stack.enter_context(connect(server))
        for _ in range(3):
            assert server.get("/health").status_code == 200
        assert server.post({"input": "hello"}).status_code == 200


def test_a_body_that_drips_is_a_408_and_takes_nobodys_place(strict: RunningServer) -> None:
    with ExitStack() as stack:
        slow = [stack.enter_context(connect(strict)) for _ in range(12)]
        for connection in slow:
            connection.sendall(request_of({"input": "x"}, length=100_000))
        assert strict.post({"input": "others are served"}).status_code == 200
        assert error_in_kept(slow[0].recv(65536))["code"] == "body_timeout"


def error_in_kept(reply: bytes) -> dict[str, str]:
    error: dict[str, str] = json.loads(reply.partition(b"\r\n\r\n")[2])["error"]
    return error


def test_bodies_in_flight_are_bounded_in_bytes_together(strict: RunningServer) -> None:
    with ExitStack() as stack:
        for _ in range(4):
            connection = stack.enter_context(connect(strict))
            connection.sendall(request_of({"input": "x" * 1_500_000}, length=2_000_000))
        time.sleep(0.3)
        refused = strict.post({"input": "y" * 1_500_000})
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "overloaded")
        assert "--max-inflight-bytes" in refused.json()["error"]["message"]
    wait_until(lambda: strict.post({"input": ["y" * 1000], "truncate": True}).status_code == 200)


def test_replies_that_nobody_reads_hold_no_slots(strict: RunningServer) -> None:
    """Eight sockets that send requests one after the other and never read: as many as there are slots."""
    body = {"input": [f"text {i}" for i in range(64)]}
    with ExitStack() as stack:
        for _ in range(8):
            connection = stack.enter_context(connect(strict))
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.settimeout(0.5)
            with suppress(OSError):
                for _ in range(20):
                    connection.sendall(request_of(body))
        wait_until(lambda: strict.post({"input": "still served"}).status_code == 200)
        for _ in range(5):
            assert strict.post({"input": "still served"}).status_code == 200


def test_pipelined_requests_are_answered_in_order(strict: RunningServer) -> None:
    with connect(strict) as connection:
        for number in range(5):
            connection.sendall(request_of({"input": f"pipelined {number}"}, f"x-request-id: n{number}"))
        connection.shutdown(socket.SHUT_WR)
        received = read_all(connection)
    assert re.findall(rb"x-request-id: (n\d)", received) == [b"n0", b"n1", b"n2", b"n3", b"n4"]


def test_a_client_that_closed_its_own_side_gets_its_reply(strict: RunningServer) -> None:
    for _ in range(5):
        with connect(strict) as connection:
            connection.sendall(request_of({"input": [f"half closed {time.monotonic()} {i}" for i in range(50)]}))
            connection.shutdown(socket.SHUT_WR)
            received = read_all(connection)
        statuses = re.findall(rb"HTTP/1\.1 (\d+)", received)
        assert statuses[-1] == b"200"
        assert set(statuses[:-1]) <= {b"100"}


def test_every_cache_control_header_counts_in_any_case(server: RunningServer) -> None:
    body = {"input": "of many headers"}

    def ask(*values: str) -> str:
        headers = [("cache-control", value) for value in values]
        reply = httpx.post(f"{server.url}/v1/embeddings", json=body, headers=headers)
        return reply.headers["x-inlay-cache"]

    assert ask("max-age=0", "no-store") == "miss"
    assert ask("No-Store") == "miss"
    assert ask("max-age=0") == "miss"
    assert ask() == "hit"
    assert ask("max-age=0", "NO-CACHE") == "miss"
    assert ask("private, x=no-store-really") == "hit"


@pytest.mark.parametrize(
    "body",
    [
        '{"input": "\\ud83d\\ude00',
        '{"input": "a", "truncate": "\\ud800"}',
        '{"input": "a", "encoding_format": "\\udfff\\ud800"}',
        '{"input": "a", "priority": "\\ud800"}',
        '{"input": "a", "\\ud800": 1, "dimensions": "x"}',
        '{"input": "a", "model": "\\ud800"}',
        '{"input": "a", "prompt_name": "\\ud800"}',
        '{"input": "a", "input_type": "\\ud800"}',
        '{"input": "\\ud800", "dimensions": ' + "9" * 5000 + "}",
        '{"input": "\\ud800", "dimensions": ' + "[" * 50_000,
        '{"input": "\\ud800"}',
        '{"input": ["\\ud800" ',
        '{"input": NaN, "a": "\\ud800"}',
    ],
)
def test_no_body_is_a_500(server: RunningServer, body: str) -> None:
    reply = server.post(body.encode())
    assert 400 <= reply.status_code < 500
    assert len(reply.json()["error"]["message"]) > 10


def test_what_a_client_sent_is_not_echoed_whole(server: RunningServer) -> None:
    for field in ("input_type", "prompt_name", "model", "truncate", "encoding_format"):
        reply = server.post({"input": "a", field: "x" * 1_000_000})
        assert 400 <= reply.status_code < 500
        assert len(reply.content) < 5000


def test_a_body_of_very_many_values_is_refused_before_it_is_decoded(server: RunningServer) -> None:
    for body in (b'{"input": [' + b"1," * 3_000_000 + b"1]}", b'{"a": [' + b"[]," * 2_000_000 + b'[]], "input": "x"}'):
        reply = server.post(body)
        assert (reply.status_code, reply.json()["error"]["code"]) == (413, "request_too_large")
    text = server.post({"input": "a, b, " * 600_000})
    assert text.json()["error"]["code"] == "context_length_exceeded"


def test_a_large_body_of_wide_characters_is_refused_with_its_reason(server: RunningServer) -> None:
    reply = server.post(b'{"input": "' + b"x" * (17 << 20) + "😀".encode() + b'"}')
    assert reply.status_code == 413
    assert "U+FFFF" in reply.json()["error"]["message"]


def wait_until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.02)


def test_a_string_that_is_never_closed_is_looked_at_once(server: RunningServer) -> None:
    """Half a million quotes and no end: a second look at each would take for ever."""
    body = b'{"input":"' + b'\\"' * 500_000 + b"," * ((1 << 20) + 5)
    with connect(server, timeout=20) as connection:
        connection.sendall(b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        assert b" 400 " in connection.recv(65536).splitlines()[0]
    for end in (b"\\", b'\\\\"', b'"', b""):
        assert server.post(body + end).status_code in (400, 413)


def test_a_reply_that_is_read_slowly_but_steadily_arrives_whole(strict: RunningServer) -> None:
    """The kernel holds megabytes of it, so that the server's own buffer may stand still for long."""
    with connect(strict, timeout=60) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        connection.sendall(request_of({"input": [f"n{i}" for i in range(1200)]}, "connection: close"))
        received, began = 0, time.monotonic()
        while chunk := connection.recv(20_000):
            received += len(chunk)
            if time.monotonic() - began < 14:
                time.sleep(0.1)
    assert received > 4_000_000


def test_silent_connections_do_not_cut_off_a_reply_that_is_being_read(strict: RunningServer) -> None:
    with connect(strict, timeout=60) as reading, ExitStack() as stack:
        reading.sendall(request_of({"input": [f"n{i}" for i in range(1200)]}, "connection: close"))
        first = reading.recv(1000)
        for _ in range(60):
            stack.enter_context(connect(strict))
        received = len(first) + len(read_all(reading))
    assert received > 4_000_000


def test_what_follows_a_chunked_body_is_bounded(strict: RunningServer) -> None:
    sent = 0
    with connect(strict) as connection:
        head = b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
        connection.sendall(head + b'e\r\n{"input": "a"}\r\n0\r\nX-T: ')
        with suppress(OSError):
            while sent < 8 << 20:
                connection.sendall(b"y" * 50_000)
                sent += 50_000
    assert sent < 8 << 20, "the server goes on reading"


def test_a_good_request_is_answered_before_the_garbage_behind_it(strict: RunningServer) -> None:
    with connect(strict) as connection:
        connection.sendall(request_of({"input": f"good {time.monotonic()}"}) + b"\x00\x01garbage\r\n\r\n")
        received = read_all(connection)
    assert re.findall(rb"HTTP/1\.1 (\d+)", received) == [b"200", b"400"]
    assert b'"object":"list"' in received


def test_of_too_many_pipelined_requests_the_first_are_answered(strict: RunningServer) -> None:
    with connect(strict) as connection:
        connection.sendall(b"".join(request_of({"input": f"many {i}"}) for i in range(40)))
        received = read_all(connection)
    statuses = re.findall(rb"HTTP/1\.1 (\d+)", received)
    assert statuses == [b"200"] * 33 + [b"400"]
    logged = strict.output()
    assert "exception" not in logged, "what a client does is no fault of ours"


def test_an_upgrade_to_a_protocol_that_is_not_spoken_is_ignored(strict: RunningServer) -> None:
    headers = ("connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "http2-settings: AAMAAABkAAQAAP__")
    with connect(strict) as connection:
        connection.sendall(request_of({"input": "over http/1.1 then"}, *headers))
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_half_closed_http_1_0_is_answered_and_half_a_body_is_not_waited_for(strict: RunningServer) -> None:
    with connect(strict) as connection:
        old = request_of({"input": f"old {time.monotonic()}"}).replace(b"HTTP/1.1", b"HTTP/1.0", 1)
        connection.sendall(old)
        connection.shutdown(socket.SHUT_WR)
        assert b" 200 " in read_all(connection).splitlines()[0]
    with connect(strict) as connection:
        connection.sendall(request_of({"input": "x"}, length=5000))
        connection.shutdown(socket.SHUT_WR)
        began = time.monotonic()
        read_all(connection)
        assert time.monotonic() - began < 0.9, "it waited for the body's time to run out"
