"""Reads a request's body, within bounds of bytes, and tells when the client has gone. Its time is the connection's."""

from __future__ import annotations

from types import TracebackType

from starlette.types import Message, Receive, Scope

from inlay.api.exchange import header
from inlay.errors import Cancelled, RequestError, TooLarge
from inlay.serving.admission import ByteBudget

DRAINED = 4  # bodies up to so many times the limit are read to the end, so that the refusal arrives
WIDE_BYTES = 16 << 20  # of a body with characters beyond U+FFFF: in memory its texts take four times as much
_FIRST_OF_WIDE = (b"\xf0", b"\xf1", b"\xf2", b"\xf3", b"\xf4", b"\\ud8", b"\\uD8")


class BodyReader:
    """Reads one body; as a context manager it holds the body's bytes in the budget until the request is answered."""

    def __init__(self, budget: ByteBudget, max_bytes: int) -> None:
        self._budget = budget
        self._max_bytes = max_bytes
        self._taken = 0

    def __enter__(self) -> BodyReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._budget.give_back(self._taken)

    async def read(self, scope: Scope, receive: Receive) -> bytes | bytearray:
        """The whole body.

        `TooLarge` when it is over the limit, `Overloaded` when all bodies together are, `Cancelled` when it does not
        come.
        """
        if content_length(scope) > self._max_bytes * DRAINED:
            raise self._too_large()
        message = await _receive(receive)
        first: bytes = message.get("body", b"")
        if not message.get("more_body", False):
            self._take(len(first))
            return self._checked(first)
        return self._checked(await self._read_on(first, receive))

    async def _read_on(self, first: bytes, receive: Receive) -> bytearray:
        body = bytearray()
        size, chunk, is_more = 0, first, True
        while True:
            size += len(chunk)
            if size > self._max_bytes * DRAINED:
                raise self._too_large()
            if size <= self._max_bytes:
                self._take(len(chunk))
                body += chunk
            if not is_more:
                break
            message = await _receive(receive)
            chunk, is_more = message.get("body", b""), message.get("more_body", False)
        if size > self._max_bytes:
            raise self._too_large()
        return body

    def _take(self, num_bytes: int) -> None:
        self._budget.take(num_bytes)
        self._taken += num_bytes

    def _checked(self, body: bytes | bytearray) -> bytes | bytearray:
        if len(body) > self._max_bytes:
            raise self._too_large()
        if len(body) > WIDE_BYTES and any(first in body for first in _FIRST_OF_WIDE):
            raise TooLarge(
                f"the body has characters beyond U+FFFF, which take four times their bytes in memory, and is larger "
                f"than {WIDE_BYTES} bytes: send fewer inputs at a time"
            )
        return body

    def _too_large(self) -> TooLarge:
        return TooLarge(
            f"the body is larger than {self._max_bytes} bytes: send fewer inputs at a time, or raise --max-body-bytes"
        )


async def _receive(receive: Receive) -> Message:
    message = await receive()
    if message["type"] == "http.disconnect":
        raise Cancelled("the client has gone")
    return message


def content_length(scope: Scope) -> int:
    value = header(scope, b"content-length")
    try:
        return int(value or 0)
    except ValueError as error:
        raise RequestError("the content-length header is not a number") from error
