"""Chooses how inputs that are too long for one batch run: in pieces, where rows can run apart from those before them.

In: a model. Out: what runs it piece by piece, or None.
"""

from __future__ import annotations

from inlay.engine.allocator import give_back_freed_memory
from inlay.engine.device import Choice
from inlay.engine.pieces import PieceDriver
from inlay.engine.planning import can_keep_in_arena, can_look_back
from inlay.engine.ranges import RangeDriver
from inlay.models.forward import Decoder, ForwardPass
from inlay.ops.native import load_kernels
from inlay.types import ModelSpec

LONGEST_ON_GPU = 8192  # tokens of an input that runs whole, until a batch was timed


def make_driver(spec: ModelSpec, model: ForwardPass, choice: Choice) -> PieceDriver | RangeDriver | None:
    """What runs long inputs in pieces; None where rows cannot run apart from those before them."""
    if isinstance(model, Decoder) and can_look_back(spec, model, choice.device):
        return PieceDriver(model)
    if isinstance(model, Decoder) and can_keep_in_arena(spec, model, choice.dtype, choice.device):
        return RangeDriver(model, choice.dtype, LONGEST_ON_GPU)
    return None


def give_back_memory() -> None:
    """What only a long input needs: its length is in what the threads keep."""
    if (kernels := load_kernels()) is not None:
        kernels.release_memory()
    give_back_freed_memory()
