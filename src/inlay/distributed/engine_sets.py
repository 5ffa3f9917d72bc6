"""The engine processes of a server: those that it started with, and those of models that came later.

In: the models and the settings. Out: what `Engines` gives, for all of them together. A set whose engines serve nothing
any more is ended as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from threading import Lock

from inlay.config import Settings
from inlay.distributed.engines import Engines
from inlay.errors import InlayError
from inlay.telemetry.families import Family
from inlay.telemetry.logs import get_logger
from inlay.types import ModelSpec, Worker

log = get_logger("processes")


class EngineSets:
    """Sets of engines. They begin to load at once."""

    def __init__(self, specs: Sequence[ModelSpec], settings: Settings) -> None:
        self._settings = settings
        self._lock = Lock()
        self._num_started = settings.data_parallel_size  # engines, so far
        first = Engines(specs, settings)
        self._sets = [first]
        self.workers: dict[str, Worker] = dict(first.workers)  # that serve

    @property
    def failure(self) -> InlayError | None:
        """Why an engine that serves will not come any more."""
        failed = (one.failure for one in self._sets if one.failure is not None and self._serves(one))
        return next(failed, None)

    def numbers(self) -> dict[str, list[Family]]:
        """What each engine process counts, by its name. Blocks for moments."""
        with self._lock:
            sets = list(self._sets)
        return {name: families for one in sets for name, families in one.numbers().items()}

    def start(self, spec: ModelSpec) -> Mapping[str, Worker]:
        """The workers of one more model, whose engines have begun to load."""
        with self._lock:
            first = self._num_started
            self._num_started += self._settings.data_parallel_size
            engines = Engines([spec], self._settings, first)
            self._sets.append(engines)
        return engines.workers

    def end(self, workers: Mapping[str, Worker]) -> None:
        """See `Loader.end`. The engines of a set that serves other models hold these until the others have gone."""
        with self._lock:
            found = next(one for one in self._sets if one.workers.items() >= workers.items())
            if self._serves(found):
                found.leave_out(workers)
                log.warning("the engines that serve other models keep one that is not served", models=[*workers])
                return
            self._sets.remove(found)
        found.close()

    def close(self) -> None:
        """End all processes."""
        for one in self._sets:
            one.close()

    def _serves(self, engines: Engines) -> bool:
        return any(self.workers[name] is worker for name, worker in engines.workers.items())
