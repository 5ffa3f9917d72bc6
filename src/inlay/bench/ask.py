"""Hands token ids to a worker, past tokenizer and cache, and waits for the answers."""

from __future__ import annotations

from itertools import count
from threading import Event

from inlay.types import Answer, Truncate, Work, Worker


class Asker:
    """Asks one worker."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._ids = count()

    def ask(self, lists: list[list[int]]) -> list[Answer]:
        """The answers, in the order in which they came; raises the first failure."""
        works = [Work(next(self._ids), ids, Truncate.NONE, self._worker.spec.max_tokens) for ids in lists]
        given: list[Answer] = []
        finished = Event()

        def deliver(answers: list[Answer]) -> None:
            given.extend(answers)
            if len(given) == len(works):
                finished.set()

        self._worker.submit_many(works, deliver)
        finished.wait()
        for answer in given:
            if answer.failure is not None:
                raise answer.failure.error()
        return given
