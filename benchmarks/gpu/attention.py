"""The attention kernel with other tiles, beside torch's flash attention, by length of the sequences."""

from __future__ import annotations

import numpy as np
import torch
from report import DEVICE, graph_seconds_of, report
from torch import Tensor

import inlay.ops.gpu.kernels as kernels
from inlay.ops.attention import attend_by_flash
from inlay.ops.gpu.kernels import GpuKernels, Tile
from inlay.ops.layout import Layout

TILES = [
    *(
        Tile(1, 64, 4, 2),
        Tile(1, 64, 4, 3),
        Tile(1, 32, 4, 3),
        Tile(1, 32, 4, 2),
        Tile(1, 128, 4, 2),
        Tile(1, 64, 8, 2),
    ),
    *(Tile(2, 64, 4, 2), Tile(2, 64, 8, 3), Tile(2, 32, 4, 3), Tile(2, 32, 8, 3), Tile(2, 128, 8, 2)),
]
MODELS = [(16, 8, 128, True), (32, 8, 128, True), (16, 16, 64, False), (12, 12, 32, False)]
LENGTHS = (32, 128, 512, 2048, 8192)
TOKENS = 16_384


def with_tiles(q: Tensor, k: Tensor, v: Tensor, layout: Layout, *, is_causal: bool) -> dict[str, float | str]:
    """Microseconds with each tile."""
    chosen, found = kernels._tile_of, {}
    for tile in TILES:
        if q.shape[1] // k.shape[1] % tile.heads:
            continue
        kernels._tile_of = lambda *arguments, tile=tile, **more: tile
        name = f"{tile.heads}/{tile.keys}/{tile.warps}/{tile.stages}"
        try:
            seconds = graph_seconds_of(lambda: GpuKernels().attention(q, k, v, layout, layout, is_causal=is_causal), 8)
            found[name] = round(seconds * 1e6)
        except Exception as error:  # noqa: BLE001 - a tile that does not fit is a finding
            found[name] = type(error).__name__
    kernels._tile_of = chosen
    return found


def whole_batch(heads: int, kv_heads: int, width: int, length: int, *, is_causal: bool) -> None:
    layout = Layout.of(np.arange(0, TOKENS + 1, length), DEVICE)
    q, k, v = (torch.randn(TOKENS, n, width, device=DEVICE).bfloat16() for n in (heads, kv_heads, kv_heads))
    operations = 4 * TOKENS * length * heads * width / (2 if is_causal else 1)
    ours = graph_seconds_of(lambda: GpuKernels().attention(q, k, v, layout, layout, is_causal=is_causal), 8)
    flash = graph_seconds_of(lambda: attend_by_flash(q, k, v, layout, layout, is_causal=is_causal), 8)
    name = f"{heads}/{kv_heads}×{width} {'causal' if is_causal else 'full'} length {length}"
    more = {"us": round(ours * 1e6), "flash_us": round(flash * 1e6)}
    tiles = with_tiles(q, k, v, layout, is_causal=is_causal)
    report(name, operations / ours / 1e12, "TFLOP/s", **more, tiles=tiles)


def last_rows(heads: int, kv_heads: int, width: int, count: int, length: int) -> None:
    layout = Layout.of(np.arange(0, count * length + 1, length), DEVICE)
    rows = Layout.of_one_row_each(count, DEVICE)
    q = torch.randn(count, heads, width, device=DEVICE).bfloat16()
    k, v = (torch.randn(count * length, kv_heads, width, device=DEVICE).bfloat16() for _ in range(2))
    ours = graph_seconds_of(lambda: GpuKernels().attention(q, k, v, rows, layout, is_causal=False), 8)
    report(f"{heads}/{kv_heads}×{width} last rows {count}×{length}", ours * 1e6, "µs")


def main() -> None:
    for *heads, is_causal in MODELS:
        for length in LENGTHS:
            whole_batch(*heads, length, is_causal=is_causal)
        for count, length in ((512, 32), (32, 512), (2, 8192)):
            last_rows(*heads, count, length)


if __name__ == "__main__":
    torch.inference_mode()(main)()
