"""`/admin/models`: another model in the place of one that is served, and how far that has come. With a key of its own.

In: the name that is served, and where the next model lies. Out: 202 at once; the rest happens behind, and is told by
`GET`. What is replaced holds until the server ends: its command line still names the one before.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any

from msgspec import Meta, Struct

from inlay.api.auth import sent_key
from inlay.api.common_shapes import ErrorResponse, render_error
from inlay.api.exchange import Exchange
from inlay.api.json_route import Body, Form, Gate, JSONRoute
from inlay.api.keys import digest_of
from inlay.api.models import ModelRoutes
from inlay.api.replies import Reply
from inlay.api.routes import GET, POST, Bodies, Route
from inlay.api.streamed_reply import AnyReply
from inlay.config import Settings
from inlay.corpus.search.batcher import SearchBatcher
from inlay.corpus.search.served_corpora import foreign_corpora
from inlay.errors import ConfigError, Conflict, Forbidden, InvalidInput, ModelError, Unauthorized, UnknownModel, shorten
from inlay.models.source import locate
from inlay.models.spec import read_spec
from inlay.serving.replacement import Replacement, Replacer
from inlay.types import ModelSpec

PATH = "/admin/models"


class ReplaceModel(Struct):
    """What `POST` takes."""

    name: Annotated[str, Meta(min_length=1, description="The name of a model that is served.")]
    model: Annotated[str, Meta(min_length=1, description="The next one: demo, a hub id or a directory.")]


class ReplacementTold(Struct):
    """How far a replacement has come; the last sixteen are told of."""

    number: int
    name: str
    model: str
    fingerprint_before: str
    fingerprint: str
    state: Annotated[str, Meta(description="loading, draining (the next one serves), done or failed")]
    reason: str | None
    began: float
    ended: float | None


class AdminRoutes:
    """Who has the server's admin key may replace models."""

    def __init__(
        self,
        replacer: Replacer | None,
        models: ModelRoutes,
        corpora: Mapping[str, SearchBatcher],
        settings: Settings,
        gate: Gate,
    ) -> None:
        self._replacer = replacer
        self._models = models
        self._corpora = corpora
        self._context_length = settings.context_length
        self._digest = None if not settings.admin_key else digest_of(settings.admin_key.strip().encode())
        self._route = JSONRoute(gate, Form(ReplaceModel, self._replace))

    def routes(self) -> list[Route]:
        bodies = (Bodies(ReplaceModel, ReplacementTold, ErrorResponse),)
        replace = "Put another model in the place of one that is served (admin key)"
        told = "The models served, the replacements, and the corpora that no served model has made (admin key)"
        return [
            Route(POST, PATH, replace, self._begin, render_error, is_open=True, bodies=bodies, success=202),
            Route(GET, PATH, told, self._list, render_error, is_open=True),
        ]

    def _replacer_for(self, exchange: Exchange) -> Replacer:
        """`Unauthorized` without the key, `Forbidden` where there is none."""
        if self._digest is None:
            raise Forbidden("models can be replaced where the server has --admin-key (INLAY_ADMIN_KEY): it has none")
        key = sent_key(exchange.scope)
        if key is None or not hmac.compare_digest(digest_of(key), self._digest):
            raise Unauthorized("send the server's admin key: Authorization: Bearer KEY")
        if self._replacer is None:
            raise Conflict("models cannot be replaced with --front-ends: start another server with the next model")
        return self._replacer

    async def _begin(self, exchange: Exchange) -> AnyReply:
        self._replacer_for(exchange)
        return await self._route.answer(exchange)

    async def _replace(self, call: ReplaceModel, body: Body | None, exchange: Exchange, deadline: float) -> Reply:
        names = self._models.names
        if call.name not in names:
            served = ", ".join(names)
            raise UnknownModel(f"model {shorten(call.name)!r} is not served here; these are: {served}", param="name")
        spec = await asyncio.to_thread(self._read, call)
        replacement = self._replacer_for(exchange).begin(spec, call.model)
        return Reply.of_json(_describe(replacement), 202)

    def _read(self, call: ReplaceModel) -> ModelSpec:
        try:
            return read_spec(locate(call.model), call.name, self._context_length)
        except (ConfigError, ModelError) as error:
            raise InvalidInput(error.message, param="model") from error

    async def _list(self, exchange: Exchange) -> Reply:
        replacer = self._replacer_for(exchange)
        models = self._models.describe_all()
        foreign = foreign_corpora(self._corpora, [model["fingerprint"] for model in models])
        replacements = [_describe(one) for one in replacer.replacements]
        told = [{"corpus": corpus, "made_with": model} for corpus, model in foreign.items()]
        return Reply.of_json({"models": models, "replacements": replacements, "foreign_corpora": told})


def _describe(replacement: Replacement) -> dict[str, Any]:
    return asdict(replacement)
