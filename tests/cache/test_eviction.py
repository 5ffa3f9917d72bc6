from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from inlay.cache.eviction import S3Fifo

CAPACITY = 1000


def zipf_queries(number: int) -> list[bytes]:
    """Queries over 5,000 texts, the k-th most frequent with weight 1/k."""
    weights = 1 / np.arange(1, 5001)
    drawn = np.random.default_rng(0).choice(5000, size=number, p=weights / weights.sum())
    return [b"query %d" % query for query in drawn]


def s3_fifo() -> Callable[[bytes], bool]:
    order = S3Fifo()

    def ask(key: bytes) -> bool:
        if key in order:
            order.use(key)
            return True
        if len(order) >= CAPACITY:
            order.evict()
        order.add(key)
        return False

    return ask


def least_recently_used() -> Callable[[bytes], bool]:
    kept: OrderedDict[bytes, None] = OrderedDict()

    def ask(key: bytes) -> bool:
        if key in kept:
            kept.move_to_end(key)
            return True
        if len(kept) >= CAPACITY:
            kept.popitem(last=False)
        kept[key] = None
        return False

    return ask


def hit_ratio(ask: Callable[[bytes], bool], scan: int) -> float:
    """Of the queries alone, with a scan of `scan` texts, each once, interleaved after a warm-up."""
    queries = zipf_queries(60_000)
    hits = 0
    scanned = 0
    for number, query in enumerate(queries):
        hits += ask(query)
        if number >= 10_000 and scanned < scan:
            ask(b"document %d" % scanned)
            scanned += 1
    return hits / len(queries)


def test_hot_queries_survive_a_scan_of_ten_times_the_cache() -> None:
    ratios = {}
    for name, policy in (("S3-FIFO", s3_fifo), ("LRU", least_recently_used)):
        alone, scanned = hit_ratio(policy(), 0), hit_ratio(policy(), 10 * CAPACITY)
        ratios[name] = scanned / alone
        print(f"{name}: hit ratio {alone:.4f} alone, {scanned:.4f} with the scan, {scanned / alone:.4f} of it")
    assert ratios["S3-FIFO"] >= 0.95
    assert ratios["S3-FIFO"] > ratios["LRU"]


@given(st.lists(st.tuples(st.sampled_from(["ask", "evict", "remove"]), st.integers(0, 40)), max_size=200))
def test_it_keeps_exactly_what_was_added_and_did_not_go(steps: list[tuple[str, int]]) -> None:
    order = S3Fifo()
    kept: set[bytes] = set()
    for step, number in steps:
        key = b"%d" % number
        if step == "ask" and key in kept:
            order.use(key)
        elif step == "ask":
            order.add(key)
            kept.add(key)
        elif step == "remove" and key in kept:
            order.remove(key)
            kept.remove(key)
        elif step == "evict" and kept:
            kept.remove(order.evict())
        assert len(order) == len(kept)
        assert all(key in order for key in kept)
