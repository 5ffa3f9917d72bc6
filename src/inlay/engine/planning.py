"""Turns batches into plans: which rows run, what comes before them, and which are wanted in the end.

In: a batch. Out: a `Plan` for the model, and how its hidden states become the rows of the batch. What sequences begin
with in common runs once and is kept (`engine.prefix`), where rows can run apart from those before them.
"""

from __future__ import annotations

from collections.abc import Sequence as Listed
from dataclasses import dataclass

import torch
from torch import Tensor

from inlay.engine.batch import Batch, Sequence
from inlay.engine.prefix import Prefix, PrefixStore, SharedBatch
from inlay.engine.transfer import to_device
from inlay.models.forward import Decoder, ForwardPass
from inlay.models.plan import Plan
from inlay.ops.layout import Layout
from inlay.types import IntArray, ModelSpec, Pooling


@dataclass(frozen=True, slots=True)
class Planned:
    """What runs for a batch."""

    plan: Plan
    pooled: Tensor | None  # [B], of all rows those that pooling names; None: they alone come out
    new: Listed[Prefix] = ()  # prefixes to keep once they have run

    def pooled_rows(self, hidden: Tensor) -> Tensor:
        """hidden of the pass → [B, width], the row of each sequence that pooling names."""
        return hidden if self.pooled is None else hidden[self.pooled]


class Planner:
    """Makes the plans of one model."""

    def __init__(self, spec: ModelSpec, model: ForwardPass, dtype: torch.dtype, device: torch.device) -> None:
        self._pooling = spec.pooling
        self._is_causal = model.IS_CAUSAL
        self._last_layer = spec.num_layers - 1
        self._device = device
        self._prefixes: PrefixStore | None = None
        if can_look_back(spec, model, device) and isinstance(model, Decoder):
            self._prefixes = PrefixStore(model.key_value_bytes(dtype), device)

    def cost(self, sequence: Sequence) -> int:
        """Tokens of a sequence that would run: less what a kept prefix has."""
        kept = 0 if self._prefixes is None else self._prefixes.kept_length(sequence)
        return sequence.num_tokens - kept

    def plan(self, batch: Batch, layout: Layout, *, needs_all_rows: bool) -> Planned:
        """The plan of a batch whose rows lie as `layout` says."""
        if self._prefixes is not None and not needs_all_rows and (shared := self._prefixes.share(batch)) is not None:
            return self._plan_shared(shared)
        pooled = None if self._pooling is Pooling.MEAN else pooled_rows(layout, self._pooling)
        sees_all = self._pooling is Pooling.LAST or not self._is_causal
        is_narrowed = pooled is not None and sees_all and not needs_all_rows
        ids, positions = self._to_device(batch.ids), self._to_device(batch.positions)
        wanted = _sole_row(layout, self._pooling) or pooled if is_narrowed else None
        types = None if batch.types is None else self._to_device(batch.types)
        plan = Plan(ids, positions, layout, self._is_causal, self._last_layer, wanted, types=types)
        return Planned(plan, None if is_narrowed else pooled)

    def keep(self, planned: Planned) -> None:
        """The plan has run."""
        if self._prefixes is not None and planned.new:
            self._prefixes.keep(planned.new)

    def _plan_shared(self, shared: SharedBatch) -> Planned:
        layout, wanted = Layout.of(shared.offsets, self._device), self._to_device(shared.wanted)
        ids, positions = self._to_device(shared.ids), self._to_device(shared.positions)
        plan = Plan(ids, positions, layout, self._is_causal, self._last_layer, wanted, shared.past)
        return Planned(plan, None, shared.new)

    def _to_device(self, array: IntArray) -> Tensor:
        return to_device(array, self._device)


def can_look_back(spec: ModelSpec, model: ForwardPass, device: torch.device) -> bool:
    """Can rows run apart from those before them? Not where those make the answer too, and not yet on a GPU."""
    return device.type == "cpu" and model.IS_CAUSAL and spec.pooling is Pooling.LAST


def _sole_row(layout: Layout, pooling: Pooling) -> slice | None:
    """The row that pooling names, where there is one sequence: a view will do, and nothing is gathered."""
    if len(layout.offsets) != 2:
        return None
    row = 0 if pooling is Pooling.CLS else layout.offsets[1] - 1
    return slice(row, row + 1)


def pooled_rows(layout: Layout, pooling: Pooling) -> Tensor:
    """The row of each sequence that pooling names, [B]: by length, never by a token id."""
    return layout.cu_seqlens[:-1].long() if pooling is Pooling.CLS else layout.cu_seqlens[1:].long() - 1
