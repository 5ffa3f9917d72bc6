"""The card, and its two ceilings: copies and matrix products."""

from __future__ import annotations

import torch
import triton
from report import DEVICE, report, seconds_of


def copy_rate() -> float:
    source, target = (torch.empty(1 << 30, dtype=torch.float32, device=DEVICE).normal_() for _ in range(2))
    return 2 * source.nbytes / seconds_of(lambda: target.copy_(source))


def main() -> None:
    properties = torch.cuda.get_device_properties(0)
    report("card", properties.name, "", torch=torch.__version__, triton=triton.__version__, cuda=torch.version.cuda)
    report("multiprocessors", properties.multi_processor_count, "", l2=properties.L2_cache_size)
    report("copy, read and written", copy_rate() / 1e12, "TB/s")
    a, b = (torch.randn(8192, 8192, device=DEVICE).bfloat16() for _ in range(2))
    report("bf16 8192³", 2 * 8192**3 / seconds_of(lambda: a @ b) / 1e12, "TFLOP/s")
    fp8_a, fp8_b = (x.to(torch.float8_e4m3fn) for x in (a, b))
    ones = torch.ones(8192, 1, device=DEVICE)

    def multiply() -> torch.Tensor:
        return torch._scaled_mm(fp8_a, fp8_b.t(), ones, ones.t(), out_dtype=torch.bfloat16, use_fast_accum=True)

    report("fp8 8192³, scales of rows", 2 * 8192**3 / seconds_of(multiply) / 1e12, "TFLOP/s")


if __name__ == "__main__":
    main()
