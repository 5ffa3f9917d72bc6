"""Turns batches into plans: which rows run, what comes before them, and which are wanted in the end.

In: a batch. Out: a `Plan` for the model, and how its hidden states become the rows of the batch. What sequences begin
with in common runs once and is kept (`engine.prefix`), where rows can run apart from those before them.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Listed
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from inlay.engine.arena import Arena
from inlay.engine.batch import Batch, Sequence
from inlay.engine.prefix import KeptTokens, Prefix, PrefixStore, SharedBatch
from inlay.engine.staging import Given, Staging, shapes
from inlay.engine.transfer import to_device
from inlay.models.adapter_rows import AdapterRows
from inlay.models.forward import Decoder, ForwardPass
from inlay.models.past import KeptRooms
from inlay.models.plan import Plan
from inlay.ops.dispatch import has_gpu_attention
from inlay.ops.layout import Layout
from inlay.types import IntArray, ModelSpec, Pooling

ARENA_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Planned:
    """What runs for a batch."""

    plan: Plan
    layout: Layout  # of the batch
    pooled: Tensor | None  # [B], of all rows those that pooling names; None: they alone come out
    new: Listed[Prefix] = ()  # prefixes to keep once they have run

    def own_rows(self, hidden: Tensor) -> Tensor:
        """hidden of the pass without what a batch was filled up with."""
        num_rows = self.layout.offsets[-1] if self.plan.wanted is None else len(self.layout.offsets) - 1
        return hidden if len(hidden) == num_rows else hidden[:num_rows]

    def pooled_rows(self, hidden: Tensor) -> Tensor:
        """hidden of the pass → [B, width], the row of each sequence that pooling names."""
        return hidden if self.pooled is None else hidden[self.pooled]


class Planner:
    """Makes the plans of one model."""

    def __init__(self, spec: ModelSpec, model: ForwardPass, dtype: torch.dtype, device: torch.device) -> None:
        self._spec, self._model, self._dtype = spec, model, dtype
        self._pooling = spec.pooling
        self._is_causal = model.is_causal
        self._last_layer = spec.num_layers - 1
        self._device = device
        sees_all = spec.pooling is Pooling.LAST or (spec.pooling is Pooling.CLS and not model.is_causal)
        self._can_narrow = sees_all  # does the row that pooling names see all others
        fills_up = has_gpu_attention(device, dtype)  # elsewhere nothing is captured
        self._staging = Staging(device, fills_up=fills_up) if device.type == "cuda" else None
        self._prefixes: PrefixStore | None = None
        self._arena: Arena | None = None

    def share_prefixes(self) -> None:
        """From here on what sequences begin with in common runs once: the model computes what it will compute."""
        spec, model, dtype, device = self._spec, self._model, self._dtype, self._device
        if not isinstance(model, Decoder):
            return
        if can_look_back(spec, model, device):
            self._prefixes = PrefixStore(model.key_value_bytes(dtype), device)
        elif can_keep_in_arena(spec, model, dtype, device):
            self._arena = make_arena(model, dtype, device)
            self._prefixes = PrefixStore(model.key_value_bytes(dtype), device, self._arena)

    def cost(self, sequence: Sequence) -> int:
        """Tokens of a sequence that would run: less what a kept prefix has."""
        kept = 0 if self._prefixes is None else self._prefixes.kept_length(sequence)
        return sequence.num_tokens - kept

    def plan(self, batch: Batch, *, needs_all_rows: bool) -> Planned:
        """The plan of a batch."""
        if self._prefixes is not None and not needs_all_rows and (shared := self._prefixes.share(batch)) is not None:
            return self._plan_shared(batch, shared)
        is_narrowed = self._can_narrow and not needs_all_rows
        if self._staging is not None:
            return self._plan_staged(batch, self._staging, is_narrowed=is_narrowed)
        layout = Layout.of(batch.offsets, self._device)
        pooled = None if self._pooling is Pooling.MEAN else pooled_rows(layout, self._pooling)
        ids, positions = self._to_device(batch.ids), self._to_device(batch.positions)
        wanted = _sole_row(layout, self._pooling) or pooled if is_narrowed else None
        types = None if batch.types is None else self._to_device(batch.types)
        rows = _adapter_rows(batch.adapters, batch.offsets, len(ids))
        plan = Plan(ids, positions, layout, self._is_causal, self._last_layer, wanted, types=types, adapters=rows)
        return Planned(plan, layout, None if is_narrowed else pooled)

    def plans_to_capture(self, *, needs_all_rows: bool, has_types: bool) -> Iterator[Plan]:
        """A plan of each shape that small batches are filled up to."""
        staging = self._staging
        if staging is None:
            return
        for shape in shapes():
            ids = np.zeros(shape.tokens, dtype=np.int64)
            offsets = np.array([0, shape.tokens], dtype=np.int64)
            batch = Batch([], [], ids, ids, offsets, ids if has_types else None)  # positions that every model has
            is_narrowed = self._can_narrow and not needs_all_rows
            yield self._plan_staged(batch, staging, is_narrowed=is_narrowed).plan
            if self._arena is not None and is_narrowed:
                nothing = KeptTokens(offsets[:1], offsets[:1], [])
                shared = SharedBatch(ids, ids, offsets, offsets[1:] - 1, None, nothing, [], None)
                yield self._plan_shared_staged(batch, shared, staging, self._arena).plan

    def keep(self, planned: Planned) -> None:
        """The plan has run."""
        if self._prefixes is not None and planned.new:
            self._prefixes.keep(planned.new)

    def _plan_staged(self, batch: Batch, staging: Staging, *, is_narrowed: bool) -> Planned:
        offsets = batch.offsets
        rows = offsets[:-1] if self._pooling is Pooling.CLS else offsets[1:] - 1
        staged = staging.stage(Given(batch.ids, batch.positions, batch.types, offsets, rows))
        views, count = staged.views, len(rows)
        wanted = views.rows if is_narrowed else None
        own = replace(staged.layout, cu_seqlens=views.cu_seqlens[: count + 1])
        pooled = None if is_narrowed or self._pooling is Pooling.MEAN else views.rows[:count]
        causal_to = (self._is_causal, self._last_layer)
        with_adapters = _adapter_rows(batch.adapters, offsets, len(views.ids))
        at = (views.ids, views.positions, staged.layout)
        plan = Plan(*at, *causal_to, wanted, types=views.types, adapters=with_adapters)
        return Planned(plan, own, pooled)

    def _plan_shared_staged(self, batch: Batch, shared: SharedBatch, staging: Staging, arena: Arena) -> Planned:
        kept, first = shared.kept, len(shared.new)
        given = Given(shared.ids, shared.positions, None, shared.offsets, shared.wanted, kept.starts, kept.lengths)
        staged = staging.stage(given)
        views, count = staged.views, len(shared.wanted)
        answered = slice(first, first + count) if first else slice(0, len(views.rows))
        past = KeptRooms(arena, views.starts, views.lengths, staged.layout, answered, kept.new)
        wanted = views.rows[:count] if first else views.rows
        at = (views.ids, views.positions, staged.layout, self._is_causal, self._last_layer)
        rows = _adapter_rows(shared.adapters, shared.offsets, len(views.ids), first)
        plan = Plan(*at, wanted, past, adapters=rows)
        own = replace(staged.layout, offsets=batch.offsets.tolist(), host=torch.from_numpy(batch.offsets))
        return Planned(plan, own, None, shared.new)

    def _plan_shared(self, batch: Batch, shared: SharedBatch) -> Planned:
        if self._staging is not None and self._arena is not None:
            return self._plan_shared_staged(batch, shared, self._staging, self._arena)
        layout, wanted = Layout.of(shared.offsets, self._device), self._to_device(shared.wanted)
        ids, positions = self._to_device(shared.ids), self._to_device(shared.positions)
        rows = _adapter_rows(shared.adapters, shared.offsets, len(ids), len(shared.new))
        at = (ids, positions, layout, self._is_causal, self._last_layer)
        plan = Plan(*at, wanted, shared.past, adapters=rows)
        return Planned(plan, Layout.of(batch.offsets, self._device), None, shared.new)

    def _to_device(self, array: IntArray) -> Tensor:
        return to_device(array, self._device)


def can_look_back(spec: ModelSpec, model: ForwardPass, device: torch.device) -> bool:
    """Can rows run apart from those before them, joined to those? Not where those make the answer too."""
    return device.type == "cpu" and model.is_causal and spec.pooling is Pooling.LAST


def can_keep_in_arena(spec: ModelSpec, model: ForwardPass, dtype: torch.dtype, device: torch.device) -> bool:
    """Does the attention of this device read what is kept where it lies? Not in float32."""
    looks_back = model.is_causal and spec.pooling is Pooling.LAST
    return looks_back and has_gpu_attention(device, dtype)


def make_arena(model: Decoder, dtype: torch.dtype, device: torch.device) -> Arena:
    _, kv_heads, head_dim = model.heads
    return Arena(len(model.layers), ARENA_BYTES // model.key_value_bytes(dtype), kv_heads * head_dim, dtype, device)


def _adapter_rows(adapters: list[str] | None, offsets: IntArray, num_rows: int, num_new: int = 0) -> AdapterRows | None:
    return None if adapters is None else AdapterRows.of(adapters, offsets.tolist(), num_rows, num_new)


def _sole_row(layout: Layout, pooling: Pooling) -> slice | None:
    """The row that pooling names, where there is one sequence: a view will do, and nothing is gathered."""
    if len(layout.offsets) != 2:
        return None
    row = 0 if pooling is Pooling.CLS else layout.offsets[1] - 1
    return slice(row, row + 1)


def pooled_rows(layout: Layout, pooling: Pooling) -> Tensor:
    """The row of each sequence that pooling names, [B]: by length, never by a token id."""
    return layout.cu_seqlens[:-1].long() if pooling is Pooling.CLS else layout.cu_seqlens[1:].long() - 1
