"""A model on a thread of this process: the `Worker` that the front half talks to.

In: items. Out: the same items with a vector or an error, through the caller's `done`. The engine is made
on the device thread, so that one thread owns the device from the beginning; until then requests are told
that the model is loading. Knows nothing of HTTP, caches or devices.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Event, Thread

from inlay.engine.answers import fail_all, hand_back
from inlay.engine.loading import Engine
from inlay.engine.stats import EngineStats
from inlay.errors import EngineError, InlayError, NotReady, ShuttingDown, WorkerDead
from inlay.telemetry.logs import get_logger
from inlay.types import Done, Item, ModelSpec, Sequence

log = get_logger("engine")

Load = Callable[[ModelSpec, EngineStats], Engine]


class DeviceWorker:
    """One device thread for one model. Starts to load at once."""

    def __init__(self, spec: ModelSpec, load: Load, stall_timeout: float) -> None:
        self.stats = EngineStats()
        self._spec = spec
        self._load = load
        self._stall_timeout = stall_timeout
        self._engine: Engine | None = None
        self._failure: InlayError | None = None
        self._is_closed = False
        self._loaded = Event()
        self._thread = Thread(target=self._run, name=f"inlay-device-{spec.name}", daemon=True)
        self._thread.start()

    @property
    def spec(self) -> ModelSpec:
        """With dtype and fingerprint once loaded."""
        return self._spec

    @property
    def is_ready(self) -> bool:
        return self._loaded.is_set() and self._failure is None and not self._is_closed

    @property
    def queued_tokens(self) -> int:
        return 0 if self._engine is None else self._engine.queue.queued_tokens

    def wait_loaded(self) -> None:
        """Block until the model is served; raises what went wrong while it was loaded."""
        self._loaded.wait()
        if self._failure is not None:
            raise self._failure

    def embed(self, items: list[Item], done: Done) -> None:
        """Take all items or none; see `Worker.embed`."""
        name = self._spec.name
        if self._failure is not None:
            _refuse(items, WorkerDead(f"model {name!r} is not served: {self._failure.message}"), done)
        elif self._engine is None:
            _refuse(items, NotReady(f"model {name!r} is still loading: try again", retry_after=1.0), done)
        elif refusal := self._engine.queue.refusal(1) or self._engine.intake.refusal(items):
            _refuse(items, refusal, done)
        else:
            self._engine.intake.submit(items, done, self._admit)

    def cancel_many(self, items: list[Item]) -> None:
        """See `Worker.cancel_many`."""
        if self._engine is not None:
            self._engine.queue.cancel_many(items)

    def promote_many(self, items: list[Item]) -> None:
        """See `Worker.promote_many`."""
        if self._engine is not None:
            self._engine.queue.promote_many(items)

    def health(self) -> str | None:
        """None while all is well, else the reason why not."""
        if self._failure is not None:
            return self._failure.message
        if self._engine is None or self._is_closed:
            return None
        if self._engine.loop.loss is not None:
            return self._engine.loop.loss.message
        if self._engine.loop.is_broken:
            return "the device fails batches that it ran before"
        silence = time.monotonic() - self._engine.loop.beat
        if silence > self._stall_timeout:
            return f"the device loop has not answered for {silence:.0f} s"
        return None

    def close(self, timeout: float | None = None) -> bool:
        """Stop after the batch in flight; what still waits is refused. False when that takes too long."""
        end = None if timeout is None else time.monotonic() + timeout
        if not self._loaded.wait(timeout):
            return False
        self._is_closed = True
        if self._engine is None:
            return True
        error = ShuttingDown("the server is shutting down: try another one", retry_after=1.0)
        fail_all(self._engine.queue.close(error), error)
        self._thread.join(None if end is None else max(end - time.monotonic(), 0))
        if not self._thread.is_alive():
            self._engine.intake.close()
        return not self._thread.is_alive()

    def _admit(self, items: list[Item], sequences: list[Sequence], done: Done) -> None:
        """Called by the intake, on its threads, with a whole request."""
        if self._engine is None:
            raise WorkerDead("items were tokenised before the model was loaded")
        failed = [item for item in items if item.error is not None]
        refusal = self._engine.queue.put_many(sequences)
        if failed:
            hand_back(done, failed)
        if refusal is not None:
            fail_all(sequences, refusal)

    def _run(self) -> None:
        try:
            self._engine = self._load(self._spec, self.stats)
            self._spec = self._engine.runner.spec
        except InlayError as error:
            self._failure = error
        except Exception as error:  # noqa: BLE001 - told to whoever waits for the model
            self._failure = EngineError(f"the model could not be loaded ({type(error).__name__}: {error})")
        finally:
            self._loaded.set()
        if self._engine is not None:
            self._serve(self._engine)

    def _serve(self, engine: Engine) -> None:
        try:
            engine.loop.run()
        except BaseException as error:  # whatever it is, nobody may be left waiting
            log.exception("the device loop has died", model=self._spec.name)
            dead = WorkerDead(f"the device loop has died ({type(error).__name__}): restart the server")
            self._failure = dead
            engine.loop.fail_in_flight(dead)
            fail_all(engine.queue.close(dead), dead)


def _refuse(items: list[Item], error: InlayError, done: Done) -> None:
    for item in items:
        item.error = error
    hand_back(done, items)
