"""The numbers an operator watches, in Prometheus' form, on a registry of their own.

Requests are counted as they end; engines and caches keep plain counters that are read when scraped, so
that the hot path pays nothing for them. Labels are bounded: models, known routes, statuses, tiers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from inlay.requests import Result
from inlay.telemetry.latencies import Latencies
from inlay.types import Worker, WorkerStats

LATENCY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Tiers(Protocol):
    """What is read of a cache: for each tier its name and its numbers."""

    def numbers(self) -> list[tuple[str, Mapping[str, float]]]: ...


class Metrics:
    """Everything that /metrics shows."""

    def __init__(self, workers: Mapping[str, Worker], cache: Tiers) -> None:
        self.registry = CollectorRegistry()
        own: dict[str, Any] = {"registry": self.registry, "namespace": "inlay"}
        # Plain numbers, read when scraped: prometheus' own counters cost a microsecond each time.
        self._requests: dict[tuple[str, str], float] = defaultdict(float)
        self._inputs: dict[tuple[str, str], float] = defaultdict(float)
        self._tokens: dict[tuple[str, str], float] = defaultdict(float)
        self._outputs: dict[tuple[str, str], float] = defaultdict(float)
        self._seconds = Latencies("inlay_request_seconds", "Time to answer a request", "route", LATENCY_BUCKETS)
        self.registry.register(self._seconds)
        self._truncated = Counter("truncated_inputs", "Inputs that were cut as asked", ["model"], **own)
        self._repeated = Counter("repeated_requests", "Requests answered as the same body was before", **own)
        self._ignored = Counter("ignored_fields", "Requests with fields that were ignored", **own)
        self.num_in_flight = 0
        Gauge("requests_in_flight", "Requests being answered", **own).set_function(lambda: self.num_in_flight)
        self.registry.register(
            _Counts(
                ("inlay_requests", "Requests answered", ("route", "status"), self._requests),
                ("inlay_inputs", "Inputs embedded", ("model", "source"), self._inputs),
                ("inlay_input_tokens", "Tokens of the inputs", ("model", "source"), self._tokens),
                ("inlay_outputs", "Outputs given, by kind", ("model", "kind"), self._outputs),
            )
        )
        self.registry.register(_WorkerCollector(workers))
        self.registry.register(_CacheCollector(cache))

    def count_request(self, route: str, status: int, seconds: float) -> None:
        self._requests[route, str(status)] += 1
        self._seconds.observe(route, seconds)

    def count_result(self, result: Result) -> None:
        if result.num_hits:
            self._inputs[result.model, "cache"] += result.num_hits
            self._tokens[result.model, "cache"] += result.cached_tokens
        if result.num_hits < result.num_inputs:
            self._inputs[result.model, "model"] += result.num_inputs - result.num_hits
            self._tokens[result.model, "model"] += result.num_tokens - result.cached_tokens
        for kind in result.kinds:
            self._outputs[result.model, kind] += result.num_inputs
        if result.truncated:
            self._truncated.labels(result.model).inc(len(result.truncated))

    def count_repeated(self, result: Result) -> None:
        """A request whose reply was known, by the result that it had."""
        self._repeated.inc()
        self.count_result(result)

    def count_ignored_fields(self) -> None:
        self._ignored.inc()

    def watch_jobs(self, numbers: Callable[[], Mapping[str, float]]) -> None:
        """Show the numbers of jobs, too; they are read when scraped."""
        self.registry.register(_JobCollector(numbers))

    def render(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self.registry)


class _Counts(Collector):
    """Counters kept as plain numbers by their labels."""

    def __init__(self, *counts: tuple[str, str, tuple[str, str], Mapping[tuple[str, str], float]]) -> None:
        self._counts = counts

    def collect(self) -> Iterator[Metric]:
        for name, about, labels, numbers in self._counts:
            family = CounterMetricFamily(name, about, labels=labels)
            for values, number in list(numbers.items()):
                family.add_metric(values, number)
            yield family


class _WorkerCollector(Collector):
    COUNTERS = tuple(name for name in WorkerStats.__struct_fields__ if name != "tokens_per_second")

    def __init__(self, workers: Mapping[str, Worker]) -> None:
        self._workers = workers

    def collect(self) -> Iterator[Metric]:
        engines = {model: worker for model, worker in self._workers.items() if not worker.shares_engine}
        for name in self.COUNTERS:
            family = CounterMetricFamily(f"inlay_engine_{name}", f"Engine: {name} since start", labels=["model"])
            for model, worker in engines.items():
                family.add_metric([model], getattr(worker.stats, name))
            yield family
        rate = GaugeMetricFamily("inlay_engine_tokens_per_second", "Recent rate of the device", labels=["model"])
        queued = GaugeMetricFamily("inlay_engine_queued_tokens", "Tokens waiting for the device", labels=["model"])
        ready = GaugeMetricFamily("inlay_engine_ready", "1 when the model is loaded", labels=["model"])
        held = GaugeMetricFamily("inlay_engine_device_bytes", "Memory of the GPU that is held", labels=["model"])
        for model, worker in engines.items():
            held.add_metric([model], worker.device_bytes)
            rate.add_metric([model], worker.stats.tokens_per_second)
            queued.add_metric([model], worker.queued_tokens)
        for model, worker in self._workers.items():
            ready.add_metric([model], float(worker.is_ready))
        yield from (rate, queued, ready, held)


class _CacheCollector(Collector):
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


class _JobCollector(Collector):
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
