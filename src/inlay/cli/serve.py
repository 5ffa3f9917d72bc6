"""`inlay serve`: one or more models behind HTTP."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from inlay.cli.options import with_settings
from inlay.config import SERVE, THREAD, Settings


@with_settings(SERVE)
def serve(
    settings: Settings,
    context: typer.Context,
    model: Annotated[
        Optional[list[str]],  # noqa: UP045 - typer reads it
        typer.Argument(help="demo, hub ids or directories.  [default: demo] (INLAY_MODELS)"),
    ] = None,
) -> None:
    """Serve models: OpenAI's embeddings API, health and metrics."""
    from inlay.api.server import listen_for, run_server
    from inlay.api.surroundings import Surroundings
    from inlay.distributed.engine_sets import EngineSets
    from inlay.distributed.front_ends import run_front_ends
    from inlay.distributed.isolation import choose_isolation
    from inlay.distributed.local_engines import LocalEngines
    from inlay.models.adapters import is_named_base
    from inlay.models.served import read_specs
    from inlay.telemetry.logs import configure_logs, get_logger

    configure_logs(settings.log_level, settings.log_format)
    log = get_logger("server")
    for note in context.obj or []:
        log.info(note)
    specs = read_specs(model or _models_of(settings), settings)
    for base, adapter in ((spec, adapter) for spec in specs for adapter in spec.adapters.values()):
        if not is_named_base(adapter, base.name):
            log.warning("the adapter names another base in its config", adapter=adapter.name, served_with=base.name)
    isolation = choose_isolation(settings)
    log.info("isolation chosen", isolation=isolation.kind, because=isolation.reason)
    if settings.front_ends > 1:
        run_front_ends(specs, settings)
        return
    around = Surroundings.of(settings, specs)
    listener = listen_for(settings)
    if isolation.kind == THREAD:
        local = LocalEngines(specs, settings)
        app = around.make_app(local.workers, settings, local)
        run_server(app, around, listener, local.workers, settings)
        return
    engines = EngineSets(specs, settings)
    try:
        app = around.make_app(engines.workers, settings, engines, engines)
        run_server(app, around, listener, engines.workers, settings)
    finally:
        engines.close()


def _models_of(settings: Settings) -> list[str]:
    """What is set for serving, or for the verbs that take one model."""
    if settings.model is not None and settings.models == Settings().models:
        return [settings.model]
    return settings.models
