"""What goes out: a body with its status and headers, and the headers that tell a refused client when to come back."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import orjson
from msgspec import Struct
from starlette.types import Scope, Send

from inlay.errors import InlayError

LONGEST_MESSAGE = 2000  # characters of what a client sent may be in it
MOST_JITTER = 0.5  # of a time to come back: whoever is refused together comes back one after the other
JSON = b"application/json"
WARNING = b"x-inlay-warning"  # what to know of an answer that is right as far as it goes
RENDER_ERROR = "inlay.render_error"  # of a scope: how errors are told to whoever asks, where the body tells it
WHOLE_REPLY = "inlay.whole_reply"  # of a scope's extensions: see `whole_reply`

Headers = list[tuple[bytes, bytes]]


class Reply(Struct, frozen=True):
    """One answer, whole."""

    body: bytes
    status: int = 200
    content_type: bytes = JSON
    headers: Headers = []  # beside the content's type and length

    @classmethod
    def of_json(cls, value: object, status: int = 200, headers: Headers | None = None) -> Reply:
        """Any value that orjson takes, contiguous numpy arrays among them."""
        return cls(orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY), status, headers=headers or [])

    def head(self) -> Headers:
        """All its headers."""
        length = b"%d" % len(self.body)
        return [(b"content-type", self.content_type), (b"content-length", length), *self.headers]

    async def send(self, scope: Scope, send: Send) -> None:
        """In one write where the server can, else in ASGI's two messages."""
        send_whole = scope.get("extensions", {}).get(WHOLE_REPLY)
        if send_whole is not None and send_whole(self.status, self.head(), self.body):
            return
        await send({"type": "http.response.start", "status": self.status, "headers": self.head()})
        await send({"type": "http.response.body", "body": self.body})


RenderError = Callable[[InlayError], Reply]


def refuse(error: InlayError, render: RenderError) -> Reply:
    """An error in a dialect's words, with the headers that tell a client when to come back."""
    param = None if error.param is None else plain(error.param)
    reply = render(type(error)(plain(error.message), param=param, retry_after=error.retry_after))
    reply.headers.extend(retry_headers(error))
    return reply


def retry_headers(error: InlayError) -> Headers:
    """`retry-after` in whole seconds for everyone, `retry-after-ms` for those who read it."""
    if error.retry_after is None:
        return []
    seconds = error.retry_after * (1 + random.uniform(0, MOST_JITTER))  # noqa: S311 - no secret
    return [
        (b"retry-after", b"%d" % max(1, math.ceil(seconds))),
        (b"retry-after-ms", b"%d" % math.ceil(seconds * 1000)),
    ]


def plain(text: str) -> str:
    """A message as JSON takes it, of a length that a log takes."""
    text = text if len(text) <= LONGEST_MESSAGE else text[:LONGEST_MESSAGE] + "…"
    return text.encode("utf-8", "backslashreplace").decode()
