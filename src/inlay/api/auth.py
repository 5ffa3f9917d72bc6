"""Who may call: keys compared in constant time, as digests, so that neither length nor content leaks."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

from starlette.types import Scope

from inlay.api.exchange import header
from inlay.errors import ConfigError, Unauthorized

_BLANKS = " \t\r\n"  # no others: a key's last byte, read as Latin-1, may be a blank such as A0


class Keyring:
    """The keys that open the server; without keys it is open to all."""

    def __init__(self, keys: list[str]) -> None:
        self._digests = [_digest(key.encode()) for key in keys]

    def check(self, scope: Scope) -> None:
        """`Unauthorized` unless the request carries a key, where there are keys."""
        if not self._digests:
            return
        key = _key_of(scope)
        if key is None:
            raise Unauthorized("no API key: send the header Authorization: Bearer KEY")
        digest = _digest(key)
        matches = [hmac.compare_digest(digest, known) for known in self._digests]  # all, not the first
        if not any(matches):
            raise Unauthorized("the API key is not known here: check it, or ask who runs the server")

    def key_of(self, scope: Scope) -> bytes | None:
        """The key of a request that was let in; None where the server has none, whatever is sent."""
        return _key_of(scope) if self._digests else None


def _key_of(scope: Scope) -> bytes | None:
    """The bytes as they came."""
    sent = header(scope, b"authorization")
    if not sent:
        return None
    kind, _, rest = sent.partition(" ")
    return (rest if kind.lower() == "bearer" else sent).strip(_BLANKS).encode("latin-1")


def read_keys(keys: list[str], file: str | None) -> list[str]:
    """Keys from settings and from a file with one a line."""
    keys = [key.strip(_BLANKS) for key in keys]
    if not all(keys):
        raise ConfigError("--api-key is empty: give a key, or leave the option out to serve without keys")
    if file is None:
        return keys
    try:
        lines = Path(file).expanduser().read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--api-key-file {file} cannot be read: {error}") from error
    found = [line.strip(_BLANKS) for line in lines if line.strip(_BLANKS) and not line.startswith("#")]
    if not found:
        raise ConfigError(f"--api-key-file {file} has no keys: the server would be open to all")
    return keys + found


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
