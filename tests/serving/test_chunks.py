"""A long document's parts: all of it is in them, none is blank, and halving ends."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from inlay.cache.key import KeyMaker
from inlay.errors import ContextLengthExceeded, EngineError
from inlay.serving.chunks import halves_of, is_too_long, take_best
from inlay.serving.items import Input
from inlay.types import SCORES, Pair, Truncate

MAKER = KeyMaker("f", "scores.1", Truncate.NONE, 64)


def parts_of(document: str, limit: int, max_tokens: int) -> list[str]:
    """Halved until no part has more characters than `limit`, or none can be halved any more."""
    spec: Any = SimpleNamespace(max_tokens=max_tokens)
    done: list[Input] = []
    todo = [Input(0, Pair("q", document))]
    for _ in range(64):
        halves = [half for part in todo for half in halves_of(part, spec, MAKER)]
        done += [half for half in halves if half.error or len(half.content) - 1 <= limit]
        todo = [half for half in halves if not half.error and len(half.content) - 1 > limit]
        if not todo:
            return [part.content.second for part in done if isinstance(part.content, Pair)]
    raise AssertionError("it does not end")


@given(st.text(alphabet="ab \n", min_size=1, max_size=200), st.integers(1, 20), st.integers(1, 64))
def test_parts_hold_all_words_and_halving_ends(document: str, limit: int, max_tokens: int) -> None:
    parts = parts_of(document, limit, max_tokens)
    assert sorted("".join("".join(parts).split())) == sorted("".join(document.split()))
    if document.strip():
        assert all(part.strip() for part in parts)


def test_a_part_begins_behind_a_blank_where_there_is_one() -> None:
    words = " ".join(f"word{number}" for number in range(100))
    for part in parts_of(words, 50, 64):
        assert part.split()[0] in words.split()


def part_of(score: float, *, is_cached: bool) -> Input:
    payload = np.array([score], dtype="<f4").tobytes()
    return Input(0, Pair("q", "d"), payloads={SCORES: payload}, num_tokens=3, is_cached=is_cached)


def test_a_document_counts_as_the_best_of_its_parts() -> None:
    document = Input(0, Pair("q", "d" * 99), error=ContextLengthExceeded("too long"))
    assert is_too_long(document)
    take_best(document, [part_of(-1.0, is_cached=True), part_of(2.5, is_cached=False), part_of(0.0, is_cached=True)])
    assert np.frombuffer(document.payloads[SCORES], dtype="<f4").tolist() == [2.5]
    assert (document.error, document.num_tokens, document.is_cached, document.is_in_parts) == (None, 9, False, True)


def test_a_part_that_failed_fails_its_document() -> None:
    document = Input(0, Pair("q", "d" * 99), error=ContextLengthExceeded("too long"))
    broken = part_of(1.0, is_cached=False)
    broken.error = EngineError("failed")
    take_best(document, [part_of(0.0, is_cached=True), broken])
    assert document.error is broken.error
    assert not document.payloads
