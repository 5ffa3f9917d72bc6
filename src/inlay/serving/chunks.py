"""Documents that are too long for a reranker, part by part: each counts as the best of its parts.

In: the input of a document that was refused for its length. Out: inputs of its halves, and in the end the input with
the best score of all parts. Halves are halved again until they fit; the engine alone knows tokens.
"""

from __future__ import annotations

import re

import numpy as np

from inlay.cache.key import KeyMaker
from inlay.errors import ContextLengthExceeded
from inlay.models.registry import OUTPUTS
from inlay.serving.items import Input, make_pair
from inlay.types import SCORES, ModelSpec, Pair

SHARE_OF_LIMIT = 8  # a part of so few characters for each token of the limit fits, unless the query has no room for it
_BLANK = re.compile(r"\s+")


def is_too_long(given: Input) -> bool:
    return isinstance(given.error, ContextLengthExceeded)


def halves_of(given: Input, spec: ModelSpec, maker: KeyMaker) -> list[Input]:
    """Both halves of a document; it alone, with an error that stays, where its query leaves no room for any part."""
    pair = given.content
    if not isinstance(pair, Pair) or len(pair.second) <= max(spec.max_tokens // SHARE_OF_LIMIT, 1):
        given.error = ContextLengthExceeded(
            f"cannot be scored even in parts: the query takes nearly all of the {spec.max_tokens} tokens of this "
            "model; shorten the query"
        )
        return [given]
    middle = len(pair.second) // 2
    blank = _BLANK.search(pair.second, middle, middle + middle // 2)
    middle = middle if blank is None else blank.end()
    halves = [pair.second[:middle], pair.second[middle:]]
    said = [half for half in halves if half.strip()] or halves[:1]  # blanks alone are no part of a document
    return [make_pair(given.index, Pair(pair.first, half), maker) for half in said]


def take_best(given: Input, parts: list[Input]) -> None:
    """Give a document the best score of its parts, or the first error that one of them has."""
    given.error = next((part.error for part in parts if part.error is not None), None)
    if given.error is not None:
        return
    decode = OUTPUTS[SCORES].decode
    given.payloads[SCORES] = max((part.payloads[SCORES] for part in parts), key=lambda payload: np.max(decode(payload)))
    given.is_in_parts = True
    given.num_tokens = sum(part.num_tokens for part in parts)
    given.is_cached = all(part.is_cached for part in parts)
    given.queue_seconds = max(part.queue_seconds for part in parts)
    given.model_seconds = max(part.model_seconds for part in parts)
