"""What is asked of a service and what it answers, after its dialect is gone. Each field says who fills it.

In: a dialect's call, or the library's arguments. Out: results with canonical outputs already shaped. Knows nothing of
workers and of HTTP.
"""

from __future__ import annotations

from collections import abc
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from enum import StrEnum
from typing import Any, Protocol

import numpy.typing as npt
from msgspec import Struct

from inlay.errors import InlayError
from inlay.types import DENSE, FloatArray, Priority, Truncate


class Rights(Protocol):
    """What somebody may ask for; see `serving.callers`."""

    def may_use(self, model: str) -> bool: ...

    def check_model(self, model: str) -> None:
        """Raises unless it may be used."""
        ...

    def spending(self, expected: int) -> AbstractContextManager[Spending]:
        """Around a request that has about so many tokens; raises where there are none left to spend."""
        ...


class Spending(Protocol):
    """What one request costs."""

    num_tokens: int  # a guess, until it is known


class LongDocuments(StrEnum):
    """What is done with a document that is too long for a reranker."""

    REFUSE = "refuse"
    TRUNCATE = "truncate"  # its end goes
    BEST_CHUNK = "best_chunk"  # it counts as the best of its parts


class EmbedOptions(Struct, frozen=True):
    """How the inputs of one request are to be embedded. Filled by a dialect or the library."""

    prompt_name: str | None = None
    instruction: str | None = None
    dimensions: int | None = None
    normalize: bool | None = None  # None: as the checkpoint says; cut vectors are always normalised
    truncate: Truncate = Truncate.NONE
    priority: Priority = Priority.NORMAL
    read_cache: bool = True
    write_cache: bool = True
    expect_fingerprint: str | None = None  # of the model; None: whatever it has
    allow_untrained_cut: bool = False  # cut vectors of a model that was not trained for it
    outputs: tuple[str, ...] = (DENSE,)  # the kinds asked for
    skips_failed: bool = False  # an input at fault costs only itself
    fallback: bool | None = None  # may another model answer; None: as the server has it


class EmbedRequest(Struct, frozen=True):
    """One call after its dialect is gone. Filled by a dialect or the library."""

    model: str | None
    inputs: abc.Sequence[str | list[int]]
    options: EmbedOptions = EmbedOptions()
    deadline: float | None = None  # on the clock of time.monotonic()
    departed: Callable[[], Awaitable[object]] | None = None  # returns when the client has gone
    may_wait: float | None = None  # seconds of queued work; where there is more, it is refused at once
    rights: Rights | None = None  # of who asks; None: all
    first_index: int = 0  # of its first input, where it is a part of a longer request


class RankOptions(Struct, frozen=True):
    """How the documents of one request are to be ranked. Filled by a dialect or the library."""

    instruction: str | None = None
    long_documents: LongDocuments = LongDocuments.REFUSE
    priority: Priority = Priority.NORMAL
    read_cache: bool = True
    write_cache: bool = True
    expect_fingerprint: str | None = None
    skips_failed: bool = False  # a document at fault costs only itself
    fallback: bool | None = None  # may another model answer; None: as the server has it

    @property
    def truncate(self) -> Truncate:
        return Truncate.END if self.long_documents is LongDocuments.TRUNCATE else Truncate.NONE


class RankRequest(Struct, frozen=True):
    """One call to a reranker after its dialect is gone. Filled by a dialect or the library."""

    model: str | None
    query: str
    documents: abc.Sequence[str]
    options: RankOptions = RankOptions()
    deadline: float | None = None  # on the clock of time.monotonic()
    departed: Callable[[], Awaitable[object]] | None = None  # returns when the client has gone
    may_wait: float | None = None  # seconds of queued work; where there is more, it is refused at once
    rights: Rights | None = None  # of who asks; None: all
    first_index: int = 0  # of its first document, where it is a part of a longer request


class PairsRequest(Struct, frozen=True):
    """One call for the scores of pairs after its dialect is gone. Filled by a dialect."""

    model: str | None
    pairs: abc.Sequence[tuple[str, str]]  # a query and a text
    options: RankOptions = RankOptions()
    deadline: float | None = None  # on the clock of time.monotonic()
    departed: Callable[[], Awaitable[object]] | None = None  # returns when the client has gone
    may_wait: float | None = None  # seconds of queued work; where there is more, it is refused at once
    rights: Rights | None = None  # of who asks; None: all


Request = EmbedRequest | RankRequest | PairsRequest


class TokenizeRequest(Struct, frozen=True):
    """One call for the tokens of texts. Filled by a dialect."""

    model: str | None
    texts: list[str]
    prompt_name: str | None = None  # of a prompt that goes before each text
    adds_special_tokens: bool = True
    rights: Rights | None = None  # of who asks; None: all


class DecodeRequest(Struct, frozen=True):
    """One call for the texts of token ids. Filled by a dialect."""

    model: str | None
    lists: list[list[int]]
    skips_special_tokens: bool = True
    rights: Rights | None = None  # of who asks; None: all


class Token(Struct, frozen=True):
    """One token of a text. Filled by the service."""

    id: int
    text: str  # the part of the text that it is; of a special one its name
    is_special: bool
    start: int | None  # bytes of the text before it
    stop: int | None


class TokensResult(Struct, frozen=True):
    """The answer to a `TokenizeRequest`, or to a `DecodeRequest`, which has no tokens."""

    model: str
    max_tokens: int
    tokens: list[list[Token]]
    texts: list[str]  # prompts included


class Fallback(Struct, frozen=True):
    """Another model has answered. Filled by `serving.fallbacks`."""

    asked: str  # the model that was asked for
    reason: str  # the code of the error that it gave


class Result(Struct, frozen=True):
    """What every answer to a request tells. Filled by the service."""

    model: str
    fingerprint: str
    answered: list[int]  # indices of the inputs that have outputs, in their order
    item_tokens: list[int]  # of each of these, cached ones included
    cached_tokens: int
    num_hits: int
    truncated: list[int]  # indices of the inputs that were cut
    queue_seconds: float
    model_seconds: float
    kinds: tuple[str, ...]  # of output, that every input has
    warnings: list[str]  # for whoever asked
    failed: Mapping[int, InlayError]  # by the indices of inputs that were skipped; nothing else here counts them
    fallback: Fallback | None  # where another model has answered than the one that was asked for

    @property
    def num_inputs(self) -> int:
        return len(self.item_tokens)

    @property
    def num_tokens(self) -> int:
        """Of all inputs."""
        return sum(self.item_tokens)

    @property
    def cache_status(self) -> str:
        """`hit`: all from a cache; `miss`: none; else `partial`."""
        if self.num_hits == 0:
            return "miss"
        return "hit" if self.num_hits == self.num_inputs and not self.failed else "partial"


class EmbedResult(Result, frozen=True):
    """The answer to an `EmbedRequest`."""

    vectors: FloatArray  # [n, dimensions], in the order of the inputs; [n, 0] where none was asked for
    others: Mapping[str, list[npt.NDArray[Any]]]  # the kinds other than dense, in the order of the inputs


class RankResult(Result, frozen=True):
    """The answer to a `RankRequest`."""

    logits: FloatArray  # [n], in the order of the documents, before any activation
    in_parts: list[int]  # indices of the documents that count as the best of their parts


class PairsResult(Result, frozen=True):
    """The answer to a `PairsRequest`."""

    scores: FloatArray  # [n], in the order of the pairs: a reranker's logits, or cosines of vectors
    are_logits: bool
