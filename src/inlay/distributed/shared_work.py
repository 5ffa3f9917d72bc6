"""One computation for each content in an engine, whichever front ends want it.

In: work of several front ends, whose ids may be the same. Out: work with ids of its own for the engine's worker, and
its answer for each who waits, by the id that he gave. Who wants what is under way joins it; the last to leave cancels
it. Within one front end `serving.flights` does the same by the keys of the cache.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from itertools import count
from threading import Lock
from typing import NamedTuple

from msgspec.structs import replace

from inlay.error_codes import error_of
from inlay.errors import Cancelled, EngineError
from inlay.telemetry.logs import get_logger
from inlay.types import Answer, Deliver, Failure, Priority, Work, Worker

log = get_logger("engine")


@dataclass(frozen=True, slots=True)
class _Listener:
    """Who waits for an answer."""

    work: Work  # as it was given
    deliver: Deliver


@dataclass(slots=True, eq=False)
class _Computation:
    """Work under way; the first listener leads it."""

    work: Work
    priority: Priority
    listeners: list[_Listener]


class _Asked(NamedTuple):
    """What became of a listener's wish."""

    computation: _Computation
    is_led: bool  # the worker does not have it yet
    has_risen: bool


class SharedWork:
    """All that a worker computes for front ends."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._ids = count()
        self._lock = Lock()
        self._by_id: dict[int, _Computation] = {}
        self._by_content: dict[Hashable, list[_Computation]] = {}
        self._places: dict[tuple[Deliver, int], _Computation] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def submit_many(self, works: list[Work], deliver: Deliver) -> None:
        """See `Worker.submit_many`; what others have under way is not taken again."""
        with self._lock:
            asked = [self._join(_Listener(work, deliver)) for work in works]
        self._begin(asked)

    def cancel_many(self, ids: list[int], deliver: Deliver) -> None:
        """Who gave these waits no more; what nobody else waits for is cancelled."""
        left: list[int] = []
        answers: list[Answer] = []
        with self._lock:
            for number in ids:
                computation = self._places.pop((deliver, number), None)
                if computation is None:
                    continue
                answers.append(Answer(number, failure=Failure.of(Cancelled("the client has gone"))))
                computation.listeners = [
                    one for one in computation.listeners if (one.deliver, one.work.id) != (deliver, number)
                ]
                if not computation.listeners:
                    self._forget(computation)
                    left.append(computation.work.id)
        if left:
            self._worker.cancel_many(left)
        if answers:
            deliver(answers)

    def cancel_all(self, deliver: Deliver) -> None:
        """A front end has gone."""
        with self._lock:
            ids = [number for receiver, number in self._places if receiver == deliver]
        self.cancel_many(ids, deliver)

    def promote_many(self, ids: list[int], priority: Priority, deliver: Deliver) -> None:
        """See `Worker.promote_many`."""
        with self._lock:
            found = [self._places[deliver, number] for number in ids if (deliver, number) in self._places]
            risen = [computation for computation in found if priority.is_above(computation.priority)]
            for computation in risen:
                computation.priority = priority
        self._promote(risen)

    def _join(self, listener: _Listener) -> _Asked:
        """Wait for what is under way, or lead it. Under the lock."""
        work = listener.work
        computation = self._find(work)
        is_led = computation is None
        if computation is None:
            computation = self._lead(work)
        has_risen = work.priority.is_above(computation.priority)
        if has_risen:
            computation.priority = work.priority
        computation.listeners.append(listener)
        self._places[listener.deliver, work.id] = computation
        return _Asked(computation, is_led, has_risen)

    def _begin(self, asked: list[_Asked]) -> None:
        """Give the worker what is led, and tell it what has risen. Others may have left or risen meanwhile."""
        led = [one.computation for one in asked if one.is_led and one.computation.listeners]
        if led:
            self._submit([computation.work for computation in led])
        left = [computation.work.id for computation in led if not computation.listeners]
        if left:
            self._worker.cancel_many(left)
        risen = [computation for computation in led if computation.priority.is_above(computation.work.priority)]
        self._promote([one.computation for one in asked if one.has_risen and not one.is_led] + risen)

    def _find(self, work: Work) -> _Computation | None:
        """What is under way and gives all that is wanted."""
        for computation in self._by_content.get(_content_of(work), ()):
            if set(work.outputs) <= set(computation.work.outputs):
                return computation
        return None

    def _lead(self, work: Work) -> _Computation:
        own = replace(work, id=next(self._ids))
        computation = _Computation(own, work.priority, [])
        self._by_id[own.id] = computation
        self._by_content.setdefault(_content_of(work), []).append(computation)
        return computation

    def _forget(self, computation: _Computation) -> None:
        del self._by_id[computation.work.id]
        content = _content_of(computation.work)
        self._by_content[content].remove(computation)
        if not self._by_content[content]:
            del self._by_content[content]

    def _submit(self, led: list[Work]) -> None:
        try:
            self._worker.submit_many(led, self._land)
        except Exception as error:
            log.exception("a worker failed to take work", model=self._worker.spec.name)
            failure = Failure.of(EngineError(f"was not taken by the worker ({type(error).__name__}): the log has more"))
            self._land([Answer(work.id, failure=failure) for work in led])

    def _promote(self, computations: list[_Computation]) -> None:
        for computation in computations:
            self._worker.promote_many([computation.work.id], computation.priority)

    def _land(self, answers: list[Answer]) -> None:
        """Answers are back from the worker. Who joined what was refused as a part of another's request asks anew."""
        receivers: dict[Deliver, list[Answer]] = {}
        again: list[_Asked] = []
        with self._lock:
            found = [(answer, self._by_id[answer.id]) for answer in answers if answer.id in self._by_id]
            for _, computation in found:
                self._forget(computation)
            for answer, computation in found:
                for place, listener in enumerate(computation.listeners):
                    del self._places[listener.deliver, listener.work.id]
                    if place and _is_of_request(answer):
                        again.append(self._join(listener))
                    else:
                        receivers.setdefault(listener.deliver, []).append(_answer_for(listener, answer))
        for deliver, own in receivers.items():
            deliver(own)
        for asked in again:  # each for itself: the worker takes all or none of what it is given
            self._begin([asked])


def _content_of(work: Work) -> Hashable:
    """What decides its outputs, but for which of them are wanted."""
    content = tuple(work.content) if isinstance(work.content, list) else work.content
    return content, work.truncate, work.max_tokens, work.prompt, work.adapter


def _is_of_request(answer: Answer) -> bool:
    return answer.failure is not None and error_of(answer.failure.code, "").is_of_request


def _answer_for(listener: _Listener, answer: Answer) -> Answer:
    """The answer with the listener's id, and what it wanted of it."""
    wanted = {kind: payload for kind, payload in answer.outputs.items() if kind in listener.work.outputs}
    return replace(answer, id=listener.work.id, outputs=wanted)
