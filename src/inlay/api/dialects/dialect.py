"""What a dialect is: how one route's requests are read, and how its results and its errors are written.

A new dialect is a file in this folder with one `Dialect` for each kind of its bodies, listed in `registry`; none knows
another. All else (bounds, keys, admission, cache, headers, metrics, the API's description) is common to all. Where
several speak on one path, the body's fields tell which one it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import msgspec

from inlay.api.replies import Headers, RenderError, Reply
from inlay.errors import InlayError
from inlay.requests import DecodeRequest, Request, Result, TokenizeRequest, TokensResult

C = TypeVar("C", bound=msgspec.Struct)
Q = TypeVar("Q", bound=Request | TokenizeRequest | DecodeRequest)
R = TypeVar("R", bound=Result | TokensResult)

Fields = Mapping[str, msgspec.Raw]  # of a body: its names, with what they hold still to be decoded


@dataclass(frozen=True, slots=True)
class Rows(Generic[R, C]):
    """How the items of a result are written one by one."""

    row: type[Any]  # what a line holds, for the API's description
    render: Callable[[R, C], list[dict[str, Any]]]  # each with the `index` that it has in the whole request
    check: Callable[[C], None] = lambda call: None  # refuses what needs all items at once


@dataclass(frozen=True, slots=True)
class Dialect(Generic[C, Q, R]):
    """One kind of body, of `POST` on one or more paths of an API that clients speak."""

    speakers: frozenset[str]  # the names of the APIs that have it: `--dialects` chooses by these
    paths: tuple[str, ...]
    summary: str
    request: type[C]  # the struct of a body; with `forbid_unknown_fields`, fields it does not know are refused
    response: type[Any]  # what a reply holds, for the API's description
    error: type[Any]  # the same of an error
    parse: Callable[[C], Q]  # all that is asked for is in the body: replies are kept by it
    render: Callable[[R, C], Reply]
    render_error: RenderError
    names: Mapping[str, str] = field(default_factory=dict)  # what it calls `input`, `dimensions`, …, where otherwise
    statuses: Mapping[int, str] = field(default_factory=dict)  # of errors, that the other dialects do not have
    phrases: Mapping[str, str] = field(default_factory=dict)  # of messages' remedies → in its own words
    told_by: frozenset[str] = frozenset()  # a body on a shared path that has one of these fields is this one's
    claims: Callable[[Fields], bool] = lambda fields: True  # what else must hold of these fields
    answer_at_once: Callable[[C], Reply | None] = lambda call: None  # what needs no model
    rows: Rows[R, C] | None = None  # where replies may go out line by line
    timing_headers: Callable[[R, float], Headers] = lambda result, seconds: []

    def in_own_words(self, error: InlayError) -> InlayError:
        """The error with the names of the dialect's fields, and remedies that it has."""
        error = error.renamed(self.names)
        message = error.message
        for phrase, own in self.phrases.items():
            message = message.replace(phrase, own)
        if message == error.message:
            return error
        return type(error)(message, param=error.param, retry_after=error.retry_after)
