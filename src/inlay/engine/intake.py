"""The way of items into a worker: tokenise on threads, check, then queue all of a request or nothing.

In: items. Out: sequences for the scheduler, or errors on the items. Knows no torch.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Lock

import numpy as np

from inlay.engine.tokenizer import Tokenizer
from inlay.errors import ContextLengthExceeded, EngineError, InlayError, InvalidInput
from inlay.types import Done, IntArray, Item, Sequence, Truncate

CHUNK = 64  # texts tokenised by one task: long enough to pay for the hand-over, short enough to be fair

Admit = Callable[[list[Item], list[Sequence], Done], None]


class Intake:
    """Tokenises whole requests in chunks; the last chunk to finish hands the request on."""

    def __init__(self, tokenizer: Tokenizer, vocab_rows: int, num_threads: int) -> None:
        self._tokenizer = tokenizer
        self._vocab_rows = vocab_rows
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="inlay-tokenize")

    def submit(self, items: list[Item], done: Done, admit: Admit) -> None:
        """Calls `admit` once, on a thread, with all items; those without a sequence carry their error."""
        request = _Request(items, done, admit)
        for start in range(0, len(items), CHUNK):
            self._pool.submit(self._tokenize, request, items[start : start + CHUNK])

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=False)

    def _tokenize(self, request: _Request, items: list[Item]) -> None:
        sequences: list[Sequence] = []
        try:
            texts = [item.content for item in items if isinstance(item.content, str)]
            encoded = iter(self._tokenizer.encode_many(texts))
            for item in items:
                is_text = isinstance(item.content, str)
                ids = next(encoded) if is_text else np.array(item.content, dtype=np.int64)
                checked = self._check(item, ids)
                if checked is not None:
                    sequences.append(Sequence(item, checked, time.monotonic(), request.done))
        except Exception as error:  # noqa: BLE001 - whatever happens, each item gets its answer
            for item in items:
                item.error = EngineError(f"tokenisation failed ({type(error).__name__}: {error})")
            sequences = []
        finally:
            request.finish(sequences, len(items))

    def _check(self, item: Item, ids: IntArray) -> IntArray | None:
        try:
            if len(ids) > item.max_tokens:
                ids = self._cut(item, ids)
            if len(ids) == 0:
                raise InvalidInput("has no tokens: send a text that is not empty")
            largest = int(ids.max())
            if largest >= self._vocab_rows or int(ids.min()) < 0:
                token = self._tokenizer.token_of(largest)
                raise InvalidInput(
                    f"has the token {token!r} (id {largest}), for which this model has no row "
                    f"(ids are 0 to {self._vocab_rows - 1}): take it out of the text"
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
                'or send "truncate": "end" to have it cut'
            )
        item.is_truncated = True
        if isinstance(item.content, str):
            return self._tokenizer.cut(ids, item.max_tokens, item.truncate)
        return ids[: item.max_tokens] if item.truncate is Truncate.END else ids[-item.max_tokens :]


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
