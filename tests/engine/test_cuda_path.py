"""What can be checked of the CUDA path without a GPU: shapes on the meta device, and that nothing waits for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from running import sequence_of
from torch.utils._python_dispatch import TorchDispatchMode

from inlay.engine import device as module
from inlay.engine import transfer
from inlay.engine.adapter_pass import AdapterPass
from inlay.engine.batch import pack
from inlay.engine.planning import Planner
from inlay.errors import ConfigError, DeviceLost, OutOfMemory
from inlay.models.adapted import AdapterSet
from inlay.models.lora import LowRank
from inlay.models.parts import Linear
from inlay.models.registry import forward_class, make_head
from inlay.models.spec import read_spec
from inlay.ops import attention as attention_module
from inlay.ops.attention import attend_efficiently, attend_in_blocks
from inlay.ops.layout import Layout
from inlay.types import Pooling

META = torch.device("meta")
WAITS = ("lift_fresh", "_local_scalar_dense", "nonzero", "_pin_memory", "equal")


class NothingWaits(TorchDispatchMode):
    """Refuses what makes the host wait for the device, or cannot be captured in a graph."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if any(name in func.name() for name in WAITS):
            raise AssertionError(f"{func.name()} waits for the device")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("pooling", [Pooling.LAST, Pooling.CLS, Pooling.MEAN])
def test_no_step_of_a_forward_pass_waits_for_the_device(
    checkpoint: Callable[[str], Path], family: str, pooling: Pooling
) -> None:
    spec = read_spec(checkpoint(family), family)
    with META:
        model = forward_class(spec.family)(spec.config, torch.bfloat16)
    model.prepare()
    batch = pack([sequence_of([1, 2, 3]), sequence_of([4, 5]), sequence_of([6, 7, 8])])
    spec = replace(spec, pooling=pooling)
    planner = Planner(spec, model, torch.bfloat16, META)
    for head in (make_head(kind, spec) for kind in spec.outputs):
        planned = planner.plan(batch, needs_all_rows=head.needs_all_rows)
        with torch.inference_mode(), NothingWaits():
            hidden = model(planned.plan)
            given = head(hidden if head.needs_all_rows else planned.pooled_rows(hidden), planned.layout)
        assert len(given) >= 3


@pytest.mark.parametrize("family", ["qwen3", "bert"])
def test_no_step_of_a_pass_with_adapters_waits_for_the_device(checkpoint: Callable[[str], Path], family: str) -> None:
    spec = read_spec(checkpoint(family), family)
    with META:
        model = forward_class(spec.family)(spec.config, torch.bfloat16)
        weights = {f"{n}.weight": m.weight for n, m in model.named_modules() if isinstance(m, Linear)}
        low_ranks = {
            name: LowRank(torch.empty(4, weight.shape[1]), torch.empty(len(weight), 4), torch.empty(len(weight)))
            for name, weight in weights.items()
        }
        adapters = AdapterSet(model, {"mine": low_ranks})
        model.prepare()
        adapters.install(torch.bfloat16)
    batch = pack([sequence_of([1, 2, 3], 0, "mine"), sequence_of([4, 5]), sequence_of([6, 7, 8], 2, "mine")])
    planned = Planner(spec, model, torch.bfloat16, META).plan(batch, needs_all_rows=False)
    assert planned.plan.adapters is not None
    with torch.inference_mode(), NothingWaits():
        AdapterPass(model, model, adapters)(planned.plan)


def test_offsets_are_not_made_of_lists_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "tensor", lambda *arguments, **more: pytest.fail("it waits for the device"))
    assert Layout.of(np.array([0, 5, 9]), META).cu_seqlens.dtype == torch.int32


@pytest.mark.parametrize("is_causal", [True, False])
def test_the_memory_efficient_kernel_gets_what_it_takes(is_causal: bool) -> None:
    layout, last = Layout.of(np.array([0, 5, 9]), META), Layout.of_one_row_each(2, META)
    q, k, v = (torch.randn(9, heads, 16, device=META) for heads in (4, 2, 2))
    assert attend_efficiently(q, k, v, layout, layout, is_causal=is_causal).shape == (9, 4, 16)
    assert attend_efficiently(q[:2], k, v, last, layout, is_causal=False).shape == (2, 4, 16)


@pytest.mark.parametrize(
    ("dtype", "head_dim", "capability", "is_flash"),
    [
        (torch.bfloat16, 128, (9, 0), True),
        (torch.bfloat16, 12, (9, 0), False),
        (torch.bfloat16, 512, (9, 0), False),
        (torch.float16, 64, (7, 5), False),
        (torch.float32, 64, (9, 0), False),
    ],
)
def test_flash_attention_is_asked_only_for_what_it_does(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, head_dim: int, capability: tuple[int, int], is_flash: bool
) -> None:
    attention_module.has_flash.cache_clear()
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert attention_module.has_flash(torch.device("cuda"), dtype, head_dim) is is_flash
    attention_module.has_flash.cache_clear()


def test_a_sequence_without_rows_is_passed_over() -> None:
    layout = Layout.of(np.array([0, 3, 3, 5]), torch.device("cpu"))
    q, k, v = (torch.randn(5, 2, 16) for _ in range(3))
    assert attend_in_blocks(q, k, v, layout, is_causal=True).isfinite().all()


def test_a_gpu_beyond_those_there_are_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match="cuda:0 to cuda:1"):
        module._choose_device("cuda:9")
    assert module._choose_device("cuda:1") == torch.device("cuda:1")


def test_whoever_wants_vectors_waits_for_their_own_copy() -> None:
    waited: list[str] = []

    class Event:
        def synchronize(self) -> None:
            waited.append("own")

    host = torch.ones(2, 3)
    found = transfer.arrived(transfer.Arriving(host, Event()))  # type: ignore[arg-type]
    assert (waited, found.tolist()) == (["own"], [[1.0] * 3] * 2)


@pytest.mark.parametrize(
    ("raised", "told"),
    [(torch.AcceleratorError("device-side assert"), DeviceLost), (torch.OutOfMemoryError("no memory"), OutOfMemory)],
)
def test_a_device_that_is_lost_is_told_from_one_that_is_full(
    checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, raised: Exception, told: type[Exception]
) -> None:
    from running import make_runner

    runner = make_runner(checkpoint("bert"))

    def fail(*arguments: object) -> None:
        activations = torch.ones(1000)
        if activations.sum() > 0:
            raise raised

    monkeypatch.setattr(runner._model, "forward", fail)
    with pytest.raises(told) as caught:
        runner.launch(pack([sequence_of([1, 2])]))
    if told is OutOfMemory:
        frame = raised.__traceback__
        while frame is not None and frame.tb_frame.f_code.co_name != "fail":
            frame = frame.tb_next
        assert frame is not None
        assert "activations" not in frame.tb_frame.f_locals, "the failed batch stays in the device's memory"
    assert caught.value.__suppress_context__ or told is DeviceLost
