"""`/v1/files`, in OpenAI's shape: lines are sent to it, and what came of them is fetched. Each key sees its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import BinaryIO
from urllib.parse import parse_qs

from inlay.api.auth import Keyring
from inlay.api.body import content_length
from inlay.api.common_shapes import render_error
from inlay.api.exchange import Exchange
from inlay.api.jobs_schema import LONGEST_KEPT, SHORTEST_KEPT, file_body, list_body
from inlay.api.multipart import read_form
from inlay.api.replies import Reply
from inlay.api.routes import DELETE, GET, POST, Route
from inlay.api.streamed_reply import StreamedReply
from inlay.errors import Conflict, InvalidInput, NotFound, Refused, UnknownFile, shorten
from inlay.jobs.batch import INPUT, StoredFile, new_id, now
from inlay.jobs.directory import JobDirectory, Upload
from inlay.telemetry.logs import get_logger

log = get_logger("api")

RETRY_SECONDS = 10.0  # after which a disk may be there again
PIECE = 256 << 10  # bytes of a file that are sent at a time
LINES = b"application/jsonl"
KEPT_FIELD, ANCHOR_FIELD, CREATED = "expires_after[seconds]", "expires_after[anchor]", "created_at"
FORM = {
    "type": "object",
    "required": ["purpose", "file"],
    "properties": {
        "purpose": {"const": INPUT},
        "file": {"type": "string", "format": "binary", "description": "Lines of JSON, a request each."},
        ANCHOR_FIELD: {"const": CREATED},
        KEPT_FIELD: {"type": "integer", "minimum": SHORTEST_KEPT, "maximum": LONGEST_KEPT},
    },
}


class FileRoutes:
    """The files of a server's jobs."""

    def __init__(self, directory: JobDirectory, keyring: Keyring, file_seconds: int) -> None:
        self._directory = directory
        self._keyring = keyring
        self._file_seconds = file_seconds

    def routes(self) -> list[Route]:
        return [
            Route(POST, "/v1/files", "Send a file of lines, as a form", self._create, render_error, form=FORM),
            Route(GET, "/v1/files", "The files of a key", self._list, render_error),
            Route(GET, "/v1/files/{name}", "One file", self._show, render_error),
            Route(GET, "/v1/files/{name}/content", "What is in a file", self._content, render_error),
            Route(DELETE, "/v1/files/{name}", "Delete a file", self._delete, render_error),
        ]

    def owner_of(self, exchange: Exchange) -> str:
        return self._directory.owner_of(self._keyring.key_of(exchange.scope))

    async def find(self, owner: str, file_id: str) -> StoredFile:
        """`UnknownFile` for one that is not there, or another's."""
        file = await asyncio.to_thread(self._directory.store.file, file_id)
        if file is None or file.owner != owner:
            raise UnknownFile(f"there is no file {shorten(file_id)!r}: GET /v1/files lists those of this key")
        return file

    async def _create(self, exchange: Exchange) -> Reply:
        self._directory.check_room(content_length(exchange.scope))
        try:
            return Reply.of_json(file_body(await self._take(exchange)))
        except OSError as error:
            log.warning("a file cannot be kept", error=str(error))
            raise _not_there(error) from error

    async def _take(self, exchange: Exchange) -> StoredFile:
        file_id = new_id("file-")
        with await asyncio.to_thread(Upload, self._directory, file_id) as upload:
            fields, filename = await read_form(exchange, upload)
            seconds = self._kept_seconds(fields)
            created = now()
            file = StoredFile(
                file_id, self.owner_of(exchange), INPUT, filename, upload.num_bytes, created, created + seconds
            )
            await asyncio.to_thread(upload.finish, file)
        return file

    async def _list(self, exchange: Exchange) -> Reply:
        asked = Page.of(exchange)
        if asked.after is not None:
            await self.find(self.owner_of(exchange), asked.after)
        rows = await asyncio.to_thread(
            self._directory.store.files,
            self.owner_of(exchange),
            asked.fields.get("purpose"),
            asked.after,
            asked.limit + 1,
            descends=asked.fields.get("order", "desc") != "asc",
        )
        return Reply.of_json(list_body([file_body(file) for file in rows], asked.limit))

    async def _show(self, exchange: Exchange) -> Reply:
        return Reply.of_json(file_body(await self.find(self.owner_of(exchange), exchange.name)))

    async def _content(self, exchange: Exchange) -> StreamedReply:
        file = await self.find(self.owner_of(exchange), exchange.name)
        try:
            opened = await asyncio.to_thread(self._directory.path_of(file.id).open, "rb")
        except OSError as error:
            raise _not_there(error) from error
        pieces = _pieces_of(opened, file.num_bytes)
        return StreamedReply(pieces, LINES, exchange.departed, length=file.num_bytes, release=opened.close)

    async def _delete(self, exchange: Exchange) -> Reply:
        file = await self.find(self.owner_of(exchange), exchange.name)
        await asyncio.to_thread(self._remove, file)
        return Reply.of_json({"id": file.id, "object": "file", "deleted": True})

    def _remove(self, file: StoredFile) -> None:
        for batch in self._directory.store.unended():
            if batch.input_file_id == file.id:
                raise Conflict(f"the batch {batch.id} still reads this file: cancel it first, or wait for its end")
        self._directory.remove(file)

    def _kept_seconds(self, fields: dict[str, str]) -> int:
        """How long the file is kept, from the form's fields, which this checks."""
        if (purpose := fields.get("purpose")) != INPUT:
            told = "is missing: send" if purpose is None else f"must be {INPUT!r}, not {shorten(purpose)!r}: send"
            raise InvalidInput(f"purpose {told} the field purpose={INPUT} in the form", param="purpose")
        if "expires_after" in fields or fields.get(ANCHOR_FIELD, CREATED) != CREATED:
            raise InvalidInput(
                f"expires_after is two fields: send {ANCHOR_FIELD}={CREATED} and {KEPT_FIELD}", param="expires_after"
            )
        if (asked := fields.get(KEPT_FIELD)) is None:
            return self._file_seconds
        if not asked.isdecimal() or not SHORTEST_KEPT <= int(asked) <= LONGEST_KEPT:
            raise InvalidInput(
                f"{KEPT_FIELD} must be a number from {SHORTEST_KEPT} to {LONGEST_KEPT}, not {shorten(asked)!r}",
                param=KEPT_FIELD,
            )
        return int(asked)


def refusing_routes() -> list[Route]:
    """Of a server that has no jobs: they say how it would."""

    async def refuse(exchange: Exchange) -> Reply:
        raise NotFound("this server has no jobs: start it with --jobs DIR")

    summary = "Jobs, of a server that is started with --jobs DIR"
    paths = ("/v1/files", "/v1/batches")
    return [Route(method, path, summary, refuse, render_error) for path in paths for method in (GET, POST)]


class Page:
    """What a list is asked for: `after` an id, and at most `limit` rows."""

    MOST_ROWS, ROWS = 10_000, 20

    def __init__(self, fields: dict[str, str]) -> None:
        self.fields = fields
        self.after = fields.get("after") or None
        asked = fields.get("limit", str(self.ROWS))
        if not asked.isdecimal() or len(asked) > 9 or not 1 <= int(asked) <= self.MOST_ROWS:
            raise InvalidInput(
                f"limit must be a number from 1 to {self.MOST_ROWS}, not {shorten(asked)!r}", param="limit"
            )
        self.limit = int(asked)
        if fields.get("order", "desc") not in ("asc", "desc"):
            raise InvalidInput(f"order must be asc or desc, not {shorten(fields['order'])!r}", param="order")

    @classmethod
    def of(cls, exchange: Exchange) -> Page:
        found = parse_qs(exchange.scope["query_string"].decode("latin-1"), max_num_fields=64)
        return cls({name: values[-1] for name, values in found.items()})


async def _pieces_of(file: BinaryIO, num_bytes: int) -> AsyncGenerator[bytes, None]:
    rest = num_bytes
    while rest > 0 and (piece := await asyncio.to_thread(file.read, min(PIECE, rest))):
        rest -= len(piece)
        yield piece


def _not_there(error: OSError) -> Refused:
    """The disk of the jobs does not do what it should."""
    reason = error.strerror or type(error).__name__
    message = f"the directory of the jobs cannot be used now ({reason}): look at the disk of --jobs"
    return Refused(message, retry_after=RETRY_SECONDS)
