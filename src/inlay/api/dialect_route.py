"""A dialect's route: its request goes to the service, its result comes back in its own words."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Generic, TypeVar

import msgspec
from msgspec.structs import replace

from inlay.api.dialects.dialect import Dialect
from inlay.api.exchange import Exchange, header
from inlay.api.json_route import Body
from inlay.api.repeated import LARGEST, RepeatedReplies
from inlay.api.replies import WARNING, Headers, Reply
from inlay.errors import InlayError, InvalidInput, shorten
from inlay.requests import (
    DecodeRequest,
    EmbedOptions,
    RankOptions,
    RankResult,
    Request,
    Result,
    TokenizeRequest,
    TokensResult,
)
from inlay.serving.callers import Caller
from inlay.telemetry.metrics import Metrics
from inlay.telemetry.tracing import Attributes, perform
from inlay.types import Priority

C = TypeVar("C", bound=msgspec.Struct)
Q = TypeVar("Q", bound=Request | TokenizeRequest | DecodeRequest)
R = TypeVar("R", bound=Result | TokensResult)

# By the type of request: what refuses it before anything is done, and what answers it.
Operations = Mapping[type[Any], tuple[Callable[[Any], None], Callable[[Any], Awaitable[Any]]]]

CACHE_CONTROL = b"cache-control"
EXPECTED = b"x-inlay-expect-fingerprint"
PRIORITY, DEADLINE = b"x-inlay-priority", b"x-request-deadline-ms"
FALLBACK = b"x-inlay-fallback"  # of a request: may another model answer? of a reply: for which one, and why
SAYING = frozenset({CACHE_CONTROL, EXPECTED, PRIORITY, DEADLINE, FALLBACK})  # headers that a body does not tell of
LONGEST_NUMBER = 12  # digits
NAMED_INDICES = 64  # indices listed in the header


class DialectRoute(Generic[C, Q, R]):
    """Answers the calls of one kind of a dialect's bodies: what it asks for is one of the service's operations."""

    def __init__(
        self,
        dialect: Dialect[C, Q, R],
        operations: Operations,
        metrics: Metrics,
        fingerprint_of: Callable[[str], str],
    ) -> None:
        self._dialect = dialect
        self._operations = operations
        self._metrics = metrics
        self._repeated = RepeatedReplies(fingerprint_of)

    def recall(self, body: Body, exchange: Exchange) -> Reply | None:
        """The reply to a body that came before and that the cache has answered; None where it is to be worked out."""
        if len(body) > LARGEST or any(name in SAYING for name, _ in exchange.scope["headers"]):
            return None  # a large body is not even copied
        if not _is_all_in_body(exchange.caller):
            return None
        known = self._repeated.find(bytes(body))
        if known is None:
            return None
        reply, result = known
        if (caller := exchange.caller) is not None:
            with caller.spending(result.num_tokens):
                pass
        self._metrics.count_repeated(result)
        return reply

    async def handle(self, call: C, body: Body | None, exchange: Exchange, deadline: float) -> Reply:
        began = time.monotonic()
        try:
            if (reply := self._dialect.answer_at_once(call)) is not None:
                return reply
            request = self._dialect.parse(call)
            check, operation = self._operations[type(request)]
            check(request)
            request = completed(request, exchange, deadline)
            result: R = await perform(operation, request, described)
        except InlayError as error:
            raise self._dialect.in_own_words(error) from error
        reply = self._dialect.render(result, call)
        if not isinstance(result, Result):
            return reply  # no model has run
        self._metrics.count_result(result)
        reply.headers.extend(result_headers(result))
        if isinstance(request, Request) and exchange.caller is not None and exchange.caller.lowers_priorities:
            reply.headers.append((PRIORITY, request.options.priority.encode()))
        reply.headers.extend(self._dialect.timing_headers(result, time.monotonic() - began))
        is_as_asked = isinstance(request, Request) and request.options.write_cache and result.fallback is None
        if body is not None and is_as_asked and _is_all_in_body(exchange.caller):
            self._repeated.keep(bytes(body), reply, result)
        return reply


def described(result: Result | TokensResult) -> tuple[str, Attributes]:
    """An operation's name and attributes in a trace, by OpenTelemetry's conventions where there are some."""
    if not isinstance(result, Result):
        return "tokenize", {}
    kind = "rerank" if isinstance(result, RankResult) else "embeddings"
    return f"{kind} {result.model}", {
        "gen_ai.operation.name": kind,
        "gen_ai.provider.name": "inlay",
        "gen_ai.request.model": result.model,
        "gen_ai.usage.input_tokens": result.num_tokens,
        "gen_ai.usage.cache_read.input_tokens": result.cached_tokens,
        "inlay.inputs": result.num_inputs,
        "inlay.outputs": result.kinds,
        "inlay.cache": result.cache_status,
        "inlay.fingerprint": result.fingerprint,
    }


def _is_all_in_body(caller: Caller | None) -> bool:
    """Does a body alone decide what the reply is? Not where a key has models or a priority of its own."""
    return caller is None or not (caller.key.models is not None or caller.lowers_priorities)


def completed(request: Q, exchange: Exchange, deadline: float | None) -> Q:
    """The request with what no dialect has to say: its time, its client, and `Cache-Control`."""
    if isinstance(request, TokenizeRequest | DecodeRequest):
        return replace(request, rights=exchange.caller)
    options: EmbedOptions | RankOptions = request.options
    caller = exchange.caller
    if asked := exchange.directives(CACHE_CONTROL):
        no_store = "no-store" in asked
        options = replace(options, read_cache=not (no_store or "no-cache" in asked), write_cache=not no_store)
    if (asked_priority := header(exchange.scope, PRIORITY)) is not None:
        options = replace(options, priority=_priority_of(asked_priority))
    if caller is not None:
        options = replace(options, priority=caller.highest(options.priority))
    if options.fallback is None and (allowed := header(exchange.scope, FALLBACK)) is not None:
        options = replace(options, fallback=_truth_of(allowed))
    if options.expect_fingerprint is None and (expected := header(exchange.scope, EXPECTED)) is not None:
        options = replace(options, expect_fingerprint=expected)
    deadline = sooner(deadline, exchange)
    return replace(request, options=options, deadline=deadline, departed=exchange.departed, rights=caller)


def _priority_of(text: str) -> Priority:
    try:
        return Priority(text)
    except ValueError:
        raise InvalidInput(f"the header x-inlay-priority is {shorten(text)!r}: send high, normal or low") from None


def _truth_of(text: str) -> bool:
    if text not in ("true", "false"):
        raise InvalidInput(f"the header x-inlay-fallback is {shorten(text)!r}: send true or false")
    return text == "true"


def sooner(deadline: float | None, exchange: Exchange) -> float | None:
    """A client's own deadline, in milliseconds from now, or the server's."""
    if (text := header(exchange.scope, DEADLINE)) is None:
        return deadline
    if not text.isascii() or not text.isdigit() or not 0 < len(text) <= LONGEST_NUMBER:
        raise InvalidInput(f"the header x-request-deadline-ms is {shorten(text)!r}: send whole milliseconds from now")
    own = time.monotonic() + int(text) / 1000
    return own if deadline is None else min(deadline, own)


def result_headers(result: Result) -> Headers:
    """Where the time went, whether the cache answered, and which inputs were cut."""
    headers = [
        (b"x-inlay-queue-ms", b"%.2f" % (result.queue_seconds * 1000)),
        (b"x-inlay-model-ms", b"%.2f" % (result.model_seconds * 1000)),
        (b"x-inlay-cache", result.cache_status.encode()),
        *space_headers(result),
    ]
    if result.fallback is not None:
        asked, reason = result.fallback.asked, result.fallback.reason
        headers.append((FALLBACK, f"{asked}; reason={reason}".encode("ascii", "backslashreplace")))
    if result.failed:
        headers.append((b"x-inlay-failed", _listed(list(result.failed))))
    if result.truncated:
        headers.append((b"x-inlay-truncated", _listed(result.truncated)))
    if isinstance(result, RankResult) and result.in_parts:
        headers.append((b"x-inlay-in-parts", _listed(result.in_parts)))
    return headers


def space_headers(result: Result) -> Headers:
    """Which space the vectors or scores lie in, and what there is to know of it."""
    warnings = [(WARNING, warning.encode("ascii", "backslashreplace")) for warning in result.warnings]
    return [(b"x-inlay-fingerprint", result.fingerprint.encode()), *warnings]


def _listed(indices: list[int]) -> bytes:
    more = ",..." if len(indices) > NAMED_INDICES else ""
    return (",".join(str(index) for index in indices[:NAMED_INDICES]) + more).encode()
