"""Starts an engine as a server does, and writes down what that costs: time, memory, and why this dtype.

In: a model or the name of a shape. Out: a loaded worker with its card. A checkpoint that has to be made
first is made by another process, and its time is not the engine's.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inlay.bench.card import machine_card
from inlay.bench.process import age_seconds, peak_bytes, resident_bytes
from inlay.config import Settings
from inlay.engine.loading import choose_for, load_engine
from inlay.engine.worker import DeviceWorker
from inlay.errors import ConfigError
from inlay.models.source import locate, served_name
from inlay.models.spec import read_spec
from inlay.thread_count import choose_threads

GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Started:
    """An engine that is ready, and its card."""

    worker: DeviceWorker
    device: str
    max_batch_tokens: int
    card: dict[str, Any]
    start: dict[str, float]  # seconds
    memory: dict[str, float]  # GiB; of the process, and of the GPU where there is one


@contextmanager
def made_checkpoint(shape: str) -> Iterator[tuple[Path, float]]:
    """A synthetic checkpoint that lasts as long as the block; its folder and the seconds it took."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="inlay-bench-") as folder:
        command = [sys.executable, "-m", "inlay.bench.shapes", shape, folder]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["killed"])[-1]
            raise ConfigError(f"a checkpoint of {shape} could not be made in {folder}: {reason}")
        yield Path(folder), time.monotonic() - began


def start_engine(model: str, name: str | None, settings: Settings, unrelated_seconds: float) -> Started:
    """Load a model and wait until it is ready. `unrelated_seconds` of the process's age are not counted."""
    import torch

    idle = resident_bytes()
    spec = read_spec(locate(model), name or served_name(model), settings.context_length)
    began = time.monotonic()
    worker = DeviceWorker(spec, lambda spec, stats: load_engine(spec, settings, stats), settings.stall_timeout)
    worker.wait_loaded()
    load_seconds = time.monotonic() - began
    choice = choose_for(spec, settings)
    memory = {"idle": _gib(idle), "loaded": _gib(resident_bytes())}
    card = {
        **machine_card(),
        "model": worker.spec.name,
        "dtype": f"{worker.spec.dtype} ({choice.reason})",
        "threads": choose_threads().count,
    }
    if choice.device.type == "cuda":
        card["gpu"] = torch.cuda.get_device_name(choice.device)
        memory["gpu"] = _gib(torch.cuda.memory_allocated(choice.device))
    return Started(
        worker=worker,
        device=str(choice.device),
        max_batch_tokens=worker.max_batch_tokens,
        card=card,
        start={"ready": round(age_seconds() - unrelated_seconds, 2), "load": round(load_seconds, 2)},
        memory=memory,
    )


def note_peak(started: Started) -> None:
    """Add the most memory that was in use so far."""
    import torch

    started.memory["peak"] = _gib(peak_bytes())
    if "gpu" in started.memory:
        started.memory["gpu_peak"] = _gib(torch.cuda.max_memory_allocated(started.device))


def _gib(number: int) -> float:
    return round(number / GIB, 3)
