"""Runs a model's forward pass on a GPU; for small batches, by replaying launches that were captured once.

In: a plan. Out: the hidden states that the model gives, to the bit. A replay takes the host microseconds where some
hundred launches take it milliseconds, longer than the device needs for them. Only plans whose tensors lie where
those of the captured plan lay are replayed (`engine.staging`). Where a capture fails, it is logged, and batches are
launched.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from threading import Lock

import torch
from torch import Tensor

from inlay.engine.cuda_errors import is_fatal
from inlay.models.forward import ForwardPass
from inlay.models.plan import Plan
from inlay.telemetry.logs import get_logger

log = get_logger("engine")

ONE_AT_A_TIME = Lock()  # models are loaded on threads of their own, and a capture bears little beside it
Key = tuple[int, int, int, bool, bool, bool]


@dataclass(frozen=True, slots=True)
class Captured:
    """Launches, where they read and where they write."""

    graph: torch.cuda.CUDAGraph
    plan: Plan  # held, as the launches read its tensors
    hidden: Tensor  # overwritten by the next replay of any graph


class GraphPass:
    """Of one model on a GPU. Lives on the device's thread."""

    def __init__(self, model: ForwardPass) -> None:
        self._model = model
        self._captured: dict[Key, Captured] = {}
        self._pool = torch.cuda.graph_pool_handle()
        self._hidden: Tensor | None = None  # where all write: what each has of its own would stay taken

    def __call__(self, plan: Plan) -> Tensor:
        captured = self._captured.get(_key_of(plan)) if plan.past is None or plan.past.is_fixed else None
        if captured is None:
            hidden: Tensor = self._model(plan)
            return hidden
        captured.graph.replay()
        return captured.hidden

    def capture_many(self, plans: Iterable[Plan]) -> int:
        """Capture plans, the largest first; how many could be."""
        began = time.monotonic()
        failures: list[str] = []
        for plan in plans:
            try:
                with ONE_AT_A_TIME:
                    self._captured[_key_of(plan)] = self._capture(plan)
            except RuntimeError as error:
                if is_fatal(error):
                    raise
                traceback.clear_frames(error.__traceback__)  # they hold what the pass had in the device's memory
                failures.append(f"{type(error).__name__}: {error}".splitlines()[0])
        if failures:
            log.warning(
                "launches could not be captured in a graph: such batches are slower",
                graphs=len(failures),
                error=failures[0],
            )
        seconds = round(time.monotonic() - began, 2)
        log.info("launches captured", graphs=len(self._captured), seconds=seconds)
        return len(self._captured)

    def _capture(self, plan: Plan) -> Captured:
        given: Tensor = self._model(plan)  # kernels are compiled and tables made here, which cannot be captured
        if self._hidden is None or len(self._hidden) < len(given):
            self._hidden = torch.empty_like(given)
        hidden = self._hidden[: len(given)]
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            hidden.copy_(self._model(plan))
        return Captured(graph, plan, hidden)


def _key_of(plan: Plan) -> Key:
    """Where a plan lies, and what decides its launches."""
    shape = (len(plan.ids), len(plan.layout.cu_seqlens))
    return plan.ids.data_ptr(), *shape, plan.wanted is None, plan.types is None, plan.past is None
