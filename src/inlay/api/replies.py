"""How errors and small answers go out: always JSON, each error in the one shape that OpenAI's clients read."""

from __future__ import annotations

import math
from collections.abc import Mapping

import orjson
from starlette.responses import Response

from inlay.errors import InlayError

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
            "message": error.message,
            "type": _TYPES.get(status, fallback),
            "param": error.param,
            "code": error.code,
        }
    }
    return JSONReply(body, status_code=status, headers=retry_headers(error))


def retry_headers(error: InlayError) -> Mapping[str, str]:
    """`retry-after` in whole seconds for everyone, `retry-after-ms` for those who read it."""
    if error.retry_after is None:
        return {}
    return {
        "retry-after": str(max(1, math.ceil(error.retry_after))),
        "retry-after-ms": str(math.ceil(error.retry_after * 1000)),
    }
