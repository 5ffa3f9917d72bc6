"""The numbers an operator watches, in Prometheus' form, on a registry of their own.

Requests are counted as they end; engines and caches keep plain counters that are read when scraped, so
that the hot path pays nothing for them. Labels are bounded: models, known routes, statuses, tiers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from inlay.requests import Result
from inlay.telemetry.collectors import (
    BuildCollector,
    CacheCollector,
    CallerCollector,
    Callers,
    EngineCollector,
    JobCollector,
    ReadyCollector,
    Tiers,
)
from inlay.telemetry.families import Family, families_of
from inlay.telemetry.histograms import Histograms
from inlay.types import Worker

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
TOKENS = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 32768)
SOURCES = ("cache", "model")
WATCHED = ("200", "429", "500", "503", "504")  # statuses that are told of before they come: rates begin at nothing


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
        self._fallbacks: dict[tuple[str, str], float] = defaultdict(float)
        self._begin(workers)
        self._seconds = Histograms("inlay_request_seconds", "Time to answer a request", "route", SECONDS)
        queued = "Time that requests waited for the device, tokenising included, without those that a cache answered"
        self._queue = Histograms("inlay_queue_seconds", queued, "model", SECONDS, workers)
        self._lengths = Histograms("inlay_input_length_tokens", "Tokens of an input", "model", TOKENS, workers)
        for histograms in (self._seconds, self._queue, self._lengths):
            self.registry.register(histograms)
        self._truncated = Counter("truncated_inputs", "Inputs that were cut as asked", ["model"], **own)
        for model in workers:
            self._truncated.labels(model)
        self._repeated = Counter("repeated_requests", "Requests answered as the same body was before", **own)
        self._ignored = Counter("ignored_fields", "Requests with fields that were ignored", **own)
        self.num_in_flight = 0
        Gauge("requests_in_flight", "Requests being answered", **own).set_function(lambda: self.num_in_flight)
        self.registry.register(
            _Counts(
                ("inlay_requests", "Requests answered", ("route", "status"), self._requests),
                ("inlay_inputs", "Inputs embedded", ("model", "source"), self._inputs),
                ("inlay_input_tokens", "Tokens of the inputs", ("model", "source"), self._tokens),
                ("inlay_fallbacks", "Requests that another model answered", ("model", "reason"), self._fallbacks),
                ("inlay_outputs", "Outputs given, by kind", ("model", "kind"), self._outputs),
            )
        )
        for collector in (
            EngineCollector(workers),
            ReadyCollector(workers),
            CacheCollector(cache),
            BuildCollector(),
        ):
            self.registry.register(collector)
        ProcessCollector(registry=self.registry)

    def expect_routes(self, paths: Iterable[str]) -> None:
        """Count their requests from nothing on, so that the first refusal is seen as one."""
        for path in paths:
            self._seconds.add(path)
            for status in WATCHED:
                self._requests[path, status] = 0.0

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
            self._queue.observe(result.model, result.queue_seconds)
        self._lengths.observe_many(result.model, result.item_tokens)
        for kind in result.kinds:
            self._outputs[result.model, kind] += result.num_inputs
        if result.fallback is not None:
            self._fallbacks[result.fallback.asked, result.fallback.reason] += 1
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
        self.registry.register(JobCollector(numbers))

    def watch_callers(self, callers: Callers) -> None:
        """Show what each key has used."""
        if callers:
            self.registry.register(CallerCollector(callers))

    def _begin(self, workers: Mapping[str, Worker]) -> None:
        """What every model will count, from nothing on."""
        for model, worker in workers.items():
            for source in SOURCES:
                self._inputs[model, source] = self._tokens[model, source] = 0.0
            for kind in worker.spec.outputs:
                self._outputs[model, kind] = 0.0

    def render(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self.registry)

    def families(self) -> list[Family]:
        """The same as data, for another process."""
        return families_of(self.registry)


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
