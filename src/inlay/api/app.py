"""Puts the routes together: dialects, search and operators' routes around one service, in one envelope."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from inlay.api.auth import Keyring
from inlay.api.common_shapes import ErrorResponse, render_error
from inlay.api.dialect_route import DialectRoute
from inlay.api.dialects.dialect import Dialect
from inlay.api.dialects.registry import EMBED_DIALECTS, RANK_DIALECTS
from inlay.api.envelope import Envelope
from inlay.api.input_checks import embed_check, rank_check
from inlay.api.json_route import Gate, JSONRoute
from inlay.api.models import ModelRoutes
from inlay.api.openapi import Description
from inlay.api.ops import Ops
from inlay.api.routes import GET, POST, Route, RouteTable
from inlay.api.search import SearchRoute
from inlay.api.search_schema import SearchRequest, SearchResponse
from inlay.cache.tiers import Cache
from inlay.config import Settings
from inlay.corpus.search.batcher import SearchBatcher
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
) -> tuple[Envelope, Service, Ops]:
    """The ASGI app, its service, and the operators' view of it (which is told when the server drains)."""
    service = Service(workers, cache)
    metrics = Metrics(workers, cache)
    models = ModelRoutes(workers)
    limits = {name: msgspec.to_builtins(getattr(settings, name)) for name in LIMITS}
    ops = Ops(workers, cache, corpora, metrics, models, limits)
    description = Description()
    gate = Gate(
        Admission(settings.max_concurrent_requests),
        ByteBudget(settings.max_inflight_bytes),
        metrics,
        settings.max_body_bytes,
        settings.request_timeout,
    )
    routes = RouteTable(
        [
            *_dialect_routes(service, metrics, gate, settings),
            _search_route(SearchRoute(service, corpora), gate),
            *_plain_routes(models, ops, description),
        ]
    )
    description.routes = routes.routes
    return Envelope(routes, keyring, metrics), service, ops


def _dialect_routes(service: Service, metrics: Metrics, gate: Gate, settings: Settings) -> Iterator[Route]:
    max_inputs = settings.max_inputs_per_request
    check_embed = embed_check(max_inputs, allow_token_ids=settings.allow_token_ids)
    for embedding in EMBED_DIALECTS:
        yield _dialect_route(embedding, DialectRoute(embedding, check_embed, service.embed, metrics), gate)
    for ranking in RANK_DIALECTS:
        yield _dialect_route(ranking, DialectRoute(ranking, rank_check(max_inputs), service.rank, metrics), gate)


def _dialect_route(dialect: Dialect[Any, Any, Any], route: DialectRoute[Any, Any, Any], gate: Gate) -> Route:
    return Route(
        POST,
        dialect.path,
        dialect.summary,
        JSONRoute(gate, dialect.request, route.handle, route.recall).answer,
        dialect.render_error,
        request=dialect.request,
        response=dialect.response,
        error=dialect.error,
    )


def _search_route(search: SearchRoute, gate: Gate) -> Route:
    answer = JSONRoute(gate, SearchRequest, search.handle).answer
    return Route(
        POST,
        "/v1/search",
        "Search a precomputed corpus",
        answer,
        render_error,
        request=SearchRequest,
        response=SearchResponse,
        error=ErrorResponse,
    )


def _plain_routes(models: ModelRoutes, ops: Ops, description: Description) -> list[Route]:
    told = "The models served: width, max tokens, prompts, Matryoshka range, fingerprint"
    is_alive = "200 while the device loops answer, else 503 with the reason"
    is_ready = "200 when requests can be sent, else 503 with the reason"
    return [
        Route(GET, "/v1/models", told, models.list_models, render_error),
        Route(GET, "/v1/models/{name}", "One model", models.model, render_error),
        Route(GET, "/health", is_alive, ops.health, render_error, is_open=True, is_probe=True),
        Route(GET, "/ready", is_ready, ops.ready, render_error, is_open=True, is_probe=True),
        Route(GET, "/metrics", "Prometheus metrics", ops.prometheus, render_error, is_open=True),
        Route(GET, "/info", "Version, models, limits, cache", ops.info, render_error),
        Route(GET, "/openapi.json", "This description", description.openapi, render_error, is_open=True),
        Route(GET, "/docs", "The same as a page", description.docs, render_error, is_open=True),
    ]
