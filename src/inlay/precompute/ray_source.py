"""A model on a Ray cluster as the source of a corpus's vectors: an engine in each of several actors.

In: texts. Out: canonical vectors, computed wherever an actor is free. Rows are read, and the corpus is written, by the
process that asks, so what it makes is what one process alone makes, and is taken up again in the same way. An actor
that is lost is started again by Ray, and what it had is computed once more.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np

from inlay.corpus.files.part import TextVector
from inlay.errors import ConfigError, EngineError, InlayError
from inlay.precompute.local_source import LocalSource
from inlay.telemetry.logs import get_logger
from inlay.thread_count import variables_for
from inlay.types import Failure, ModelSpec

if TYPE_CHECKING:
    from inlay.corpus.recipe import Recipe
    from inlay.precompute.ingestion import Embedded

log = get_logger("precompute")

RAY = "ray"  # the cluster that Ray finds for itself, or a new one of this machine; or its address, ray://HOST:PORT
BLOCKS_EACH = 2  # blocks an actor: the next one lies there when one is done
PATIENCE = 30.0  # seconds, after which it is said that the cluster has no room yet
MOST_RETRIES = 3  # of a block whose actor is lost


class EngineActor:
    """In a process of its own somewhere: an embedder."""

    def __init__(self, model: str, arguments: Mapping[str, Any]) -> None:
        from inlay.library.embedder import Embedder

        self._source = LocalSource(Embedder(model, **arguments))

    def spec(self) -> ModelSpec:
        return self._source.spec

    def embed_texts(self, texts: list[str], recipe: Recipe) -> list[TextVector | Failure]:
        """As `Source.embed_texts`; errors are told as data, which cross between processes."""
        answers = self._source.embed_texts(texts, recipe)
        return [Failure.of(answer) if isinstance(answer, InlayError) else answer for answer in answers]


class RaySource:
    """`address` is RAY or ray://HOST:PORT; without a number there is an actor for each GPU, or for each node."""

    def __init__(self, address: str, model: str, arguments: Mapping[str, Any], num_actors: int = 0) -> None:
        self._ray, self._is_own = _connect(address)
        self._actors = self._start(model, dict(arguments), num_actors)
        self.num_parallel = BLOCKS_EACH * len(self._actors)
        self._free: SimpleQueue[Any] = SimpleQueue()
        for actor in self._actors * BLOCKS_EACH:
            self._free.put(actor)
        self.spec = self._agreed_spec()

    def embed_texts(self, texts: list[str], recipe: Recipe) -> list[Embedded]:
        """See `Source.embed_texts`; called by several threads at a time."""
        actor = self._free.get()
        try:
            answers = self._ray.get(actor.embed_texts.remote(texts, recipe))
        except self._ray.exceptions.RayError as error:
            raise EngineError(f"the Ray cluster has lost a block of texts ({_first_line(error)}): try again") from error
        finally:
            self._free.put(actor)
        return [answer.error() if isinstance(answer, Failure) else _writable(answer) for answer in answers]

    def close(self) -> None:
        """End the actors. A cluster that was there before stays."""
        for actor in self._actors:
            self._ray.kill(actor)
        if self._is_own:
            self._ray.shutdown()

    def _start(self, model: str, arguments: dict[str, Any], num_actors: int) -> list[Any]:
        resources = [node["Resources"] for node in self._ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
        num_gpus = 0 if arguments.get("device") == "cpu" else int(sum(one.get("GPU", 0) for one in resources))
        number = num_actors or num_gpus or max(len(resources), 1)
        each_node = math.ceil(number / max(len(resources), 1))
        cores = max(1, math.floor(min((one["CPU"] for one in resources), default=1) / each_node))
        log.info("actors are started", actors=number, cores=cores, gpus=num_gpus)
        options: dict[str, Any] = {
            "num_cpus": cores,
            "num_gpus": num_gpus // number if number <= num_gpus else num_gpus / number,
            "max_restarts": -1,
            "max_task_retries": MOST_RETRIES,
            "scheduling_strategy": "SPREAD",
            # Ray tells libraries by OMP_NUM_THREADS how many cores they have; Inlay's kernels are told like this.
            "runtime_env": {"env_vars": variables_for(cores)},
        }
        self._cores = cores
        made = self._ray.remote(**options)(EngineActor)
        return [made.remote(model, arguments) for _ in range(number)]

    def _agreed_spec(self) -> ModelSpec:
        """What all actors serve; waits until they do."""
        waiting = {actor.spec.remote(): None for actor in self._actors}
        specs: list[ModelSpec] = []
        while waiting:
            done, _ = self._ray.wait(list(waiting), timeout=PATIENCE)
            if not done:
                room = {"cores_each": self._cores, "cores_free": self._ray.available_resources().get("CPU", 0)}
                log.warning("actors load, or there is no room for them: ask for fewer (--ray-actors)", **room)
            for one in done:
                del waiting[one]
                specs.append(self._told_by(one))
        if len(different := {spec.fingerprint for spec in specs}) > 1:
            told = ", ".join(sorted(different))
            raise ConfigError(f"the nodes of the cluster serve {told}: name a --dtype, so that all do the same")
        return specs[0]

    def _told_by(self, reference: Any) -> ModelSpec:  # noqa: ANN401 - Ray has no types for it
        try:
            spec: ModelSpec = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            raise ConfigError(f"an actor cannot serve the model: {_last_line(error)}") from error
        return spec


def _connect(address: str) -> tuple[Any, bool]:
    """Ray, with a cluster, and whether this has connected to it."""
    if address != RAY and not address.startswith("ray://"):
        raise ConfigError(f"--on {address}: write ray, or the address of a cluster, ray://HOST:PORT")
    try:
        import ray
    except ImportError as error:
        raise ConfigError("--on ray needs Ray: pip install 'inlay[ray]'") from error
    if ray.is_initialized():
        return ray, False
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # as Ray will have it, without its warning
    try:
        ray.init(None if address == RAY else address, log_to_driver=False, logging_level="warning")
    except (ConnectionError, RuntimeError, OSError) as error:
        raise ConfigError(f"--on {address}: there is no cluster to be had ({_first_line(error)})") from error
    return ray, True


def _writable(vector: TextVector) -> TextVector:
    """Arrays from Ray's store are read-only, and hold their block there: copies do not."""
    others = {kind: np.array(array) for kind, array in vector.others.items()}
    return vector._replace(vector=np.array(vector.vector), others=others)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _last_line(error: BaseException) -> str:
    """Of what Ray tells of an actor's fault: behind its traceback stands why."""
    lines = str(error).strip().splitlines()
    return lines[-1].partition(": ")[2] or lines[-1] if lines else type(error).__name__
