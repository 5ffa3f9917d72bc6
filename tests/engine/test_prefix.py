"""Shared prefixes: found by token ids, run once, kept within bounds, and never to be seen in the vectors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from running import make_runner, run_packed, sequence_of

from inlay.engine import prefix as module
from inlay.engine.batch import Batch, pack
from inlay.engine.device import choose
from inlay.engine.prefix import SHORTEST, PrefixStore
from inlay.engine.runner import Runner
from inlay.models.spec import read_spec
from inlay.ops.int8 import can_multiply_bytes

INSTRUCTION = list(range(10, 29))  # 19 tokens, as Qwen3's
OTHER = list(range(40, 60))


def batch_of(lists: list[list[int]]) -> Batch:
    return pack([sequence_of(ids, index) for index, ids in enumerate(lists)])


def store() -> PrefixStore:
    return PrefixStore(1000, torch.device("cpu"))


def ran(prefixes: PrefixStore, lists: list[list[int]]) -> int:
    """Tokens that a batch has left to run; new prefixes get keys and values."""
    shared = prefixes.share(batch_of(lists))
    if shared is None:
        return sum(map(len, lists))
    for prefix in shared.new:
        prefix.layers.append((torch.zeros(len(prefix.ids), 4, 8), torch.zeros(len(prefix.ids), 4, 8)))
    prefixes.keep(shared.new)
    return len(shared.ids)


def test_a_prefix_of_two_that_wait_together_runs_once_and_then_never() -> None:
    prefixes = store()
    assert ran(prefixes, [[*INSTRUCTION, 1, 2], [*INSTRUCTION, 3]]) == 19 + 2 + 1
    assert ran(prefixes, [[*INSTRUCTION, 4, 5, 6]]) == 3
    assert ran(prefixes, [[*INSTRUCTION, 7], [*OTHER, 8]]) == 1 + 21


def test_one_after_the_other_is_enough() -> None:
    prefixes = store()
    assert ran(prefixes, [[*INSTRUCTION, 1]]) == 20
    assert ran(prefixes, [[*INSTRUCTION, 2, 3]]) == 21  # here it is found to be shared
    assert ran(prefixes, [[*INSTRUCTION, 4, 5]]) == 2


def test_others_use_as_much_of_a_kept_prefix_as_they_share() -> None:
    prefixes = store()
    ran(prefixes, [[*INSTRUCTION, 1, 2, 3, 4], [*INSTRUCTION, 1, 2, 3, 5]])
    assert ran(prefixes, [[*INSTRUCTION, 9, 9]]) == 2
    assert ran(prefixes, [[*INSTRUCTION, 1, 8]]) == 1


def test_every_sequence_keeps_a_token_of_its_own() -> None:
    prefixes = store()
    ran(prefixes, [[*INSTRUCTION, 1], [*INSTRUCTION, 2]])
    assert ran(prefixes, [INSTRUCTION]) == 1


@pytest.mark.parametrize("length", [1, SHORTEST - 1, SHORTEST])
def test_what_is_too_short_is_not_shared(length: int) -> None:
    same = list(range(length))
    shared = store().share(batch_of([[*same, 101, 5], [*same, 102, 5]]))
    assert (shared is not None) == (length == SHORTEST)


def test_the_store_is_bounded_and_forgets_the_longest_unused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STORE_BYTES", 2 * 20 * 4 * 8 * 4 * 2)  # two prefixes of 20 tokens
    prefixes = PrefixStore(1, torch.device("cpu"))
    ran(prefixes, [[*OTHER, 1], [*OTHER, 2]])
    ran(prefixes, [[*INSTRUCTION, 1], [*INSTRUCTION, 2]])
    assert ran(prefixes, [[*OTHER, 3]]) == 1
    third = list(range(80, 100))
    ran(prefixes, [[*third, 1], [*third, 2]])
    assert ran(prefixes, [[*third, 4]]) == ran(prefixes, [[*OTHER, 4]]) == 1
    assert prefixes.share(batch_of([[*INSTRUCTION, 3]])).new  # it has to run again


def test_a_prefix_that_is_told_is_kept_beside_others_with_the_same_beginning() -> None:
    """A reranker's queries share their first tokens, and each query's documents many more."""
    prefixes = store()

    def ran_told(*documents: list[int], query: list[int]) -> int:
        sequences = [sequence_of([*INSTRUCTION, *query, *document]) for document in documents]
        for sequence in sequences:
            sequence.prefix_length = len(INSTRUCTION) + len(query)
        costs = sum(sequence.num_tokens - prefixes.kept_length(sequence) for sequence in sequences)
        shared = prefixes.share(pack(sequences))
        if shared is None:
            return costs
        for prefix in shared.new:
            prefix.layers.append((torch.zeros(len(prefix.ids), 4, 8), torch.zeros(len(prefix.ids), 4, 8)))
        prefixes.keep(shared.new)
        assert shared.new or costs == len(shared.ids), "what a sequence costs is what runs of it"
        return len(shared.ids)

    first, second = [101, 102, 103], [104, 105]
    assert ran_told([1, 2], [3], query=first) == 22 + 2 + 1
    assert ran_told([1, 2], [3], query=second) == 21 + 2 + 1
    assert ran_told([4], query=first) == 1
    assert ran_told([4], [5, 6], query=second) == 1 + 2
    assert ran_told([7], query=[106]) == 21, "one document may be the only one"
    assert ran_told([8], query=[106]) == 20 + 1, "the second shows that it is not"
    assert ran_told([9], query=[106]) == 1


tokens = st.lists(st.integers(0, 3), max_size=5)
batches = st.lists(st.lists(st.tuples(st.integers(0, 24), tokens), min_size=1, max_size=6), min_size=1, max_size=4)


@given(batches)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_vectors_are_those_without_sharing(
    checkpoint: Callable[[str], Path], drawn: list[list[tuple[int, list[int]]]]
) -> None:
    """Whatever lies in a batch and came before it; beginnings of one instruction, of any length."""
    runner = make_runner(checkpoint("qwen3"))
    plain = make_runner(checkpoint("qwen3"))
    plain._planner._prefixes = None
    for batch in drawn:
        lists = [[*INSTRUCTION, *range(5)][:length] + rest + [7] for length, rest in batch]
        np.testing.assert_allclose(run_packed(runner, lists), run_packed(plain, lists), atol=2e-6)


@pytest.mark.skipif(not can_multiply_bytes(), reason="there is no product of bytes")
def test_in_int8_the_bits_are_the_same(checkpoint: Callable[[str], Path]) -> None:
    def make() -> Runner:
        sample = [sequence_of([1, 2, 3, number]) for number in range(8)]
        return Runner(read_spec(checkpoint("qwen3"), "x"), choose("cpu", "int8"), lambda: sample, 0.9)

    runner, plain = make(), make()
    plain._planner._prefixes = None
    lists = [[*INSTRUCTION, *range(number, number + 5)] for number in range(20)]
    expected = run_packed(plain, lists)
    for _ in range(2):
        assert np.array_equal(run_packed(runner, lists), expected)
    assert runner._planner._prefixes._kept


def test_bfloat16_stays_near(checkpoint: Callable[[str], Path]) -> None:
    runner, plain = make_runner(checkpoint("qwen3"), "bfloat16"), make_runner(checkpoint("qwen3"), "bfloat16")
    plain._planner._prefixes = None
    lists = [[*INSTRUCTION, *range(number, number + 5)] for number in range(20)]
    run_packed(runner, lists)
    assert (run_packed(runner, lists) * run_packed(plain, lists)).sum(axis=1).min() >= 0.9999


def test_a_model_that_looks_both_ways_shares_nothing(checkpoint: Callable[[str], Path]) -> None:
    assert make_runner(checkpoint("bert"))._planner._prefixes is None
