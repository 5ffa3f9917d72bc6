"""What /metrics shows, as Prometheus' own parser reads it."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from fakes import FakeWorker
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

import inlay
from inlay.cache.tiers import Cache
from inlay.engine.stats import EngineStats
from inlay.telemetry.histograms import Histograms
from inlay.telemetry.metrics import SOURCES, TOKENS, WATCHED, Metrics
from inlay.types import BATCH_TOKENS


def shown(metrics: Metrics) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(metrics.render().decode())}


def labels_of(family: Metric, suffix: str = "") -> list[dict[str, str]]:
    return [sample.labels for sample in family.samples if sample.name == family.name + suffix]


@pytest.fixture
def metrics() -> Metrics:
    return Metrics({"m": FakeWorker()}, Cache([]))


def test_what_a_model_will_count_is_there_at_nothing(metrics: Metrics) -> None:
    found = shown(metrics)
    for name in ("inlay_inputs", "inlay_input_tokens"):
        assert labels_of(found[name], "_total") == [{"model": "m", "source": source} for source in SOURCES]
        assert all(sample.value == 0 for sample in found[name].samples)
    assert labels_of(found["inlay_outputs"], "_total") == [{"model": "m", "kind": "dense"}]
    for name in ("inlay_queue_seconds", "inlay_input_length_tokens", "inlay_engine_batch_tokens"):
        assert labels_of(found[name], "_count") == [{"model": "m"}]


def test_refusals_are_counted_from_nothing_on(metrics: Metrics) -> None:
    metrics.expect_routes(["/v1/embeddings"])
    requests = shown(metrics)["inlay_requests"]
    assert [one["status"] for one in labels_of(requests, "_total")] == [*WATCHED]
    metrics.count_request("/v1/embeddings", 429, 0.01)
    values = {sample.labels["status"]: sample.value for sample in shown(metrics)["inlay_requests"].samples}
    assert (values["429"], values["200"]) == (1, 0)


def test_the_build_and_the_process_are_told(metrics: Metrics) -> None:
    found = shown(metrics)
    (build,) = labels_of(found["inlay_build_info"])
    assert build["version"] == inlay.__version__
    assert build["torch"].startswith("2.")
    assert found["process_resident_memory_bytes"].samples[0].value > 1 << 20
    assert found["process_cpu_seconds"].samples[0].value > 0


@given(st.lists(st.integers(0, 1 << 17), max_size=50))
def test_a_histogram_counts_each_value_once_in_the_bucket_that_it_fits(values: list[int]) -> None:
    histograms = Histograms("tokens", "about", "model", TOKENS)
    histograms.observe_many("m", values)
    (family,) = histograms.collect()
    for sample in family.samples:
        if sample.name == "tokens_bucket":
            assert sample.value == sum(value <= float(sample.labels["le"]) for value in values)
    assert next(one.value for one in family.samples if one.name == "tokens_sum") == sum(values)


@given(st.lists(st.integers(1, 1 << 17), max_size=20))
def test_batches_are_counted_by_their_tokens(tokens: Iterable[int]) -> None:
    stats = EngineStats()
    for number in tokens:
        stats.record(1, number, 0.1)
    assert sum(stats.batches_by_tokens) == stats.batches
    for place, bound in enumerate(BATCH_TOKENS):
        assert sum(stats.batches_by_tokens[: place + 1]) == sum(number <= bound for number in tokens)
