"""What is read when it is scraped: the numbers that engines, caches and jobs keep for themselves, and the build."""

from __future__ import annotations

import platform
from collections.abc import Callable, Collection, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import ClassVar, Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

import inlay
from inlay.telemetry.histograms import cumulated
from inlay.types import BATCH_TOKENS, WORKER_NUMBERS, Worker


class Tiers(Protocol):
    """What is read of a cache: for each tier its name and its numbers."""

    def numbers(self) -> list[tuple[str, Mapping[str, float]]]: ...


class KeyFacts(Protocol):
    """What is read of a key."""

    @property
    def name(self) -> str: ...


class CallerNumbers(Protocol):
    """What is read of who asks."""

    num_requests: int
    num_refused: int
    num_tokens: int

    @property
    def key(self) -> KeyFacts: ...


Callers = Collection[CallerNumbers]


class BuildCollector(Collector):
    """`inlay_build_info`, always 1: its labels are what is told."""

    def collect(self) -> Iterator[Metric]:
        labels = {"version": inlay.__version__, "python": platform.python_version(), "torch": _version_of("torch")}
        family = GaugeMetricFamily("inlay_build_info", "What runs", labels=list(labels))
        family.add_metric(list(labels.values()), 1)
        yield family


def _version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


class EngineCollector(Collector):
    """What the engines of this process do."""

    COUNTERS = tuple(name for name in WORKER_NUMBERS if name != "tokens_per_second")

    def __init__(self, workers: Mapping[str, Worker]) -> None:
        self._workers = workers

    def collect(self) -> Iterator[Metric]:
        engines = {model: worker for model, worker in self._workers.items() if not worker.is_counted_elsewhere}
        if not engines:
            return
        for name in self.COUNTERS:
            family = CounterMetricFamily(f"inlay_engine_{name}", f"Engine: {name} since start", labels=["model"])
            for model, worker in engines.items():
                family.add_metric([model], getattr(worker.stats, name))
            yield family
        yield self._batch_tokens(engines)
        rate = GaugeMetricFamily("inlay_engine_tokens_per_second", "Recent rate of the device", labels=["model"])
        queued = GaugeMetricFamily("inlay_engine_queued_tokens", "Tokens waiting for the device", labels=["model"])
        held = GaugeMetricFamily("inlay_engine_device_bytes", "Memory of the GPU that is held", labels=["model"])
        for model, worker in engines.items():
            held.add_metric([model], worker.device_bytes)
            rate.add_metric([model], worker.stats.tokens_per_second)
            queued.add_metric([model], worker.queued_tokens)
        yield from (rate, queued, held)

    @staticmethod
    def _batch_tokens(engines: Mapping[str, Worker]) -> HistogramMetricFamily:
        family = HistogramMetricFamily("inlay_engine_batch_tokens", "Tokens of a batch", labels=["model"])
        for model, worker in engines.items():
            stats = worker.stats
            family.add_metric([model], cumulated(BATCH_TOKENS, stats.batches_by_tokens), stats.tokens)
        return family


class ReadyCollector(Collector):
    """Which models this process can serve now."""

    def __init__(self, workers: Mapping[str, Worker]) -> None:
        self._workers = workers

    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily("inlay_engine_ready", "1 when the model is loaded", labels=["model"])
        for model, worker in self._workers.items():
            family.add_metric([model], float(worker.is_ready))
        yield family


class CacheCollector(Collector):
    GAUGES = frozenset({"entries", "bytes", "queued_bytes", "breaker_open"})

    def __init__(self, cache: Tiers) -> None:
        self._cache = cache

    def collect(self) -> Iterator[Metric]:
        families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
        for tier, numbers in self._cache.numbers():
            for what, number in numbers.items():
                if what not in families:
                    kind = GaugeMetricFamily if what in self.GAUGES else CounterMetricFamily
                    families[what] = kind(f"inlay_cache_{what}", f"Cache tier: {what}", labels=["tier"])
                families[what].add_metric([tier], number)
        yield from families.values()


class CallerCollector(Collector):
    """What each key has used, by its name."""

    COUNTERS: ClassVar = {
        "requests": "Requests answered for a key",
        "refused": "Requests refused since a key's tokens were spent",
        "tokens": "Tokens of a key's requests, as usage tells them",
    }

    def __init__(self, callers: Callers) -> None:
        self._callers = callers

    def collect(self) -> Iterator[Metric]:
        for name, about in self.COUNTERS.items():
            family = CounterMetricFamily(f"inlay_key_{name}", about, labels=["key"])
            for caller in self._callers:
                family.add_metric([caller.key.name], getattr(caller, f"num_{name}"))
            yield family


class JobCollector(Collector):
    GAUGES: ClassVar = {
        "unfinished_batches": "Batches that wait or run",
        "bytes": "Bytes of the files of all jobs",
    }

    def __init__(self, numbers: Callable[[], Mapping[str, float]]) -> None:
        self._numbers = numbers

    def collect(self) -> Iterator[Metric]:
        for name, number in self._numbers().items():
            if name in self.GAUGES:
                yield GaugeMetricFamily(f"inlay_jobs_{name}", self.GAUGES[name], value=number)
            else:
                yield CounterMetricFamily(f"inlay_jobs_{name}", f"Jobs: {name} since start", value=number)
