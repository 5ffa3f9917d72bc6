"""What the processes of a server count, gathered for one scrape.

In: who keeps the processes running. Out: the families of each, and for each whether it said anything and how often it
was started again. A process that does not answer is left out of the first, never of the second.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from inlay.distributed.messages import Told
from inlay.distributed.supervisor import Supervisor
from inlay.telemetry.families import Family

ANSWER_SECONDS = 2.0


def ask_all(supervisors: Sequence[Supervisor], timeout: float = ANSWER_SECONDS) -> list[Told | None]:
    """How each process is; None of one that does not say within the time (seconds)."""
    with ThreadPoolExecutor(len(supervisors)) as pool:
        return list(pool.map(lambda supervisor: supervisor.ask(timeout), supervisors))


def numbers_of(supervisors: Sequence[Supervisor]) -> dict[str, list[Family]]:
    """The families of each process, by its name."""
    return {
        supervisor.name: [*_families_about(supervisor, told), *(() if told is None else told.families)]
        for supervisor, told in zip(supervisors, ask_all(supervisors), strict=True)
    }


def _families_about(supervisor: Supervisor, told: Told | None) -> list[Family]:
    up, restarts = float(told is not None), float(supervisor.restarts)
    return [
        Family("inlay_process_up", "1 when the process answers", "gauge", [("inlay_process_up", {}, up)]),
        Family(
            "inlay_process_restarts",
            "How often the process was started again",
            "counter",
            [("inlay_process_restarts_total", {}, restarts)],
        ),
    ]
