"""What a try ends in, and how requests are sent and replies read, byte by byte as HTTP has them.

`right`: the bits that the server gave before · `refused`: a reply that says why, or a closed connection for a bad
client · `wrong`: other vectors, a reply that is no JSON, or a 500 · `lost`: no reply to a good client · `hung`: none in
time.
"""

from __future__ import annotations

import json
import re
import socket
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

SECONDS = 20.0  # that a good client waits
RETRIES = 200  # of a good client whose server is away for a moment
Address = tuple[str, int]


def request_of(body: object, length: int | None = None, headers: str = "", path: str = "/v1/embeddings") -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\n{headers}content-length: {length or len(data)}\r\n\r\n"
    return head.encode() + data


def asking(text: str, headers: str = "cache-control: no-cache\r\n") -> bytes:
    """A good client's request: computed anew, unless the headers say otherwise."""
    return request_of({"input": text, "encoding_format": "base64"}, headers=headers)


def read_reply(connection: socket.socket) -> tuple[int, Any]:
    """Status and JSON of one reply; ConnectionError where none came, ValueError where it is no JSON."""
    received = b""
    while True:
        while b"\r\n\r\n" not in received:
            chunk = connection.recv(1 << 16)
            if not chunk:
                raise ConnectionError("closed without a reply")
            received += chunk
        head, _, received = received.partition(b"\r\n\r\n")
        status = int(head.split()[1])
        if status != 100:
            break
    length = int((re.search(rb"content-length: (\d+)", head) or [b"", b"0"])[1])
    while len(received) < length:
        chunk = connection.recv(1 << 18)
        if not chunk:
            raise ConnectionError("closed within a reply")
        received += chunk
    return status, json.loads(received[:length])


def exchange(address: Address, request: bytes, seconds: float = SECONDS) -> tuple[int, Any]:
    with socket.create_connection(address, timeout=seconds) as connection:
        connection.sendall(request)
        return read_reply(connection)


class Tries(Counter[str]):
    """How many tries ended how, and the longest time until the server answered again."""

    recovery = 0.0

    def good(self, address: Address, expected: str, request: bytes) -> None:
        """A good client's request for a text whose vector is known; a refusal says when to come back."""
        try:
            self.judge(*exchange(address, request), expected)
        except TimeoutError:
            self["hung"] += 1
        except ConnectionError:
            self["lost"] += 1
        except ValueError:
            self["wrong"] += 1

    def patient(self, address: Address, expected: str, request: bytes) -> None:
        """A good client that tries again, as clients do, while the server is away or refuses for now."""
        began = time.monotonic()
        for _ in range(RETRIES):
            try:
                status, body = exchange(address, request)
            except TimeoutError:
                self["hung"] += 1
                return
            except (ConnectionError, OSError):
                status = 0
            except ValueError:
                self["wrong"] += 1
                return
            if status not in (0, 429, 502, 503):
                self.judge(status, body, expected)
                self.recovery = max(self.recovery, time.monotonic() - began)
                return
            time.sleep(0.1)
        self["lost"] += 1

    def judge(self, status: int, body: object, expected: str) -> None:
        if status == 200:
            data = body.get("data") if isinstance(body, dict) else None
            self["right" if isinstance(data, list) and data[0]["embedding"] == expected else "wrong"] += 1
        else:
            self["refused" if is_refusal(status, body) else "wrong"] += 1

    def bad(self, connection: socket.socket, sent: bytes) -> None:
        """A bad client: it gets a refusal, or its connection is closed."""
        try:
            with suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(sent)
            status, body = read_reply(connection)
            self["refused" if 400 <= status < 600 and is_refusal(status, body) else "wrong"] += 1
        except TimeoutError:
            self["hung"] += 1
        except ConnectionError:
            self["refused"] += 1
        except ValueError:
            self["wrong"] += 1

    def note(self, is_right: object) -> None:
        """Something beside requests: a file that is to be whole, a process that is to have ended."""
        self["right" if is_right else "wrong"] += 1


def is_refusal(status: int, body: object) -> bool:
    """Does a reply say why, in the shape that clients read? A 500 is nobody's refusal."""
    error = body.get("error") if isinstance(body, dict) else None
    return status != 500 and isinstance(error, dict) and bool(error.get("code"))


def until(is_so: Callable[[], object], seconds: float = 60.0) -> float | None:
    """Seconds until it is so; None where it does not come about."""
    began = time.monotonic()
    while not is_so():
        if time.monotonic() - began > seconds:
            return None
        time.sleep(0.01)
    return time.monotonic() - began
