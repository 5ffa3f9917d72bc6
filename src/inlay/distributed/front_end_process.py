"""A front end in a process of its own: answers HTTP on a port that it shares, for engines of other processes.

It is what `distributed.front_ends` starts. It ends with its parent, whatever ends that.
"""

from __future__ import annotations

import os
import sys
from threading import Thread

from msgspec.structs import replace

from inlay.api.server import Surroundings, run_server
from inlay.distributed.messages import StartFrontEnd, Told
from inlay.distributed.parent import Parent
from inlay.distributed.remote_worker import links_to, remote_workers
from inlay.errors import EngineError, InlayError
from inlay.telemetry.logs import configure_logs, get_logger

log = get_logger("server")


def run(parent: Parent, start: StartFrontEnd) -> None:
    """Be this front end until SIGTERM."""
    settings = replace(start.settings, port=start.port)
    configure_logs(settings.log_level, settings.log_format, start.name)
    try:
        around = Surroundings.of(settings)
        workers = remote_workers(start.specs, links_to(start.engines, start.specs))
        app = around.make_app(workers, settings, numbers_port=start.admin_port)
    except InlayError as error:
        parent.tell_not_started(error)
        return
    except Exception as error:
        log.exception("a front end could not be started")
        parent.tell_not_started(EngineError(f"it could not be started ({type(error).__name__}: {error})"))
        return

    def tell(number: int) -> Told:
        return Told(number, app.metrics.families(), app.ops.why_not_ready(), app.ops.why_unhealthy())

    def answer() -> None:
        parent.answer(tell)
        os._exit(0)  # the parent has ended, or wants this to

    Thread(target=answer, name="inlay-parent", daemon=True).start()
    parent.tell_started()
    run_server(app, around, workers, settings)


if __name__ == "__main__":
    _parent = Parent()
    if isinstance(_start := _parent.receive(), StartFrontEnd):
        try:
            run(_parent, _start)
        except InlayError as error:
            sys.exit(f"inlay: {error.message}")
