"""Makes a loaded model int8 or FP8 where that holds, and measures it: no product is quantised on trust.

In: a forward pass with its weights, and a way to run it on sample text. Out: the same with its products made, and
a `QuantisationReport`. In a first run every product computes in the float dtype and, from the same input, quantised;
products that miss a row by too much stay in the float dtype, and the whole runs again. If the vectors are then not as
near to the first run's as asked, more products go back, those first whose going back helps most.
Knows nothing of files, tokenizers and devices.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from inlay.errors import ModelError
from inlay.models.forward import ForwardPass
from inlay.ops.convert import rows_in
from inlay.ops.fp8 import Fp8Product, can_multiply_fp8
from inlay.ops.int8 import form_for, make_int8_product
from inlay.ops.linear import PlainProduct, Product, Weights, make_product
from inlay.ops.rows import Form, Rows

Run = Callable[[Sequence[int]], Tensor]  # sample texts by their places → their vectors [B, width]

FURTHEST = 4  # texts that the search for more products to keep looks at
MOST_KEPT = 0.5  # share of products in the float dtype beyond which the quantised one is not worth its name


@dataclass(frozen=True, slots=True)
class Scheme:
    """What products are quantised to, and what they are held to."""

    name: str
    make: Callable[[Tensor, Weights, torch.dtype], Product | None]  # from activations; None where it cannot be
    most_missed: float  # relative error of a row
    slack_of_worst: float  # the worst text may be so many times as far away as the mean
    remedy: str


def _make_int8(activations: Tensor, weights: Weights, dtype: torch.dtype) -> Product:
    return make_int8_product(weights, dtype, form_for(activations, weights))


def _make_fp8(activations: Tensor, weights: Weights, dtype: torch.dtype) -> Product | None:
    widths_do = all(can_multiply_fp8(part) for part in weights.parts)
    return Fp8Product(weights, dtype) if widths_do else None


# A row without massive activations is missed by 0.01 to 0.04 in int8, and by about 0.04 in FP8, which has three bits of
# fraction for both factors.
INT8 = Scheme("int8", _make_int8, 0.05, 4.0, "use --dtype bfloat16, or ask for less with --int8-cosine")
FP8 = Scheme("fp8", _make_fp8, 0.1, 20 / 3, "use --dtype bfloat16")


@dataclass(frozen=True, slots=True)
class QuantisationReport:
    """How near int8 comes to the float dtype on sample text."""

    mean_cosine: float
    worst_cosine: float
    kept: tuple[str, ...]  # products that stay in the float dtype
    errors: dict[str, float]  # of every product: relative error of the row that int8 misses most


def quantise(
    model: ForwardPass, run: Run, num_texts: int, dtype: torch.dtype, least_cosine: float, scheme: Scheme = INT8
) -> QuantisationReport:
    """Make the products of a model, measured on the vectors that `run` gives of so many sample texts.

    `ModelError` when the mean cosine cannot be reached with at least half of the products quantised.
    """
    candidates: dict[str, Candidate] = {}

    def make(name: str, weights: Weights) -> Product:
        return candidates.setdefault(name, Candidate(weights, dtype, scheme))

    model.prepare(make)
    if not candidates:
        raise ModelError(f"the model has no products, so {scheme.name} has nothing to gain: leave out --dtype")
    texts = range(num_texts)
    reference = run(texts)
    for candidate in candidates.values():
        candidate.choose()
    cosines = Cosines.between(run(texts), reference)
    if not cosines.are_within(least_cosine, scheme):
        step, hardest = 1, _rank(candidates, run, cosines.furthest, reference)
        while not cosines.are_within(least_cosine, scheme):
            for name in hardest[:step]:
                candidates[name].choose_float()
            hardest, step = hardest[step:], 2 * step
            if len(_kept(candidates)) > MOST_KEPT * len(candidates):
                raise ModelError(
                    f"{scheme.name} has a mean cosine of {cosines.mean:.5f} (worst {cosines.worst:.5f}) to {dtype} "
                    f"with half of the products kept out of it, and {least_cosine} is asked for: {scheme.remedy}"
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

    def are_within(self, least: float, scheme: Scheme) -> bool:
        return self.mean >= least and self.worst >= 1 - scheme.slack_of_worst * (1 - least)


def _kept(candidates: Mapping[str, Candidate]) -> tuple[str, ...]:
    return tuple(sorted(name for name, candidate in candidates.items() if not candidate.is_quantised))


def _rank(candidates: Mapping[str, Candidate], run: Run, texts: list[int], reference: Tensor) -> list[str]:
    """The quantised products by how much nearer some texts come when one alone goes back, the most first.

    A product's own error does not tell: what counts is how far it carries.
    """
    gains: dict[str, float] = {}
    for name, candidate in candidates.items():
        if not candidate.is_quantised:
            continue
        candidate.choose_float()
        gains[name] = Cosines.between(run(texts), reference[texts]).mean
        candidate.choose_quantised()
    return sorted(gains, key=lambda name: gains[name], reverse=True)


class Candidate:
    """A product that is not decided yet: measured when it runs first, in the float dtype."""

    def __init__(self, weights: Weights, dtype: torch.dtype, scheme: Scheme) -> None:
        self.error = 0.0
        self.takes = Form(dtype)
        self.chosen: Product | None = None
        self._weights = weights
        self._dtype = dtype
        self._scheme = scheme
        self._quantised: Product | None = None

    def __call__(self, x: Rows) -> Rows:
        return self._measure(x) if self.chosen is None else self.chosen(x)

    @property
    def is_quantised(self) -> bool:
        return self.chosen is not None and self.chosen is self._quantised

    def choose(self) -> None:
        """Quantised, unless it misses a row by too much."""
        if self.error > self._scheme.most_missed:
            self.choose_float()
        else:
            self.choose_quantised()

    def choose_quantised(self) -> None:
        if self._quantised is None:
            raise ModelError(
                f"a product of the model did not run on the sample text: {self._scheme.name} cannot be measured"
            )
        self._choose(self._quantised)

    def choose_float(self) -> None:
        self._choose(make_product(self._weights))

    def _choose(self, product: Product) -> None:
        self.chosen, self.takes = product, product.takes

    def _measure(self, x: Rows) -> Rows:
        y = PlainProduct(self._weights.joined(), self._weights.bias())(x)
        self._quantised = self._scheme.make(x.values, self._weights, self._dtype)
        if self._quantised is None:
            self.error = math.inf
            return y
        expected = y.values.float()
        missed = self._quantised(rows_in(x.values, self._quantised.takes)).full() - expected
        sizes = expected.norm(dim=1).clamp_min(torch.finfo(torch.float32).tiny)
        self.error = float((missed.norm(dim=1) / sizes).max())
        return y
