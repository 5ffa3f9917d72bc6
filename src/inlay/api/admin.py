"""`/admin/models`: another model in the place of one that is served, and how far that has come. With a key of its own.

In: the name that is served, and where the next model lies. Out: 202 at once; the rest happens behind, and is told by
`GET`. What is replaced holds until the server ends: its command line still names the one before.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Callable, Mapping
from typing import Annotated

from msgspec import Meta, Struct

from inlay.api.auth import sent_key
from inlay.api.common_shapes import ErrorResponse, render_error
from inlay.api.exchange import Exchange
from inlay.api.json_route import Body, Form, Gate, JSONRoute
from inlay.api.keys import BLANKS, digest_of
from inlay.api.models import ModelRoutes
from inlay.api.replies import Reply
from inlay.api.routes import DELETE, GET, PLACEHOLDER, POST, Bodies, Route
from inlay.api.streamed_reply import AnyReply
from inlay.config import Settings
from inlay.corpus.search.batcher import SearchBatcher
from inlay.corpus.search.served_corpora import foreign_corpora
from inlay.errors import (
    ConfigError,
    Conflict,
    DeadlineExceeded,
    Forbidden,
    InvalidInput,
    ModelError,
    ShuttingDown,
    Unauthorized,
    UnknownModel,
    shorten,
)
from inlay.models.source import locate
from inlay.models.spec import read_spec
from inlay.serving.daemon_call import call_in_daemon
from inlay.serving.replacement import Replacement, Replacer
from inlay.types import ModelSpec

PATH = "/admin/models"


class ReplaceModel(Struct):
    """What `POST` takes."""

    name: Annotated[str, Meta(min_length=1, description="The name of a model that is served.")]
    model: Annotated[str, Meta(min_length=1, description="The next one: demo, a hub id or a directory.")]


class AdminRoutes:
    """Who has the server's admin key may replace models."""

    def __init__(
        self,
        replacer: Replacer | None,
        models: ModelRoutes,
        corpora: Mapping[str, SearchBatcher],
        settings: Settings,
        gate: Gate,
        is_draining: Callable[[], bool],
    ) -> None:
        self._replacer = replacer
        self._models = models
        self._corpora = corpora
        self._context_length = settings.context_length
        self._digest = None if settings.admin_key is None else digest_of(settings.admin_key.strip(BLANKS).encode())
        self._is_draining = is_draining
        self._route = JSONRoute(gate, Form(ReplaceModel, self._replace))

    def routes(self) -> list[Route]:
        bodies = (Bodies(ReplaceModel, Replacement, ErrorResponse),)
        replace = "Put another model in the place of one that is served (admin key)"
        given_up = "Give up the model that is loaded to take a name (admin key)"
        told = "The models served, the replacements, and the corpora that no served model has made (admin key)"
        return [
            Route(POST, PATH, replace, self._begin, render_error, is_open=True, bodies=bodies, success=202),
            Route(GET, PATH, told, self._list, render_error, is_open=True),
            Route(DELETE, f"{PATH}/{PLACEHOLDER}", given_up, self._cancel, render_error, is_open=True),
        ]

    def _replacer_for(self, exchange: Exchange) -> Replacer:
        """`Unauthorized` without the key, `Forbidden` where there is none."""
        if self._digest is None:
            raise Forbidden("models can be replaced where the server has --admin-key (INLAY_ADMIN_KEY): it has none")
        key = sent_key(exchange.scope)
        if key is None or not hmac.compare_digest(digest_of(key), self._digest):
            raise Unauthorized("send the server's admin key: Authorization: Bearer KEY")
        if self._replacer is None:
            raise Conflict("this server cannot replace models (--front-ends, Ray): start another with the next one")
        return self._replacer

    async def _begin(self, exchange: Exchange) -> AnyReply:
        self._replacer_for(exchange)
        return await self._route.answer(exchange)

    async def _replace(self, call: ReplaceModel, body: Body | None, exchange: Exchange, deadline: float) -> Reply:
        names = self._models.names
        if call.name not in names:
            served = ", ".join(names)
            raise UnknownModel(f"model {shorten(call.name)!r} is not served here; these are: {served}", param="name")
        spec = await self._spec_of(call, deadline)
        if self._is_draining():
            raise ShuttingDown("the server is shutting down: no model is replaced any more", retry_after=1.0)
        replacement = self._replacer_for(exchange).begin(spec, call.model)
        return Reply.of_json(replacement, 202)

    async def _spec_of(self, call: ReplaceModel, deadline: float) -> ModelSpec:
        """What the files say; a disk that does not answer costs this request alone."""
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                return await call_in_daemon(lambda: _read(call, self._context_length))
        except TimeoutError as error:
            raise DeadlineExceeded(f"{shorten(call.model)} could not be read in time: is its disk there?") from error

    async def _cancel(self, exchange: Exchange) -> Reply:
        return Reply.of_json(self._replacer_for(exchange).cancel(exchange.name))

    async def _list(self, exchange: Exchange) -> Reply:
        replacer = self._replacer_for(exchange)
        models = self._models.describe_all()
        foreign = foreign_corpora(self._corpora, [model["fingerprint"] for model in models])
        told = [{"corpus": corpus, "made_with": model} for corpus, model in foreign.items()]
        return Reply.of_json({"models": models, "replacements": [*replacer.replacements], "foreign_corpora": told})


def _read(call: ReplaceModel, context_length: int | None) -> ModelSpec:
    try:
        return read_spec(locate(call.model), call.name, context_length)
    except (ConfigError, ModelError) as error:
        raise InvalidInput(error.message, param="model") from error
    except (OSError, RuntimeError, ValueError) as error:  # a path that is none, of nobody's home
        raise InvalidInput(f"{shorten(call.model)!r} cannot be read ({error})"[:500], param="model") from error
