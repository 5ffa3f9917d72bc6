"""What traces tell of computations: how long a request waited and was computed, and the batches that ran.

In: flights that have landed. Out: spans. Knows nothing of how they are made.
"""

from __future__ import annotations

import time
from collections.abc import Collection

from inlay.serving.flight_table import Flight
from inlay.telemetry.tracing import Tracer, recorded_trace


def record_wait(flights: Collection[Flight], began: float, *, num_led: int) -> None:
    """A request's own: the longest wait for the device and the longest batch, of those that it waited for."""
    trace = recorded_trace()
    answers = [flight.answer for flight in flights if flight.answer is not None and flight.error is None]
    if trace is None or not answers:
        return
    about = {"inlay.inputs": len(flights), "inlay.joined": len(flights) - num_led}
    trace.record("queue", began, began + max(answer.queue_seconds for answer in answers), about)
    now = time.monotonic()
    trace.record("model", now - max(answer.model_seconds for answer in answers), now, about)


def record_batch(tracer: Tracer, landed: Collection[Flight]) -> None:
    """What came back together, with a link to each recorded request that wanted a part of it."""
    landed = [flight for flight in landed if flight.error is None]  # what was refused has not run
    traces = list({id(trace): trace for flight in landed for trace in flight.traces}.values())
    if not traces:
        return
    answers = [flight.answer for flight in landed if flight.answer is not None]
    now = time.monotonic()
    about = {"inlay.batch.sequences": len(answers), "inlay.batch.tokens": sum(answer.num_tokens for answer in answers)}
    tracer.record_batch(traces, now - max((answer.model_seconds for answer in answers), default=0.0), now, about)
