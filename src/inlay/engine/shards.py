"""The processes that compute a model together, each with a part of it.

In: a batch, on rank 0, which schedules. Out: the same batch on every rank, and sums over what all ranks hold. Batches
go through gloo, sums through NCCL on GPUs and through gloo on processors. A rank that ends, or fails within a batch,
leaves the others out of step, so that ends the whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inlay.engine.batch import Batch
from inlay.errors import DeviceLost
from inlay.models.sharding import Shard
from inlay.telemetry.logs import get_logger
from inlay.types import IntArray

log = get_logger("engine")

HOST = "127.0.0.1"
FOREVER = timedelta(days=1000)  # between two batches any time may pass; a rank that ends breaks its connections
MEETING = timedelta(minutes=5)
LOST = "a process that holds a part of the model has ended: restart the server, or make a new Embedder"
HEADER = 4

dist: Any = torch.distributed  # whose types for this are not exported


class ShardGroup:
    """One rank's way to the others. Made by all of them at the same time."""

    def __init__(self, shard: Shard, store: Any, device: torch.device) -> None:  # noqa: ANN401 - torch has no types for it
        self.shard = shard
        self._is_lost = False
        self._control = _gloo(dist.PrefixStore("batches", store), shard)
        self._sums: Any = self._control
        if device.type == "cuda":
            sums = dist.PrefixStore("sums", store)
            self._sums = dist.ProcessGroupNCCL(sums, shard.rank, shard.size, dist.ProcessGroupNCCL.Options())

    def sum(self, y: Tensor) -> None:
        """Over all ranks, in place."""
        self._sums.allreduce([y]).wait()

    @contextmanager
    def leading(self, batch: Batch, *, needs_all_rows: bool) -> Iterator[None]:
        """On rank 0: the others run the batch as well; after a failure within, none of them does any more."""
        self.check()
        try:
            types = batch.types is not None
            self._tell(np.array([batch.num_tokens, len(batch.offsets), types, needs_all_rows], dtype=np.int64))
            self._tell(np.concatenate([batch.ids, batch.positions, batch.offsets, *([batch.types] if types else [])]))
            yield
        except Exception as error:
            self.lose()
            log.error("a batch failed on a model that several devices share", error=f"{type(error).__name__}: {error}")
            raise DeviceLost(
                f"a batch failed on a model that several devices share ({type(error).__name__}; the log has more): "
                "restart the server, or make a new Embedder; where memory ran out, with a smaller --max-batch-tokens"
            ) from error

    def follow(self) -> tuple[Batch, bool] | None:
        """On the others: the next batch, and whether all its rows are needed; None at the end."""
        num_tokens, num_offsets, has_types, needs_all_rows = self._hear(HEADER).tolist()
        if not num_tokens:
            return None
        given = self._hear((2 + has_types) * num_tokens + num_offsets)
        ids, positions, offsets, types = np.split(given, [num_tokens, 2 * num_tokens, 2 * num_tokens + num_offsets])
        return Batch([], [], ids, positions, offsets, types if has_types else None), bool(needs_all_rows)

    def why_lost(self) -> str | None:
        """What is told once a rank has ended."""
        return LOST if self._is_lost else None

    def check(self) -> None:
        """`DeviceLost` once a rank has ended."""
        if self._is_lost:
            raise DeviceLost(LOST)

    def lose(self) -> None:
        """A rank has ended: what waits for it on a device is let go."""
        self._is_lost = True
        if self._sums is not self._control:
            self._sums.abort()

    def stop(self) -> None:
        """On rank 0: let the others end."""
        if not self._is_lost:
            self._tell(np.zeros(HEADER, dtype=np.int64))

    def _tell(self, numbers: IntArray) -> None:
        self._control.broadcast(torch.from_numpy(numbers), 0).wait()

    def _hear(self, count: int) -> IntArray:
        numbers: IntArray = np.zeros(count, dtype=np.int64)
        self._control.broadcast(torch.from_numpy(numbers), 0).wait()
        return numbers


def meet(port: int, size: int) -> Any:  # noqa: ANN401
    """The store through which the ranks find each other; with port 0 a new one, on rank 0."""
    return dist.TCPStore(HOST, port, size, not port, MEETING, wait_for_workers=False)


def _gloo(store: Any, shard: Shard) -> Any:  # noqa: ANN401
    options = dist.ProcessGroupGloo._Options()
    options._devices = [dist.ProcessGroupGloo.create_device(hostname=HOST)]
    options._timeout = FOREVER
    return dist.ProcessGroupGloo(store, shard.rank, shard.size, options)
