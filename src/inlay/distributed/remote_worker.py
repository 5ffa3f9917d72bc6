"""A model in an engine process: to the front half a `Worker` as any other.

In: work. Out: the same work over the link to its engine, and answers straight from there. What it computes is counted
by the engine's process.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath

from inlay.distributed.engine_link import EngineLink
from inlay.distributed.messages import Cancel, Promote
from inlay.engine.replicas import ReplicaWorker
from inlay.serving.adapter_worker import AdapterWorker
from inlay.types import Deliver, ModelSpec, Priority, Work, Worker, WorkerStats


class RemoteWorker:
    """One model of one engine."""

    is_counted_elsewhere = True

    def __init__(self, link: EngineLink, spec: ModelSpec) -> None:
        self._link = link
        self._spec = spec
        self._name = spec.name

    @property
    def spec(self) -> ModelSpec:
        """With dtype and fingerprint once it has been loaded."""
        return self._link.specs.get(self._name, self._spec)

    @property
    def is_ready(self) -> bool:
        return self._link.state_of(self._name).is_ready

    @property
    def queued_tokens(self) -> int:
        """As the engine told it last, like all that is read here."""
        return self._link.state_of(self._name).queued_tokens

    @property
    def stats(self) -> WorkerStats:
        """The rate alone."""
        return WorkerStats(tokens_per_second=self._link.state_of(self._name).tokens_per_second)

    @property
    def device_bytes(self) -> int:
        return self._link.state_of(self._name).device_bytes

    def health(self) -> str | None:
        """None also while its engine is started again."""
        failure = self._link.failure_of(self._name)
        return self._link.state_of(self._name).health if failure is None else failure.message

    def wait_loaded(self) -> None:
        """See `Worker.wait_loaded`."""
        self._link.wait_loaded(self._name)

    def submit_many(self, works: list[Work], deliver: Deliver) -> None:
        """See `Worker.submit_many`."""
        self._link.submit_many(self._name, works, deliver)

    def cancel_many(self, ids: list[int]) -> None:
        """See `Worker.cancel_many`."""
        self._link.send(Cancel(self._name, ids))

    def promote_many(self, ids: list[int], priority: Priority) -> None:
        """See `Worker.promote_many`."""
        self._link.send(Promote(self._name, ids, priority))

    def close(self, timeout: float | None = None) -> bool:
        """Nothing more is sent to its engine, which is ended by who started it."""
        self._link.close()
        return True


def links_to(addresses: Sequence[str], specs: Sequence[ModelSpec]) -> list[EngineLink]:
    """A link to each engine, by the name of its socket."""
    models = [spec.name for spec in specs]
    return [EngineLink(address, PurePath(address).name, models) for address in addresses]


def remote_workers(specs: Sequence[ModelSpec], links: Sequence[EngineLink]) -> dict[str, Worker]:
    """The workers of models that each of these engines holds, and of their adapters, by name."""
    workers: dict[str, Worker] = {}
    for spec in specs:
        replicas = [RemoteWorker(link, spec) for link in links]
        worker: Worker = replicas[0] if len(replicas) == 1 else ReplicaWorker(replicas)
        workers |= {spec.name: worker, **{name: AdapterWorker(worker, name) for name in spec.adapters}}
    return workers
