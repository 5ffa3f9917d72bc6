"""What every exchange gets, whatever its route: a request id, the key check, errors in the route's own words, a count,
and a line in the log.

Pure ASGI, so that it costs microseconds. The log has status and times, and never a word of an input.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from itertools import count

from starlette.types import Receive, Scope, Send

from inlay.api.auth import Keyring
from inlay.api.common_shapes import render_error
from inlay.api.exchange import CALLER, Exchange, header
from inlay.api.replies import RENDER_ERROR, Headers, RenderError, Reply, refuse
from inlay.api.routes import ANSWERED_AS, GET, Route, RouteTable
from inlay.api.streamed_reply import AnyReply
from inlay.errors import InlayError, MethodNotAllowed, OutOfMemory, ShuttingDown, Unauthorized, shorten
from inlay.serving.callers import Caller
from inlay.telemetry.logs import get_logger
from inlay.telemetry.metrics import Metrics
from inlay.telemetry.tracing import Trace, Tracer, Within

log = get_logger("api")
_levels = logging.getLogger("inlay.api")
OTHER = "other"  # the paths that metrics do not tell apart

_PLAIN_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class Envelope:
    """The app: answers exchanges by the table of routes."""

    def __init__(self, routes: RouteTable, keyring: Keyring, metrics: Metrics, tracer: Tracer | None = None) -> None:
        self._routes = routes
        self._keyring = keyring
        self._metrics = metrics
        self._tracer = tracer
        self._id_prefix = uuid.uuid4().hex[:16]  # ids are unique between processes by this, within by number
        self._numbers = count()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        route, name = self._routes.match(scope["path"], scope["method"])
        trace = self._begin_trace(route, scope)
        with Within(trace):
            status, request_id = await self._exchange(route, name, scope, receive, send)
            if trace is not None:
                trace.end(status, {"inlay.request_id": request_id})

    async def _exchange(
        self, route: Route | None, name: str, scope: Scope, receive: Receive, send: Send
    ) -> tuple[int, str]:
        """Answer, whatever happens; the status and the request's id."""
        began = time.perf_counter()
        request_id = self._id_of(scope)
        status = 0
        self._metrics.num_in_flight += 1
        reply: AnyReply
        try:
            try:
                reply = await self._answer(route, name, scope, receive)
            except (asyncio.CancelledError, Exception) as error:  # noqa: BLE001 - whatever it is, it is answered
                reply = self._refusal_reply(error, request_id, scope, route)
            reply.headers.append((b"x-request-id", request_id.encode()))
            reply.headers.extend(_quota_headers(scope.get(CALLER)))
            status = reply.status
            await reply.send(scope, send)  # a slow reader takes nobody's place
        finally:
            self._metrics.num_in_flight -= 1
            self._count(route, scope, status, time.perf_counter() - began, request_id)
        return status, request_id

    def _begin_trace(self, route: Route | None, scope: Scope) -> Trace | None:
        """Of what is asked for, but not of what watches."""
        if self._tracer is None or route is None or route.is_probe:
            return None
        method = scope["method"]
        about = {"http.request.method": method, "http.route": route.path, "url.path": shorten(scope["path"])}
        caller = header(scope, b"traceparent"), header(scope, b"tracestate")
        return self._tracer.begin(f"{method} {route.path}", *caller, about)

    async def _answer(self, route: Route | None, name: str, scope: Scope, receive: Receive) -> AnyReply:
        if route is None or not route.is_open:
            await self._check_key(route, scope, receive)
        if route is None or route.method not in (scope["method"], ANSWERED_AS.get(scope["method"])):
            raise self._routes.missing(scope["path"], scope["method"])
        return await route.answer(Exchange(scope, receive, name))

    async def _check_key(self, route: Route | None, scope: Scope, receive: Receive) -> None:
        try:
            self._keyring.check(scope)
        except Unauthorized:
            if route is not None and route.tell is not None and route.method == scope["method"]:
                await route.tell(Exchange(scope, receive))
            raise

    def _refusal_reply(self, error: BaseException, request_id: str, scope: Scope, route: Route | None) -> Reply:
        path = scope["path"]
        refusal = _refusal_of(error, request_id, path)
        reply = refuse(refusal, scope.get(RENDER_ERROR) or self._renderer(route))
        if isinstance(refusal, MethodNotAllowed):
            reply.headers.append((b"allow", ", ".join(self._routes.methods_of(path)).encode()))
        return reply

    def renderer_of(self, path: str) -> RenderError:
        """How errors are told to who asks for a path, before more is known of him."""
        return self._renderer(self._routes.match(path, GET)[0])

    def _renderer(self, route: Route | None) -> RenderError:
        return render_error if route is None else route.render_error

    def _id_of(self, scope: Scope) -> str:
        """The id that the client gave, where it is plain, or a new one."""
        sent_id = header(scope, b"x-request-id")
        is_plain = sent_id is not None and _PLAIN_ID.fullmatch(sent_id) is not None
        return sent_id if sent_id and is_plain else f"{self._id_prefix}{next(self._numbers):08x}"

    def _count(self, route: Route | None, scope: Scope, status: int, seconds: float, request_id: str) -> None:
        self._metrics.count_request(OTHER if route is None else route.path, status, seconds)
        level = _level_of(route, status)
        if _levels.isEnabledFor(level):
            log.log(
                level,
                "request",
                request_id=request_id,
                method=scope["method"],
                path=shorten(scope["path"]),
                status=status,
                ms=round(seconds * 1000, 2),
                **({} if (caller := scope.get(CALLER)) is None else {"key": caller.key.name}),
            )


def _refusal_of(error: BaseException, request_id: str, path: str) -> InlayError:
    """What an exception is to the client; those that are our own fault are logged."""
    if isinstance(error, InlayError):
        return error
    if isinstance(error, asyncio.CancelledError):  # the time for shutting down is over
        return ShuttingDown("the server is shutting down and cannot finish this: try another one", retry_after=1.0)
    if isinstance(error, MemoryError):
        log.warning("no memory for a request", request_id=request_id)
        return OutOfMemory("there is no memory for this request now: send less, or later", retry_after=1.0)
    log.error("request failed", request_id=request_id, path=shorten(path), exc_info=error)
    return InlayError(f"internal error ({type(error).__name__}); the log has more")


def _quota_headers(caller: Caller | None) -> Headers:
    """As OpenAI's clients read them; nothing for a key without a quota."""
    remaining = None if caller is None else caller.remaining()
    if remaining is None:
        return []
    quota, left, seconds = remaining
    return [
        (b"x-ratelimit-limit-tokens", b"%d" % quota),
        (b"x-ratelimit-remaining-tokens", b"%d" % left),
        (b"x-ratelimit-reset-tokens", b"%.3fs" % seconds),
    ]


def _level_of(route: Route | None, status: int) -> int:
    """Successes and probes are for debugging; a caller's mistake is news, and our own a warning."""
    if status < 400 or (route is not None and route.is_probe):
        return logging.DEBUG
    return logging.INFO if status < 500 else logging.WARNING
