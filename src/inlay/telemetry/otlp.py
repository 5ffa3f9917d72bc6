"""Traces for an OpenTelemetry collector (the extra `otel`), by OTLP over HTTP.

In: requests, their parts and their batches. Out: spans, sent from a thread of their own. How many requests are sampled,
headers, the service's name and the rest is said by OpenTelemetry's own variables (OTEL_TRACES_SAMPLER, …).
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Sequence
from threading import Thread
from types import ModuleType
from typing import TYPE_CHECKING

import inlay
from inlay.errors import ConfigError
from inlay.telemetry.logs import get_logger
from inlay.telemetry.tracing import Attributes, Trace, Tracer

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span
    from opentelemetry.trace import Tracer as SpanMaker

log = get_logger("server")

VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
SPOKEN = "http/protobuf"
SCHEMES = ("http://", "https://")
SEND_SECONDS = 5.0  # for one try to send
CLOSE_SECONDS = 2.0  # for what is left when the server ends
_PATH = "/v1/traces"
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


def make_tracer(endpoint: str | None) -> Tracer | None:
    """A tracer for a collector's URL, or for the one in OpenTelemetry's variables; None where there is none."""
    if endpoint is not None:
        return _tracer_for(endpoint)
    name = next((name for name in VARIABLES if os.environ.get(name)), None)
    if name is None or os.environ.get("OTEL_TRACES_EXPORTER") == "none":
        return None
    try:
        return _tracer_by_variable(name)
    except ConfigError as error:  # it may be set for all containers, and stops none
        log.warning("no traces are sent", because=error.message)
        return None


def _tracer_for(endpoint: str) -> Tracer:
    if not endpoint.startswith(SCHEMES):
        raise ConfigError(f"--otlp-endpoint {endpoint}: give the collector's URL, such as http://localhost:4318")
    return _make("--otlp-endpoint", endpoint.removesuffix("/").removesuffix(_PATH) + _PATH)


def _tracer_by_variable(name: str) -> Tracer:
    if not os.environ[name].startswith(SCHEMES):
        raise ConfigError(f"{name} is no URL, such as http://localhost:4318")
    protocol = next((os.environ[one] for one in PROTOCOLS if os.environ.get(one)), SPOKEN)
    if protocol != SPOKEN:
        raise ConfigError(f"{name} is for {protocol}, and {SPOKEN} is spoken: see --otlp-endpoint")
    return _make(name, None)


def _make(given_by: str, url: str | None) -> Tracer:
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError:
        raise ConfigError(f"{given_by} needs OpenTelemetry: pip install 'inlay[otel]'") from None
    try:
        tracer = OtlpTracer(OTLPSpanExporter(endpoint=url, timeout=SEND_SECONDS))
    except ValueError as error:
        raise ConfigError(f"{given_by}: OpenTelemetry does not take its variables ({error})") from error
    log.info("traces are sent", endpoint=url or os.environ[given_by])
    return tracer


class OtlpTracer:
    """Traces through OpenTelemetry's SDK, which samples and sends them."""

    def __init__(self, exporter: SpanExporter) -> None:
        from opentelemetry import trace
        from opentelemetry.context import Context
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON

        own = {"service.name": "inlay", "service.instance.id": f"{socket.gethostname()}:{os.getpid()}"}
        resource = Resource({**own, "service.version": inlay.__version__}).merge(OTELResourceDetector().detect())
        self._api = trace
        self._nothing = Context()
        self._processor = BatchSpanProcessor(exporter)
        requests = TracerProvider(resource=resource, shutdown_on_exit=False)
        batches = TracerProvider(ALWAYS_ON, resource, shutdown_on_exit=False)  # of what is sampled already
        for provider in (requests, batches):
            provider.add_span_processor(self._processor)
        self._requests, self._batches = requests.get_tracer("inlay"), batches.get_tracer("inlay")

    def begin(self, name: str, traceparent: str | None, tracestate: str | None, attributes: Attributes) -> OtlpTrace:
        """See `Tracer.begin`."""
        context = self._context_of(traceparent, tracestate)
        span = self._requests.start_span(name, context, self._api.SpanKind.SERVER, attributes)
        return OtlpTrace(self._requests, self._api, span)

    def _context_of(self, traceparent: str | None, tracestate: str | None) -> Context:
        """The caller's, by https://www.w3.org/TR/trace-context; none where the header is none."""
        found = None if traceparent is None else _TRACEPARENT.fullmatch(traceparent)
        if found is None or not _is_known(found[1], found[5]) or not int(found[2], 16) or not int(found[3], 16):
            return self._nothing
        ids = int(found[2], 16), int(found[3], 16)
        flags = self._api.TraceFlags(int(found[4], 16))
        state = None if tracestate is None else self._api.TraceState.from_header([tracestate])
        caller = self._api.SpanContext(*ids, is_remote=True, trace_flags=flags, trace_state=state)
        return self._api.set_span_in_context(self._api.NonRecordingSpan(caller), self._nothing)

    def record_batch(self, traces: Sequence[Trace], began: float, ended: float, attributes: Attributes) -> None:
        """See `Tracer.record_batch`: a trace of its own, with a link to each of these requests."""
        links = [self._api.Link(trace.span.get_span_context()) for trace in traces if isinstance(trace, OtlpTrace)]
        start = _nanoseconds(began)
        span = self._batches.start_span("batch", self._nothing, attributes=attributes, links=links, start_time=start)
        span.end(_nanoseconds(ended))

    def close(self) -> None:
        """See `Tracer.close`. A collector that does not answer is not waited for."""
        closing = Thread(target=self._processor.shutdown, name="inlay-traces", daemon=True)
        closing.start()
        closing.join(CLOSE_SECONDS)
        if closing.is_alive():
            log.warning("the last traces were not sent: the collector does not answer")


class OtlpTrace:
    """One request's spans."""

    __slots__ = ("_api", "_maker", "_operation", "is_recorded", "span")

    def __init__(self, maker: SpanMaker, api: ModuleType, span: Span) -> None:
        self.is_recorded = span.is_recording()
        self.span = span
        self._maker = maker
        self._api = api
        self._operation: Span | None = None

    @property
    def trace_id(self) -> str:
        """See `Trace.trace_id`."""
        return f"{self.span.get_span_context().trace_id:032x}"

    @property
    def span_id(self) -> str:
        """See `Trace.span_id`."""
        return f"{self.span.get_span_context().span_id:016x}"

    def record(self, name: str, began: float, ended: float, attributes: Attributes) -> None:
        """See `Trace.record`."""
        parent = self._api.set_span_in_context(self._operation or self.span)
        span = self._maker.start_span(name, parent, attributes=attributes, start_time=_nanoseconds(began))
        span.end(_nanoseconds(ended))

    def begin_operation(self) -> None:
        """See `Trace.begin_operation`."""
        self._operation = self._maker.start_span("operation", self._api.set_span_in_context(self.span))

    def end_operation(self, name: str, attributes: Attributes) -> None:
        """See `Trace.end_operation`."""
        if (operation := self._operation) is not None:
            operation.update_name(name)
            operation.set_attributes(attributes)
            operation.end()
            self._operation = None

    def end(self, status: int, attributes: Attributes) -> None:
        """See `Trace.end`. As OpenTelemetry's conventions for servers say, only our own failures are errors."""
        if not self.is_recorded:
            return
        self.span.set_attributes({"http.response.status_code": status, **attributes})
        if status >= 500:
            self.span.set_attribute("error.type", str(status))
            self.span.set_status(self._api.StatusCode.ERROR)
        self.span.end()


def _is_known(version: str, rest: str | None) -> bool:
    """Later versions may have more behind what is read here; this one does not, and ff is none."""
    return version != "ff" and (version != "00" or rest is None)


def _nanoseconds(moment: float) -> int:
    """Of the clock, from `time.monotonic()`."""
    return time.time_ns() - int((time.monotonic() - moment) * 1e9)
