"""The processes that a process has started, and whether one still runs."""

from __future__ import annotations

import subprocess
from pathlib import Path

from servers import RunningServer


def children_of(parent: int) -> dict[int, str]:
    """The processes that a process started, and what they are."""
    listed = subprocess.run(["ps", "-ww", "-o", "pid=,args=", "--ppid", str(parent)], capture_output=True, text=True)
    return {int(line.split()[0]): line for line in listed.stdout.splitlines() if "inlay" in line}


def child_of(server: RunningServer, what: str) -> int:
    return next(child for child, line in children_of(server.process.pid).items() if what in line)


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
