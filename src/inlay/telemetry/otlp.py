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
SEND_SECONDS = 5.0  # for one try to send
CLOSE_SECONDS = 2.0  # for what is left when the server ends
_PATH = "/v1/traces"
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


def make_tracer(endpoint: str | None) -> Tracer | None:
    """A tracer for a collector's URL, or for the one in OpenTelemetry's variables; None where there is none."""
    by_variable = next((name for name in VARIABLES if os.environ.get(name)), None)
    if endpoint is None and by_variable is None:
        return None
    if endpoint is not None and not endpoint.startswith(("http://", "https://")):
        raise ConfigError(f"--otlp-endpoint {endpoint}: give the collector's URL, such as http://localhost:4318")
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError:
        if endpoint is None:
            log.warning("no traces are sent", because=f"{by_variable} is set, but inlay[otel] is not installed")
            return None
        raise ConfigError("--otlp-endpoint needs OpenTelemetry: pip install 'inlay[otel]'") from None
    url = None if endpoint is None else endpoint.removesuffix("/").removesuffix(_PATH) + _PATH
    log.info("traces are sent", endpoint=url or os.environ[by_variable or VARIABLES[0]])
    return OtlpTracer(OTLPSpanExporter(endpoint=url, timeout=SEND_SECONDS))


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

    def begin(self, name: str, traceparent: str | None, attributes: Attributes) -> OtlpTrace:
        """See `Tracer.begin`."""
        context = self._context_of(traceparent)
        span = self._requests.start_span(name, context, self._api.SpanKind.SERVER, attributes)
        return OtlpTrace(self._requests, self._api, span)

    def _context_of(self, traceparent: str | None) -> Context:
        """The caller's, by https://www.w3.org/TR/trace-context; none where the header is none."""
        found = None if traceparent is None else _TRACEPARENT.fullmatch(traceparent)
        if found is None or found[1] == "ff" or not int(found[2], 16) or not int(found[3], 16):
            return self._nothing
        ids = int(found[2], 16), int(found[3], 16)
        caller = self._api.SpanContext(*ids, is_remote=True, trace_flags=self._api.TraceFlags(int(found[4], 16)))
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


def _nanoseconds(moment: float) -> int:
    """Of the clock, from `time.monotonic()`."""
    return time.time_ns() - int((time.monotonic() - moment) * 1e9)
