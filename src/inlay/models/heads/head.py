"""What a head is: it turns the hidden states of a batch into one kind of output for each sequence."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from inlay.ops.layout import Layout
from inlay.types import IntArray, ModelSpec


class Head(ABC):
    """One kind of output of one model; named in `models.registry.OUTPUTS`, made with the model's spec.

    Both calls are made on the device's thread. Every kind that a model gives runs once when it is loaded.
    """

    needs_all_rows: bool = False  # else it is given the one row of each sequence that pooling names

    @abstractmethod
    def __init__(self, spec: ModelSpec) -> None: ...

    def reads(self, tensor_name: str) -> bool:
        """Are its weights, or some of them, in a tensor of the checkpoint? Most heads have none."""
        return False

    def load(self, files: list[Path], device: torch.device) -> None:  # noqa: B027 - most heads have nothing to load
        """Take its weights."""

    @abstractmethod
    def __call__(self, hidden: Tensor, layout: Layout) -> Tensor:
        """On the device: hidden [B, width], or [T, width] of all rows, in float32 → one tensor for the host.

        Of any shape and dtype. Nothing in here may make the host wait for the device.
        """

    @abstractmethod
    def payloads(self, array: npt.NDArray[Any], layout: Layout, ids: IntArray) -> list[bytes | None]:
        """On the host: the payload of each sequence, in their order; None where it is not finite. ids [T]."""
