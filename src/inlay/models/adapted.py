"""Adapters that share their base's weights: each product of the base, and what a row's adapter adds to it.

In: a forward pass, the small matrices of its adapters, and before each pass which rows are whose. Out: products that
give W x + s·B (A x) for rows with an adapter, and for others what they gave before. Rows of one adapter are computed
together. Could be deleted, and then each adapter would need weights of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from inlay.errors import ModelError
from inlay.models.adapter_rows import Run, RunsOf
from inlay.models.forward import ForwardPass
from inlay.models.lora import LowRank
from inlay.models.parts import Linear
from inlay.ops.linear import Product
from inlay.ops.low_rank import LowRankFactors, add_low_rank
from inlay.ops.rows import Form, Rows

LowRanks = Mapping[str, LowRank]  # of one adapter, by the names of weights


@dataclass(frozen=True, slots=True)
class Part:
    """What an adapter adds to one of the linears of a projection."""

    low_rank: LowRank
    columns: slice  # of the projection's result
    scales: Tensor | None = None  # [out], of DoRA: times the sum
    shift: Tensor | None = None  # [out], that a bias wants which is in the sum, and is not to be scaled

    def factors(self, takes: Form, dtype: torch.dtype) -> LowRankFactors:
        """For rows in a form, whose multipliers, if it has any, A takes back."""
        a = self.low_rank.a if takes.multipliers is None else self.low_rank.a / takes.multipliers
        return LowRankFactors.of(a, self.low_rank.b, dtype, self.scales, self.shift)


class AdapterSet:
    """The adapters of one model. Made of its weights, before products are made of them."""

    def __init__(self, model: ForwardPass, adapters: Mapping[str, LowRanks]) -> None:
        self._model = model
        self._runs_of: RunsOf | None = None
        self._parts: dict[str, dict[str, list[Part]]] = {}  # by projection, by adapter
        paths = {module: path for path, module in model.named_modules()}
        for name, _, projection in model.projections():
            linears = [(f"{paths[linear]}.weight", linear) for linear in projection.linears]
            of_each = {adapter: _parts(linears, low_ranks) for adapter, low_ranks in adapters.items()}
            self._parts[name] = {adapter: parts for adapter, parts in of_each.items() if parts}

    def install(self, dtype: torch.dtype) -> None:
        """Give the products, which are there now, what the adapters add."""
        for name, _, projection in self._model.projections():
            base, parts = projection.product, self._parts.pop(name)
            if base is not None and parts:
                projection.product = AdaptedProduct(base, parts, self, dtype)

    @contextmanager
    def on(self, runs_of: RunsOf) -> Iterator[None]:
        """What runs meanwhile has its adapters by these runs."""
        self._runs_of = runs_of
        try:
            yield
        finally:
            self._runs_of = None

    def runs(self, count: int) -> Sequence[Run]:
        """Of a product of so many rows."""
        return () if self._runs_of is None else self._runs_of(count)


class AdaptedProduct:
    """A product of the base, to which rows with an adapter add what that gives."""

    def __init__(
        self, base: Product, adapters: Mapping[str, Sequence[Part]], owner: AdapterSet, dtype: torch.dtype
    ) -> None:
        self.takes = base.takes
        self._base = base
        self._owner = owner
        self._factors = {
            adapter: [(part.factors(base.takes, dtype), part.columns) for part in parts]
            for adapter, parts in adapters.items()
        }

    def __call__(self, x: Rows) -> Rows:
        y = self._base(x)
        runs = [run for run in self._owner.runs(len(x.values)) if run.adapter in self._factors]
        if not runs:
            return y
        y = y.computed()
        for run in runs:
            given, own = _rows_of(x, run.rows), _rows_of(y, run.rows)
            for factors, columns in self._factors[run.adapter]:
                add_low_rank(own, given, factors, columns)
        return y


def _parts(linears: Sequence[tuple[str, Linear]], low_ranks: LowRanks) -> list[Part]:
    parts, start = [], 0
    for name, linear in linears:
        end = start + len(linear.weight)
        if (low_rank := low_ranks.get(name)) is not None:
            parts.append(_part(low_rank.on(linear.weight.device), slice(start, end), linear))
        start = end
    return parts


def _part(low_rank: LowRank, columns: slice, linear: Linear) -> Part:
    if low_rank.magnitude is None:
        return Part(low_rank, columns)
    if not linear.weight.is_floating_point():
        raise ModelError("DoRA beside an int8 checkpoint is not supported: serve the original")
    scales = low_rank.magnitude / low_rank.sum_with(linear.weight.data).norm(dim=1)
    return Part(low_rank, columns, scales, None if linear.bias is None else linear.bias.data.float() * (1 - scales))


def _rows_of(x: Rows, rows: slice) -> Rows:
    return Rows(x.values[rows], None if x.scales is None else x.scales[rows], x.bias, x.zero_point)
