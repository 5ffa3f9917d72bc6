"""What the stages of gpu_check.py share: a line for each case, times by the device's clock, models of a true shape."""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from inlay.bench.shapes import SHAPES, make_checkpoint
from inlay.engine import runner
from inlay.engine.batch import Batch, Sequence, pack
from inlay.models.spec import read_spec
from inlay.types import IntArray, ModelSpec, Priority, Truncate, Work

ROOT = Path(__file__).resolve().parents[2]
DEVICE = torch.device("cuda")


def report(case: str, measured: float | str, unit: str = "", **more: Any) -> None:  # noqa: ANN401
    """One line; `predicted` and `bar` stand beside it."""
    if isinstance(measured, float):
        measured = float(f"{measured:.4g}")
    print(json.dumps({"case": case, "measured": measured, "unit": unit, **more}), flush=True)


def seconds_of(run: Callable[[], object], repeats: int = 20, warm: int = 3) -> float:
    """The median of some runs, each between two events."""
    for _ in range(warm):
        run()
    pairs = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repeats)]
    for began, ended in pairs:
        began.record()
        run()
        ended.record()
    torch.cuda.synchronize()
    return statistics.median(began.elapsed_time(ended) for began, ended in pairs) / 1000


def graph_seconds_of(run: Callable[[], object], repeats: int = 20) -> float:
    """Of launches that are captured, so that the host's part is not in it."""
    run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return seconds_of(graph.replay, repeats)


@dataclass(frozen=True)
class Shape:
    """A model of random weights."""

    spec: ModelSpec
    folder: tempfile.TemporaryDirectory[str]


def make_shape(name: str, layers: int | None = None) -> Shape:
    config = dict(SHAPES[name])
    if layers:
        config["num_hidden_layers"] = layers
    memory = Path("/dev/shm")  # noqa: S108 - a folder with a random name is made in it
    folder = tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None)
    make_checkpoint(Path(folder.name), config)
    return Shape(read_spec(Path(folder.name), name), folder)


def allow_any_fp8() -> None:
    """Random weights are no measure of FP8's rounding: here only its speed is."""
    runner.FP8_COSINE = 0.0


def sequence_of(ids: IntArray) -> Sequence:
    return Sequence(Work(0, "", Truncate.NONE, 0), lambda answers: None, 0.0, Priority.NORMAL, ids)


def random_batch(lengths: list[int], rows: int, generator: np.random.Generator) -> Batch:
    return pack([sequence_of(generator.integers(0, rows, length)) for length in lengths])


def lengths_of(total: int, length: int | str) -> list[int]:
    """Lengths that make up so many tokens; "mixed": 16 to 512, about as real texts have them."""
    if isinstance(length, int):
        return [length] * (total // length)
    found: list[int] = []
    generator = np.random.default_rng(1)
    while sum(found) < total:
        found.append(int(np.clip(generator.lognormal(4.4, 0.8), 16, 512)))
    return found
