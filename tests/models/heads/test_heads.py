"""What holds for every kind of output that a family gives, whatever it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec import structs
from running import make_runner, sequence_of

from inlay.cache.record import KIND_BYTES
from inlay.engine.batch import pack
from inlay.models.registry import FAMILIES, OUTPUTS, make_head
from inlay.models.spec import read_spec
from inlay.ops.layout import Layout

PAIRS = [(family, kind) for family, row in FAMILIES.items() for kind in row.outputs]
LISTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10, 11], [5, 6]]


def test_every_kind_that_a_family_gives_is_listed_with_a_name_that_records_hold() -> None:
    assert {kind for _, kind in PAIRS} <= OUTPUTS.keys()
    assert all(len(kind.encode()) <= KIND_BYTES for kind in OUTPUTS)


@pytest.mark.parametrize(("family", "kind"), PAIRS)
def test_payloads_are_what_the_registry_says_and_the_same_alone_and_in_a_batch(
    checkpoint: Callable[[str], Path], family: str, kind: str
) -> None:
    runner = make_runner(checkpoint(family))
    sequences = [sequence_of(ids, index) for index, ids in enumerate(LISTS)]
    for sequence in sequences:
        sequence.work = structs.replace(sequence.work, outputs=(kind,))
    batch = pack(sequences)
    together = runner.collect(runner.launch(batch))[kind]
    for sequence, row in zip(batch.sequences, batch.rows, strict=True):
        (alone,) = runner.collect(runner.launch(pack([sequence])))[kind]
        assert alone is not None
        assert OUTPUTS[kind].is_payload(alone, runner.spec)
        assert together[row] == alone


@pytest.mark.parametrize(("family", "kind"), PAIRS)
def test_what_is_not_finite_is_no_output(checkpoint: Callable[[str], Path], family: str, kind: str) -> None:
    spec = read_spec(checkpoint(family), family)
    head, layout = make_head(kind, spec), Layout.of(np.array([0, 2, 3]), torch.device("cpu"))
    hidden = torch.randn(3 if head.needs_all_rows else 2, spec.width)
    hidden[-1, 5] = torch.inf
    payloads = head.payloads(head(hidden, layout).numpy(), layout, np.array([5, 6, 7]))
    assert [payload is None for payload in payloads] == [False, True]
