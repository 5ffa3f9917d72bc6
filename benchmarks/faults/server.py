"""`inlay serve demo` in processes of their own, with what a fault needs to know of them."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tries import SECONDS, Address, asking, exchange, read_reply, until

EXACT = {"INLAY_DTYPE": "float32"}  # a text's bits are the same in any batch, on every processor
TEXTS = [f"a text of number {number}" for number in range(40)]


class Server:
    """Started with arguments, ended with SIGKILL. `expected` are the vectors that it gave when nothing was wrong."""

    def __init__(
        self,
        *arguments: str,
        prefix: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        model: str = "demo",
        expected: Mapping[str, str] | None = None,
        port: int = 0,
        log: Path | None = None,
    ) -> None:
        self.log = tempfile.TemporaryFile("w+") if log is None else log.open("w+")  # noqa: SIM115
        clean = {key: value for key, value in os.environ.items() if not key.startswith("INLAY_")}
        command = [*prefix, sys.executable, "-m", "inlay", "serve", model, *arguments, "--port", str(port)]
        self.process = subprocess.Popen(
            command,
            stderr=self.log,
            env={**clean, **EXACT, **(env or {})},
            cwd=tempfile.gettempdir(),
            start_new_session=True,
        )
        self.address = self._wait()
        self.expected = dict(expected) if expected is not None else {text: self._first(text) for text in TEXTS}

    def _wait(self) -> Address:
        end = time.monotonic() + 60
        while time.monotonic() < end and self.process.poll() is None:
            if found := re.search(r'"event": "ready".*"url": "([^"]+)"', self.output()):
                parts = urlsplit(found[1])
                return str(parts.hostname), int(parts.port or 0)
            time.sleep(0.05)
        raise SystemExit(f"the server did not become ready:\n{self.output()}")

    def _first(self, text: str) -> str:
        status, body = exchange(self.address, asking(text, ""))
        if status != 200:
            raise SystemExit(f"the server refuses a first request: {body!r}")
        embedding: str = body["data"][0]["embedding"]
        return embedding

    def output(self) -> str:
        """What it has logged; read by a handle of its own, as the server writes where the shared one stands."""
        return Path(f"/proc/self/fd/{self.log.fileno()}").read_text(errors="replace")

    def connect(self, seconds: float = SECONDS) -> socket.socket:
        return socket.create_connection(self.address, timeout=seconds)

    def is_running(self) -> bool:
        return self.process.poll() is None

    def children(self, what: str) -> list[int]:
        """The processes that it has started, by a part of their command line."""
        listed = subprocess.run(
            ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(self.process.pid)], capture_output=True, text=True
        )
        return [int(line.split()[0]) for line in listed.stdout.splitlines() if what in line and "defunct" not in line]

    def memory(self, name: str) -> int:
        """Bytes of VmRSS, or of VmHWM since `forget_peak`."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(rf"{name}:\s+(\d+)", status)
        return int(found[1]) * 1024 if found else 0

    def forget_peak(self) -> None:
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def get(self, path: str) -> Any:  # noqa: ANN401 - JSON
        with self.connect() as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
            return read_reply(connection)[1]

    def is_ready(self) -> bool:
        try:
            with self.connect(5) as connection:
                connection.sendall(b"GET /ready HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
                return b" 200 " in connection.recv(1 << 12)
        except OSError:
            return False

    def kill(self) -> None:
        """SIGKILL, and nothing of it is left."""
        children = self.children("inlay")
        if self.is_running():
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        until(lambda: not any(Path(f"/proc/{child}").exists() for child in children), 10)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()
        self.log.close()
