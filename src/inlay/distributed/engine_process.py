"""An engine in a process of its own: loads models on their device, and serves them over a socket.

It is what `distributed.engines` starts. It ends with its parent, whatever ends that.
"""

from __future__ import annotations

import gc
import os
import signal
import socket

from prometheus_client import CollectorRegistry, ProcessCollector

from inlay.distributed.engine_server import EngineServer
from inlay.distributed.isolation import is_on_processor
from inlay.distributed.messages import StartEngine, Told
from inlay.distributed.parent import Parent
from inlay.distributed.pulse import start_pulse
from inlay.telemetry.collectors import EngineCollector
from inlay.telemetry.families import families_of
from inlay.telemetry.logs import configure_logs
from inlay.thread_count import take_share
from inlay.types import Worker

CLOSING_SECONDS = 2.0  # for the batch under way, which nobody waits for any more


def run(parent: Parent, start: StartEngine) -> None:
    """Be this engine until the parent wants it to end."""
    configure_logs(start.settings.log_level, start.settings.log_format, start.name)
    workers: dict[str, Worker] = {}
    if not parent.tell_failure_of(lambda: _serve(start, workers)):
        return
    parent.tell_started()
    gc.collect()
    gc.freeze()  # what torch and the models brought need not be looked through again
    registry = _registry_of(workers)
    parent.answer(lambda: Told(families_of(registry)))
    for worker in workers.values():
        worker.close(CLOSING_SECONDS)


def _serve(start: StartEngine, workers: dict[str, Worker]) -> None:
    """Load the models and serve them, on threads."""
    start_pulse(start.pulse)
    size = start.settings.data_parallel_size
    has_share = size > 1 and is_on_processor(start.settings)
    if has_share:
        take_share(start.replica, size)
    from inlay.engine.starting import start_replica  # torch comes in here, which takes seconds

    for spec in start.specs:
        workers[spec.name] = start_replica(spec, start.settings, start.replica, has_share=has_share)
    server = EngineServer(socket.socket(fileno=start.listener), workers)
    server.start()
    server.wait_loaded()


def _registry_of(workers: dict[str, Worker]) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(EngineCollector(workers))
    ProcessCollector(registry=registry)
    return registry


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a service manager may send it to all: the parent goes first
    _parent = Parent()
    if isinstance(_start := _parent.receive(), StartEngine):
        run(_parent, _start)
    os._exit(0)  # a thread inside torch would abort the interpreter's own way out
