"""Replies kept for bodies that come again: which, how many, and what a client sees of it."""

from __future__ import annotations

import numpy as np

from inlay.api.repeated import LARGEST, OVERHEAD, RepeatedReplies
from inlay.api.replies import Reply
from inlay.requests import EmbedResult


def result_of(num_hits: int = 1) -> EmbedResult:
    vectors = np.zeros((1, 2), np.float32)
    return EmbedResult(
        "m", "f", [0], [3], 3, num_hits, [], 0.0, 0.0, ("dense",), [], {}, None, vectors=vectors, others={}
    )


def test_a_body_gets_its_reply_again_with_headers_of_its_own() -> None:
    kept = RepeatedReplies(lambda model: "f")
    given = result_of()
    kept.keep(b"body", Reply(b"reply", headers=[(b"a", b"b")]), given)
    first, result = kept.find(b"body") or (None, None)
    assert first is not None
    assert (first.body, first.status) == (b"reply", 200)
    assert (result.model, result.num_tokens, result.cache_status) == ("m", 3, "hit")
    assert not hasattr(result, "vectors"), "what is only counted keeps no vectors"
    first.headers.append((b"x-request-id", b"1"))
    second, _ = kept.find(b"body") or (None, None)
    assert second is not None
    assert second.headers == [(b"a", b"b")]
    assert kept.find(b"body ") is None


def test_a_name_that_stands_for_another_model_has_none_of_the_replies_of_the_one_before() -> None:
    fingerprints = {"m": "f"}
    kept = RepeatedReplies(fingerprints.__getitem__)
    kept.keep(b"body", Reply(b"reply"), result_of())
    fingerprints["m"] = "g"
    assert kept.find(b"body") is None
    assert kept.num_bytes == 0
    kept.keep(b"body", Reply(b"of before"), result_of())  # it had begun before
    assert kept.find(b"body") is None


def test_what_the_cache_did_not_answer_whole_and_what_is_large_is_not_kept() -> None:
    kept = RepeatedReplies(lambda model: "f")
    kept.keep(b"miss", Reply(b"reply"), result_of(num_hits=0))
    kept.keep(b"large", Reply(bytes(LARGEST)), result_of())
    assert kept.find(b"miss") is None
    assert kept.find(b"large") is None
    assert kept.num_bytes == 0


def test_the_bytes_are_bounded_and_the_one_not_asked_for_longest_goes() -> None:
    size = 1 + 5 + OVERHEAD
    kept = RepeatedReplies(lambda model: "f", most_bytes=3 * size)
    for body in (b"1", b"2", b"3"):
        kept.keep(body, Reply(b"reply"), result_of())
    kept.find(b"1")
    kept.keep(b"4", Reply(b"reply"), result_of())
    assert kept.num_bytes == 3 * size
    assert [kept.find(body) is not None for body in (b"1", b"2", b"3", b"4")] == [True, False, True, True]
    kept.keep(b"4", Reply(b"reply"), result_of())
    assert kept.num_bytes == 3 * size
