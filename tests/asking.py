"""Hands work to a worker, and holds each piece beside its answer."""

from __future__ import annotations

import threading
from itertools import count

import numpy as np
from fakes import SPEC

from inlay.errors import InlayError
from inlay.types import DENSE, Answer, FloatArray, Truncate, Work, Worker

_ids = count()


class Asked:
    """One piece of work, and its answer once that is there."""

    def __init__(self, content: str | list[int], truncate: Truncate = Truncate.NONE) -> None:
        self.work = Work(next(_ids), content, truncate, SPEC.max_tokens)
        self.answers: list[Answer] = []

    @property
    def answer(self) -> Answer:
        (answer,) = self.answers
        return answer

    @property
    def vector(self) -> FloatArray | None:
        payload = self.answer.outputs.get(DENSE)
        return None if payload is None else np.frombuffer(payload, dtype=np.float32)

    @property
    def error(self) -> InlayError | None:
        failure = self.answer.failure
        return None if failure is None else failure.error()


class Receiver:
    """Collects what a worker hands over."""

    def __init__(self) -> None:
        self.answered: list[Asked] = []
        self._asked: dict[int, Asked] = {}
        self._changed = threading.Condition()

    def submit(self, worker: Worker, asked: list[Asked]) -> None:
        self._asked |= {one.work.id: one for one in asked}
        worker.submit_many([one.work for one in asked], self)

    def __call__(self, answers: list[Answer]) -> None:
        with self._changed:
            for answer in answers:
                self._asked[answer.id].answers.append(answer)
                self.answered.append(self._asked[answer.id])
            self._changed.notify()

    def wait(self, number: int) -> list[Asked]:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.answered) >= number, 20), "work was lost"
            return list(self.answered)


def embed(worker: Worker, contents: list[str | list[int]]) -> list[Asked]:
    """Submit, wait, and give what was asked in its order."""
    receiver, asked = Receiver(), [Asked(content) for content in contents]
    receiver.submit(worker, asked)
    receiver.wait(len(asked))
    return asked
