"""A model on a thread of this process: the `Worker` that the front half talks to.

In: work. Out: answers, through the caller's `deliver`. The engine is made
on the device thread, so that one thread owns the device from the beginning; until then requests are told
that the model is loading. Knows nothing of HTTP, caches or devices.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Event, Thread

from inlay.engine.batch import Sequence
from inlay.engine.intake import Failures
from inlay.engine.loading import Engine
from inlay.engine.stats import EngineStats
from inlay.engine.unanswered import failed, hand_over
from inlay.errors import EngineError, InlayError, NotReady, ShuttingDown, WorkerDead
from inlay.telemetry.logs import get_logger
from inlay.types import Answer, Deliver, Failure, ModelSpec, Priority, Work

log = get_logger("engine")

Load = Callable[[ModelSpec, EngineStats], Engine]


class DeviceWorker:
    """One device thread for one model. Starts to load at once."""

    is_counted_elsewhere = False

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

    @property
    def device_bytes(self) -> int:
        return 0 if self._engine is None else self._engine.runner.device_bytes

    @property
    def max_batch_tokens(self) -> int:
        """As asked for, or as chosen when the model was loaded; 0 until then."""
        return 0 if self._engine is None else self._engine.queue.max_batch_tokens

    def wait_loaded(self) -> None:
        """Block until the model is served; raises what went wrong while it was loaded."""
        self._loaded.wait()
        if self._failure is not None:
            raise self._failure

    def submit_many(self, works: list[Work], deliver: Deliver) -> None:
        """Take all work or none; see `Worker.submit_many`."""
        name = self._spec.name
        engine = self._engine
        if self._failure is not None:
            _refuse(works, WorkerDead(f"model {name!r} is not served: {self._failure.message}"), deliver)
        elif engine is None and self._is_closed:
            _refuse(
                works, ShuttingDown(f"model {name!r} is not served here any more: try again", retry_after=1.0), deliver
            )
        elif engine is None:
            _refuse(works, NotReady(f"model {name!r} is still loading: try again", retry_after=1.0), deliver)
        elif refusal := engine.queue.refusal(1) or engine.intake.refusal(works):
            _refuse(works, refusal, deliver)
        else:
            engine.intake.submit(
                engine.unanswered.open_many(works, deliver), lambda ready, failures: _admit(engine, ready, failures)
            )

    def cancel_many(self, ids: list[int]) -> None:
        """See `Worker.cancel_many`."""
        if self._engine is not None:
            self._engine.queue.cancel_many(self._engine.unanswered.cancel_many(ids))

    def promote_many(self, ids: list[int], priority: Priority) -> None:
        """See `Worker.promote_many`."""
        if self._engine is not None:
            self._engine.queue.promote_many(self._engine.unanswered.promote_many(ids, priority))

    def health(self) -> str | None:
        """None while all is well, else the reason why not."""
        if self._failure is not None:
            return self._failure.message
        if self._engine is None or self._is_closed:
            return None
        if self._engine.loop.loss is not None:
            return self._engine.loop.loss.message
        if (reason := self._engine.why_lost()) is not None:
            return reason
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
        self._engine.queue.close(error)
        self._thread.join(None if end is None else max(end - time.monotonic(), 0))
        if self._thread.is_alive():
            return False
        self._engine.intake.close()
        self._engine.unanswered.fail_all(error)
        self._engine = None  # its memory is free, whoever still holds this worker
        return True

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
            engine.queue.close(dead)
            engine.unanswered.fail_all(dead)
        finally:
            engine.close()


def _admit(engine: Engine, ready: list[Sequence], failures: Failures) -> None:
    """Called by the intake, on its threads, with a whole request: queue it, and answer what cannot run."""
    try:
        engine.unanswered.answer_many([failed(sequence, Failure.of(error)) for sequence, error in failures])
        refusal = engine.queue.put_many(ready)
    except Exception as error:
        log.exception("a tokenised request could not be queued")
        refusal = EngineError(f"could not be queued ({type(error).__name__})")
    if refusal is not None:
        engine.unanswered.fail_many(ready, refusal)


def _refuse(works: list[Work], error: InlayError, deliver: Deliver) -> None:
    failure = Failure.of(error)
    hand_over(deliver, [Answer(work.id, failure=failure) for work in works])
