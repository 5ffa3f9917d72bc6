"""Another model in the place of one that cannot answer, or not in time, where the request allows it.

In: a request and how it is answered. Out: the result, of the model that was asked for or of the other one; then it says
so. The whole request goes to the other model, under that one's keys: vectors of two models are never in one reply, and
nothing is kept under the wrong name. Knows nothing of caches and flights.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from msgspec.structs import replace

from inlay.errors import (
    ConfigError,
    DeadlineExceeded,
    DeviceLost,
    InlayError,
    NotReady,
    OutOfMemory,
    Overloaded,
    RequestError,
    WorkerDead,
)
from inlay.requests import EmbedRequest, Fallback, PairsRequest, RankRequest, Result
from inlay.serving.router import Router
from inlay.types import Task, Worker

Q = TypeVar("Q", EmbedRequest, RankRequest, PairsRequest)
R = TypeVar("R", bound=Result)

FIRST_SHARE = 0.5  # of a request's time, for the model that was asked for
# After these another model may answer; what is wrong with the request itself is wrong with any.
MENDABLE = (WorkerDead, DeviceLost, OutOfMemory, Overloaded, NotReady, DeadlineExceeded)


class Fallbacks:
    """For each model that has one, the other; `max_wait` is in seconds of queued work."""

    def __init__(self, router: Router, others: Mapping[str, str], max_wait: float, *, is_default: bool) -> None:
        self._router = router
        self._others = others
        self._max_wait = max_wait
        self._is_default = is_default

    async def answer(self, request: Q, act: Callable[[Q], Awaitable[R]]) -> R:
        """What `act` gives for the request, or for the same one to another model."""
        if not self._others or not self._allows(request):
            return await act(request)
        asked, request = self._router.resolve(request)
        other = self._others.get(asked)
        if other is None:
            return await act(request)
        try:
            return await act(replace(request, may_wait=self._max_wait, deadline=_first_deadline(request.deadline)))
        except MENDABLE as error:
            found = await _attempt(act, replace(request, model=other), error)
            return replace(found, fallback=Fallback(asked, error.code))

    def _allows(self, request: EmbedRequest | RankRequest | PairsRequest) -> bool:
        options = request.options
        is_allowed = self._is_default if options.fallback is None else options.fallback
        return is_allowed and options.expect_fingerprint is None


async def _attempt(act: Callable[[Q], Awaitable[R]], request: Q, first: InlayError) -> R:
    """What the other model gives; where it cannot, the first model's error is what counts."""
    try:
        return await act(request)
    except (RequestError, *MENDABLE):
        raise first from None


def _first_deadline(deadline: float | None) -> float | None:
    now = time.monotonic()
    return None if deadline is None else now + (deadline - now) * FIRST_SHARE


def queued_seconds(worker: Worker) -> float:
    """How long the device will take for what waits for it; 0 where nothing has run yet."""
    rate = worker.stats.tokens_per_second
    return worker.queued_tokens / rate if rate else 0.0


def check_wait(worker: Worker, seconds: float) -> None:
    """Refuse now what would be refused, or wait for longer."""
    name = worker.spec.name
    if (reason := worker.health()) is not None:
        raise WorkerDead(f"model {name!r} is not served: {reason}")
    if not worker.is_ready:
        raise NotReady(f"model {name!r} is still loading: try again", retry_after=1.0)
    if (expected := queued_seconds(worker)) > seconds:
        raise Overloaded(f"model {name!r} has {expected:.1f} s of work before this", retry_after=expected)


def parse_fallbacks(given: Sequence[str], tasks: Mapping[str, Task]) -> dict[str, str]:
    """Models by those that they answer for, from MODEL=OTHER; `tasks` are those of the models that are served."""
    others: dict[str, str] = {}
    for text in given:
        model, equals, other = text.partition("=")
        if not (model and equals and other) or model == other:
            raise ConfigError(f"--fallback {text}: write MODEL=OTHER, two models that are served")
        for name in (model, other):
            if name not in tasks:
                raise ConfigError(f"--fallback {text}: {name!r} is not served; these are: {', '.join(tasks)}")
        if model in others:
            raise ConfigError(f"--fallback {text}: {model!r} has one already ({others[model]!r})")
        if tasks[model] is not tasks[other]:
            raise ConfigError(f"--fallback {text}: one of them embeds and the other ranks")
        others[model] = other
    return others
