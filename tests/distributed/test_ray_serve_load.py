"""How many replicas Ray Serve is to have, from what they have to do. Without Ray: `make test-ray` has the rest."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from fakes import FakeWorker

from inlay.distributed import ray_serve
from inlay.distributed.ray_serve import BUSY, QUEUED, Load, replicas_needed


def needed(busy: list[float], queued: list[float]) -> int:
    told: Any = {BUSY: dict(enumerate(busy)), QUEUED: dict(enumerate(queued))}
    return replicas_needed(SimpleNamespace(aggregated_metrics=told))[0]


@pytest.mark.parametrize(
    ("busy", "queued", "replicas"),
    [
        ([], [], 1),
        ([0.0], [0.0], 1),
        ([0.6], [0.1], 1),
        ([0.9], [0.1], 2),
        ([0.9, 0.9], [0.0, 0.0], 3),
        ([0.2], [2.0], 4),
        ([0.3, 0.3, 0.3], [0.0, 0.0, 0.1], 2),
    ],
)
def test_there_are_as_many_as_bring_each_below_its_most(busy: list[float], queued: list[float], replicas: int) -> None:
    assert needed(busy, queued) == replicas


def test_load_is_that_of_the_time_since_the_last_look(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(ray_serve.time, "monotonic", lambda: now)
    worker = FakeWorker()
    load = Load({"m": worker})
    worker.stats.busy_seconds, now = 1.5, 102.0
    worker.queued_tokens, worker.stats.tokens_per_second = 500, 1000.0
    assert load.look() == {BUSY: 0.75, QUEUED: 0.5}
    worker.queued_tokens, now = 0, 104.0
    assert load.look() == {BUSY: 0.0, QUEUED: 0.0}
