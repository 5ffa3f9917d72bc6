"""What every route with a body does: read it within bounds, decode it, and answer it when there is room.

In: an exchange. Out: a reply. What the body means is the handler's to say. Where a path takes several forms of bodies,
the first is tried, and only a body that is not all of that form is looked at again: its fields tell which form it has.
Bodies are read before a request takes its place among those in flight, so that a slow sender takes nobody's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec
from msgspec.structs import replace
from starlette.types import Scope

from inlay.api.body import BodyReader
from inlay.api.decoding import BodyDecoder, FieldReader
from inlay.api.exchange import Exchange
from inlay.api.repeated import LARGEST
from inlay.api.replies import JSON, RENDER_ERROR, RenderError, Reply
from inlay.api.streamed_reply import AnyReply, StreamedReply
from inlay.errors import InlayError, RequestError
from inlay.serving.admission import Admission, ByteBudget
from inlay.telemetry.metrics import Metrics

C = TypeVar("C", bound=msgspec.Struct)
Body = bytes | bytearray
# The body is what a reply may be kept by; None where the next one would have to be told of ignored fields.
Handle = Callable[[C, Body | None, Exchange, float], Awaitable[Reply]]
# Begins a reply line by line; the number is seconds for each part of it.
Stream = Callable[[C, Exchange, float], Awaitable[StreamedReply]]
Recall = Callable[[Body, Exchange], Reply | None]
LINES, ANY = b"application/x-ndjson", b"*/*"
UNKNOWN_SECONDS = 1.0  # that are waited for the body of somebody without a key
MOST_UNKNOWN_BYTES = 1 << 16  # of a body from somebody without a key, that is read to tell him so in his words


@dataclass(frozen=True, slots=True)
class Gate:
    """What all routes with bodies share."""

    admission: Admission
    budget: ByteBudget
    metrics: Metrics
    max_body_bytes: int
    request_timeout: float  # seconds


class Form(Generic[C]):
    """Bodies of one struct, each answered by `handle(call, body, exchange, deadline)`, or by what recalls its reply.

    Where it has a `stream`, whoever accepts lines gets them.

    A body has this form where it has one of the fields in `told_by`, and `claims` agrees; a form without such fields
    takes what no other does.
    """

    def __init__(
        self,
        schema: type[C],
        handle: Handle[C],
        recall: Recall = lambda body, exchange: None,
        stream: Stream[C] | None = None,
        render_error: RenderError | None = None,
        told_by: frozenset[str] = frozenset(),
        claims: Callable[[Mapping[str, msgspec.Raw]], bool] = lambda fields: True,
    ) -> None:
        self.decoder = BodyDecoder(schema)
        self.handle = handle
        self.recall = recall
        self.stream = stream
        self.render_error = render_error
        self.told_by = told_by
        self._claims = claims

    def has(self, fields: Mapping[str, msgspec.Raw]) -> bool:
        """Is a body with these fields of this form?"""
        return not self.told_by.isdisjoint(fields) and self._claims(fields)


class JSONRoute:
    """Answers bodies of one form, or of several."""

    def __init__(self, gate: Gate, first: Form[Any], others: Sequence[Form[Any]] = ()) -> None:
        self._gate = gate
        self._first = first
        self._others = others
        self._fields = FieldReader({name for form in others for name in form.told_by})

    async def answer(self, exchange: Exchange) -> AnyReply:
        if wants_lines(exchange.scope):
            return await self._answer_lines(exchange)
        gate = self._gate
        with BodyReader(gate.budget, gate.max_body_bytes) as reader:
            body = await reader.read(exchange.scope, exchange.receive)
            if (known := self._first.recall(body, exchange)) is not None:
                return known
            form, call, has_unknown = self._decode(body, exchange.scope)
            if form is not self._first and (known := form.recall(body, exchange)) is not None:
                return known
            known_by = None if has_unknown or len(body) > LARGEST else body
            del body  # a large one is not held while it is answered
            if has_unknown:
                gate.metrics.count_ignored_fields()
            with gate.admission:
                return await form.handle(call, known_by, exchange, time.monotonic() + gate.request_timeout)

    async def _answer_lines(self, exchange: Exchange) -> AnyReply:
        """As `answer` does; what is held for a request is held until the last line is out."""
        gate = self._gate
        with ExitStack() as held:
            reader = held.enter_context(BodyReader(gate.budget, gate.max_body_bytes))
            form, call, has_unknown = self._decode(await reader.read(exchange.scope, exchange.receive), exchange.scope)
            if has_unknown:
                gate.metrics.count_ignored_fields()
            held.enter_context(gate.admission)
            if form.stream is None:
                return await form.handle(call, None, exchange, time.monotonic() + gate.request_timeout)
            reply = await form.stream(call, exchange, gate.request_timeout)
            held.callback(reply.release)
            return replace(reply, release=held.pop_all().close)

    async def tell(self, exchange: Exchange) -> None:
        """Of somebody who is refused without a look at his body: in which words to tell him."""
        with BodyReader(self._gate.budget, MOST_UNKNOWN_BYTES) as reader:
            try:
                async with asyncio.timeout(UNKNOWN_SECONDS):
                    body = await reader.read(exchange.scope, exchange.receive)
            except (InlayError, TimeoutError):
                return  # then in those of the first form
            self._tell(self._claimant(body), exchange.scope)

    def _decode(self, body: Body, scope: Scope) -> tuple[Form[Any], Any, bool]:
        first = self._first
        try:
            call, has_unknown = first.decoder.decode(body)
        except RequestError:
            if (form := self._claimant(body)) is None:
                raise
        else:
            if not has_unknown or (form := self._claimant(body)) is None:
                return first, call, has_unknown
        self._tell(form, scope)
        return form, *form.decoder.decode(body)

    def _claimant(self, body: Body) -> Form[Any] | None:
        """The form of a body, where it is not the first."""
        if not self._others:
            return None
        fields = self._fields.read(body)
        return next((form for form in self._others if form.has(fields)), None)

    def _tell(self, form: Form[Any] | None, scope: Scope) -> None:
        if form is not None and form.render_error is not None:
            scope[RENDER_ERROR] = form.render_error


def wants_lines(scope: Scope) -> bool:
    """Does a client take lines of JSON, and rather than one piece of it (RFC 9110, 12.5.1)?"""
    accepted = [value for name, value in scope["headers"] if name == b"accept" and value != ANY]
    if not any(LINES in value.lower() for value in accepted):
        return False
    ranges = [part.split(b";") for part in b",".join(accepted).lower().replace(b" ", b"").split(b",")]
    weights = [(kind, _weight_of(parameters), -place) for place, (kind, *parameters) in enumerate(ranges)]
    lines = max(((weight, place) for kind, weight, place in weights if kind == LINES), default=(0.0, 0))
    whole = max(((weight, place) for kind, weight, place in weights if kind == JSON), default=(0.0, 0))
    return lines[0] > 0 and lines > whole


def _weight_of(parameters: Sequence[bytes]) -> float:
    """`q=0.5`; 1 where it is not said, 0 where it is nonsense."""
    for name, _, value in (parameter.partition(b"=") for parameter in parameters):
        if name == b"q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0
