"""Puts the routes together: dialects and operators' routes around one service, in one envelope."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from inlay.api.auth import Keyring
from inlay.api.dialects.openai import EmbeddingsRoute
from inlay.api.envelope import Envelope
from inlay.api.ops import Ops
from inlay.api.replies import error_reply
from inlay.api.search import SearchRoute
from inlay.cache.tiers import Cache
from inlay.config import Settings
from inlay.corpus.search.batcher import SearchBatcher
from inlay.errors import InlayError, MethodNotAllowed, NotFound, RequestError
from inlay.serving.admission import Admission, ByteBudget
from inlay.serving.service import Service
from inlay.telemetry.metrics import Metrics
from inlay.types import Worker

LIMITS = (
    "max_body_bytes",
    "max_inputs_per_request",
    "max_queue_tokens",
    "max_concurrent_requests",
    "max_inflight_bytes",
    "request_timeout",
    "head_timeout",
    "body_timeout",
)


def make_app(
    workers: Mapping[str, Worker],
    cache: Cache,
    corpora: Mapping[str, SearchBatcher],
    keyring: Keyring,
    settings: Settings,
) -> tuple[ASGIApp, Service, Ops]:
    """The ASGI app, its service, and the operators' view of it (which is told when the server drains)."""
    service = Service(workers, cache)
    metrics = Metrics(workers, cache)
    limits = {name: msgspec.to_builtins(getattr(settings, name)) for name in LIMITS}
    ops = Ops(workers, cache, corpora, metrics, limits)
    admission, budget = Admission(settings.max_concurrent_requests), ByteBudget(settings.max_inflight_bytes)
    embeddings = EmbeddingsRoute(
        service,
        metrics,
        admission,
        budget,
        max_body_bytes=settings.max_body_bytes,
        max_inputs=settings.max_inputs_per_request,
        request_timeout=settings.request_timeout,
        allow_token_ids=settings.allow_token_ids,
    )
    search = SearchRoute(
        service,
        corpora,
        admission,
        budget,
        max_body_bytes=settings.max_body_bytes,
        request_timeout=settings.request_timeout,
    )
    routes = [
        Route("/v1/embeddings", embeddings, methods=["POST"]),
        Route("/v1/search", search.answer, methods=["POST"]),
        Route("/v1/models", ops.models),
        Route("/v1/models/{name:path}", ops.model),
        Route("/health", ops.health),
        Route("/ready", ops.ready),
        Route("/metrics", ops.prometheus),
        Route("/info", ops.info),
        Route("/openapi.json", ops.openapi),
        Route("/docs", ops.docs),
    ]
    app = Starlette(routes=routes, exception_handlers={InlayError: _on_error, HTTPException: _on_http_error})
    app.router.redirect_slashes = False  # a redirect has no JSON, and clients drop the body
    paths = frozenset(route.path for route in routes)
    shortcut = Shortcut("/v1/embeddings", embeddings, app)
    return Envelope(shortcut, keyring, metrics, paths), service, ops


class Shortcut:
    """The hot route past the router and its middleware, which cost as much as the route itself."""

    def __init__(self, path: str, route: ASGIApp, others: ASGIApp) -> None:
        self._path = path
        self._route = route
        self._others = others

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != self._path or scope["method"] != "POST":
            await self._others(scope, receive, send)
            return
        try:
            await self._route(scope, receive, send)
        except InlayError as error:
            await error_reply(error)(scope, receive, send)


async def _on_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, InlayError):
        raise error
    return error_reply(error)


async def _on_http_error(request: Request, error: Exception) -> Response:
    """Starlette's own: an unknown path, or a method that a path does not have."""
    if not isinstance(error, HTTPException):
        raise error
    asked = f"{request.method} {request.url.path}"
    if error.status_code == HTTPStatus.NOT_FOUND:
        return error_reply(NotFound(f"there is no {asked}: GET /docs lists the routes"))
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = (error.headers or {}).get("Allow", "another method")
        return error_reply(MethodNotAllowed(f"there is no {asked}: use {allowed}"))
    return error_reply(RequestError(str(error.detail)), error.status_code)
