"""Makes a loaded model int8 where that holds, and measures it: no product is quantised on trust.

In: a forward pass with its weights, and a way to run it on sample text. Out: the same with its products made, and
a `QuantisationReport`. In a first run every product computes in the float dtype and, from the same input, in int8;
products that miss a row by more than `MOST_MISSED` stay in the float dtype, and the whole runs again. If the vectors
are then not as near to the first run's as asked, more products go back, those first whose going back helps most.
Knows nothing of files, tokenizers and devices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from inlay.errors import ModelError
from inlay.models.forward import ForwardPass
from inlay.ops.convert import rows_in
from inlay.ops.int8 import form_for, make_int8_product
from inlay.ops.linear import PlainProduct, Product, Weights, make_product
from inlay.ops.rows import Form, Rows

Run = Callable[[Sequence[int]], Tensor]  # sample texts by their places → their vectors [B, width]

SLACK_OF_WORST = 4.0  # the worst text may be so many times as far away as the mean
FURTHEST = 4  # texts that the search for more products to keep looks at
MOST_MISSED = 0.05  # relative error of a row; a row without massive activations is missed by 0.01 to 0.04
MOST_KEPT = 0.5  # share of products in the float dtype beyond which int8 is not worth its name


@dataclass(frozen=True, slots=True)
class QuantisationReport:
    """How near int8 comes to the float dtype on sample text."""

    mean_cosine: float
    worst_cosine: float
    kept: tuple[str, ...]  # products that stay in the float dtype
    errors: dict[str, float]  # of every product: relative error of the row that int8 misses most


def quantise(
    model: ForwardPass, run: Run, num_texts: int, dtype: torch.dtype, least_cosine: float
) -> QuantisationReport:
    """Make the products of a model, measured on the vectors that `run` gives of so many sample texts.

    `ModelError` when the mean cosine cannot be reached with at least half of the products in int8.
    """
    candidates: dict[str, Candidate] = {}

    def make(name: str, weights: Weights) -> Product:
        return candidates.setdefault(name, Candidate(weights, dtype))

    model.prepare(make)
    texts = range(num_texts)
    reference = run(texts)
    for candidate in candidates.values():
        candidate.choose()
    cosines = Cosines.between(run(texts), reference)
    if not cosines.are_within(least_cosine):
        step, hardest = 1, _rank(candidates, run, cosines.furthest, reference)
        while not cosines.are_within(least_cosine):
            for name in hardest[:step]:
                candidates[name].choose_float()
            hardest, step = hardest[step:], 2 * step
            if len(_kept(candidates)) > MOST_KEPT * len(candidates):
                raise ModelError(
                    f"int8 has a mean cosine of {cosines.mean:.5f} (worst {cosines.worst:.5f}) to {dtype} with half of "
                    f"the products kept out of it, and {least_cosine} is asked for: use --dtype bfloat16, or ask for "
                    "less with --int8-cosine"
                )
            cosines = Cosines.between(run(texts), reference)
    for name, _, projection in model.projections():
        projection.product = candidates[name].chosen
    errors = {name: round(candidate.error, 5) for name, candidate in candidates.items()}
    return QuantisationReport(cosines.mean, cosines.worst, _kept(candidates), errors)


@dataclass(frozen=True, slots=True)
class Cosines:
    """Of vectors to their references."""

    mean: float
    worst: float
    furthest: list[int]  # places of a few that are worst

    @classmethod
    def between(cls, found: Tensor, reference: Tensor) -> Cosines:
        cosines = cosine_similarity(found.double(), reference.double())
        furthest: list[int] = cosines.argsort()[:FURTHEST].tolist()
        return cls(float(cosines.mean()), float(cosines.min()), furthest)

    def are_within(self, least: float) -> bool:
        return self.mean >= least and self.worst >= 1 - SLACK_OF_WORST * (1 - least)


def _kept(candidates: Mapping[str, Candidate]) -> tuple[str, ...]:
    return tuple(sorted(name for name, candidate in candidates.items() if not candidate.takes.is_bytes))


def _rank(candidates: Mapping[str, Candidate], run: Run, texts: list[int], reference: Tensor) -> list[str]:
    """The int8 products by how much nearer some texts come when one alone leaves int8, the most first.

    A product's own error does not tell: what counts is how far it carries.
    """
    gains: dict[str, float] = {}
    for name, candidate in candidates.items():
        if not candidate.takes.is_bytes:
            continue
        candidate.choose_float()
        gains[name] = Cosines.between(run(texts), reference[texts]).mean
        candidate.choose_int8()
    return sorted(gains, key=lambda name: gains[name], reverse=True)


class Candidate:
    """A product that is not decided yet: measured when it runs first, in the float dtype."""

    def __init__(self, weights: Weights, dtype: torch.dtype) -> None:
        self.error = 0.0
        self.takes = Form(dtype)
        self.chosen: Product | None = None
        self._weights = weights
        self._dtype = dtype
        self._int8: Product | None = None

    def __call__(self, x: Rows) -> Rows:
        return self._measure(x) if self.chosen is None else self.chosen(x)

    def choose(self) -> None:
        """Int8, unless it misses a row by too much."""
        if self.error > MOST_MISSED:
            self.choose_float()
        else:
            self.choose_int8()

    def choose_int8(self) -> None:
        if self._int8 is None:
            raise ModelError("a product of the model did not run on the sample text: int8 cannot be measured")
        self._choose(self._int8)

    def choose_float(self) -> None:
        self._choose(make_product(self._weights))

    def _choose(self, product: Product) -> None:
        self.chosen, self.takes = product, product.takes

    def _measure(self, x: Rows) -> Rows:
        y = PlainProduct(self._weights.joined(), self._weights.bias())(x)
        self._int8 = make_int8_product(self._weights, self._dtype, form_for(x.values, self._weights))
        expected = y.values.float()
        missed = self._int8(rows_in(x.values, self._int8.takes)).full() - expected
        sizes = expected.norm(dim=1).clamp_min(torch.finfo(torch.float32).tiny)
        self.error = float((missed.norm(dim=1) / sizes).max())
        return y
