"""The GPU's kernels for tests: on a GPU where there is one, else interpreted on CPU tensors.

Triton reads TRITON_INTERPRET, which conftest sets, when it is imported. What its interpreter gets wrong is mended here:
bfloat16, FP8 and their products.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@cache
def gpu_kernels() -> Any:
    """`GpuKernels`, interpreted where there is no GPU."""
    if find_spec("triton") is None:
        pytest.skip("the GPU's kernels need triton")
    if DEVICE.type == "cpu":
        _mend()
    from inlay.ops.gpu.kernels import GpuKernels

    return GpuKernels()


def _mend() -> None:
    import triton.language as tl
    import triton.runtime.interpreter as interpreter

    whole = interpreter._convert_float
    dtypes = {
        tl.bfloat16: (torch.bfloat16, torch.int16, np.uint16),
        tl.float8e4nv: (torch.float8_e4m3fn, torch.uint8, np.uint8),
        tl.float32: (torch.float32, torch.float32, np.float32),
        tl.float16: (torch.float16, torch.float16, np.float16),
    }

    def convert_float(data: Any, given: Any, wanted: Any, rounding: Any) -> Any:
        """It cuts to bfloat16 instead of rounding, and FP8 is wrong by up to 1."""
        if given not in dtypes or wanted not in dtypes:
            return whole(data, given, wanted, rounding)
        target, bits, array = dtypes[wanted]
        tensor = torch.from_numpy(np.array(data)).view(dtypes[given][0])
        return tensor.to(target).view(bits).numpy().view(array)

    def create_dot(self: Any, a: Any, b: Any, d: Any, precision: Any, most_imprecise: Any) -> Any:
        """It multiplies the bits of bfloat16 as whole numbers."""
        a_data, b_data = (convert_float(x.data, x.dtype, tl.float32, None) for x in (a, b))
        return interpreter.TensorHandle(np.matmul(a_data, b_data, dtype=np.float32) + d.data, d.dtype.scalar)

    interpreter._convert_float = convert_float
    interpreter.InterpreterBuilder.create_dot = create_dot
