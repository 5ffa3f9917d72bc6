"""The server as an application of Ray Serve: each replica is an engine with the whole front half around it.

In: arguments as `inlay serve` has them. Out: an application for `serve run` or `serve.run`. Ray balances, starts again
what ends, and has as many replicas as their work asks for; whoever needs none of that is better off without it.
`serve run inlay.distributed.ray_serve:build model=demo max_replicas=4 num_cpus=2`
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping, MutableMapping
from typing import Any

from inlay.api.surroundings import Surroundings
from inlay.config import Settings
from inlay.config_sources import load_settings
from inlay.distributed.local_engines import LocalEngines
from inlay.errors import ConfigError
from inlay.models.served import read_specs
from inlay.telemetry.logs import configure_logs
from inlay.thread_count import variables_for
from inlay.types import Worker

BUSY = "busy_share"  # of a replica's device, 0 to 1
QUEUED = "queued_seconds"  # of work that waits in a replica
MOST_BUSY = 0.7  # a replica; as the chart scales
MOST_QUEUED = 0.5  # seconds a replica
PATIENCE_SECONDS = 60.0  # of Ray for what it asks a replica


class Replica:
    """The app, with its engines on threads of this process. Ray asks its health and its load."""

    def __init__(self, settings: Settings) -> None:
        configure_logs(settings.log_level, settings.log_format)
        specs = read_specs(settings.models, settings)
        around = Surroundings.of(settings, specs)
        self._workers = LocalEngines(specs, settings).workers
        self._app = around.make_app(self._workers, settings)
        self._load = Load(self._workers)
        for worker in self._workers.values():
            worker.wait_loaded()

    def __serve_build_asgi_app__(self) -> _WithLifespan:
        return _WithLifespan(self._app.envelope)

    async def check_health(self) -> None:
        """Raises where a replica has to be started again."""
        if (reason := self._app.ops.why_unhealthy()) is not None:
            raise RuntimeError(reason)

    async def record_autoscaling_stats(self) -> dict[str, float]:
        return self._load.look()

    async def __del__(self) -> None:
        await self._app.service.close()
        for worker in self._workers.values():
            await asyncio.to_thread(worker.close, PATIENCE_SECONDS)


class Load:
    """How much the workers of a replica have to do, between one look and the next."""

    def __init__(self, workers: Mapping[str, Worker]) -> None:
        self._workers = [worker for worker in workers.values() if not worker.is_counted_elsewhere]
        self._looked, self._busy = time.monotonic(), self._busy_seconds()

    def look(self) -> dict[str, float]:
        """The busiest share of a device since the last look, and the longest queue in seconds."""
        looked, busy = time.monotonic(), self._busy_seconds()
        passed = max(looked - self._looked, 1e-3)
        shares = [min((now - before) / passed, 1.0) for now, before in zip(busy, self._busy, strict=True)]
        self._looked, self._busy = looked, busy
        queues = [worker.queued_tokens / max(worker.stats.tokens_per_second, 1.0) for worker in self._workers]
        return {BUSY: max(shares), QUEUED: max(queues)}

    def _busy_seconds(self) -> list[float]:
        return [worker.stats.busy_seconds for worker in self._workers]


def replicas_needed(context: Any) -> tuple[int, dict[str, Any]]:  # noqa: ANN401 - Ray's context
    """As many as bring the load of each down to its most; Ray bounds it, and waits before there are fewer."""
    metrics = context.aggregated_metrics or {}
    busy, queued = (sum(metrics.get(name, {}).values()) for name in (BUSY, QUEUED))
    return max(math.ceil(busy / MOST_BUSY), math.ceil(queued / MOST_QUEUED), 1), {}


def build(arguments: MutableMapping[str, str]) -> Any:  # noqa: ANN401 - Ray's application
    """An application from `name=value` pairs: options of `inlay serve` by their names in configuration files, and

    `model` (several with commas), `min_replicas`, `max_replicas` (1 each), `num_cpus` and `num_gpus` of a replica.
    """
    serve = _ray_serve()
    given = dict(arguments)
    least, most = (int(_number(given, name, "1")) for name in ("min_replicas", "max_replicas"))
    num_cpus, num_gpus = (_number(given, name, default) for name, default in (("num_cpus", "1"), ("num_gpus", "0")))
    settings = load_settings({**given, **({"models": given.pop("model")} if "model" in given else {})})
    if settings.front_ends > 1 or settings.data_parallel_size > 1:
        raise ConfigError("front_ends and data_parallel_size are Ray's: say max_replicas")
    if settings.jobs is not None:
        raise ConfigError("jobs are run by one server: leave them out, and serve them by inlay serve")
    deployment = serve.deployment(
        name="Inlay",
        max_ongoing_requests=settings.max_concurrent_requests,
        health_check_period_s=5,
        health_check_timeout_s=PATIENCE_SECONDS,
        graceful_shutdown_timeout_s=settings.shutdown_timeout,
        ray_actor_options={
            "num_cpus": num_cpus,
            "num_gpus": num_gpus,
            "runtime_env": {"env_vars": variables_for(num_cpus)},
        },
        autoscaling_config={
            "min_replicas": least,
            "max_replicas": max(least, most),
            "policy": {"policy_function": f"{__name__}:{replicas_needed.__name__}"},
        },
    )
    return deployment(serve.ingress()(Replica)).bind(settings)


def _number(arguments: MutableMapping[str, str], name: str, default: str) -> float:
    given = arguments.pop(name, default)
    try:
        return float(given)
    except ValueError as error:
        raise ConfigError(f"{name}={given}: write a number") from error


def _ray_serve() -> Any:  # noqa: ANN401 - Ray's own module
    try:
        from ray import serve
    except ImportError as error:
        raise ConfigError("Ray Serve is not installed: pip install 'inlay[ray]'") from error
    return serve


class _WithLifespan:
    """ASGI's lifespan around an app that has none: Ray insists on it."""

    def __init__(self, app: Any) -> None:  # noqa: ANN401
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
