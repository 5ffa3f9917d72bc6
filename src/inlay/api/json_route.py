"""What every route with a body does: read it within bounds, decode it, and answer it when there is room.

In: an exchange. Out: a reply. What the body means is the handler's to say. Bodies are read before a request takes its
place among those in flight, so that a slow sender takes nobody's.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import msgspec

from inlay.api.body import BodyReader
from inlay.api.decoding import BodyDecoder
from inlay.api.exchange import Exchange
from inlay.api.repeated import LARGEST
from inlay.api.replies import Reply
from inlay.serving.admission import Admission, ByteBudget
from inlay.telemetry.metrics import Metrics

C = TypeVar("C", bound=msgspec.Struct)
Body = bytes | bytearray
# The body is what a reply may be kept by; None where the next one would have to be told of ignored fields.
Handle = Callable[[C, Body | None, Exchange, float], Awaitable[Reply]]
Recall = Callable[[Body, Exchange], Reply | None]


@dataclass(frozen=True, slots=True)
class Gate:
    """What all routes with bodies share."""

    admission: Admission
    budget: ByteBudget
    metrics: Metrics
    max_body_bytes: int
    request_timeout: float  # seconds


class JSONRoute(Generic[C]):
    """Bodies of one struct, each answered by `handle(call, body, exchange, deadline)`, or by what recalls its reply."""

    def __init__(self, gate: Gate, schema: type[C], handle: Handle[C], recall: Recall | None = None) -> None:
        self._gate = gate
        self._recall = recall
        self._decoder = BodyDecoder(schema)
        self._handle = handle

    async def answer(self, exchange: Exchange) -> Reply:
        gate = self._gate
        with BodyReader(gate.budget, gate.max_body_bytes) as reader:
            body = await reader.read(exchange.scope, exchange.receive)
            if self._recall is not None and (known := self._recall(body, exchange)) is not None:
                return known
            call, has_unknown = self._decoder.decode(body)
            known_by = None if has_unknown or len(body) > LARGEST else body
            del body  # a large one is not held while it is answered
            if has_unknown:
                gate.metrics.count_ignored_fields()
            with gate.admission:
                return await self._handle(call, known_by, exchange, time.monotonic() + gate.request_timeout)
