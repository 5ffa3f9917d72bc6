"""Every kernel beside its reference in float64, into memory full of NaN, and its share of the copy's bandwidth."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from report import DEVICE, graph_seconds_of, report
from torch import Tensor

from inlay.ops.attention import attend_one_by_one
from inlay.ops.gpu.kernels import FP8, GpuKernels
from inlay.ops.layout import Layout
from inlay.ops.rows import Form, Rows

KERNELS = GpuKernels()
HALF = torch.bfloat16
SILU = 4  # its number in `ops.activation`
TOKENS = 16_384


def poison() -> None:
    """What the allocator hands out next is full of NaN, so that what is not written shows."""
    blocks = [torch.full((1 << 24,), torch.nan, device=DEVICE) for _ in range(8)]
    del blocks


def error_of(found: Tensor, expected: Tensor) -> float:
    return float(((found.double() - expected).norm() / expected.norm()).item())


def check(case: str, run: Callable[[], Rows | Tensor], expected: Tensor, nbytes: int, most: float) -> None:
    poison()
    found = run()
    found = found.full() if isinstance(found, Rows) else found
    error = error_of(found, expected)
    seconds = graph_seconds_of(run)
    verdict = "ok" if error <= most else "WRONG"
    report(case, verdict, f"error {error:.2g}, {nbytes / seconds / 1e12:.2f} TB/s, {seconds * 1e6:.0f} µs")


def check_rows(width: int, inner: int) -> None:
    hidden, delta = torch.randn(TOKENS, width, device=DEVICE), torch.randn(TOKENS, width, device=DEVICE).to(HALF)
    weight, bias = torch.randn(2, width, device=DEVICE)
    total = hidden.double() + delta.double()
    expected = F.rms_norm(total, (width,), weight.double(), 1e-6)
    for to, most in ((HALF, 4e-3), (FP8, 4e-2)):
        size = TOKENS * width * (4 + 4 + 2 + to.itemsize)
        check(
            f"add_rms_norm {width} → {to}",
            lambda to=to: KERNELS.add_rms_norm(hidden.clone(), Rows(delta), weight, 1e-6, Form(to)),
            expected,
            size + 8 * TOKENS * width,
            most,
        )
    expected = F.layer_norm(total, (width,), weight.double(), bias.double(), 1e-6)
    check(
        f"add_layer_norm {width}",
        lambda: KERNELS.add_layer_norm(hidden.clone(), Rows(delta), weight, bias, 1e-6, Form(HALF)),
        expected,
        TOKENS * width * 20,
        4e-3,
    )
    wide = torch.randn(TOKENS, 2 * inner, device=DEVICE).to(HALF)
    gate, up = wide.double().chunk(2, dim=1)
    for to, most in ((HALF, 4e-3), (FP8, 4e-2)):
        size = TOKENS * inner * (4 + to.itemsize)
        check(
            f"gated_product {inner} → {to}",
            lambda to=to: KERNELS.gated_product(Rows(wide), SILU, Form(to), is_gate_first=True),
            F.silu(gate) * up,
            size,
            most,
        )
    expected = F.gelu(wide.double())
    check(f"gelu {2 * inner}", lambda: KERNELS.activate(Rows(wide), 1, Form(HALF)), expected, 4 * wide.numel(), 4e-3)
    expected = F.gelu(wide.double(), approximate="tanh")
    check(
        f"gelu_new {2 * inner}", lambda: KERNELS.activate(Rows(wide), 2, Form(HALF)), expected, 4 * wide.numel(), 4e-3
    )


def check_tables(width: int) -> None:
    table = torch.randn(150_000, width, device=DEVICE).to(HALF)
    ids = torch.randint(0, 150_000, (TOKENS,), device=DEVICE, dtype=torch.int32)
    expected = table[ids.long()].double()
    check(f"look_up {width}", lambda: KERNELS.look_up(((table, ids),), TOKENS), expected, TOKENS * width * 6, 1e-6)
    lengths = np.random.default_rng(0).integers(1, 200, 150)
    layout = Layout.of(np.array([0, *np.cumsum(lengths)]), DEVICE)
    hidden = torch.randn(int(lengths.sum()), width, device=DEVICE)
    expected = torch.stack([part.double().mean(0) for part in hidden.split(lengths.tolist())])
    check(f"mean_of_rows {width}", lambda: KERNELS.mean_of_rows(hidden, layout), expected, hidden.nbytes, 1e-6)


def check_rotation(heads: tuple[int, int, int]) -> None:
    num_heads, kv_heads, width = heads
    qkv = torch.randn(TOKENS, (num_heads + 2 * kv_heads) * width, device=DEVICE).to(HALF)
    weights = torch.randn(2, width, device=DEVICE)
    angles = torch.randn(1000, width // 2, device=DEVICE)
    positions = torch.randint(0, 1000, (TOKENS,), device=DEVICE, dtype=torch.int32)
    q, k, v = qkv.double().view(TOKENS, -1, width).split([num_heads, kv_heads, kv_heads], dim=1)
    cos, sin = angles.double().cos()[positions.long()][:, None], angles.double().sin()[positions.long()][:, None]

    def turned(x: Tensor, weight: Tensor) -> Tensor:
        a, b = F.rms_norm(x, (width,), weight.double(), 1e-6).chunk(2, dim=-1)
        return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)

    expected = torch.cat((turned(q, weights[0]), turned(k, weights[1]), v), dim=1).flatten(1)

    def run() -> Tensor:
        return KERNELS.rotate_heads(
            Rows(qkv.clone()), heads, (weights[0], weights[1]), 1e-6, (angles.cos(), angles.sin()), positions
        )

    check(f"rotate_heads {heads}", run, expected, 2 * qkv.nbytes, 4e-3)


def check_attention(heads: int, kv_heads: int, width: int, *, is_causal: bool) -> None:
    lengths = [1, 7, 64, 65, 300, 129, 2, 512]
    layout = Layout.of(np.array([0, *np.cumsum(lengths)]), DEVICE)
    q, k, v = (torch.randn(sum(lengths), n, width, device=DEVICE).to(HALF) for n in (heads, kv_heads, kv_heads))
    last = layout.cu_seqlens[1:].long() - 1
    rows = Layout.of_one_row_each(len(lengths), DEVICE)
    for case, queries, given, causal in (("", layout, q, is_causal), (" last rows", rows, q[last], False)):
        expected = attend_one_by_one(given.double(), k.double(), v.double(), queries, layout, is_causal=causal)
        poison()
        found = KERNELS.attention(given, k, v, queries, layout, is_causal=causal)
        error = error_of(found, expected)
        alone = KERNELS.attention(given, k, v, queries, layout, is_causal=causal)
        same = torch.equal(alone, found)
        name = f"attend {heads}/{kv_heads}×{width} {'causal' if is_causal else 'full'}{case}"
        report(name, "ok" if error < 6e-3 and same else "WRONG", f"error {error:.2g}, the same twice: {same}")


def main() -> None:
    torch.manual_seed(0)
    for heads in ((16, 8, 128), (32, 8, 128)):
        check_rotation(heads)
    for heads, kv_heads, width in ((16, 8, 128), (32, 8, 128), (12, 12, 32), (12, 12, 64), (4, 4, 12), (3, 1, 16)):
        for is_causal in (True, False):
            check_attention(heads, kv_heads, width, is_causal=is_causal)
    for width, inner in ((1024, 3072), (2560, 9728), (4096, 12_288), (384, 1536)):
        check_rows(width, inner)
    for width in (384, 1024, 4096):
        check_tables(width)


if __name__ == "__main__":
    torch.inference_mode()(main)()
