"""The joined products of the models by rows: bf16 and fp8, and whether a row's bits depend on how many there are."""

from __future__ import annotations

import torch
from report import DEVICE, graph_seconds_of, report

from inlay.bench.shapes import SHAPES

MODELS = ("qwen3-embedding-0.6b", "qwen3-embedding-4b", "qwen3-embedding-8b")
ROWS = (16, 64, 256, 1024, 4096, 16_384)


def sizes_of(name: str) -> list[tuple[int, int]]:
    config = SHAPES[name]
    width, inner, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    q, kv = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    return [(width, q + 2 * kv), (q, width), (width, 2 * inner), (inner, width)]


def main() -> None:
    for name in MODELS:
        layers = SHAPES[name]["num_hidden_layers"]
        weights = [torch.randn(wide, deep, device=DEVICE).bfloat16() for deep, wide in sizes_of(name)]
        small = [weight.to(torch.float8_e4m3fn) for weight in weights]
        parameters = sum(weight.numel() for weight in weights)
        for rows in ROWS:
            inputs = [torch.randn(rows, weight.shape[1], device=DEVICE).bfloat16() for weight in weights]
            fp8_inputs = [x.to(torch.float8_e4m3fn) for x in inputs]
            ones = torch.ones(rows, 1, device=DEVICE)

            def half(inputs=inputs, weights=weights) -> None:  # noqa: ANN001
                for x, weight in zip(inputs, weights, strict=True):
                    torch.nn.functional.linear(x, weight)

            def eighth(inputs=fp8_inputs, weights=small, ones=ones) -> None:  # noqa: ANN001
                for x, weight in zip(inputs, weights, strict=True):
                    scales = torch.ones(1, len(weight), device=DEVICE)
                    torch._scaled_mm(x, weight.t(), ones, scales, out_dtype=torch.bfloat16, use_fast_accum=True)

            for what, run in (("bf16", half), ("fp8", eighth)):
                seconds = graph_seconds_of(run, 10)
                rate = 2 * parameters * rows / seconds / 1e12
                report(
                    f"{name} {what} {rows} rows",
                    rate,
                    "TFLOP/s",
                    layer_us=round(seconds * 1e6, 1),
                    model_ms=round(seconds * layers * 1e3, 3),
                )
        if name == MODELS[0]:
            x = torch.randn(4096, 1024, device=DEVICE).bfloat16()
            full = torch.nn.functional.linear(x, weights[2])
            kept = [
                rows
                for rows in (16, 32, 64, 128, 512, 2048)
                if torch.equal(torch.nn.functional.linear(x[:rows], weights[2]), full[:rows])
            ]
            report("rows with the bits of 4096 rows (gate_up)", str(kept))


if __name__ == "__main__":
    torch.inference_mode()(main)()
