"""Puts the routes together: dialects, search and operators' routes around one service, in one envelope."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from inlay.api.admin import AdminRoutes
from inlay.api.auth import Keyring
from inlay.api.batches import BatchRoutes
from inlay.api.common_shapes import ErrorResponse, render_error
from inlay.api.decoding import MOST_VALUES
from inlay.api.dialect_route import DialectRoute, Operations
from inlay.api.dialects.dialect import Dialect
from inlay.api.dialects.openai import EMBEDDINGS
from inlay.api.dialects.registry import by_path
from inlay.api.dialects.rerank import RERANK
from inlay.api.envelope import Envelope
from inlay.api.files import FileRoutes, refusing_routes
from inlay.api.input_checks import decode_check, embed_check, pairs_check, rank_check, tokenize_check
from inlay.api.job_lines import JobLines
from inlay.api.json_route import Form, Gate, JSONRoute
from inlay.api.line_route import EndLine, ErrorLine, LineRoute
from inlay.api.models import ModelRoutes
from inlay.api.ollama_models import OllamaModels
from inlay.api.openapi import Description
from inlay.api.ops import Ops, Processes
from inlay.api.routes import GET, POST, Bodies, Route, RouteTable
from inlay.api.search import SearchRoute
from inlay.api.search_schema import SearchRequest, SearchResponse
from inlay.api.tei_info import tei_info
from inlay.cache.tiers import Cache
from inlay.config import Settings
from inlay.corpus.search.batcher import SearchBatcher
from inlay.corpus.search.served_corpora import warn_of_foreign_corpora
from inlay.jobs.directory import JobDirectory
from inlay.jobs.runner import FILE_SECONDS, JobRunner
from inlay.requests import DecodeRequest, EmbedRequest, PairsRequest, RankRequest, TokenizeRequest
from inlay.serving.admission import Admission, ByteBudget
from inlay.serving.fallbacks import Fallbacks, parse_fallbacks
from inlay.serving.replacement import Loader, Replacer
from inlay.serving.router import parse_aliases
from inlay.serving.service import Service
from inlay.serving.token_texts import TokenTexts
from inlay.telemetry.metrics import Metrics
from inlay.telemetry.tracing import Tracer
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


# The endpoints that lines of a job may name.
JOB_DIALECTS: Mapping[str, Dialect[Any, Any, Any]] = {"/v1/embeddings": EMBEDDINGS, "/v1/rerank": RERANK}


@dataclass(frozen=True, slots=True)
class App:
    """The ASGI app, and what the server that runs it has to tell or to end."""

    envelope: Envelope
    service: Service
    ops: Ops  # is told when the server drains
    metrics: Metrics
    jobs: JobRunner | None  # to be started on the event loop
    replacer: Replacer | None


def make_app(
    workers: MutableMapping[str, Worker],
    cache: Cache,
    corpora: Mapping[str, SearchBatcher],
    keyring: Keyring,
    settings: Settings,
    job_directory: JobDirectory | None = None,
    loader: Loader | None = None,
    processes: Processes | None = None,
    numbers_port: int | None = None,
    tracer: Tracer | None = None,
) -> App:
    """All that answers, around the models that are given; with a loader these can be replaced."""
    aliases = parse_aliases(settings.alias, workers)
    others = parse_fallbacks(settings.fallback, {name: worker.spec.task for name, worker in workers.items()})
    wait, is_default = settings.fallback_wait, settings.fallback_always
    service = Service(
        workers, cache, aliases, tracer, lambda router: Fallbacks(router, others, wait, is_default=is_default)
    )
    metrics = Metrics(workers, cache)
    metrics.watch_callers(keyring.callers)
    models = ModelRoutes(workers, aliases)
    limits = {name: msgspec.to_builtins(getattr(settings, name)) for name in LIMITS}
    speaks_tei = "tei" in settings.dialects
    more_info: Callable[[], dict[str, Any]] = (lambda: tei_info(workers, settings)) if speaks_tei else dict
    ops = Ops(workers, cache, corpora, metrics, models, limits, more_info, processes, numbers_port)
    description = Description()
    gate = Gate(
        Admission(settings.max_concurrent_requests),
        ByteBudget(settings.max_inflight_bytes),
        metrics,
        settings.max_body_bytes,
        settings.request_timeout,
    )
    operations = _operations(service, settings, settings.max_inputs_per_request)
    replacer = None if loader is None else _replacer(service, loader, corpora, settings)
    jobs = None if job_directory is None else _jobs(job_directory, operations, service, metrics, settings)
    routes = RouteTable(
        [
            *_dialect_routes(operations, _operations(service, settings, MOST_VALUES), service, metrics, gate, settings),
            _search_route(SearchRoute(service, corpora), gate),
            *(OllamaModels(workers, service.router).routes(gate) if "ollama" in settings.dialects else ()),
            *_job_routes(jobs, keyring, gate),
            *AdminRoutes(replacer, models, corpora, settings, gate, lambda: ops.is_draining).routes(),
            *_plain_routes(models, ops, description),
        ]
    )
    description.routes = routes.routes
    metrics.expect_routes(route.path for route in routes.routes if route.bodies)
    return App(Envelope(routes, keyring, metrics, tracer), service, ops, metrics, jobs, replacer)


def _operations(service: Service, settings: Settings, max_inputs: int) -> Operations:
    tokens = TokenTexts(service.router)
    return {
        EmbedRequest: (embed_check(max_inputs, allow_token_ids=settings.allow_token_ids), service.embed),
        RankRequest: (rank_check(max_inputs), service.rank),
        PairsRequest: (pairs_check(max_inputs), service.score_pairs),
        TokenizeRequest: (tokenize_check(max_inputs), tokens.tokenize),
        DecodeRequest: (decode_check(max_inputs), tokens.decode),
    }


def _dialect_routes(
    operations: Operations,
    line_operations: Operations,
    service: Service,
    metrics: Metrics,
    gate: Gate,
    settings: Settings,
) -> Iterator[Route]:
    def form_of(dialect: Dialect[Any, Any, Any]) -> Form[Any]:
        own = DialectRoute(dialect, operations, metrics, service.router.fingerprint_of)
        lines = None if dialect.rows is None else LineRoute(dialect, dialect.rows, line_operations, metrics).begin
        told = (dialect.render_error, dialect.told_by, dialect.claims)
        return Form(dialect.request, own.handle, own.recall, lines, *told)

    for path, dialects in by_path(settings.dialects).items():
        yield _dialect_route(path, dialects, [form_of(dialect) for dialect in dialects], gate)


def _dialect_route(path: str, dialects: Sequence[Dialect[Any, Any, Any]], forms: list[Form[Any]], gate: Gate) -> Route:
    """A path, whose first dialect takes the bodies that no other claims."""
    route = JSONRoute(gate, forms[0], forms[1:])
    return Route(
        POST,
        path,
        " / ".join(dict.fromkeys(dialect.summary for dialect in dialects)),
        route.answer,
        dialects[0].render_error,
        bodies=tuple(_bodies_of(one) for one in dialects),
        tell=route.tell if len(forms) > 1 else None,
    )


def _bodies_of(dialect: Dialect[Any, Any, Any]) -> Bodies:
    lines = () if dialect.rows is None else (dialect.rows.row, EndLine, ErrorLine)
    return Bodies(dialect.request, dialect.response, dialect.error, dialect.statuses, lines)


def _replacer(service: Service, loader: Loader, corpora: Mapping[str, SearchBatcher], settings: Settings) -> Replacer:
    def warn() -> None:
        warn_of_foreign_corpora(corpora, [worker.spec.fingerprint for worker in service.workers.values()])

    return Replacer(service.router, service.uses, loader, settings.request_timeout, warn)


def _jobs(
    directory: JobDirectory, operations: Operations, service: Service, metrics: Metrics, settings: Settings
) -> JobRunner:
    checks = {kind: check for kind, (check, _) in operations.items()}
    lines = JobLines(JOB_DIALECTS, checks, service, metrics)
    runner = JobRunner(directory, lines.answer_many, settings.max_body_bytes)
    metrics.watch_jobs(runner.numbers)
    return runner


def _job_routes(jobs: JobRunner | None, keyring: Keyring, gate: Gate) -> list[Route]:
    if jobs is None:
        return refusing_routes()
    files = FileRoutes(jobs.directory, keyring, FILE_SECONDS)
    return [*files.routes(), *BatchRoutes(jobs, files, JOB_DIALECTS, gate).routes()]


def _search_route(search: SearchRoute, gate: Gate) -> Route:
    answer = JSONRoute(gate, Form(SearchRequest, search.handle)).answer
    bodies = (Bodies(SearchRequest, SearchResponse, ErrorResponse),)
    return Route(POST, "/v1/search", "Search a precomputed corpus", answer, render_error, bodies=bodies)


def _plain_routes(models: ModelRoutes, ops: Ops, description: Description) -> list[Route]:
    told = "The models served: width, max tokens, prompts, Matryoshka range, fingerprint"
    is_alive = "200 while the device loops answer, else 503 with the reason"
    is_ready = "200 when requests can be sent, else 503 with the reason"
    return [
        Route(GET, "/v1/models", told, models.list_models, render_error),
        Route(GET, "/v1/models/{name}", "One model", models.model, render_error),
        Route(GET, "/", is_alive, ops.health, render_error, is_open=True, is_probe=True),
        Route(GET, "/ping", is_alive, ops.health, render_error, is_open=True, is_probe=True),
        Route(GET, "/health", is_alive, ops.health, render_error, is_open=True, is_probe=True),
        Route(GET, "/ready", is_ready, ops.ready, render_error, is_open=True, is_probe=True),
        Route(GET, "/metrics", "Prometheus metrics", ops.prometheus, render_error, is_open=True, is_probe=True),
        Route(GET, "/info", "Version, models, limits, cache", ops.info, render_error),
        Route(GET, "/openapi.json", "This description", description.openapi, render_error, is_open=True),
        Route(GET, "/docs", "The same as a page", description.docs, render_error, is_open=True),
    ]
