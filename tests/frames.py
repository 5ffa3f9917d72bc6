"""A worker behind a wire: both sides see bytes alone, as a process or a node would."""

from __future__ import annotations

import threading
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import msgspec

from inlay.types import Answer, Deliver, ModelSpec, Priority, Work, Worker, WorkerStats

_encoder = msgspec.msgpack.Encoder(enc_hook=lambda value: str(value) if isinstance(value, Path) else dict(value))


def _decode(data: bytes, kind: Any) -> Any:
    return msgspec.msgpack.decode(data, type=kind, dec_hook=lambda wanted, value: wanted(value))


class FarSide:
    """Holds the worker; takes frames, sends frames."""

    def __init__(self, worker: Worker, send: Any) -> None:
        self._worker = worker
        self._send = send

    def take(self, frame: bytes) -> None:
        verb, body = _decode(frame, tuple[str, msgspec.Raw])
        if verb == "submit":
            self._worker.submit_many(_decode(body, list[Work]), self._deliver)
        elif verb == "cancel":
            self._worker.cancel_many(_decode(body, list[int]))
        elif verb == "promote":
            self._worker.promote_many(*_decode(body, tuple[list[int], Priority]))

    def _deliver(self, answers: list[Answer]) -> None:
        self._send(_encoder.encode(answers))

    def state(self) -> bytes:
        worker = self._worker
        return _encoder.encode(
            (
                *(worker.spec, worker.is_ready, worker.queued_tokens, worker.stats, worker.health()),
                *(worker.device_bytes, worker.shares_engine),
            )
        )


class FrameWorker:
    """What the front half holds: a `Worker` that knows its worker by frames alone."""

    def __init__(self, worker: Worker) -> None:
        self.frames: list[bytes] = []
        self._far = FarSide(worker, lambda frame: self._queue.put((self._receive, frame)))
        self._delivers: dict[int, Deliver] = {}
        self._queue: SimpleQueue[Any] = SimpleQueue()
        threading.Thread(target=self._carry, daemon=True).start()
        self._inner = worker

    def _carry(self) -> None:
        """The wire: one frame after the other, in both directions."""
        while (carried := self._queue.get()) is not None:
            take, frame = carried
            self.frames.append(frame)
            take(frame)

    def _receive(self, frame: bytes) -> None:
        for answer in _decode(frame, list[Answer]):
            self._delivers.pop(answer.id)([answer])

    def _send(self, verb: str, body: object) -> None:
        self._queue.put((self._far.take, _encoder.encode((verb, msgspec.Raw(_encoder.encode(body))))))

    def submit_many(self, works: list[Work], deliver: Deliver) -> None:
        self._delivers |= dict.fromkeys((work.id for work in works), deliver)
        self._send("submit", works)

    def cancel_many(self, ids: list[int]) -> None:
        self._send("cancel", ids)

    def promote_many(self, ids: list[int], priority: Priority) -> None:
        self._send("promote", (ids, priority))

    @property
    def _state(self) -> tuple[ModelSpec, bool, int, WorkerStats, str | None, int, bool]:
        return _decode(self._far.state(), tuple[ModelSpec, bool, int, WorkerStats, str | None, int, bool])

    @property
    def spec(self) -> ModelSpec:
        return self._state[0]

    @property
    def is_ready(self) -> bool:
        return self._state[1]

    @property
    def queued_tokens(self) -> int:
        return self._state[2]

    @property
    def device_bytes(self) -> int:
        return self._state[5]

    @property
    def shares_engine(self) -> bool:
        return self._state[6]

    @property
    def stats(self) -> WorkerStats:
        return self._state[3]

    def health(self) -> str | None:
        return self._state[4]

    def wait_loaded(self) -> None:
        self._inner.wait_loaded()

    def close(self, timeout: float | None = None) -> bool:
        is_closed = self._inner.close(timeout)
        self._queue.put(None)
        return is_closed
