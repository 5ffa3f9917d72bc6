"""What a dialect is: how one route's requests are read, and how its results and its errors are written.

A new dialect is a file in this folder with one `Dialect` for each of its routes, listed in `registry`; none knows
another. All else (bounds, keys, admission, cache, headers, metrics, the API's description) is common to all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import msgspec

from inlay.api.replies import RenderError, Reply
from inlay.requests import EmbedRequest, RankRequest, Result

C = TypeVar("C", bound=msgspec.Struct)
Q = TypeVar("Q", bound=EmbedRequest | RankRequest)
R = TypeVar("R", bound=Result)


@dataclass(frozen=True, slots=True)
class Dialect(Generic[C, Q, R]):
    """One `POST` route of an API that clients speak."""

    path: str
    summary: str
    request: type[C]  # the struct of a body; with `forbid_unknown_fields`, fields it does not know are refused
    response: type[Any]  # the struct of a reply, for the API's description
    error: type[Any]  # the same of an error
    parse: Callable[[C], Q]  # all that is asked for is in the body: replies are kept by it
    render: Callable[[R, C], Reply]
    render_error: RenderError
    names: Mapping[str, str] = field(default_factory=dict)  # what it calls `input`, `dimensions`, …, where otherwise
