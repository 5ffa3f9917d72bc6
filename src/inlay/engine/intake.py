"""The way of work into an engine: tokenise on threads, check, then queue all of a request or nothing.

In: sequences without ids. Out: those that have ids, and the errors of the others. Knows no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Lock

import numpy as np

from inlay.engine.batch import Sequence
from inlay.engine.pair_tokenizer import PairTokenizer
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
from inlay.types import IntArray, Pair, Truncate, Work

log = get_logger("engine")

MOST_WAITING_SIZE = 64 << 20  # characters (or token ids) that may wait for the tokenizer
SIZE_PER_SECOND = 1 << 20  # what a tokenizer does at least; for the time to come back
CHUNK = 64  # texts tokenised by one task: long enough to pay for the hand-over, short enough to be fair
SHORT = 512  # characters or ids of a request that is tokenised at once: sooner than another thread would begin
LARGE = 1 << 20  # characters of a request after which memory is given back
# What has a text, or a pair, cut where it is too long.
_CUTS = 'truncate to "end" to have it cut', 'long_documents to "truncate" or "best_chunk"'

Failures = list[tuple[Sequence, InlayError]]
Admit = Callable[[list[Sequence], Failures], None]


class Intake:
    """Tokenises whole requests in chunks; the last chunk to finish hands the request on."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        vocab_rows: int,
        num_threads: int,
        max_queue_tokens: int,
        pairs: PairTokenizer | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._pairs = pairs
        self._vocab_rows = vocab_rows
        self._max_queue_tokens = max_queue_tokens
        self._had_large = False
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="inlay-tokenize")
        self._lock = Lock()
        self._waiting_size = 0
        self._is_closed = False

    def refusal(self, works: list[Work]) -> InlayError | None:
        """Why so much text cannot come in now; None when it can. A request alone always can."""
        if not self._waiting_size or self._waiting_size + _size_of(works) <= MOST_WAITING_SIZE:
            return None
        return Overloaded(
            "as much text as may is waiting for the tokenizer: try again after the time in Retry-After",
            retry_after=self._waiting_size / SIZE_PER_SECOND,
        )

    def submit(self, sequences: list[Sequence], admit: Admit) -> None:
        """Calls `admit` once, on a thread, with the sequences that have ids and the errors of all others."""
        request = _Request(len(sequences), admit, self._max_queue_tokens)
        size = _size_of(sequence.work for sequence in sequences)
        self._had_large |= size > LARGE
        with self._lock:
            self._waiting_size += size
        if size <= SHORT and not self._is_closed:
            self._tokenize(request, sequences)
            return
        for start in range(0, len(sequences), CHUNK):
            part = sequences[start : start + CHUNK]
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

    def _tokenize(self, request: _Request, sequences: list[Sequence]) -> None:
        """Give a chunk its ids; every sequence of it goes on to the request, with ids or an error."""
        is_wanted = not (self._is_closed or request.is_too_large)
        wanted = [sequence for sequence in sequences if is_wanted and not sequence.is_cancelled]
        failures: Failures = []
        done: list[Sequence] = []
        try:
            for sequence, encoded in zip(wanted, self._encode(wanted), strict=True):
                if request.is_too_large:  # nothing of it will run
                    break
                try:
                    if isinstance(encoded, InlayError):
                        raise encoded
                    self._fill(sequence, *encoded)
                except InlayError as error:
                    failures.append((sequence, error))
                else:
                    request.count(sequence.num_tokens)
                    done.append(sequence)
        except Exception as error:
            log.exception("tokenisation failed")
            broken = EngineError(f"cannot be tokenised ({type(error).__name__})")
            failed = {sequence for sequence, _ in failures}
            failures += [(sequence, broken) for sequence in sequences if sequence not in failed]
            done = []
        finally:
            seen = {*done, *(sequence for sequence, _ in failures)}
            failures += [(sequence, request.why_left(sequence)) for sequence in sequences if sequence not in seen]
            with self._lock:
                self._waiting_size -= _size_of(sequence.work for sequence in sequences)
            request.finish(done, failures)

    def _encode(self, sequences: list[Sequence]) -> Iterator[tuple[IntArray, bool] | InlayError]:
        """Ids of each sequence, in order, and whether they are all, or why there are none.

        Short texts go to the tokenizer together.
        """
        contents = [sequence.work.content for sequence in sequences]
        texts = [content for content in contents if isinstance(content, str) and len(content) <= PIECE]
        encoded = iter(self._tokenizer.encode_many(texts))
        for sequence in sequences:
            work = sequence.work
            if isinstance(work.content, Pair):
                try:
                    yield self._encode_pair(sequence, work.content)
                except InlayError as error:
                    yield error
            elif not isinstance(work.content, str):
                yield np.array(work.content, dtype=np.int64), True
            elif len(work.content) <= PIECE:
                yield next(encoded), True
            else:
                yield self._tokenizer.encode_long(work.content, work.max_tokens, work.truncate)

    def _encode_pair(self, sequence: Sequence, pair: Pair) -> tuple[IntArray, bool]:
        """Ids of a pair, which is cut here if it may be: its parts are only known here."""
        if self._pairs is None:
            raise EngineError("this model ranks no pairs")
        work = sequence.work
        encoded = self._pairs.encode(pair, work.max_tokens, work.truncate)
        sequence.types, sequence.prefix_length = encoded.types, encoded.prefix_length
        sequence.is_truncated = len(encoded.ids) < encoded.num_tokens or not encoded.is_whole
        return encoded.ids, encoded.is_whole

    def _fill(self, sequence: Sequence, ids: IntArray, is_whole: bool) -> None:
        """Give a sequence its ids, or raise why it can have none."""
        work = sequence.work
        if len(ids) > work.max_tokens:
            ids = self._cut(work, ids, is_whole)
            sequence.is_truncated = True
        if len(ids) == 0:
            raise InvalidInput("has no tokens: send a text that is not empty")
        wrong = ids.view(np.uint64) >= self._vocab_rows  # below 0, too
        if np.count_nonzero(wrong):
            raise InvalidInput(
                f"has {self._name(work, int(ids[wrong][0]))}, for which this model has no row "
                f"(ids are 0 to {self._vocab_rows - 1}): take it out"
            )
        sequence.ids = ids

    def _cut(self, work: Work, ids: IntArray, is_whole: bool) -> IntArray:
        if work.truncate is Truncate.NONE:
            number = f"{len(ids)}" if is_whole else f"over {work.max_tokens}"
            raise ContextLengthExceeded(
                f"has {number} tokens, but this model takes at most {work.max_tokens}: shorten it, "
                f"or set {_CUTS[isinstance(work.content, Pair)]}"
            )
        if isinstance(work.content, str):
            num_prompt = 0
            if work.prompt and work.truncate is Truncate.START:  # the text is cut, its prompt stays
                (prompt,) = self._tokenizer.encode_many([work.prompt])
                num_prompt = len(prompt) - self._tokenizer.num_special_tokens
            return self._tokenizer.cut(ids, work.max_tokens, work.truncate, num_prompt)
        return ids[: work.max_tokens] if work.truncate is Truncate.END else ids[-work.max_tokens :]

    def _name(self, work: Work, token_id: int) -> str:
        is_text = not isinstance(work.content, list)
        return f"the token {self._tokenizer.token_of(token_id)!r} (id {token_id})" if is_text else f"the id {token_id}"


def _size_of(works: Iterable[Work]) -> int:
    return sum(len(work.content) for work in works)


class _Request:
    """Counts the chunks of a request back in."""

    def __init__(self, num_sequences: int, admit: Admit, max_queue_tokens: int) -> None:
        self._max_queue_tokens = max_queue_tokens
        self._admit = admit
        self._sequences: list[Sequence] = []
        self._failures: Failures = []
        self._remaining = num_sequences
        self._num_tokens = 0  # so far
        self._lock = Lock()

    @property
    def is_too_large(self) -> bool:
        """Has it more tokens than the queue holds?"""
        return self._num_tokens > self._max_queue_tokens

    def count(self, num_tokens: int) -> None:
        with self._lock:
            self._num_tokens += num_tokens

    def why_left(self, sequence: Sequence) -> InlayError:
        """Why a sequence was not tokenised."""
        if sequence.is_cancelled:
            return Cancelled("the client has gone")
        if self.is_too_large:
            return self._too_large()
        return ShuttingDown("the server is shutting down: try another one", retry_after=1.0)

    def finish(self, sequences: list[Sequence], failures: Failures) -> None:
        """A chunk is through. After the last one the request goes on: whole, or nothing of it."""
        with self._lock:
            self._sequences += sequences
            self._failures += failures
            self._remaining -= len(sequences) + len(failures)
            is_last = self._remaining == 0
        if not is_last:
            return
        if self.is_too_large:
            self._failures += [(sequence, self._too_large()) for sequence in self._sequences]
            self._sequences = []
        self._admit(self._sequences, self._failures)

    def _too_large(self) -> TooLarge:
        return TooLarge(
            f"the request has over {self._max_queue_tokens} tokens, more than the whole queue holds: "
            "send it in parts, or raise --max-queue-tokens"
        )
