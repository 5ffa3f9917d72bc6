"""The engines of this process, on a thread for each model: started, and ended.

In: specs and the settings. Out: workers by name, those of adapters among them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from inlay.config import Settings
from inlay.engine.allocator import give_back_freed_memory
from inlay.engine.starting import start_worker
from inlay.serving.adapter_worker import AdapterWorker
from inlay.telemetry.logs import get_logger
from inlay.types import ModelSpec, Worker

log = get_logger("engine")

END_SECONDS = 60.0  # for a device thread to end


class LocalEngines:
    """They begin to load at once."""

    def __init__(self, specs: Sequence[ModelSpec], settings: Settings) -> None:
        self._settings = settings
        self.workers: dict[str, Worker] = {}  # that serve
        for spec in specs:
            self.workers |= self.start(spec)

    def start(self, spec: ModelSpec) -> Mapping[str, Worker]:
        """The workers of one more model, and of its adapters."""
        worker = start_worker(spec, self._settings)
        return {spec.name: worker, **{name: AdapterWorker(worker, name) for name in spec.adapters}}

    def end(self, workers: Mapping[str, Worker]) -> None:
        """See `Loader.end`."""
        stuck = [name for name, worker in workers.items() if not worker.close(END_SECONDS)]
        give_back_freed_memory()
        if stuck:
            log.warning("a device thread does not end: its memory is not free", models=stuck)
