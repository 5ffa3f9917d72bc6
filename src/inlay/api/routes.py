"""The table of routes: all that is known of each, from which dispatch, keys, metrics and the API's description come."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from inlay.api.exchange import Exchange
from inlay.api.replies import RenderError
from inlay.api.streamed_reply import AnyReply
from inlay.errors import InlayError, MethodNotAllowed, NotFound, shorten

GET, POST, DELETE = "GET", "POST", "DELETE"
ANSWERED_AS = {"HEAD": GET}
PLACEHOLDER = "{name}"  # once in a path: all that stands there, slashes included


@dataclass(frozen=True, slots=True)
class Bodies:
    """The types of what one form of a route takes and gives."""

    request: type[Any]
    response: type[Any]
    error: type[Any]
    statuses: Mapping[int, str] = field(default_factory=dict)  # of errors, beside those of all routes
    lines: tuple[type[Any], ...] = ()  # what lines hold, where it gives them to whoever takes them


@dataclass(frozen=True, slots=True)
class Route:
    """One method of one path."""

    method: str
    path: str
    summary: str
    answer: Callable[[Exchange], Awaitable[AnyReply]]
    render_error: RenderError
    is_open: bool = False  # may be asked without a key
    success: int = 200  # the status of what goes well
    is_probe: bool = False  # asked all the time, so that a refusal is no news
    bodies: tuple[Bodies, ...] = ()  # of its forms, for the description
    form: Mapping[str, Any] | None = None  # OpenAPI's schema of a form, where it takes one
    tell: Callable[[Exchange], Awaitable[None]] | None = None  # finds the words for whoever has no key


class RouteTable:
    """Finds routes by method and path."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self.routes = tuple(routes)
        self._by_path: dict[str, dict[str, Route]] = {}
        for route in self.routes:
            methods = self._by_path.setdefault(route.path, {})
            if route.method in methods:
                raise ValueError(f"two routes answer {route.method} {route.path}")
            methods[route.method] = route
        patterns = sorted(path for path in self._by_path if PLACEHOLDER in path)
        self._patterns = [(*path.split(PLACEHOLDER), path) for path in reversed(patterns)]  # `{name}/more` first

    def methods_of(self, path: str) -> list[str]:
        """The methods that a path has; none where it is not there."""
        pattern, _ = self._match(path)
        methods = list(self._by_path.get(pattern, ()))
        return [*methods, "HEAD"] if GET in methods else methods

    def match(self, path: str, method: str) -> tuple[Route | None, str]:
        """The route of a path, with the method if there is one, and the rest of the path for its placeholder."""
        pattern, name = self._match(path)
        methods = self._by_path.get(pattern)
        if methods is None:
            return None, ""
        return methods.get(ANSWERED_AS.get(method, method)) or next(iter(methods.values())), name

    def missing(self, path: str, method: str) -> InlayError:
        """`NotFound`, or `MethodNotAllowed` for a path that others ask for."""
        asked = f"{method} {shorten(path)}"
        if methods := self._by_path.get(self._match(path)[0]):
            return MethodNotAllowed(f"there is no {asked}: use {', '.join(methods)}")
        return NotFound(f"there is no {asked}: GET /docs lists the routes")

    def _match(self, path: str) -> tuple[str, str]:
        """The path of the table that a path falls under, and what is in its placeholder."""
        if path in self._by_path:
            return path, ""
        for before, after, pattern in self._patterns:
            if path.startswith(before) and path.endswith(after) and len(path) > len(before) + len(after):
                return pattern, path[len(before) : len(path) - len(after)]
        return "", ""
