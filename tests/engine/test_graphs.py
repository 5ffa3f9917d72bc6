"""What is replayed, and what is launched."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from inlay.engine import graphs as module
from inlay.engine.graphs import GraphPass
from inlay.engine.staging import Given, Staging
from inlay.models.plan import Plan

CPU = torch.device("cpu")


class Graph:
    """Stands for a CUDA graph: runs what ran while it was captured."""

    def __init__(self) -> None:
        self.runs = 0

    def replay(self) -> None:
        self.runs += 1


class Model:
    """Hidden states are the ids, written to one tensor as under a graph."""

    def __init__(self, fails_from: int = 1 << 30, code: int = 900) -> None:
        self.launched = 0
        self.fails_from = fails_from
        self.failure = torch.AcceleratorError("operation not permitted when stream is capturing")
        self.failure.error_code = code

    def __call__(self, plan: Plan) -> Tensor:
        self.launched += 1
        if self.launched > self.fails_from:
            raise self.failure
        return plan.ids.float()[:, None]


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> GraphPass:
    @contextmanager
    def capture(*arguments: object, **more: object) -> Iterator[None]:
        yield

    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    return GraphPass(Model())  # type: ignore[arg-type]


def plan_of(staging: Staging, lengths: list[int]) -> Plan:
    ids = np.arange(sum(lengths))
    offsets = np.array([0, *np.cumsum(lengths)])
    staged = staging.stage(Given(ids, ids, None, offsets, offsets[1:] - 1))
    return Plan(staged.views.ids, staged.views.positions, staged.layout, True, 2, staged.views.rows)


def test_a_plan_in_the_place_of_a_captured_one_is_replayed_and_others_are_launched(graphs: GraphPass) -> None:
    staging, elsewhere = Staging(CPU), Staging(CPU)
    assert graphs.capture_many([plan_of(staging, [16])]) == 1
    launched = graphs._model.launched
    replayed = graphs(plan_of(staging, [3, 4]))
    assert graphs._model.launched == launched
    assert len(replayed) == 16
    for other in (plan_of(staging, [20]), plan_of(elsewhere, [16]), replace(plan_of(staging, [16]), wanted=None)):
        launched = graphs._model.launched
        graphs(other)
        assert graphs._model.launched == launched + 1


def test_after_an_error_that_the_device_does_not_survive_nothing_is_tried(graphs: GraphPass) -> None:
    graphs._model = Model(fails_from=1, code=700)  # type: ignore[assignment]
    with pytest.raises(torch.AcceleratorError):
        graphs.capture_many([plan_of(Staging(CPU), [16])])


def test_all_graphs_write_to_one_place(graphs: GraphPass) -> None:
    staging = Staging(CPU)
    graphs.capture_many([plan_of(staging, [32]), plan_of(staging, [16])])
    places = {captured.hidden.data_ptr() for captured in graphs._captured.values()}
    assert len(places) == 1


def test_what_cannot_be_captured_is_launched_and_said(
    graphs: GraphPass, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    warned: list[str] = []
    monkeypatch.setattr(module.log, "warning", lambda event, **more: warned.append(event))
    staging = Staging(CPU)
    graphs._model = Model(fails_from=3)  # type: ignore[assignment]
    assert graphs.capture_many([plan_of(staging, [16]), plan_of(staging, [32]), plan_of(staging, [48])]) == 1
    assert len(warned) == 1
    graphs._model.fails_from = 1 << 30
    assert len(graphs(plan_of(staging, [32]))) == 32
