"""Runs a model's pass for batches with adapters: tells the products which rows are whose.

In: a plan. Out: what the model gives. Plans without adapters go the usual way, which may be a recording or a graph.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from inlay.models.adapted import AdapterSet
from inlay.models.forward import ForwardPass
from inlay.models.plan import Plan


class AdapterPass:
    """Of one model. Lives on the device's thread."""

    def __init__(self, model: ForwardPass, usual: Callable[[Plan], Tensor], adapters: AdapterSet) -> None:
        self._model = model
        self._usual = usual
        self._adapters = adapters

    def __call__(self, plan: Plan) -> Tensor:
        if plan.adapters is None:
            return self._usual(plan)
        with self._adapters.on(plan.adapters.runs_of):
            hidden: Tensor = self._model(plan)
            return hidden
