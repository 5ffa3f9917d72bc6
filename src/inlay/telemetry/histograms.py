"""How many of a thing fell into each bucket, by a label: Prometheus' histogram, counted in under a microsecond."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence

from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

INFINITY = float("inf")


class Histograms(Collector):
    """One histogram for each value of a label; those of `known` are there before anything is counted."""

    def __init__(self, name: str, about: str, label: str, buckets: Sequence[float], known: Iterable[str] = ()) -> None:
        self._about = (name, about, label)
        self._buckets = tuple(buckets)
        self._numbers: dict[str, list[int]] = {}  # by label, how many fell into each bucket, and above all
        self._sums: dict[str, float] = {}
        for value in known:
            self.add(value)

    def add(self, label: str) -> list[int]:
        """A histogram of nothing yet."""
        self._sums[label] = 0.0
        numbers = self._numbers[label] = [0] * (len(self._buckets) + 1)
        return numbers

    def observe(self, label: str, value: float) -> None:
        self.observe_many(label, (value,))

    def observe_many(self, label: str, values: Sequence[float]) -> None:
        numbers = self._numbers.get(label) or self.add(label)
        for value in values:
            numbers[bisect_left(self._buckets, value)] += 1
        self._sums[label] += sum(values)

    def collect(self) -> Iterator[Metric]:
        name, about, label = self._about
        family = HistogramMetricFamily(name, about, labels=[label])
        for value, numbers in list(self._numbers.items()):
            family.add_metric([value], cumulated(self._buckets, numbers), self._sums[value])
        yield family


def cumulated(buckets: Sequence[float], numbers: Sequence[int]) -> list[tuple[str, float]]:
    """Numbers of each bucket, and above all, as Prometheus has them: of each with all below it."""
    total, listed = 0, []
    for bound, number in zip((*buckets, INFINITY), numbers, strict=True):
        total += number
        listed.append(("+Inf" if bound == INFINITY else str(float(bound)), float(total)))
    return listed
