"""Starts the other ranks of a model that several devices share, and is what runs in them.

In: a model, its device and dtype, and how many ranks. Out: on rank 0 a `ShardGroup` whose other ranks run each batch as
well. A rank ends with its parent, whose end it sees on its standard input, and the parent learns of a rank that ends.

    python -m inlay.engine.shard_process JSON
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from threading import Thread

import msgspec
import torch

from inlay.engine.device import Choice, choose
from inlay.engine.runner import Runner
from inlay.engine.shards import ShardGroup, meet
from inlay.errors import ConfigError, EngineError, InlayError
from inlay.models.sharding import Shard
from inlay.models.spec import read_spec
from inlay.telemetry.logs import get_logger
from inlay.thread_count import choose_threads
from inlay.types import ModelSpec

log = get_logger("engine")

READY = "ready"
ENDING_SECONDS = 5.0


class Rank(msgspec.Struct, frozen=True):
    """What one of the other ranks is told."""

    path: str
    name: str
    device: str
    dtype: str
    rank: int
    size: int
    port: int


class OtherRanks:
    """The processes beside this one."""

    def __init__(self, spec: ModelSpec, choice: Choice, size: int) -> None:
        self._is_closed = False
        self._processes: list[subprocess.Popen[str]] = []
        devices = _devices(choice, size)
        Shard(0, size).config_of(spec)  # refuses what cannot be divided
        self._store = store = meet(0, size)
        try:
            for rank, device in enumerate(devices[1:], 1):
                where = (str(spec.path), spec.name, device, choice.dtype_name)
                self._processes.append(_start(Rank(*where, rank, size, store.port)))
            for process in self._processes:
                if process.stdout is None or process.stdout.readline().strip() != READY:
                    raise EngineError("a process for a part of the model did not start; what it says is above")
            self.group = ShardGroup(Shard(0, size), store, choice.device)
        except BaseException:
            self._end()
            raise
        for process in self._processes:
            Thread(target=self._watch, args=(process,), daemon=True).start()

    def close(self) -> None:
        """Have them end."""
        self._is_closed = True
        try:
            self.group.stop()
        except RuntimeError as error:
            log.warning("a process that holds a part of the model had ended", error=str(error))
        self._end()

    def _watch(self, process: subprocess.Popen[str]) -> None:
        status = process.wait()
        if not self._is_closed:
            log.error("a process that holds a part of a model has ended", status=status)
            self.group.lose()

    def _end(self) -> None:
        end = time.monotonic() + ENDING_SECONDS
        for process in self._processes:
            if process.stdin is not None:
                process.stdin.close()
        for process in self._processes:
            try:
                process.wait(max(end - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()


def run(rank: Rank) -> None:
    """One of the other ranks, until rank 0 stops it."""
    Thread(target=_end_with_parent, daemon=True).start()
    choice = choose(rank.device, rank.dtype)
    if choice.device.type == "cuda":
        torch.cuda.set_device(choice.device)
    else:
        choose_threads()
    store = meet(rank.port, rank.size)
    print(READY, flush=True)  # noqa: T201 - the parent reads it
    group = ShardGroup(Shard(rank.rank, rank.size), store, choice.device)
    runner = Runner(read_spec(Path(rank.path), rank.name), choice, group=group)
    while (given := group.follow()) is not None:
        runner.follow(given[0], needs_all_rows=given[1])


def _start(rank: Rank) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "inlay.engine.shard_process", msgspec.json.encode(rank).decode()]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _devices(choice: Choice, size: int) -> list[str]:
    """One for each rank, from the first on."""
    if choice.device.type == "cpu":
        return ["cpu"] * size
    first, count = choice.device.index or 0, torch.cuda.device_count() if choice.device.type == "cuda" else 1
    if first + size > count:
        raise ConfigError(
            f"--tensor-parallel-size {size} from {choice.device} on needs more devices than there are ({count})"
        )
    return [f"cuda:{first + rank}" for rank in range(size)]


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    try:
        run(msgspec.json.decode(sys.argv[1], type=Rank))
    except InlayError as error:
        sys.exit(error.message)
