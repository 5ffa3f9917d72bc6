"""A running server as a client that has time: "not now", and a server that is away for a moment, are waited out.

In: a URL and a key. Out: replies, of any status but those that only ask for patience. Knows nothing of what is asked.
"""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from inlay.errors import ConfigError, Refused

TIMEOUT = 600.0  # seconds, for one request
ATTEMPTS = 10
LONGEST_PAUSE, LONGEST_ASKED = 30.0, 600.0  # seconds, of our own and of a server's choice
MAX_REQUEST_CHARACTERS = 1 << 20


class RemoteServer:
    """One server."""

    def __init__(self, url: str, key: str | None) -> None:
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        self.url = url.rstrip("/").removesuffix("/v1")
        self._client = httpx.Client(headers=headers, timeout=TIMEOUT)

    def request(self, method: str, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
        """One call, again and again while the server asks for that."""
        problem = ""
        for attempt in range(ATTEMPTS):
            pause = min(0.5 * 2**attempt, LONGEST_PAUSE)
            try:
                reply = self._client.request(method, self.url + path, json=body)
            except httpx.TransportError as error:
                problem = f"cannot be reached ({error or type(error).__name__})"
                if method == "GET" or attempt == ATTEMPTS - 1:
                    break
            except httpx.InvalidURL as error:
                raise ConfigError(f"--server {self.url} is not a URL: {error}") from error
            else:
                if reply.status_code not in (429, 503):
                    return reply
                problem = error_of_reply(reply)[0]
                pause = max(pause, min(_seconds_of(reply.headers.get("retry-after")), LONGEST_ASKED))
            time.sleep(pause)
        raise Refused(f"{self.url} {problem}: start it or look at its load, and repeat the command")

    def close(self) -> None:
        self._client.close()


def first_of(texts: list[str]) -> list[str]:
    """As many as one request should carry; at least one."""
    size = 0
    for number, text in enumerate(texts):
        size += len(text)
        if number and size > MAX_REQUEST_CHARACTERS:
            return texts[:number]
    return texts


def error_of_reply(reply: httpx.Response) -> tuple[str, str | None]:
    """Message and param of a refusal, in the words of OpenAI's API or of TEI's."""
    try:
        error = reply.json()["error"]
        return (error, None) if isinstance(error, str) else (error["message"], error.get("param"))
    except (ValueError, KeyError, TypeError):
        return f"answered {reply.status_code}: {reply.text[:200]!r}", None


def _seconds_of(retry_after: str | None) -> float:
    """Of a header that has seconds, a date, or something else, which says nothing."""
    try:
        return max(float(retry_after or 0), 0.0)
    except ValueError:
        pass
    try:
        return max(parsedate_to_datetime(retry_after or "").timestamp() - time.time(), 0.0)
    except ValueError:
        return 0.0
