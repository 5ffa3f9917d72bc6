"""Fakes for the two seams: a runner under the device loop, a worker under the service."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from inlay.engine.batch import Batch, Sequence, pack
from inlay.engine.intake import Intake
from inlay.engine.loading import Engine
from inlay.engine.loop import DeviceLoop
from inlay.engine.queue import SequenceQueue
from inlay.engine.scheduler import Scheduler
from inlay.engine.stats import EngineStats
from inlay.engine.unanswered import Unanswered
from inlay.errors import EngineError, OutOfMemory
from inlay.types import (
    DENSE,
    Answer,
    Deliver,
    Failure,
    FloatArray,
    IntArray,
    ModelSpec,
    Pooling,
    Priority,
    Truncate,
    Work,
)

WIDTH = 8
POISON, HEAVY, INFINITE, SLOW = 13, 14, 15, 16  # token ids with a meaning for FakeRunner

SPEC = ModelSpec(
    name="fake",
    path=Path(),
    family="qwen3",
    width=WIDTH,
    num_layers=1,
    vocab_rows=256,
    max_tokens=64,
    pooling=Pooling.LAST,
    normalize=False,
    prompts={"query": "Q:", "document": ""},
    default_prompt=None,
    instruction_template="I:{instruction} Q:",
    matryoshka=(2, WIDTH),
    config={},
    dtype="float32",
    fingerprint="f" * 32,
)


class FakeTokenizer:
    """A token for each byte of a text."""

    def encode_many(self, texts: list[str]) -> list[IntArray]:
        return [np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int64) for text in texts]

    def token_of(self, token_id: int) -> str | None:
        return chr(token_id)

    num_special_tokens = 0

    def cut(self, ids: IntArray, max_tokens: int, side: Truncate, num_prompt: int = 0) -> IntArray:
        return ids[:max_tokens] if side is Truncate.END else ids[-max_tokens:]


class FakeRunner:
    """Each vector is the sum of its ids; some ids fail on purpose."""

    def __init__(self, *, is_asynchronous: bool = False, max_tokens: int = 1 << 30) -> None:
        self.spec = SPEC
        self.is_asynchronous = is_asynchronous
        self.max_tokens = max_tokens
        self.batches: list[list[int]] = []
        self.events: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.is_broken = False
        self.longest_whole = 1 << 30
        self.between = threading.Semaphore(0)  # with a longest_whole: released once for each piece that may run

    device_bytes = 7

    def cost(self, sequence: Sequence) -> int:
        return sequence.num_tokens

    def launch(self, batch: Batch) -> Batch:
        self.events.append(f"launch {batch.num_tokens}")
        if not self.is_asynchronous:
            self._run(batch)
        return batch

    def is_done(self, launched: Batch) -> bool:
        return True

    def is_divisible(self, batch: Batch) -> bool:
        return len(batch.offsets) == 2 and batch.num_tokens > self.longest_whole

    def launch_in_pieces(self, batch: Batch) -> Generator[None, None, Batch]:
        for number in range(3):
            self.events.append(f"piece {number}")
            self.between.acquire(timeout=30)
            if POISON in batch.ids:
                raise ValueError("poison")
            yield
        return self.launch(batch)

    def collect(self, launched: Batch) -> dict[str, list[bytes | None]]:
        self.events.append(f"collect {launched.num_tokens}")
        if self.is_asynchronous:
            self._run(launched)
        parts = [launched.ids[start:end] for start, end in pairwise(launched.offsets)]
        rows = [np.full(WIDTH, float(ids.sum()), dtype=np.float32) for ids in parts]
        return {DENSE: [None if INFINITE in ids else row.tobytes() for row, ids in zip(rows, parts, strict=True)]}

    def _run(self, batch: Batch) -> None:
        self.gate.wait(30)
        self.batches.append([sequence.num_tokens for sequence in batch.sequences])
        if self.is_broken or POISON in batch.ids:
            raise ValueError("poison")
        if batch.num_tokens > self.max_tokens or HEAVY in batch.ids:
            raise OutOfMemory("no memory")


class QueuedRunner(FakeRunner):
    """A device that runs what was launched one after the other, each batch for so many seconds, as a GPU does."""

    def __init__(self, seconds: float) -> None:
        super().__init__(is_asynchronous=True)
        self.seconds = seconds
        self._free = 0.0
        self._ends: dict[int, float] = {}

    def launch(self, batch: Batch) -> Batch:
        self._free = self._ends[id(batch)] = max(time.monotonic(), self._free) + self.seconds
        return super().launch(batch)

    def is_done(self, launched: Batch) -> bool:
        return time.monotonic() >= self._ends[id(launched)]

    def collect(self, launched: Batch) -> dict[str, list[bytes | None]]:
        time.sleep(max(self._ends[id(launched)] - time.monotonic(), 0))
        return super().collect(launched)


def make_engine(
    runner: FakeRunner, stats: EngineStats, *, max_batch_tokens: int = 64, max_queue_tokens: int = 1 << 20
) -> Engine:
    from running import sequence_of

    unanswered = Unanswered()
    queue = SequenceQueue(Scheduler(max_batch_tokens, 32, max_queue_tokens), unanswered, stats)
    return Engine(
        runner=runner,
        unanswered=unanswered,
        intake=Intake(FakeTokenizer(), SPEC.vocab_rows, 2, max_queue_tokens),  # type: ignore[arg-type]
        queue=queue,
        loop=DeviceLoop(runner, queue, unanswered, pack([sequence_of([1, 2])]), stats),
        close=lambda: None,
    )


def vector_of(content: str | list[int]) -> FloatArray:
    """The vector that `FakeWorker` gives a text: random, and a function of it alone."""
    seed = int.from_bytes(hashlib.sha256(repr(content).encode()).digest()[:8], "little")
    return np.random.default_rng(seed).standard_normal(WIDTH).astype(np.float32)


class FakeWorker:
    """Answers on a thread, after `gate` opens; texts that contain `bad` fail."""

    device_bytes = 0
    is_counted_elsewhere = False

    def __init__(self, spec: ModelSpec = SPEC) -> None:
        self.spec = spec
        self.gate = threading.Event()
        self.gate.set()
        self.computed: list[str | list[int]] = []
        self.is_ready = True
        self.queued_tokens = 0
        self.stats = EngineStats()
        self.cancelled: set[int] = set()
        self.promoted: list[tuple[int, Priority]] = []
        self.submitted: list[Work] = []
        self.order: Callable[[list[Work]], list[Work]] = lambda works: works

    def wait_loaded(self) -> None:
        pass

    def submit_many(self, works: list[Work], deliver: Deliver) -> None:
        self.submitted += works
        threading.Thread(target=self._answer, args=(works, deliver), daemon=True).start()

    def _answer(self, works: list[Work], deliver: Deliver) -> None:
        self.gate.wait(30)
        for work in self.order(list(works)):
            if work.id in self.cancelled:
                answer = Answer(work.id, failure=Failure.of(EngineError("cancelled")))
            elif isinstance(work.content, str) and "bad" in work.content:
                answer = Answer(work.id, failure=Failure.of(EngineError("failed")))
            else:
                self.computed.append(work.content)
                outputs = {kind: self.payload_of(kind, work.content) for kind in work.outputs}
                answer = Answer(work.id, outputs, num_tokens=len(work.content), model_seconds=0.001)
            deliver([answer])

    def payload_of(self, kind: str, content: str | list[int]) -> bytes:
        return vector_of(content).tobytes()

    def cancel_many(self, ids: list[int]) -> None:
        self.cancelled |= set(ids)

    def promote_many(self, ids: list[int], priority: Priority) -> None:
        self.promoted += [(number, priority) for number in ids]

    def health(self) -> str | None:
        return None

    def close(self, timeout: float | None = None) -> bool:
        self.gate.set()
        return True

    def renamed(self, name: str) -> ModelSpec:
        return replace(self.spec, name=name)


class UnwellWorker(FakeWorker):
    """Whose engine may have a fault, or much to do."""

    reason: str | None = None

    def health(self) -> str | None:
        return self.reason

    def be_flooded(self, seconds: float) -> None:
        self.queued_tokens, self.stats.tokens_per_second = round(1000 * seconds), 1000.0
