"""Brings arrays to a device and outputs back, without waiting for what the device still has to do.

In: numpy arrays, or a device's tensor. Out: tensors on the device, or numpy arrays. On a GPU both ways go through
pinned memory behind the work that is queued: whoever wants outputs waits for their own copy, not for the batch after.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Arriving:
    """Outputs on their way from a GPU: there when the event has happened."""

    host: Tensor  # pinned
    event: torch.cuda.Event


Launched = Tensor | Arriving


def to_device(array: npt.NDArray[np.signedinteger], device: torch.device) -> Tensor:
    tensor = torch.from_numpy(array)
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def send_back(output: Tensor) -> Launched:
    """Start the way back; on a CPU there is none."""
    if output.device.type != "cuda":
        return output
    host = torch.empty(output.shape, dtype=output.dtype, pin_memory=True)
    host.copy_(output, non_blocking=True)
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record()
    return Arriving(host, event)


def arrived(launched: Launched) -> npt.NDArray[Any]:
    """Wait for outputs, and for nothing that was launched after them."""
    if isinstance(launched, Arriving):
        launched.event.synchronize()
        launched = launched.host
    array: npt.NDArray[Any] = launched.cpu().numpy()
    return array


def has_arrived(launched: Launched) -> bool:
    """Would `arrived` return at once?"""
    return not isinstance(launched, Arriving) or bool(launched.event.query())  # type: ignore[no-untyped-call]
