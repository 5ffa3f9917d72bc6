"""Numbers of several processes are one text, each sample with its process."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.parser import text_string_to_metric_families

from inlay.telemetry.families import families_of, render_families


def registry(number: float) -> CollectorRegistry:
    made = CollectorRegistry()
    Counter("inlay_requests", "Requests", ["route"], registry=made).labels("/x").inc(number)
    Gauge("inlay_ready", "Ready", registry=made).set(number)
    Histogram("inlay_seconds", "Seconds", registry=made, buckets=(1, 2)).observe(number)
    return made


def test_each_sample_has_its_process_and_each_name_comes_once() -> None:
    text = render_families({name: families_of(registry(number)) for name, number in (("a", 1.0), ("b", 5.0))}).decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert text.count("# TYPE inlay_requests_total counter") == 1
    found = {
        (sample.labels["process"], sample.labels["route"]): sample.value
        for sample in families["inlay_requests"].samples
        if sample.name.endswith("_total")
    }
    assert found == {("a", "/x"): 1.0, ("b", "/x"): 5.0}
    assert {sample.labels["process"]: sample.value for sample in families["inlay_ready"].samples} == {
        "a": 1.0,
        "b": 5.0,
    }
    assert 'inlay_seconds_bucket{le="1.0",process="a"} 1.0' in text
    assert 'inlay_seconds_bucket{le="1.0",process="b"} 0.0' in text
