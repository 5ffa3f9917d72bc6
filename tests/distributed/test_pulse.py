"""The end of a process is seen by its pulse, and who watches costs it nothing once he has gone."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from waiting import until

from inlay.distributed.pulse import SUFFIX, Pulse

PROGRAM = """
import sys, time
from inlay.distributed.pulse import start_pulse
start_pulse(int(sys.argv[1]))
time.sleep(0.2)
print("started", flush=True)
time.sleep(600)
"""


class Process:
    """A process with a pulse, at an address."""

    def __init__(self, folder: Path) -> None:
        self.address = str(folder / "engine")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.address + SUFFIX)
        self._listener.listen()
        self.start()

    def start(self) -> None:
        number = self._listener.fileno()
        command = [sys.executable, "-c", PROGRAM, str(number)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, pass_fds=[number])
        assert self.process.stdout is not None
        self.process.stdout.readline()

    def descriptors(self) -> int:
        """Of the thread that holds them."""
        tasks = Path(f"/proc/{self.process.pid}/task").iterdir()
        (thread,) = [task for task in tasks if task.name != str(self.process.pid)]
        return len(list((thread / "fd").iterdir()))

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def close(self) -> None:
        self.end()
        self._listener.close()


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    made = Process(tmp_path)
    yield made
    made.close()


def test_a_kill_is_seen_by_all_who_watch(process: Process) -> None:
    ends = [threading.Event() for _ in range(3)]
    pulses = [Pulse(process.address, end.set) for end in ends]
    time.sleep(0.1)
    assert not any(end.is_set() for end in ends)
    process.process.kill()
    assert all(end.wait(10) for end in ends)
    for pulse in pulses:
        pulse.close()


def test_the_process_that_comes_in_its_place_is_watched_too(process: Process) -> None:
    for _ in range(2):
        end = threading.Event()
        Pulse(process.address, end.set)
        time.sleep(0.1)
        assert not end.is_set()
        process.end()
        assert end.wait(10)
        process.start()


def test_who_has_gone_leaves_no_descriptor_behind(process: Process) -> None:
    before = process.descriptors()
    for _ in range(20):
        end = threading.Event()
        pulse = Pulse(process.address, end.set)
        pulse.close()
        assert end.wait(10)
    until(lambda: process.descriptors() == before)


def test_its_thread_has_no_other_descriptors(process: Process) -> None:
    """Else they would stay open in it when others close them."""
    assert process.descriptors() <= 4  # standard input, output and errors, and what listens


def test_where_there_is_no_pulse_nothing_is_watched(tmp_path: Path) -> None:
    ends: list[bool] = []
    pulse = Pulse(str(tmp_path / "nobody"), lambda: ends.append(True))
    pulse.close()
    assert not ends
