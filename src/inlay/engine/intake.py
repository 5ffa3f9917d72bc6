"""The way of items into a worker: tokenise on threads, check, then queue all of a request or nothing.

In: items. Out: sequences for the scheduler, or errors on the items. Knows no torch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Lock

import numpy as np

from inlay.engine.tokenizer import Tokenizer
from inlay.errors import (
    Cancelled,
    ContextLengthExceeded,
    EngineError,
    InlayError,
    InvalidInput,
    Overloaded,
    ShuttingDown,
)
from inlay.telemetry.logs import get_logger
from inlay.types import Done, IntArray, Item, Sequence, Truncate

log = get_logger("engine")

MOST_WAITING_SIZE = 64 << 20  # characters (or token ids) that may wait for the tokenizer
SIZE_PER_SECOND = 1 << 20  # what a tokenizer does at least; for the time to come back
CHUNK = 64  # texts tokenised by one task: long enough to pay for the hand-over, short enough to be fair

Admit = Callable[[list[Item], list[Sequence], Done], None]


class Intake:
    """Tokenises whole requests in chunks; the last chunk to finish hands the request on."""

    def __init__(self, tokenizer: Tokenizer, vocab_rows: int, num_threads: int) -> None:
        self._tokenizer = tokenizer
        self._vocab_rows = vocab_rows
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="inlay-tokenize")
        self._lock = Lock()
        self._waiting_size = 0
        self._is_closed = False

    def refusal(self, items: list[Item]) -> InlayError | None:
        """Why so much text cannot come in now; None when it can. A request alone always can."""
        if not self._waiting_size or self._waiting_size + _size_of(items) <= MOST_WAITING_SIZE:
            return None
        return Overloaded(
            "as much text as may is waiting for the tokenizer: try again after the time in Retry-After",
            retry_after=self._waiting_size / SIZE_PER_SECOND,
        )

    def submit(self, items: list[Item], done: Done, admit: Admit) -> None:
        """Calls `admit` once, on a thread, with all items; those without a sequence carry their error."""
        request = _Request(items, done, admit)
        with self._lock:
            self._waiting_size += _size_of(items)
        for start in range(0, len(items), CHUNK):
            part = items[start : start + CHUNK]
            try:
                self._pool.submit(self._tokenize, request, part)
            except RuntimeError:  # closed meanwhile, and then this answers at once
                self._is_closed = True
                self._tokenize(request, part)

    def close(self) -> None:
        """Answer what waits without tokenising it, and end the threads."""
        self._is_closed = True
        self._pool.shutdown(wait=True)

    def _tokenize(self, request: _Request, items: list[Item]) -> None:
        sequences: list[Sequence] = []
        try:
            wanted = [item for item in items if not (item.is_cancelled or self._is_closed)]
            for item, ids in zip(wanted, self._encode(wanted), strict=True):
                checked = self._check(item, ids)
                if checked is not None:
                    sequences.append(Sequence(item, checked, time.monotonic(), request.done))
        except Exception as error:
            log.exception("tokenisation failed")
            for item in items:
                item.error = item.error or EngineError(f"cannot be tokenised ({type(error).__name__})")
            sequences = []
        finally:
            kept = {sequence.item for sequence in sequences}
            for item in items:
                if item in kept or item.error is not None:
                    continue
                if item.is_cancelled:
                    item.error = Cancelled("nobody waits for it any more")
                else:
                    item.error = ShuttingDown("the server is shutting down: try another one", retry_after=1.0)
            with self._lock:
                self._waiting_size -= _size_of(items)
            request.finish(sequences, len(items))

    def _encode(self, items: list[Item]) -> Iterator[IntArray]:
        """Ids of each item, in order; the texts go to the tokenizer together."""
        texts = [item.content for item in items if isinstance(item.content, str)]
        encoded = iter(self._tokenizer.encode_many(texts))
        for item in items:
            yield next(encoded) if isinstance(item.content, str) else np.array(item.content, dtype=np.int64)

    def _check(self, item: Item, ids: IntArray) -> IntArray | None:
        try:
            if len(ids) > item.max_tokens:
                ids = self._cut(item, ids)
            if len(ids) == 0:
                raise InvalidInput("has no tokens: send a text that is not empty")
            wrong = ids[(ids < 0) | (ids >= self._vocab_rows)]
            if len(wrong):
                raise InvalidInput(
                    f"has {self._name(item, int(wrong[0]))}, for which this model has no row "
                    f"(ids are 0 to {self._vocab_rows - 1}): take it out"
                )
        except InlayError as error:
            item.error = error
            return None
        item.num_tokens = len(ids)
        return ids

    def _cut(self, item: Item, ids: IntArray) -> IntArray:
        if item.truncate is Truncate.NONE:
            raise ContextLengthExceeded(
                f"has {len(ids)} tokens, but this model takes at most {item.max_tokens}: shorten it, "
                'or set truncate to "end" to have it cut'
            )
        item.is_truncated = True
        if isinstance(item.content, str):
            num_prefix = 0
            if item.prefix and item.truncate is Truncate.START:  # the text is cut, its prompt stays
                (prefix,) = self._tokenizer.encode_many([item.prefix])
                num_prefix = len(prefix) - self._tokenizer.num_special_tokens
            return self._tokenizer.cut(ids, item.max_tokens, item.truncate, num_prefix)
        return ids[: item.max_tokens] if item.truncate is Truncate.END else ids[-item.max_tokens :]

    def _name(self, item: Item, token_id: int) -> str:
        is_text = isinstance(item.content, str)
        return f"the token {self._tokenizer.token_of(token_id)!r} (id {token_id})" if is_text else f"the id {token_id}"


def _size_of(items: list[Item]) -> int:
    return sum(len(item.content) for item in items)


class _Request:
    """Counts the chunks of a request back in."""

    def __init__(self, items: list[Item], done: Done, admit: Admit) -> None:
        self.done = done
        self._items = items
        self._admit = admit
        self._sequences: list[Sequence] = []
        self._remaining = len(items)
        self._lock = Lock()

    def finish(self, sequences: list[Sequence], num_items: int) -> None:
        with self._lock:
            self._sequences += sequences
            self._remaining -= num_items
            is_last = self._remaining == 0
        if is_last:
            self._admit(self._items, self._sequences, self.done)
