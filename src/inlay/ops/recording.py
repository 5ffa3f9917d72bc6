"""Kernels that have run once, run again without Python between them: most of a short text's time stands there.

In: a function that runs kernels on tensors. Out: what it gave and, if it can be run again, a `Recording`. It then did
nothing but call kernels, make empty tensors and constants, and look at tensors in other shapes; whatever else torch is
asked for would be missing from a second run, and is watched for.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from inlay.ops.native import Kernels

_EMPTY = torch.ops.aten.empty.memory_format
_CONSTANTS = frozenset({torch.ops.aten.arange.default, torch.ops.aten.arange.start, torch.ops.aten.arange.start_step})


class Arena:
    """Memory for the tensors of recordings that never run at the same time; tensors that are gone make room."""

    def __init__(self) -> None:
        self.num_bytes = 0
        self._free: list[npt.NDArray[np.uint8]] = []

    def empty(self, shape: list[int], dtype: torch.dtype) -> Tensor:
        """An uninitialised tensor. Its memory is free again when no tensor of it is left."""
        size = prod(shape) * dtype.itemsize
        block = self._take(size)
        given = block[:size]  # an object of its own, which the tensor keeps alive
        weakref.finalize(given, self._free.append, block).atexit = False
        return torch.from_numpy(given).view(dtype).view(shape)

    def _take(self, size: int) -> npt.NDArray[np.uint8]:
        fitting = [place for place, block in enumerate(self._free) if block.nbytes >= size]
        if fitting:
            return self._free.pop(min(fitting, key=lambda place: self._free[place].nbytes))
        block: npt.NDArray[np.uint8] = torch.empty(1 << max(size - 1, 1).bit_length(), dtype=torch.uint8).numpy()
        self.num_bytes += block.nbytes
        return block


class Recording:
    """Kernel calls with their addresses. Whoever runs it keeps alive what was there before it was recorded."""

    def __init__(self, kernels: Kernels, program: int, output: Tensor, constants: list[Tensor]) -> None:
        self._kernels = kernels
        self._program = program
        self._output = output
        self._constants = constants
        weakref.finalize(self, kernels.delete_program, program).atexit = False

    def run(self) -> Tensor:
        """What the recorded function gives for what its inputs hold now."""
        self._kernels.run_program(self._program)
        return self._output.clone()


def record(kernels: Kernels, arena: Arena, run: Callable[[], Tensor]) -> tuple[Tensor, Recording | None]:
    """Run a function; None where a recording of it would not do all that it did."""
    watch = _Watch(arena)
    program = kernels.begin_program()
    try:
        with watch:
            output = run()
    except BaseException:
        kernels.delete_program(program)
        raise
    finally:
        kernels.end_program()
    recording = Recording(kernels, program, output, watch.constants)
    return output.clone(), recording if watch.is_complete else None


class _Watch(TorchDispatchMode):
    """Gives tensors memory from an arena, and notes whether torch computes anything."""

    def __init__(self, arena: Arena) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.is_complete = True
        self.constants: list[Tensor] = []
        self._arena = arena

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """torch would import its compiler, which takes 2 s, to leave this class out of what is never compiled here."""
        return False

    def __torch_dispatch__(
        self,
        operator: torch._ops.OpOverload,
        types: object,
        arguments: tuple[Any, ...] = (),
        options: dict[str, Any] | None = None,
    ) -> object:
        options = options or {}
        if operator is _EMPTY:
            return self._arena.empty(arguments[0], options.get("dtype") or torch.get_default_dtype())
        result = operator(*arguments, **options)
        if operator in _CONSTANTS:
            self.constants.append(result)
        elif not operator.is_view:
            self.is_complete = False
        return result
