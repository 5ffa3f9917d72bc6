"""One exchange as a route sees it: the head, the way the body comes, and whether the client is still there."""

from __future__ import annotations

from msgspec import Struct
from starlette.types import Receive, Scope

from inlay.serving.callers import Caller

CALLER = "inlay.caller"  # in a scope: who asks, where the server has keys


class Exchange(Struct, frozen=True):
    """A request under way."""

    scope: Scope
    receive: Receive
    name: str = ""  # what a path such as /v1/models/{name} has in that place

    @property
    def caller(self) -> Caller | None:
        """Who asks; None where the server has no keys."""
        found: Caller | None = self.scope.get(CALLER)
        return found

    def directives(self, name: bytes) -> frozenset[str]:
        """What all headers of a name say together, such as `no-store`: in lower case, without values."""
        found = [value for key, value in self.scope["headers"] if key == name]
        if not found:
            return frozenset()
        parts = b",".join(found).decode("latin-1").lower().split(",")
        return frozenset(part.partition("=")[0].strip() for part in parts)

    async def departed(self) -> None:
        """Returns when the client closes the connection."""
        while (await self.receive())["type"] != "http.disconnect":
            pass


def header(scope: Scope, name: bytes) -> str | None:
    """A request header by its lower-case name."""
    for key, value in scope["headers"]:
        if key == name:
            text: str = value.decode("latin-1")
            return text
    return None
