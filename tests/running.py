"""Runs token ids through a `Runner` without an engine around it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from inlay.engine.batch import Sequence as EngineSequence
from inlay.engine.batch import pack
from inlay.engine.device import choose
from inlay.engine.runner import Launch, Runner
from inlay.models.spec import read_spec
from inlay.ops.processor import has_amx
from inlay.types import DENSE, FloatArray, Priority, Truncate, Work


def are_same(found: FloatArray, expected: FloatArray) -> bool:
    """To the bit; with AMX, whose products of bfloat16 oneDNN blocks by the number of rows, only near."""
    if not has_amx():
        return np.array_equal(found, expected)
    sizes = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    return bool((((found * expected).sum(axis=1) / sizes) > 0.9998).all())


def make_runner(path: Path, dtype: str = "float32", device: str = "cpu") -> Runner:
    return Runner(read_spec(path, path.name), choose(device, dtype))


def sequence_of(ids: list[int], index: int = 0, adapter: str = "") -> EngineSequence:
    work = Work(index, "", Truncate.NONE, 0, adapter=adapter)
    return EngineSequence(work, lambda answers: None, 0.0, Priority.NORMAL, np.array(ids, dtype=np.int64))


def collected(runner: Runner, launched: Launch) -> FloatArray:
    """The vector of each place of a batch, [B, width]."""
    payloads = runner.collect(launched)[DENSE]
    return np.stack([np.frombuffer(payload, dtype=np.float32) for payload in payloads if payload is not None])


def run_packed(runner: Runner, lists: list[list[int]], adapters: Sequence[str] = ()) -> FloatArray:
    """Unit vectors of all lists in one batch, in the order given; each with the adapter of its place, if any."""
    named = [*adapters, *[""] * (len(lists) - len(adapters))]
    batch = pack([sequence_of(ids, index, name) for index, (ids, name) in enumerate(zip(lists, named, strict=True))])
    vectors = collected(runner, runner.launch(batch))[batch.rows]
    placed = np.empty_like(vectors)
    placed[[sequence.work.id for sequence in batch.sequences]] = vectors
    return placed / np.linalg.norm(placed, axis=1, keepdims=True)


def run_alone(runner: Runner, lists: list[list[int]]) -> FloatArray:
    """Unit vectors, each list in a batch of its own."""
    return np.concatenate([run_packed(runner, [ids]) for ids in lists])
