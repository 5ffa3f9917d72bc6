"""A front end in a process of its own: answers HTTP on a port that it shares, for engines of other processes.

It is what `distributed.front_ends` starts. It ends with its parent, whatever ends that.
"""

from __future__ import annotations

import asyncio
import os
import sys
from threading import Thread

from msgspec.structs import replace

from inlay.api.app import App
from inlay.api.server import listen_for, run_server
from inlay.api.surroundings import Surroundings
from inlay.distributed.messages import StartFrontEnd, Told
from inlay.distributed.parent import Parent
from inlay.distributed.remote_worker import links_to, remote_workers
from inlay.telemetry.logs import configure_logs


def run(parent: Parent, start: StartFrontEnd) -> bool:
    """Be this front end until SIGTERM; False where something else has ended it."""
    settings = replace(start.settings, port=start.port)
    configure_logs(settings.log_level, settings.log_format, start.name)

    def serve() -> None:
        around = Surroundings.of(settings, start.specs)
        listener = listen_for(settings)
        workers = remote_workers(start.specs, links_to(start.engines, start.specs))
        app = around.make_app(workers, settings, numbers_port=start.admin_port)
        run_server(app, around, listener, workers, settings, lambda loop: _answer_parent(parent, app, loop))

    return parent.tell_failure_of(serve)


def _answer_parent(parent: Parent, app: App, loop: asyncio.AbstractEventLoop) -> None:
    """Tell the parent that this serves, and then how it is: asked of the loop that serves, so a stuck one shows."""

    async def told() -> Told:
        return Told(app.metrics.families(), app.ops.why_not_ready(), app.ops.why_unhealthy())

    def answer() -> None:
        try:
            parent.answer(lambda: asyncio.run_coroutine_threadsafe(told(), loop).result())
        except RuntimeError:  # the loop is closed: this process is about to end
            return
        os._exit(0)  # the parent has ended, or wants this to

    parent.tell_started()
    Thread(target=answer, name="inlay-parent", daemon=True).start()


if __name__ == "__main__":
    _parent = Parent()
    if isinstance(_start := _parent.receive(), StartFrontEnd):
        sys.exit(not run(_parent, _start))
