"""Who asks, where the server has keys: which models a key may use, how urgently, and how many tokens a minute.

In: the facts of a key, and what its requests cost. Out: refusals with the time to come back, and counts. A request's
tokens are guessed before it and counted after it, as its `usage` tells them, those from a cache included: several at
the same time do not get more than one after the other. Knows nothing of HTTP. Lives on one event loop.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from msgspec import Struct

from inlay.errors import Cancelled, DeadlineExceeded, Forbidden, QuotaExceeded
from inlay.requests import EmbedRequest, RankRequest, Request
from inlay.types import Priority

MINUTE = 60.0
CHARACTERS_PER_TOKEN = 4  # for the guess, of ASCII; of other scripts one


class Key(Struct, frozen=True):
    """What the operator says of a key."""

    name: str  # in the log and in metrics
    tokens_per_minute: int | None = None
    priority: Priority = Priority.HIGH  # the highest
    models: frozenset[str] | None = None  # None: all


class Spending:
    """What one request costs."""

    def __init__(self, num_tokens: int) -> None:
        self.num_tokens = num_tokens  # a guess, until it is known


class Caller:
    """All requests with one key. `share` is this process's part of the quota, where several take requests."""

    def __init__(self, key: Key, share: float = 1.0) -> None:
        self.key = key
        self.num_requests = self.num_refused = self.num_tokens = 0
        self._capacity = None if key.tokens_per_minute is None else max(key.tokens_per_minute * share, 1.0)
        self._level = self._capacity or 0.0  # tokens that may be spent now; below nothing where more was
        self._filled_at = time.monotonic()

    @property
    def is_limited(self) -> bool:
        """Is there anything that this key may not do?"""
        return self._capacity is not None or self.key.models is not None

    @property
    def lowers_priorities(self) -> bool:
        """May a request be less urgent than it asks to be?"""
        return self.key.priority is not Priority.HIGH

    def may_use(self, model: str) -> bool:
        return self.key.models is None or model in self.key.models

    def check_model(self, model: str) -> None:
        """`Forbidden` unless the key may use it."""
        if not self.may_use(model):
            allowed = ", ".join(sorted(self.key.models or ()))
            raise Forbidden(f"this key may not use model {model!r}; it may use: {allowed}", param="model")

    def highest(self, priority: Priority) -> Priority:
        """As urgent as was asked for, or as the key may be."""
        return self.key.priority if priority.is_above(self.key.priority) else priority

    @contextmanager
    def spending(self, expected: int) -> Iterator[Spending]:
        """Around a request; `QuotaExceeded` where the minute's tokens are spent.

        One that fails costs nothing; one that is given up costs what was guessed.
        """
        self._check_quota()
        spent = Spending(expected)
        self._level -= expected
        try:
            yield spent
        except (Cancelled, DeadlineExceeded):  # whoever gave up may have had it computed
            self.num_tokens += expected
            raise
        except BaseException:
            self._level += expected
            raise
        self._level += expected - spent.num_tokens
        self.num_requests += 1
        self.num_tokens += spent.num_tokens

    def remaining(self) -> tuple[float, float, float] | None:
        """The quota in tokens a minute, what is left of it, and seconds until it is whole; None without one."""
        if self._capacity is None:
            return None
        self._fill(self._capacity)
        missing = self._capacity - self._level
        return self._capacity, max(self._level, 0.0), missing / self._capacity * MINUTE

    def _check_quota(self) -> None:
        if self._capacity is None:
            return
        self._fill(self._capacity)
        if self._level <= 0:
            self.num_refused += 1
            seconds = (1 - self._level) / self._capacity * MINUTE
            raise QuotaExceeded(
                f"this key's {self._capacity:.0f} tokens a minute are spent: try again after the time in Retry-After",
                retry_after=seconds,
            )

    def _fill(self, capacity: float) -> None:
        now = time.monotonic()
        self._level = min(capacity, self._level + (now - self._filled_at) * capacity / MINUTE)
        self._filled_at = now


def guessed_tokens(request: Request, max_tokens: int) -> int:
    """About how many tokens a request has, each input of it at most so many."""
    if isinstance(request, EmbedRequest):
        sizes = [len(one) if isinstance(one, list) else _guess(one) for one in request.inputs]
    elif isinstance(request, RankRequest):
        sizes = [_guess(one) + _guess(request.query) for one in request.documents]
    else:
        sizes = [_guess(one) + _guess(other) for one, other in request.pairs]
    return sum(min(size, max_tokens) for size in sizes)


def _guess(text: str) -> int:
    return 1 + len(text) // (CHARACTERS_PER_TOKEN if text.isascii() else 1)
