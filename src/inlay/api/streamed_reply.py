"""A reply that goes out piece by piece, as long as its client takes it: bounded in memory, whatever its length."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

from msgspec import Struct
from starlette.types import Scope, Send

from inlay.api.replies import Headers, Reply


class StreamedReply(Struct, frozen=True):
    """One answer; a client that leaves ends the work for it."""

    pieces: AsyncGenerator[bytes, None]
    content_type: bytes
    departed: Callable[[], Awaitable[object]]  # returns when the client has gone
    headers: Headers = []  # beside the content's type and length
    length: int | None = None  # bytes, where it is known
    status: int = 200
    release: Callable[[], None] = lambda: None  # gives back what is held until the end

    async def send(self, scope: Scope, send: Send) -> None:
        """Until the end, or until the client has gone."""
        sending = asyncio.ensure_future(self._send(send))
        watching = asyncio.ensure_future(self.departed())
        try:
            await asyncio.wait({sending, watching}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                await sending
        finally:
            watching.cancel()
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            await self.pieces.aclose()
            self.release()

    async def _send(self, send: Send) -> None:
        headers = [(b"content-type", self.content_type), *self.headers]
        if self.length is not None:
            headers.append((b"content-length", b"%d" % self.length))
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        async for piece in self.pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


AnyReply = Reply | StreamedReply
