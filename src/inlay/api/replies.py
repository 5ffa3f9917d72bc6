"""How errors and small answers go out: always JSON, each error in the one shape that OpenAI's clients read."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping

import orjson
from starlette.responses import Response

from inlay.errors import InlayError

LONGEST_MESSAGE = 2000  # characters of what a client sent may be in it
MOST_JITTER = 0.5  # of a time to come back: whoever is refused together comes back one after the other
_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


class JSONReply(Response):
    """Any value that orjson takes."""

    media_type = "application/json"

    def render(self, content: object) -> bytes:
        return orjson.dumps(content)


def error_reply(error: InlayError, status: int | None = None) -> JSONReply:
    """`{"error": {message, type, param, code}}`, with the headers that tell a client when to come back."""
    status = error.status if status is None else status
    fallback = "invalid_request_error" if status < 500 else "server_error"
    body = {
        "error": {
            "message": _plain(error.message),
            "type": _TYPES.get(status, fallback),
            "param": None if error.param is None else _plain(error.param),
            "code": error.code,
        }
    }
    return JSONReply(body, status_code=status, headers=retry_headers(error))


def retry_headers(error: InlayError) -> Mapping[str, str]:
    """`retry-after` in whole seconds for everyone, `retry-after-ms` for those who read it."""
    if error.retry_after is None:
        return {}
    seconds = error.retry_after * (1 + random.uniform(0, MOST_JITTER))  # noqa: S311 - no secret
    return {"retry-after": str(max(1, math.ceil(seconds))), "retry-after-ms": str(math.ceil(seconds * 1000))}


def _plain(text: str) -> str:
    """A message as JSON takes it, of a length that a log takes."""
    text = text if len(text) <= LONGEST_MESSAGE else text[:LONGEST_MESSAGE] + "…"
    return text.encode("utf-8", "backslashreplace").decode()
