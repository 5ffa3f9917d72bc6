"""`inlay health` beside a real server, and a server that is told to end before it serves."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from servers import RunningServer

SERVE = [sys.executable, "-m", "inlay", "serve", "demo", "--port", "0"]


def ask(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "inlay", "health", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **variables})


def test_a_server_that_serves_is_well_and_ready_wherever_it_listens(server: RunningServer) -> None:
    port = server.url.rpartition(":")[2]
    assert ask("--port", port).returncode == 0
    assert ask("--ready", INLAY_PORT=port, INLAY_HOST="0.0.0.0").returncode == 0


def test_no_server_is_told_in_one_line() -> None:
    done = ask("--port", "1")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"inlay: no answer from http://127\.0\.0\.1:1/health: .*refused\n", done.stderr)


def test_a_server_that_is_not_ready_tells_why() -> None:
    with RunningServer("demo", "--shutdown-delay", "30") as server:
        port = server.url.rpartition(":")[2]
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        done = ask("--port", port, "--ready")
        assert done.returncode == 1
        assert re.fullmatch(r"inlay: /ready has status 503: \{.*\}\n", done.stderr)
        assert ask("--port", port).returncode == 0


def test_a_free_port_cannot_be_asked() -> None:
    done = ask("--port", "0")
    assert (done.returncode, "the server's log tells" in done.stderr) == (2, True)


def handles_sigterm(pid: int) -> bool:
    caught = re.search(r"SigCgt:\s+(\w+)", Path(f"/proc/{pid}/status").read_text())
    return caught is not None and bool(int(caught[1], 16) >> (signal.SIGTERM - 1) & 1)


@pytest.mark.parametrize("seconds", [0.0, 0.3, 1.0])
def test_a_server_that_is_told_to_end_before_it_serves_ends_well(seconds: float) -> None:
    """As the first process of a container, whose signals the kernel drops where nobody handles them."""
    prefix = ["unshare", "--pid", "--fork", "--kill-child"]
    can_be_first = shutil.which("unshare") and subprocess.run([*prefix, "true"], capture_output=True).returncode == 0
    process = subprocess.Popen([*(prefix if can_be_first else ()), *SERVE], stderr=subprocess.DEVNULL)
    try:
        pid = process.pid if not can_be_first else first_child(process.pid)
        while not handles_sigterm(pid):
            time.sleep(0.005)
        time.sleep(seconds)
        os.kill(pid, signal.SIGTERM)
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
        process.wait()


def test_the_signal_is_handled_before_the_command_line_is_imported() -> None:
    program = (
        "import signal, sys, types\nimport inlay.__main__ as entry\n"
        "assert not {'typer', 'inlay.cli'} & sys.modules.keys()\n"
        "stand_in = types.ModuleType('inlay.cli.main')\n"
        "stand_in.run = lambda: print(signal.getsignal(signal.SIGTERM) is entry._end)\n"
        "sys.modules['inlay.cli.main'] = stand_in\nentry.run()\n"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "True\n"


def first_child(pid: int) -> int:
    for _ in range(400):
        if children := Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            return int(children[0])
        time.sleep(0.005)
    raise AssertionError("the server was not started")
