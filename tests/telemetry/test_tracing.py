"""Traces of real requests, as a collector gets them over a socket."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from children import child_of
from collector import Collector, values_of
from servers import RunningServer
from waiting import until

from inlay.errors import ConfigError
from inlay.telemetry import otlp
from inlay.telemetry.otlp import make_tracer
from inlay.telemetry.tracing import Within, current_trace, recorded_trace

SOON = {"OTEL_BSP_SCHEDULE_DELAY": "100"}  # milliseconds until spans are sent


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as made:
        yield made


@pytest.fixture(scope="module")
def server(collector: Collector) -> Iterator[RunningServer]:
    arguments = ("demo", "--isolation", "process", "--otlp-endpoint", collector.url)
    with RunningServer(*arguments, env={**SOON, "OTEL_RESOURCE_ATTRIBUTES": "deployment=test"}) as running:
        yield running


class Asked:
    """A request within somebody's trace, and its spans."""

    def __init__(
        self, server: RunningServer, body: object, *, is_sampled: bool = True, tracestate: str | None = None
    ) -> None:
        self.trace_id, self.parent_id = secrets.token_hex(16), secrets.token_hex(8)
        traceparent = f"00-{self.trace_id}-{self.parent_id}-{int(is_sampled):02x}"
        headers = {"traceparent": traceparent, **({} if tracestate is None else {"tracestate": tracestate})}
        self.reply = server.post(body, headers=headers)

    def spans(self, collector: Collector) -> dict[str, Any]:
        """By name, once the request's own has come, which is the last of them."""
        spans = collector.wait(lambda spans: any(self._is_root(span) for span in spans))
        return {span.name: span for span in spans if span.trace_id.hex() == self.trace_id}

    def _is_root(self, span: Any) -> bool:
        return span.trace_id.hex() == self.trace_id and span.parent_span_id.hex() == self.parent_id


def test_a_request_is_a_span_with_its_parts(server: RunningServer, collector: Collector) -> None:
    asked = Asked(server, {"input": ["a secret text", "another"], "user": "u"})
    spans = asked.spans(collector)
    assert set(spans) == {"POST /v1/embeddings", "embeddings demo", "cache memory", "queue", "model"}
    root, operation = spans["POST /v1/embeddings"], spans["embeddings demo"]
    assert values_of(root.attributes) == {
        "http.request.method": "POST",
        "http.route": "/v1/embeddings",
        "url.path": "/v1/embeddings",
        "http.response.status_code": 200,
        "inlay.request_id": asked.reply.headers["x-request-id"],
    }
    assert root.kind == root.SPAN_KIND_SERVER
    told = values_of(operation.attributes)
    assert told["gen_ai.usage.input_tokens"] == asked.reply.json()["usage"]["prompt_tokens"]
    assert (told["gen_ai.operation.name"], told["gen_ai.request.model"]) == ("embeddings", "demo")
    assert told["inlay.cache"] == "miss"
    assert told["inlay.outputs"] == ["dense"]
    assert operation.parent_span_id == root.span_id
    assert all(spans[name].parent_span_id == operation.span_id for name in ("cache memory", "queue", "model"))
    assert values_of(spans["cache memory"].attributes) == {"inlay.keys": 2, "inlay.hits": 0}
    for span in spans.values():
        assert root.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
        assert span.end_time_unix_nano <= root.end_time_unix_nano + 1_000_000
    assert spans["model"].start_time_unix_nano < spans["model"].end_time_unix_nano


def test_a_batch_is_a_trace_of_its_own_with_links_to_its_requests(server: RunningServer, collector: Collector) -> None:
    asked = Asked(server, {"input": ["one", "two", "three"]})
    root = asked.spans(collector)["POST /v1/embeddings"]

    def batches(spans: list[Any]) -> list[Any]:
        return [
            span for span in spans if span.name == "batch" and any(link.span_id == root.span_id for link in span.links)
        ]

    found = batches(collector.wait(batches))
    assert sum(values_of(batch.attributes)["inlay.batch.sequences"] for batch in found) == 3
    assert all(batch.trace_id != root.trace_id for batch in found)
    assert not any(batch.parent_span_id for batch in found)


def test_a_hit_waits_for_no_model(server: RunningServer, collector: Collector) -> None:
    body = {"input": "asked for twice", "encoding_format": "base64"}
    Asked(server, body)
    spans = Asked(server, {**body, "user": "another body"}).spans(collector)
    assert set(spans) == {"POST /v1/embeddings", "embeddings demo", "cache memory"}
    assert values_of(spans["cache memory"].attributes)["inlay.hits"] == 1
    assert values_of(spans["embeddings demo"].attributes)["inlay.cache"] == "hit"


def test_what_is_refused_says_why(server: RunningServer, collector: Collector) -> None:
    spans = Asked(server, {"input": "x", "dimensions": 99999}).spans(collector)
    assert values_of(spans["POST /v1/embeddings"].attributes)["http.response.status_code"] == 400
    assert values_of(spans["refused"].attributes) == {"error.type": "invalid_input"}
    assert spans["POST /v1/embeddings"].status.code == 0, "the client's mistake is no error of the server"


def test_lines_of_the_log_have_the_ids_of_the_trace_also_where_it_is_not_sampled(
    server: RunningServer, collector: Collector
) -> None:
    ids = []
    for is_sampled in (True, False):
        asked = Asked(server, {"input": "x", "dimensions": 99999}, is_sampled=is_sampled)
        line = line_with(server, asked.trace_id)
        assert line["event"] == "request"
        ids.append((asked.trace_id, line["span_id"]))
    spans = collector.wait(lambda spans: any(span.span_id.hex() == ids[0][1] for span in spans))
    time.sleep(0.3)  # longer than spans wait to be sent
    assert not any(span.trace_id.hex() == ids[1][0] for span in collector.spans())
    assert spans


def line_with(server: RunningServer, text: str) -> dict[str, Any]:
    """The line of the log, which is written behind the reply."""
    for _ in range(200):
        for line in server.output().splitlines():
            if text in line:
                found: dict[str, Any] = json.loads(line)
                return found
        time.sleep(0.02)
    raise AssertionError(f"{text} is in no line of the log")


@pytest.mark.parametrize(
    "traceparent",
    [
        "",
        "00-x",
        f"00-{'0' * 32}-{'1' * 16}-01",
        f"00-{'1' * 32}-{'0' * 16}-01",
        f"ff-{'1' * 32}-{'1' * 16}-01",
        f"00-{'1' * 32}-{'1' * 16}-01-more",
    ],
)
def test_a_traceparent_that_is_none_begins_a_trace(
    server: RunningServer, collector: Collector, traceparent: str
) -> None:
    reply = server.post({"input": "x"}, headers={"traceparent": traceparent})
    request_id = reply.headers["x-request-id"]

    def roots(spans: list[Any]) -> list[Any]:
        return [span for span in spans if values_of(span.attributes).get("inlay.request_id") == request_id]

    (root,) = roots(collector.wait(roots))
    assert not root.parent_span_id


def test_who_has_no_trace_begins_one_and_watching_begins_none(server: RunningServer, collector: Collector) -> None:
    for path in ("/health", "/ready", "/metrics", "/"):
        server.get(path)
    server.get("/v1/models")
    spans = collector.wait(lambda spans: any(span.name == "GET /v1/models" for span in spans))
    assert not any(name in span.name for span in spans for name in ("/health", "/ready", "/metrics", "GET / "))
    (models,) = [span for span in spans if span.name == "GET /v1/models"]
    assert not models.parent_span_id


def test_no_text_leaves_the_server(server: RunningServer, collector: Collector) -> None:
    Asked(server, {"input": "nobody may read this"}).spans(collector)
    assert not any(b"nobody may read this" in body for body in collector.bodies)


def test_the_server_says_who_it_is(server: RunningServer, collector: Collector) -> None:
    Asked(server, {"input": "x"}).spans(collector)
    told = values_of(collector.requests()[0].resource_spans[0].resource.attributes)
    assert told["service.name"] == "inlay"
    assert told["deployment"] == "test"
    assert told["service.version"]


def test_a_collector_that_does_not_answer_holds_nothing_up() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()  # takes connections and says nothing
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with RunningServer(
            "demo", "--shutdown-delay", "0", env={**SOON, "OTEL_EXPORTER_OTLP_ENDPOINT": url}
        ) as running:
            for number in range(5):
                assert running.post({"input": f"text {number}"}).status_code == 200
            began = time.monotonic()
            assert running.stop() == 0
            assert time.monotonic() - began < 10
            assert "the collector does not answer" in running.output()


@pytest.mark.parametrize("endpoint", ["localhost:4318", "grpc://host:4317", ""])
def test_an_endpoint_that_is_no_url_is_refused(endpoint: str) -> None:
    with pytest.raises(ConfigError, match="such as http://localhost:4318"):
        make_tracer(endpoint)


def test_without_the_packages_the_remedy_is_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(ConfigError, match=r"inlay\[otel\]"):
        make_tracer("http://localhost:4318")
    monkeypatch.setenv(otlp.VARIABLES[1], "http://localhost:4318")
    assert make_tracer(None) is None, "a variable that is set for all containers stops none"
    assert "no traces are sent" in caplog.text


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({otlp.VARIABLES[1]: "localhost:4318"}, "is no URL"),
        ({otlp.VARIABLES[1]: "http://localhost:4317", otlp.PROTOCOLS[1]: "grpc"}, "http/protobuf is spoken"),
        ({otlp.VARIABLES[1]: "http://localhost:4318", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "100000"}, "does not take"),
        ({otlp.VARIABLES[1]: "http://localhost:4318", "OTEL_TRACES_EXPORTER": "none"}, ""),
    ],
)
def test_variables_that_cannot_be_followed_are_told_and_stop_no_server(
    variables: dict[str, str], told: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert make_tracer(None) is None
    reasons = [record.__dict__["because"] for record in caplog.records]
    assert len(reasons) == bool(told)
    assert not told or told in reasons[0]


def test_the_callers_state_goes_along_to_the_spans(server: RunningServer, collector: Collector) -> None:
    asked = Asked(server, {"input": "with a state"}, tracestate="vendor=value")
    root = asked.spans(collector)["POST /v1/embeddings"]
    assert root.trace_state == "vendor=value"


def num_in_flight(server: RunningServer) -> float:
    found = re.search(r"^inlay_requests_in_flight(?:\{.*\})? ([\d.]+)$", server.get("/metrics").text, re.MULTILINE)
    assert found
    return float(found[1])


def test_a_batch_has_a_link_to_who_joined_what_was_under_way(server: RunningServer, collector: Collector) -> None:
    engine = child_of(server, "engine_process")
    os.kill(engine, signal.SIGSTOP)
    with ThreadPoolExecutor(2) as pool:
        asking = [pool.submit(Asked, server, {"input": "wanted by two at a time"}) for _ in range(2)]
        until(lambda: num_in_flight(server) >= 3)  # both have come, and this one that asks
        os.kill(engine, signal.SIGCONT)
        wanted = {one.result().trace_id for one in asking}

    def linked(spans: list[Any]) -> list[set[str]]:
        return [{link.trace_id.hex() for link in span.links} for span in spans if span.name == "batch"]

    collector.wait(lambda spans: wanted in linked(spans))


def test_without_an_endpoint_there_is_no_tracer(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in otlp.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert make_tracer(None) is None


def test_the_current_trace_ends_with_what_runs_within_it() -> None:
    class Known:
        trace_id, span_id, is_recorded = "t", "s", False

    with Within(Known()):  # type: ignore[arg-type]
        assert current_trace() is not None
        assert recorded_trace() is None
        with Within(None):
            assert current_trace() is not None
    assert current_trace() is None


def test_nothing_is_imported_where_there_is_no_endpoint() -> None:
    program = "import sys, inlay.api.server, inlay.telemetry.otlp; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert "inlay.telemetry.otlp" in done.stdout
    assert "opentelemetry" not in done.stdout
