"""From pairs to token ids: as a reranker's template puts them into one text, or as two segments.

In: pairs. Out: ids with all special tokens, the types of the segments, and how many ids other documents of the query
begin with, too. Special tokens in a user's text are tokenised as plain text, so that no document can end its turn.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from inlay.engine.tokenizer import Tokenizer
from inlay.errors import ModelError, QueryTooLong
from inlay.types import IntArray, Pair, Ranking, Truncate

_PROBE = "a"


@dataclass(frozen=True, slots=True)
class EncodedPair:
    """A pair as the model takes it."""

    ids: IntArray  # [L]; cut to the limit where that was asked for
    num_tokens: int  # without a cut; more than the limit for a very long one
    is_whole: bool  # is that number exact
    types: IntArray | None = None  # [L], which segment each is of, as the template says; None: all 0
    prefix_length: int = 0  # ids that do not depend on the document


class PairTokenizer(ABC):
    """Safe to call from many threads."""

    @abstractmethod
    def encode(self, pair: Pair, max_tokens: int, truncate: Truncate) -> EncodedPair: ...


def make_pair_tokenizer(path: Path, ranking: Ranking) -> PairTokenizer:
    """What reads the pairs of a reranker."""
    if ranking.template is None:
        plain = Tokenizer(path, takes_special_tokens=False)
        return SegmentTokenizer(Tokenizer(path), plain, has_types=ranking.has_types)
    specials = Tokenizer(path)
    prefix, suffix = (specials.content_ids(text) for text in (ranking.prefix, ranking.suffix))
    return BodyTokenizer(Tokenizer(path, takes_special_tokens=False), prefix, suffix)


class BodyTokenizer(PairTokenizer):
    """Both parts as one text, between a prefix and a suffix that no cut takes."""

    def __init__(self, tokenizer: Tokenizer, prefix: IntArray, suffix: IntArray) -> None:
        self._tokenizer = tokenizer
        self._firsts = FirstPart(tokenizer)
        self._prefix, self._suffix = prefix, suffix

    def encode(self, pair: Pair, max_tokens: int, truncate: Truncate) -> EncodedPair:
        room = max(max_tokens - len(self._prefix) - len(self._suffix), 0)
        first = self._firsts.ids_of(pair.first, room)
        if len(first) >= room:
            raise query_too_long(max_tokens)
        # In one: a document's first letters may become one token with what stands before them.
        body, is_whole = self._tokenizer.content_ids_up_to(pair.first + pair.second, room)
        num_tokens = len(self._prefix) + len(body) + len(self._suffix)
        ids = np.concatenate([self._prefix, body if truncate is Truncate.NONE else body[:room], self._suffix])
        shared = len(self._prefix) + _common_length(first, body)
        return EncodedPair(ids, num_tokens, is_whole, None, min(shared, len(ids) - len(self._suffix)))


class SegmentTokenizer(PairTokenizer):
    """Two segments, with special tokens around them as the tokenizer's own template for pairs says."""

    def __init__(self, whole: Tokenizer, plain: Tokenizer, *, has_types: bool) -> None:
        self._tokenizer = plain
        self._firsts = FirstPart(plain)
        self._has_types = has_types
        probe = plain.content_ids(_PROBE)
        ids, types = whole.pair_ids(_PROBE, _PROBE)
        places = [place for place in range(len(ids)) if np.array_equal(ids[place : place + len(probe)], probe)]
        if len(places) != 2 or places[1] == places[0] + len(probe):
            raise ModelError("the tokenizer has no template for pairs: save it again with transformers")
        ends = [place + len(probe) for place in places]
        self._parts = ids[: places[0]], ids[ends[0] : places[1]], ids[ends[1] :]
        self._types = types[: places[0]], types[ends[0] : places[1]], types[ends[1] :]
        self._own_types = types[places]  # [2], of the segments themselves
        self._num_special_tokens = sum(map(len, self._parts))

    def encode(self, pair: Pair, max_tokens: int, truncate: Truncate) -> EncodedPair:
        room = max(max_tokens - self._num_special_tokens, 0)
        first = self._firsts.ids_of(pair.first, room)
        if truncate is Truncate.NONE and len(first) >= room:
            raise query_too_long(max_tokens)
        second, is_whole = self._tokenizer.content_ids_up_to(pair.second, room)
        num_tokens = len(first) + len(second) + self._num_special_tokens
        if truncate is not Truncate.NONE:
            first, second = _cut_longest_first(first, second, room)
        before, between, after = self._parts
        ids = np.concatenate([before, first, between, second, after])
        return EncodedPair(ids, num_tokens, is_whole, self._types_of(len(first), len(second)))

    def _types_of(self, first: int, second: int) -> IntArray | None:
        """Of all ids, for segments of so many."""
        if not self._has_types:
            return None
        before, between, after = self._types
        own = np.repeat(self._own_types, (first, second))
        return np.concatenate([before, own[:first], between, own[first:], after])


class FirstPart:
    """The ids of the first part, which the pairs of a request share: read once where they come one after another."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._last: tuple[str, int, IntArray] | None = None

    def ids_of(self, text: str, room: int) -> IntArray:
        """All ids, or more than there is room for."""
        last = self._last  # other threads may replace it meanwhile
        if last is not None and last[0] == text and last[1] == room:
            return last[2]
        ids, _ = self._tokenizer.content_ids_up_to(text, room)
        self._last = (text, room, ids)
        return ids


def query_too_long(max_tokens: int) -> QueryTooLong:
    return QueryTooLong(
        f"the query leaves no room for a document within the {max_tokens} tokens that this model takes: shorten it"
    )


def _cut_longest_first(first: IntArray, second: IntArray, room: int) -> tuple[IntArray, IntArray]:
    """As the tokenizers' `longest_first`: what fits in half of the room stays whole, else both get half."""
    if len(first) + len(second) <= room:
        return first, second
    shorter = min(len(first), len(second))
    of_shorter = min(shorter, room // 2)
    sizes = of_shorter, room - of_shorter
    of_first, of_second = sizes if len(first) <= len(second) else sizes[::-1]
    return first[:of_first], second[:of_second]


def _common_length(first: IntArray, second: IntArray) -> int:
    most = min(len(first), len(second))
    differ = np.flatnonzero(first[:most] != second[:most])
    return int(differ[0]) if len(differ) else most
