"""`inlay`, and `python -m inlay`. From its first instant SIGTERM ends the process, also where that is the first of all.

The kernel ignores the signals of a container's first process unless it handles them, and the command line takes a while
to import. A server that ends before it serves anything has ended in good order; it handles the signal itself later on.
"""

from __future__ import annotations

import signal
import sys
from types import FrameType

SERVE = "serve"  # the verb; `config`, which has it too, is not imported yet


def run() -> None:
    """Run the command line."""
    signal.signal(signal.SIGTERM, _end)
    from inlay.cli.main import run as run_command_line

    run_command_line()


def _end(number: int, frame: FrameType | None) -> None:
    sys.exit(0 if sys.argv[1:2] == [SERVE] else 128 + number)


if __name__ == "__main__":
    run()
