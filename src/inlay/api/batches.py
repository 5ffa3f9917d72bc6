"""`/v1/batches`, in OpenAI's shape: starts the lines of a file as a job, tells how far it has come, and cancels it."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

import msgspec

from inlay.api.common_shapes import ErrorResponse, render_error
from inlay.api.exchange import Exchange
from inlay.api.files import FileRoutes, Page
from inlay.api.jobs_schema import BatchObject, CreateBatchRequest, batch_body, list_body
from inlay.api.json_route import Body, Form, Gate, JSONRoute
from inlay.api.replies import Reply
from inlay.api.routes import GET, POST, Bodies, Route
from inlay.errors import Conflict, Forbidden, InvalidInput, Overloaded, UnknownBatch, UnknownFile, shorten
from inlay.jobs.batch import INPUT, Batch, Status, new_id, now
from inlay.jobs.runner import JobRunner
from inlay.quantities import parse_duration

MOST_UNFINISHED = 1000  # batches of a server
SHORTEST_WINDOW, LONGEST_WINDOW = 1, 30 * 86_400  # seconds


class BatchRoutes:
    """The batches of a server."""

    def __init__(self, runner: JobRunner, files: FileRoutes, endpoints: Collection[str], gate: Gate) -> None:
        self._runner = runner
        self._store = runner.directory.store
        self._files = files
        self._endpoints = endpoints
        self._create_route = JSONRoute(gate, Form(CreateBatchRequest, self._create))

    def routes(self) -> list[Route]:
        bodies = (Bodies(CreateBatchRequest, BatchObject, ErrorResponse),)
        create = self._create_route.answer
        return [
            Route(POST, "/v1/batches", "Have a file's lines answered", create, render_error, bodies=bodies),
            Route(GET, "/v1/batches", "The batches of a key", self._list, render_error),
            Route(GET, "/v1/batches/{name}", "How far a batch has come", self._show, render_error),
            Route(POST, "/v1/batches/{name}/cancel", "Cancel a batch", self._cancel, render_error),
        ]

    async def _create(self, call: CreateBatchRequest, body: Body | None, exchange: Exchange, deadline: float) -> Reply:
        _check_unicode(call)
        if call.endpoint not in self._endpoints:
            known = ", ".join(self._endpoints)
            raise InvalidInput(f"endpoint {shorten(call.endpoint)!r} has no batches: use {known}", param="endpoint")
        if (caller := exchange.caller) is not None and caller.is_limited:
            raise Forbidden("this key has limits that jobs do not know: use one without, or send requests")
        seconds = _seconds_of(call.completion_window)
        owner = self._files.owner_of(exchange)
        try:
            file = await self._files.find(owner, call.input_file_id)
        except UnknownFile as error:
            raise UnknownFile(error.message, param="input_file_id") from error
        if file.purpose != INPUT:
            raise InvalidInput(f"the file {file.id} is what a batch gave: send one of lines", param="input_file_id")
        unended = await asyncio.to_thread(self._store.unended)
        if len(unended) >= MOST_UNFINISHED:
            raise Overloaded(f"{len(unended)} batches wait, as many as may: try again later", retry_after=60.0)
        created = now()
        batch = Batch(
            id=new_id("batch_"),
            owner=owner,
            endpoint=call.endpoint,
            input_file_id=file.id,
            completion_window=call.completion_window,
            created_at=created,
            expires_at=created + seconds,
            output_file_id=new_id("file-"),
            error_file_id=new_id("file-"),
            metadata=call.metadata,
            output_seconds=None if call.output_expires_after is None else call.output_expires_after.seconds,
        )
        await asyncio.to_thread(self._store.add_batch, batch)
        self._runner.add(batch.id)
        return Reply.of_json(batch_body(batch))

    async def _list(self, exchange: Exchange) -> Reply:
        asked = Page.of(exchange)
        owner = self._files.owner_of(exchange)
        if asked.after is not None:
            await self._find(asked.after, owner)
        rows = await asyncio.to_thread(self._store.batches, owner, asked.after, asked.limit + 1)
        return Reply.of_json(list_body([batch_body(batch) for batch in rows], asked.limit))

    async def _show(self, exchange: Exchange) -> Reply:
        return Reply.of_json(batch_body(await self._named(exchange)))

    async def _cancel(self, exchange: Exchange) -> Reply:
        batch = await self._named(exchange)
        return Reply.of_json(batch_body(await asyncio.to_thread(self._store.update, batch.id, _cancelled)))

    async def _named(self, exchange: Exchange) -> Batch:
        return await self._find(exchange.name, self._files.owner_of(exchange))

    async def _find(self, batch_id: str, owner: str) -> Batch:
        batch = await asyncio.to_thread(self._store.batch, batch_id)
        if batch is None or batch.owner != owner:
            raise UnknownBatch(f"there is no batch {shorten(batch_id)!r}: GET /v1/batches lists those of this key")
        return batch


def _check_unicode(call: CreateBatchRequest) -> None:
    """The records take well-formed text alone."""
    try:
        msgspec.json.encode(call)
    except UnicodeEncodeError as error:
        raise InvalidInput("a field is not valid Unicode (a lone surrogate): send well-formed text") from error


def _cancelled(batch: Batch) -> Batch:
    if batch.status.is_end:
        raise Conflict(f"the batch has ended ({batch.status}), and cannot be cancelled any more")
    return batch if batch.status is Status.CANCELLING else batch.to(Status.CANCELLING)


def _seconds_of(window: str) -> int:
    if window.isdecimal():
        raise InvalidInput(f"completion_window {shorten(window)!r} has no unit: send 24h", param="completion_window")
    try:
        seconds = parse_duration(window)
    except ValueError as error:
        raise InvalidInput(f"completion_window: {error}", param="completion_window") from error
    if not SHORTEST_WINDOW <= seconds <= LONGEST_WINDOW:
        raise InvalidInput(
            f"completion_window must be from 1s to 30d, not {shorten(window)!r}", param="completion_window"
        )
    return int(seconds)
