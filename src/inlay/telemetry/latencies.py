"""How long requests took, by route, as Prometheus' histogram; counted in a fraction of a microsecond."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

INFINITY = float("inf")


class Latencies(Collector):
    """One histogram with a label."""

    def __init__(self, name: str, about: str, label: str, buckets: tuple[float, ...]) -> None:
        self._about = (name, about, label)
        self._buckets = buckets
        self._numbers: dict[str, list[int]] = {}  # by label, how many fell into each bucket, and above all
        self._sums: dict[str, float] = {}

    def observe(self, label: str, seconds: float) -> None:
        numbers = self._numbers.get(label)
        if numbers is None:
            self._sums[label] = 0.0
            numbers = self._numbers[label] = [0] * (len(self._buckets) + 1)
        numbers[bisect_left(self._buckets, seconds)] += 1
        self._sums[label] += seconds

    def collect(self) -> Iterator[Metric]:
        name, about, label = self._about
        family = HistogramMetricFamily(name, about, labels=[label])
        for value, numbers in list(self._numbers.items()):
            total, listed = 0, []
            for bound, number in zip((*self._buckets, INFINITY), numbers, strict=True):
                total += number
                listed.append(("+Inf" if bound == INFINITY else str(float(bound)), total))
            family.add_metric([value], listed, self._sums[value])
        yield family
