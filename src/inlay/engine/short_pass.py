"""Runs a model's forward pass; for one short text, from a recording, which has no Python between its kernels.

In: a plan. Out: the hidden states that the model gives, to the bit. A recording is made for each length when it first
comes. Plans with anything before their rows, and models whose pass is more than kernels, run as they are. Only for a
model whose products stay what they are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from inlay.models.forward import ForwardPass
from inlay.models.plan import Plan
from inlay.ops.native import Kernels
from inlay.ops.recording import Arena, Recording, record

LONGEST = 128  # tokens; from there on the kernels take most of the time
MOST_FAILURES = 3  # after which a model is not recorded any more; the first run may fill its tables


@dataclass(frozen=True, slots=True)
class Recorded:
    """A recording, and the plan whose tensors it reads."""

    recording: Recording
    plan: Plan


class ShortPass:
    """Of one model on a CPU. Lives on the device's thread."""

    def __init__(self, model: ForwardPass, kernels: Kernels) -> None:
        self._model = model
        self._kernels = kernels
        self._arena = Arena()
        self._ids, self._types = torch.empty(2, LONGEST, dtype=torch.int64)  # what all recordings look up
        self._recorded: dict[tuple[int, int | None, bool], Recorded] = {}
        self._failures = 0

    def __call__(self, plan: Plan) -> Tensor:
        is_short = len(plan.layout.offsets) == 2 and len(plan.ids) <= LONGEST
        if not is_short or plan.past is not None or isinstance(plan.wanted, Tensor):
            hidden: Tensor = self._model(plan)
            return hidden
        recorded = self._recorded.get(_kind_of(plan))
        if recorded is None:
            return self._run_first(plan)
        self._take(plan)
        return recorded.recording.run()

    def _run_first(self, plan: Plan) -> Tensor:
        """The first plan of its kind."""
        if self._failures == MOST_FAILURES:
            hidden: Tensor = self._model(plan)
            return hidden
        ids, types = self._take(plan)
        own = replace(plan, ids=ids, types=types)
        hidden, recording = record(self._kernels, self._arena, lambda: self._model(own))
        if recording is None:
            self._failures += 1
        else:
            self._recorded[_kind_of(plan)] = Recorded(recording, own)
        return hidden

    def _take(self, plan: Plan) -> tuple[Tensor, Tensor | None]:
        """The plan's ids and types, where recordings find them."""
        ids = self._ids[: len(plan.ids)]
        ids.copy_(plan.ids)
        if plan.types is None:
            return ids, None
        types = self._types[: len(plan.ids)]
        types.copy_(plan.types)
        return ids, types


def _kind_of(plan: Plan) -> tuple[int, int | None, bool]:
    """What decides the calls of a plan of one sequence."""
    wanted = plan.wanted.start if isinstance(plan.wanted, slice) else None
    return len(plan.ids), wanted, plan.types is None
