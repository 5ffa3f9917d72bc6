"""Who may call: keys compared in constant time, as digests, so that neither length nor content leaks."""

from __future__ import annotations

import hmac
from collections.abc import Collection, Iterable

from starlette.types import Scope

from inlay.api.exchange import CALLER, header
from inlay.api.keys import BLANKS, Keys, digest_of
from inlay.errors import ConfigError, Unauthorized
from inlay.serving.callers import Caller


class Keyring:
    """The keys that open the server; without keys it is open to all."""

    def __init__(self, keys: Keys, share: float = 1.0) -> None:
        self._callers = {digest: Caller(key, share) for digest, key in keys.items()}

    @property
    def callers(self) -> Collection[Caller]:
        return self._callers.values()

    def check(self, scope: Scope) -> None:
        """Note who asks; `Unauthorized` unless the request carries a key, where there are keys."""
        if not self._callers:
            return
        key = sent_key(scope)
        if key is None:
            raise Unauthorized("no API key: send the header Authorization: Bearer KEY")
        digest = digest_of(key)
        # All, not the first.
        matches = [caller for known, caller in self._callers.items() if hmac.compare_digest(digest, known)]
        if not matches:
            raise Unauthorized("the API key is not known here: check it, or ask who runs the server")
        scope[CALLER] = matches[0]

    def key_of(self, scope: Scope) -> bytes | None:
        """The key of a request that was let in; None where the server has none, whatever is sent."""
        return sent_key(scope) if self._callers else None

    def check_models(self, served: Iterable[str]) -> None:
        """`ConfigError` where a key is for a model that is not served."""
        known = set(served)
        for caller in self._callers.values():
            if unknown := sorted((caller.key.models or set()) - known):
                raise ConfigError(
                    f"--api-key-file: {caller.key.name!r} is for {unknown[0]!r}, which is not served; these are: "
                    + ", ".join(sorted(known))
                )


def sent_key(scope: Scope) -> bytes | None:
    """The key that a request carries, the bytes as they came."""
    sent = header(scope, b"authorization")
    if not sent:
        return None
    kind, _, rest = sent.partition(" ")
    return (rest if kind.lower() == "bearer" else sent).strip(BLANKS).encode("latin-1")
