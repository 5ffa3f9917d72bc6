"""Reads a request's body, up to a bound, and tells when the client has gone."""

from __future__ import annotations

import asyncio

from starlette.types import Receive, Scope

from inlay.errors import BodyTimeout, Cancelled, RequestError, TooLarge

DRAINED = 4  # bodies up to so many times the limit are read to the end, so that the refusal arrives


async def read_body(scope: Scope, receive: Receive, max_bytes: int, timeout: float) -> bytes:
    """The whole body; `TooLarge` when it is over the limit, `BodyTimeout` when it does not come in time."""
    try:
        async with asyncio.timeout(timeout):
            return await _read(scope, receive, max_bytes)
    except TimeoutError as error:
        raise BodyTimeout(f"the body did not arrive within {timeout:g} s: send it at once") from error


async def _read(scope: Scope, receive: Receive, max_bytes: int) -> bytes:
    length = content_length(scope)
    if length > max_bytes * DRAINED:
        raise _too_large(max_bytes)
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Cancelled("the client has gone")
        chunk: bytes = message.get("body", b"")
        size += len(chunk)
        if size <= max_bytes:
            chunks.append(chunk)
        elif size > max_bytes * DRAINED:
            raise _too_large(max_bytes)
        if not message.get("more_body", False):
            break
    if size > max_bytes:
        raise _too_large(max_bytes)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def content_length(scope: Scope) -> int:
    value = header(scope, b"content-length")
    try:
        return int(value or 0)
    except ValueError as error:
        raise RequestError("the content-length header is not a number") from error


def header(scope: Scope, name: bytes) -> str | None:
    """A request header by its lower-case name."""
    for key, value in scope["headers"]:
        if key == name:
            text: str = value.decode("latin-1")
            return text
    return None


async def wait_for_departure(receive: Receive) -> None:
    """Returns when the client closes the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _too_large(max_bytes: int) -> TooLarge:
    return TooLarge(
        f"the body is larger than {max_bytes} bytes: send fewer inputs at a time, or raise --max-body-bytes"
    )
