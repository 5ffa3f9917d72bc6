"""The way of items into a worker: tokenise on threads, check, then queue all of a request or nothing.

In: items. Out: sequences for the scheduler, or errors on the items. Knows no torch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Lock

import numpy as np

from inlay.engine.answers import hand_back
from inlay.engine.tokenizer import PIECE, Tokenizer
from inlay.errors import (
    Cancelled,
    ContextLengthExceeded,
    EngineError,
    InlayError,
    InvalidInput,
    Overloaded,
    ShuttingDown,
    TooLarge,
)
from inlay.telemetry.logs import get_logger
from inlay.types import Done, IntArray, Item, Sequence, Truncate

log = get_logger("engine")

MOST_WAITING_SIZE = 64 << 20  # characters (or token ids) that may wait for the tokenizer
SIZE_PER_SECOND = 1 << 20  # what a tokenizer does at least; for the time to come back
CHUNK = 64  # texts tokenised by one task: long enough to pay for the hand-over, short enough to be fair
LARGE = 1 << 20  # characters of a request after which memory is given back

Admit = Callable[[list[Item], list[Sequence], Done], None]


class Intake:
    """Tokenises whole requests in chunks; the last chunk to finish hands the request on."""

    def __init__(self, tokenizer: Tokenizer, vocab_rows: int, num_threads: int, max_queue_tokens: int) -> None:
        self._tokenizer = tokenizer
        self._vocab_rows = vocab_rows
        self._max_queue_tokens = max_queue_tokens
        self._had_large = False
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
        request = _Request(items, done, admit, self._max_queue_tokens)
        size = _size_of(items)
        self._had_large |= size > LARGE
        with self._lock:
            self._waiting_size += size
        for start in range(0, len(items), CHUNK):
            part = items[start : start + CHUNK]
            try:
                self._pool.submit(self._tokenize, request, part)
            except RuntimeError:  # closed meanwhile, and then this answers at once
                self._is_closed = True
                self._tokenize(request, part)

    def take_had_large(self) -> bool:
        """Has a large request been here since this was asked last? Then there is memory to give back."""
        had_large, self._had_large = self._had_large, False
        return had_large

    def close(self) -> None:
        """Answer what waits without tokenising it, and end the threads."""
        self._is_closed = True
        self._pool.shutdown(wait=True)

    def _tokenize(self, request: _Request, items: list[Item]) -> None:
        sequences: list[Sequence] = []
        try:
            is_wanted = not (self._is_closed or request.is_too_large)
            wanted = [item for item in items if is_wanted and not item.is_cancelled]
            for item, (ids, is_whole) in zip(wanted, self._encode(wanted), strict=True):
                checked = self._check(item, ids, is_whole)
                if checked is not None:
                    request.count(len(checked))
                    sequences.append(Sequence(item, checked, time.monotonic(), request.done))
                if request.is_too_large:  # nothing of it will run
                    sequences = []
                    break
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
                elif not request.is_too_large:
                    item.error = ShuttingDown("the server is shutting down: try another one", retry_after=1.0)
            with self._lock:
                self._waiting_size -= _size_of(items)
            request.finish(sequences, len(items))

    def _encode(self, items: list[Item]) -> Iterator[tuple[IntArray, bool]]:
        """Ids of each item, in order, and whether they are all; short texts go to the tokenizer together."""
        texts = [item.content for item in items if isinstance(item.content, str) and len(item.content) <= PIECE]
        encoded = iter(self._tokenizer.encode_many(texts))
        for item in items:
            if not isinstance(item.content, str):
                yield np.array(item.content, dtype=np.int64), True
            elif len(item.content) <= PIECE:
                yield next(encoded), True
            else:
                yield self._tokenizer.encode_long(item.content, item.max_tokens, item.truncate)

    def _check(self, item: Item, ids: IntArray, is_whole: bool) -> IntArray | None:
        try:
            if len(ids) > item.max_tokens:
                ids = self._cut(item, ids, is_whole)
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

    def _cut(self, item: Item, ids: IntArray, is_whole: bool) -> IntArray:
        if item.truncate is Truncate.NONE:
            number = f"{len(ids)}" if is_whole else f"over {item.max_tokens}"
            raise ContextLengthExceeded(
                f"has {number} tokens, but this model takes at most {item.max_tokens}: shorten it, "
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

    def __init__(self, items: list[Item], done: Done, admit: Admit, max_queue_tokens: int) -> None:
        self.done = done
        self._max_queue_tokens = max_queue_tokens
        self._items = items
        self._admit = admit
        self._sequences: list[Sequence] = []
        self._remaining = len(items)
        self._num_tokens = 0  # so far
        self._lock = Lock()

    @property
    def is_too_large(self) -> bool:
        """Has it more tokens than the queue holds?"""
        return self._num_tokens > self._max_queue_tokens

    def count(self, num_tokens: int) -> None:
        with self._lock:
            self._num_tokens += num_tokens

    def finish(self, sequences: list[Sequence], num_items: int) -> None:
        with self._lock:
            self._sequences += sequences
            self._remaining -= num_items
            is_last = self._remaining == 0
        if not is_last:
            return
        if self.is_too_large:
            self._sequences = []
            error = TooLarge(
                f"the request has over {self._max_queue_tokens} tokens, more than the whole queue holds: "
                "send it in parts, or raise --max-queue-tokens"
            )
            for item in self._items:
                item.error = item.error or error
        try:
            self._admit(self._items, self._sequences, self.done)
        except Exception as error:
            log.exception("a tokenised request could not be queued")
            for item in self._items:
                item.error = item.error or EngineError(f"could not be queued ({type(error).__name__})")
            hand_back(self.done, self._items)
