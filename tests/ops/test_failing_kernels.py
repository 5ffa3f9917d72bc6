"""A kernel that cannot do its work says so, and what is not finite stays so: neither may look like a result."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from inlay.engine.pieces import Deltas
from inlay.ops.activation import ACTIVATIONS, activate, gated_product
from inlay.ops.attention import attention
from inlay.ops.convert import rows_in
from inlay.ops.layout import Layout
from inlay.ops.native import Kernels, load_kernels
from inlay.ops.norm import add_layer_norm, add_rms_norm
from inlay.ops.rotary import RotaryTable, rotate_heads
from inlay.ops.rows import Form, Rows

FORMS = [Form(torch.float32), Form(torch.bfloat16), Form(torch.uint8)]
WIDTH = 40

OUT_OF_MEMORY = """
import re, resource
from pathlib import Path
import numpy as np
import torch
from inlay.ops.attention import attention
from inlay.ops.layout import Layout
layout = lambda n: Layout.of(np.array([0, n]), torch.device("cpu"))
k = torch.randn(1_000_000, 1, 64)
attention(torch.randn(1, 1, 64), k[:99], k[:99], layout(1), layout(99), is_causal=True)
now = int(re.search(r"VmSize:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (now + (64 << 20), now + (64 << 20)))
try:
    attention(torch.randn(1, 1, 64), k, k, layout(1), layout(1_000_000), is_causal=True)
except MemoryError as error:
    print("MemoryError", error)
attention(torch.randn(1, 1, 64), k[:99], k[:99], layout(1), layout(99), is_causal=True)
print("goes on")
"""


def test_a_kernel_without_memory_raises_and_the_next_call_is_fine() -> None:
    if load_kernels() is None:
        pytest.skip("there are no compiled kernels")
    done = subprocess.run([sys.executable, "-c", OUT_OF_MEMORY], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["MemoryError the kernel attention needs more memory than there is", "goes on"]


def spoiled(*shape: int, with_: float) -> torch.Tensor:
    torch.manual_seed(0)
    x = torch.randn(*shape)
    x[1, 7] = with_
    return x


@pytest.fixture(params=[float("nan"), float("inf"), float("-inf")])
def bad(request: pytest.FixtureRequest) -> float:
    return request.param


@pytest.mark.parametrize("to", FORMS, ids=lambda form: str(form.dtype))
def test_what_is_not_finite_stays_so_through_conversions(build: Kernels | None, to: Form, bad: float) -> None:
    rows = rows_in(spoiled(3, WIDTH, with_=bad), to).full()
    assert not rows[1].isfinite().all()
    assert rows[[0, 2]].isfinite().all()


@pytest.mark.parametrize("to", FORMS, ids=lambda form: str(form.dtype))
@pytest.mark.parametrize("function", ACTIVATIONS)
def test_nan_stays_nan_through_activations(build: Kernels | None, to: Form, function: str) -> None:
    rows = activate(Rows(spoiled(3, WIDTH, with_=float("nan"))), function, to).full()
    assert not rows[1].isfinite().all()
    assert rows[[0, 2]].isfinite().all()
    gated = gated_product(Rows(spoiled(3, WIDTH, with_=float("nan"))), "silu", to).full()
    assert not gated[1].isfinite().all()
    assert gated[[0, 2]].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nan_stays_nan_through_attention(build: Kernels | None, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layout = Layout.of(torch.tensor([0, 5, 9]).numpy(), torch.device("cpu"))
    for place in range(3):
        q, k, v = (torch.randn(9, 2, 32).to(dtype) for _ in range(3))
        (q, k, v)[place][2, 0, 3] = float("nan")
        mixed = attention(q, k, v, layout, layout, is_causal=False)
        assert not mixed[2, 0].isfinite().all()
        assert mixed[5:].isfinite().all()


def biased(rows: int, width: int) -> Rows:
    torch.manual_seed(1)
    return Rows(torch.randn(rows, width), torch.rand(rows) + 0.5, torch.randn(width))


def test_rows_that_still_want_their_bias_get_it_in_every_op(build: Kernels | None) -> None:
    to, rows = Form(torch.float32), 6

    def near(found: torch.Tensor, expected: torch.Tensor) -> None:
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)

    x = biased(rows, 2 * WIDTH)
    plain = Rows(x.full())
    near(gated_product(x, "silu", to).values, gated_product(plain, "silu", to).values)
    weight, hidden = torch.rand(2 * WIDTH), torch.randn(rows, 2 * WIDTH)
    near(
        add_rms_norm(hidden.clone(), x, weight, 1e-6, to).values,
        add_rms_norm(hidden.clone(), plain, weight, 1e-6, to).values,
    )
    near(
        add_layer_norm(hidden.clone(), x, weight, weight, 1e-6, to).values,
        add_layer_norm(hidden.clone(), plain, weight, weight, 1e-6, to).values,
    )
    heads = biased(rows, 6 * 16)
    plain_heads = Rows(heads.full())  # before they are overwritten
    rotary, positions = RotaryTable(rows, 16, 1e4), torch.arange(rows)
    arguments = ((4, 1, 16), (torch.rand(16), torch.rand(16)), 1e-6, rotary, positions)
    for one, other in zip(rotate_heads(heads, *arguments), rotate_heads(plain_heads, *arguments), strict=True):
        near(one, other)
    deltas = Deltas(rows)
    deltas.put(0, 4, Rows(x.values[:4], x.scales[:4], x.bias))
    deltas.put(4, rows, Rows(x.values[4:], x.scales[4:], x.bias))
    deltas.end_layer()
    near(deltas.of(0, rows).full(), x.full())
