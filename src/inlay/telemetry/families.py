"""The numbers of one process as data, and those of several as the one text that Prometheus scrapes.

In: registries, each in its process. Out: families that can be sent to another process; there a text in which each
sample has the label `process`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from msgspec import Struct
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

PROCESS = "process"  # the label


class Family(Struct, frozen=True, array_like=True):
    """Numbers of one name, as Prometheus has them."""

    name: str
    about: str
    kind: str
    samples: list[tuple[str, dict[str, str], float]]  # name, labels, value


def families_of(registry: CollectorRegistry) -> list[Family]:
    """What a registry holds now."""
    return [
        Family(
            metric.name,
            metric.documentation,
            metric.type,
            [(sample.name, dict(sample.labels), float(sample.value)) for sample in metric.samples],
        )
        for metric in registry.collect()
    ]


def render_families(by_process: Mapping[str, list[Family]]) -> bytes:
    """The text that Prometheus scrapes, of several processes."""
    registry = CollectorRegistry()
    registry.register(_Merged(by_process))
    return generate_latest(registry)


class _Merged(Collector):
    """Families of the same name from several processes as one."""

    def __init__(self, by_process: Mapping[str, list[Family]]) -> None:
        self._by_process = by_process

    def collect(self) -> Iterator[Metric]:
        merged: dict[str, Metric] = {}
        for process, families in self._by_process.items():
            for family in families:
                metric = merged.setdefault(family.name, Metric(family.name, family.about, family.kind))
                for name, labels, value in family.samples:
                    metric.add_sample(name, {PROCESS: process, **labels}, value)
        yield from merged.values()
