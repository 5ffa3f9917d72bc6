"""What traces cost a request, in this process alone: none made, one that is not sampled, one that is recorded.

    python benchmarks/tracing.py [--requests 20000] [--json FILE]

Does what a request that misses the cache does: begins a trace from the caller's, records a tier, an operation, its wait
and its batch, asks for the current trace as often as the code does, and ends. Microseconds of a core, the median of
rounds.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from inlay.telemetry.otlp import OtlpTracer
from inlay.telemetry.tracing import Tracer, Within, recorded_trace

ROUNDS = 5
LOOKS = 6  # at the current trace, of one request


class Nowhere(SpanExporter):
    """Takes spans and drops them."""

    def export(self, spans: Sequence[Any]) -> SpanExportResult:
        return SpanExportResult.SUCCESS


def request(tracer: Tracer | None, traceparent: str) -> None:
    about = {"http.request.method": "POST", "http.route": "/v1/embeddings", "url.path": "/v1/embeddings"}
    trace = None if tracer is None else tracer.begin("POST /v1/embeddings", traceparent, about)
    with Within(trace):
        for _ in range(LOOKS):
            found = recorded_trace()
        if found is not None and tracer is not None:
            now = time.monotonic()
            found.begin_operation()
            found.record("cache memory", now, now, {"inlay.keys": 1, "inlay.hits": 0})
            found.record("queue", now, now, {"inlay.inputs": 1, "inlay.joined": 0})
            found.record("model", now, now, {"inlay.inputs": 1, "inlay.joined": 0})
            tracer.record_batch([found], now, now, {"inlay.batch.sequences": 1, "inlay.batch.tokens": 8})
            found.end_operation("embeddings demo", {"gen_ai.request.model": "demo", "inlay.cache": "miss"})
        if trace is not None:
            trace.end(200, {"inlay.request_id": "x"})


def microseconds(tracer: Tracer | None, sampled: int, requests: int) -> float:
    rounds = []
    traceparent = f"00-{'a' * 32}-{'b' * 16}-{sampled:02x}"
    for _ in range(ROUNDS):
        began = time.thread_time()
        for _ in range(requests):
            request(tracer, traceparent)
        rounds.append((time.thread_time() - began) / requests * 1e6)
    return round(statistics.median(rounds), 2)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    tracer = OtlpTracer(Nowhere())
    result = {
        "processor": re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())[1],  # type: ignore[index]
        "us_per_request": {
            "no tracer": microseconds(None, 0, given.requests),
            "not sampled": microseconds(tracer, 0, given.requests),
            "recorded, six spans": microseconds(tracer, 1, given.requests // 10),
        },
    }
    print(json.dumps(result, indent=2))
    if given.json:
        given.json.write_text(json.dumps(result, indent=2) + "\n")
