"""A real server: `inlay serve` in a process of its own, on a free port, talked to over a socket."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import httpx


class RunningServer:
    """Starts `inlay serve ARGUMENTS`, waits until it is ready, and ends it."""

    def __init__(
        self,
        *arguments: str,
        env: dict[str, str] | None = None,
        wait: bool = True,
        prefix: Sequence[str] = (),
        python: str = sys.executable,
    ) -> None:
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the server
        clean = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith("INLAY_") or key == "INLAY_MAX_CPU_ISA"
        }
        command = [*prefix, python, "-m", "inlay", "serve", "--port", "0", *arguments]
        self.process = subprocess.Popen(
            command, stderr=self.log, env={**clean, **(env or {})}, cwd=tempfile.gettempdir()
        )
        self.url = ""
        if wait:
            self.wait_ready()

    def wait_ready(self) -> None:
        for _ in range(600):
            found = re.search(r"\bready\b.*(http://[^\s\"\x1b]+)", self.output())
            if found:
                self.url = found[1]
                return
            if self.process.poll() is not None:
                raise AssertionError(f"the server ended with {self.process.returncode}: {self.output()}")
            time.sleep(0.1)
        raise AssertionError(f"the server did not become ready: {self.output()}")

    def output(self) -> str:
        """What it has logged; read by a handle of its own, as the server writes where the shared one stands."""
        return Path(f"/proc/self/fd/{self.log.fileno()}").read_text(errors="replace")

    def post(self, body: object, headers: dict[str, str] | None = None) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return httpx.post(f"{self.url}/v1/embeddings", content=content, headers=headers, timeout=60)

    def get(self, path: str, **arguments: Any) -> httpx.Response:
        return httpx.get(self.url + path, timeout=60, **arguments)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.log.close()
