"""A recording does what the function did that it was made of, for what its inputs hold then; or there is none."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from inlay.ops.activation import activate
from inlay.ops.embedding import look_up
from inlay.ops.linear import Product, Weights, make_product
from inlay.ops.native import Kernels
from inlay.ops.norm import add_layer_norm
from inlay.ops.recording import Arena, record
from inlay.ops.rows import FULL

TOKENS, WIDTH = 5, 64
TABLE, WEIGHT = torch.randn(100, WIDTH), torch.randn(WIDTH, WIDTH)
ONES, ZEROS = torch.ones(WIDTH), torch.zeros(WIDTH)


def ids_of(seed: int) -> Tensor:
    return torch.randint(0, len(TABLE), (TOKENS,), generator=torch.Generator().manual_seed(seed))


def run(ids: Tensor, product: Product) -> Tensor:
    hidden = look_up((TABLE, ids))
    normed = add_layer_norm(hidden, None, ONES, ZEROS, 1e-5, product.takes)
    return activate(product(normed), "gelu", FULL).values[1:]


@pytest.fixture
def product(build: Kernels | None) -> Product:
    if build is None or build.on_torch_threads:
        pytest.skip("products are torch's own")
    return make_product(Weights((WEIGHT,)))


def test_a_recording_gives_what_the_function_gives_now(build: Kernels, product: Product) -> None:
    ids = ids_of(0)
    first, recording = record(build, Arena(), lambda: run(ids, product))
    assert recording is not None
    assert first.equal(run(ids_of(0), product))
    for seed in range(1, 4):
        ids.copy_(ids_of(seed))
        assert recording.run().equal(run(ids_of(seed), product))


def test_recordings_that_share_memory_do_not_disturb_each_other(build: Kernels, product: Product) -> None:
    arena, ids = Arena(), ids_of(0)
    _, first = record(build, arena, lambda: run(ids, product))
    _, second = record(build, arena, lambda: run(ids[:3], product))
    assert first is not None
    assert second is not None
    for seed in range(1, 4):
        ids.copy_(ids_of(seed))
        whole, part = first.run(), second.run()
        assert whole.equal(run(ids, product))
        assert part.equal(run(ids[:3], product))
        assert part.equal(whole[:2])


@pytest.mark.parametrize(
    "more",
    [
        lambda hidden: hidden + 1,
        lambda hidden: hidden.add_(1),
        lambda hidden: hidden[torch.tensor([0])],
        lambda hidden: hidden * float(hidden[0, 0]),
        lambda hidden: hidden.copy_(torch.zeros(TOKENS - 1, WIDTH)),
    ],
)
def test_what_torch_computes_is_in_no_recording(
    build: Kernels, product: Product, more: Callable[[Tensor], Tensor]
) -> None:
    ids = ids_of(0)
    given, recording = record(build, Arena(), lambda: more(run(ids, product)))
    assert recording is None
    assert given.equal(more(run(ids, product)))


def test_an_id_that_is_out_of_range_is_refused_by_a_recording_too(build: Kernels, product: Product) -> None:
    ids = ids_of(0)
    _, recording = record(build, Arena(), lambda: run(ids, product))
    assert recording is not None
    ids[2] = len(TABLE)
    with pytest.raises(IndexError):
        recording.run()
    ids.copy_(ids_of(1))
    assert recording.run().equal(run(ids, product))


def test_after_a_function_that_fails_calls_are_not_recorded_any_more(build: Kernels, product: Product) -> None:
    with pytest.raises(IndexError):
        record(build, Arena(), lambda: look_up((TABLE, torch.tensor([-1]))))
    ids = ids_of(0)
    given, recording = record(build, Arena(), lambda: run(ids, product))
    assert recording is not None
    assert recording.run().equal(given)


def test_memory_of_tensors_that_are_gone_is_used_again() -> None:
    arena = Arena()
    first = arena.empty([4, 16], torch.float32)
    view = first[1:]
    del first
    arena.empty([4, 16], torch.float32)
    assert arena.num_bytes == 2 * 256, "a view keeps its memory"
    del view
    arena.empty([64], torch.bfloat16)
    arena.empty([1, 2], torch.float32)
    assert arena.num_bytes == 2 * 256
