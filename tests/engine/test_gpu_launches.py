"""What a forward pass launches on a GPU, and the bytes that it moves: counted on the meta device, without one."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from triton_interpreter import gpu_kernels

from inlay.bench.shapes import SHAPES
from inlay.models.plan import Plan
from inlay.models.registry import forward_class
from inlay.ops import activation, attention, convert, embedding, norm, rotary
from inlay.ops.layout import Layout

META = torch.device("meta")
TOKENS = 64
LAUNCH_NOTHING = {"empty", "view", "slice", "split", "split_with_sizes", "detach", "select", "unbind", "t"}
WAITS = ("lift_fresh", "_local_scalar_dense", "nonzero", "_pin_memory", "_to_copy", "equal")
IN_PLACE, PRODUCTS = {"add_rms_norm", "add_layer_norm", "rotate_heads"}, {"mm", "addmm"}
MOST_LAUNCHES, MOST_BYTES = 9, 80_000  # of a layer; bytes for each token, but for those of products


class Counted(TorchDispatchMode):
    """torch's own launches, with what they read and write of activations; refuses what makes the host wait."""

    def __init__(self) -> None:
        super().__init__()
        self.launches: Counter[str] = Counter()
        self.nbytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().removeprefix("aten::")
        if any(waiting in name for waiting in WAITS):
            raise AssertionError(f"{name} waits for the device")
        given = func(*args, **(kwargs or {}))
        if name.split(".")[0] not in LAUNCH_NOTHING:
            self.add(name, [*args, given])
        return given

    def add(self, name: str, tensors: list[Any]) -> None:
        self.launches[name.split(".")[0]] += 1
        if name in PRODUCTS:
            return
        if name in IN_PLACE:
            self.nbytes += tensors[0].numel() * tensors[0].element_size()  # read and written
        rows = [one for one in tensors if isinstance(one, Tensor) and one.ndim > 1 and one.shape[0] in (TOKENS, 1)]
        self.nbytes += sum({one.data_ptr() or id(one): one.numel() * one.element_size() for one in rows}.values())


class Launcher:
    """Stands for a kernel: counts its launch and runs nothing."""

    def __init__(self, name: str, counted: Counted) -> None:
        self._name, self._counted = name, counted

    def __getitem__(self, grid: object) -> Any:
        return lambda *arguments, **constants: self._counted.add(self._name, list(arguments))


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    kernels, found = gpu_kernels(), Counted()
    import inlay.ops.gpu.kernels as module

    for room, names in (
        (module.norm, ("add_rms_norm", "add_layer_norm")),
        (module.activation, ("activate", "gated_product")),
        (module.rotary, ("rotate_heads",)),
        (module.embedding, ("look_up", "mean_of_rows")),
        (module.attention, ("attend",)),
    ):
        for name in names:
            monkeypatch.setattr(room, name, Launcher(name, found))
    for op in (activation, attention, convert, embedding, norm, rotary):
        monkeypatch.setattr(op, "kernels_for", lambda *arguments: kernels)
    return found


def run(shape: str, layers: int, counted: Counted) -> tuple[Counter[str], int]:
    config = {**SHAPES[shape], "num_hidden_layers": layers}
    with META:
        model = forward_class(config["model_type"])(config, torch.bfloat16)
    model.prepare()
    layout = Layout.of(np.array([0, 40, TOKENS]), META)
    ids = torch.empty(TOKENS, dtype=torch.int32, device=META)
    plan = Plan(ids, ids, layout, model.is_causal, -1)
    model(plan)  # tables are made
    counted.launches.clear()
    counted.nbytes = 0
    with torch.no_grad(), counted:  # in which torch shows what its operators are made of
        model(replace(plan))
    return Counter(counted.launches), counted.nbytes


@pytest.mark.parametrize("shape", ["qwen3-embedding-0.6b", "bge-m3"])
def test_a_layer_is_few_launches_over_few_bytes(counted: Counted, shape: str) -> None:
    fewer, fewer_bytes = run(shape, 2, counted)
    more, more_bytes = run(shape, 3, counted)
    launches = more - fewer
    assert launches.total() <= MOST_LAUNCHES, launches
    nbytes = (more_bytes - fewer_bytes) / TOKENS
    assert 0 < nbytes <= MOST_BYTES, f"{nbytes:.0f} bytes a token and layer"
