"""Where a load goes: an OpenAI-compatible server, by its URL."""

from __future__ import annotations

import ssl
from urllib.parse import urlsplit

from inlay.errors import ConfigError


class Target:
    """Where requests go: the parts of a URL, and the head that stands before each body."""

    def __init__(self, url: str, api_key: str | None = None) -> None:
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise ConfigError(f"{url!r} is not the URL of a server ({error}): write http://HOST:PORT") from error
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"{url!r} is not the URL of a server: write http://HOST:PORT")
        self.host = parts.hostname
        self.port = port or (443 if parts.scheme == "https" else 80)
        self.ssl = ssl.create_default_context() if parts.scheme == "https" else None
        path = parts.path.rstrip("/")
        self.path = path if path.endswith("/embeddings") else path.removesuffix("/v1") + "/v1/embeddings"
        key = f"authorization: Bearer {api_key}\r\n" if api_key else ""
        self._head = (
            f"POST {self.path} HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-type: application/json\r\n"
            f"accept: application/json\r\n{key}content-length: "
        ).encode()

    def request(self, body: bytes) -> bytes:
        return b"%b%d\r\n\r\n%b" % (self._head, len(body), body)
