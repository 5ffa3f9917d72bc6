"""A dialect's route for whoever takes lines of JSON: items go out as they are done, in bounded memory.

In: a call. Out: a line for each item, with its `index`, in any order; a last one with the usage of all, or with the
error that ended it. A client that leaves ends the work.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Any, Generic, Literal, TypeVar

import msgspec
import orjson
from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace

from inlay.api.common_shapes import ErrorBody, Usage, body_of, usage_of
from inlay.api.dialect_route import Operations, completed, space_headers
from inlay.api.dialects.dialect import Dialect, Rows
from inlay.api.exchange import Exchange
from inlay.api.item_stream import ItemStream
from inlay.api.json_route import LINES
from inlay.api.streamed_reply import StreamedReply
from inlay.errors import InlayError
from inlay.requests import EmbedRequest, RankRequest, RankResult, Result
from inlay.telemetry.metrics import Metrics

C = TypeVar("C", bound=msgspec.Struct)
Q = TypeVar("Q", bound=EmbedRequest | RankRequest)
R = TypeVar("R", bound=Result)

PIECE = 256 << 10  # bytes, about, that are sent at a time
ROW = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE


class EndLine(Struct):
    """The last line of a list that is whole."""

    object: Literal["end"]
    model: str
    fingerprint: str
    num_items: int
    num_failed: int
    usage: Usage


class ErrorLine(Struct):
    """The last line of a list that is not."""

    object: Literal["error"]
    status: int
    error: ErrorBody
    retry_after: float | UnsetType = UNSET


class LineRoute(Generic[C, Q, R]):
    """See the module; for dialects that write items one by one."""

    def __init__(self, dialect: Dialect[C, Q, R], rows: Rows[R, C], operations: Operations, metrics: Metrics) -> None:
        self._dialect = dialect
        self._rows = rows
        self._operations = operations
        self._metrics = metrics

    async def begin(self, call: C, exchange: Exchange, part_seconds: float) -> StreamedReply:
        """The reply, once its first lines are there: whatever refuses these refuses the request."""
        try:
            self._rows.check(call)
            request = self._dialect.parse(call)
            check, perform = self._operations[type(request)]
            check(request)
            request = completed(request, exchange, None)
            one_space = replace(request.options, fallback=False)  # parts of another model would be of another space
            stream: ItemStream[Q, R] = ItemStream(replace(request, options=one_space), perform, part_seconds)
            first = await stream.first()
        except InlayError as error:
            raise self._dialect.in_own_words(error) from error
        lines = self._lines(stream, call)
        return StreamedReply(lines, LINES, exchange.departed, space_headers(first), release=stream.close)

    async def _lines(self, stream: ItemStream[Q, R], call: C) -> AsyncGenerator[bytes, None]:
        total = _Total()
        try:
            async with aclosing(stream.results()) as results:
                async for result in results:
                    self._metrics.count_result(result)
                    total.add(result)
                    for piece in _pieces_of(_marked(self._rows.render(result, call), result)):
                        yield piece
            yield total.line()
        except InlayError as error:
            yield _error_line(self._dialect.in_own_words(error))


class _Total:
    """What the last line tells."""

    def __init__(self) -> None:
        self._last: Result | None = None
        self._num_items = self._num_failed = self._num_tokens = self._cached_tokens = 0

    def add(self, result: Result) -> None:
        self._last = result
        self._num_items += result.num_inputs + len(result.failed)
        self._num_failed += len(result.failed)
        self._num_tokens += result.num_tokens
        self._cached_tokens += result.cached_tokens

    def line(self) -> bytes:
        told = {} if self._last is None else {"model": self._last.model, "fingerprint": self._last.fingerprint}
        counts = {"num_items": self._num_items, "num_failed": self._num_failed}
        usage = usage_of(self._num_tokens, self._cached_tokens)
        return orjson.dumps({"object": "end", **told, **counts, "usage": usage}, option=ROW)


def _error_line(error: InlayError) -> bytes:
    line = {"object": "error", "status": error.status, "error": body_of(error)}
    if error.retry_after is not None:
        line["retry_after"] = error.retry_after
    return orjson.dumps(line, option=ROW)


def _marked(rows: list[dict[str, Any]], result: Result) -> list[dict[str, Any]]:
    """The rows with what headers tell of a whole reply."""
    truncated, in_parts = set(result.truncated), set(result.in_parts if isinstance(result, RankResult) else ())
    for row in rows if truncated or in_parts else ():
        if row["index"] in truncated:
            row["is_truncated"] = True
        if row["index"] in in_parts:
            row["is_in_parts"] = True
    return rows


def _pieces_of(rows: list[dict[str, Any]]) -> Iterator[bytes]:
    piece = bytearray()
    for row in rows:
        piece += orjson.dumps(row, option=ROW)
        if len(piece) >= PIECE:
            yield bytes(piece)
            piece.clear()
    if piece:
        yield bytes(piece)
