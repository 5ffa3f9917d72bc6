"""What every exchange gets, whatever its route: a request id, the key check, a count, and a line in the log.

Pure ASGI, so that it costs microseconds. The log has status and times, and never a word of an input.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from itertools import count

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from inlay.api.auth import Keyring
from inlay.api.body import header
from inlay.api.ops import PROBES
from inlay.api.replies import error_reply
from inlay.errors import InlayError, OutOfMemory, ShuttingDown, Unauthorized, shorten
from inlay.telemetry.logs import get_logger
from inlay.telemetry.metrics import Metrics

log = get_logger("api")
LOGGER = "inlay.api"

_PLAIN_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class Envelope:
    """Wraps the app. `routes` are the paths that metrics tell apart."""

    def __init__(self, app: ASGIApp, keyring: Keyring, metrics: Metrics, routes: frozenset[str]) -> None:
        self._app = app
        self._keyring = keyring
        self._metrics = metrics
        self._routes = routes
        self._id_prefix = uuid.uuid4().hex[:16]  # ids are unique between processes by this, within by number
        self._numbers = count()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        sent_id = header(scope, b"x-request-id")
        is_plain = sent_id is not None and _PLAIN_ID.fullmatch(sent_id) is not None
        request_id = sent_id if sent_id and is_plain else f"{self._id_prefix}{next(self._numbers):08x}"
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"].append((b"x-request-id", request_id.encode()))
            await send(message)

        self._metrics.num_in_flight += 1
        try:
            await self._exchange(scope, receive, send_with_id)
        except asyncio.CancelledError:  # the time for shutting down is over
            if status:
                raise
            error = ShuttingDown("the server is shutting down and cannot finish this: try another one", retry_after=1.0)
            await error_reply(error)(scope, receive, send_with_id)
        except MemoryError:
            log.warning("no memory for a request", request_id=request_id)
            if not status:
                refusal = OutOfMemory("there is no memory for this request now: send less, or later", retry_after=1.0)
                await error_reply(refusal)(scope, receive, send_with_id)
        except Exception as error:
            log.exception("request failed", request_id=request_id, path=shorten(scope["path"]))
            if not status:
                reply = error_reply(InlayError(f"internal error ({type(error).__name__}); the log has more"))
                await reply(scope, receive, send_with_id)
        finally:
            self._metrics.num_in_flight -= 1
            seconds = time.perf_counter() - began
            route = scope["path"] if scope["path"] in self._routes else "other"
            self._metrics.count_request(route, status, seconds)
            level = _level_of(scope["path"], status)
            if logging.getLogger(LOGGER).isEnabledFor(level):
                self._log(level, request_id, scope, status, seconds)

    async def _exchange(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._keyring.check(scope)
        except Unauthorized as error:
            await error_reply(error)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _log(self, level: int, request_id: str, scope: Scope, status: int, seconds: float) -> None:
        log.log(
            level,
            "request",
            request_id=request_id,
            method=scope["method"],
            path=shorten(scope["path"]),
            status=status,
            ms=round(seconds * 1000, 2),
        )


def _level_of(path: str, status: int) -> int:
    """Successes and probes are for debugging; a caller's mistake is news, and our own a warning."""
    if status < 400 or path in PROBES:
        return logging.DEBUG
    return logging.INFO if status < 500 else logging.WARNING
