"""Writes to a disk tier in processes that can be killed.

disk_writer.py DIR ROUNDS        fork a writer that many times, kill -9 each at a random moment, and print how
                                 many numbers in a row were acknowledged
disk_writer.py DIR write START   write 2,000 numbers from START on, and leave
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

BATCH = 16
BOUND = 1 << 28


def write(path: Path, start: int, end: int, pipe: int | None) -> None:
    from test_disk_tier import put

    from inlay.cache.disk.directory import open_disk

    tier = open_disk(path, BOUND)
    for first in range(start, end, BATCH):
        put(tier, range(first, min(first + BATCH, end)))
        if pipe is not None:
            os.write(pipe, b"%d\n" % min(first + BATCH, end))
    if pipe is None:
        tier.release()


def kill_writers(path: Path, rounds: int) -> int:
    import test_disk_tier  # noqa: F401 - imported once, before the forks

    acknowledged = 0
    for number in range(rounds):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            write(path, acknowledged, acknowledged + 10**6, writer)
            os._exit(0)
        os.close(writer)
        first = os.read(reader, 32)  # it has begun
        time.sleep(random.Random(number).uniform(0, 0.05))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        rest = first
        while chunk := os.read(reader, 1 << 16):
            rest += chunk
        os.close(reader)
        acknowledged = int(rest.splitlines()[-1])
    return acknowledged


if __name__ == "__main__":
    directory = Path(sys.argv[1])
    if sys.argv[2] == "write":
        write(directory, int(sys.argv[3]), int(sys.argv[3]) + 2000, None)
    else:
        print(kill_writers(directory, int(sys.argv[2])))
