"""Damages the index of a disk tier that is open, in a process of its own, which a wrong move would kill.

disk_damage.py DIR KIND SEED     prints, as JSON, how many numbers were right, wrong and errors before and after mending
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

NUMBERS = range(8000)
PAGE = 4096


def damage(file: Path, kind: str, chance: random.Random) -> None:
    size = file.stat().st_size
    if kind == "cut":
        os.truncate(file, chance.randrange(1, size))
        return
    with file.open("r+b") as opened:
        for _ in range(1 if kind == "zeroed" else 40):
            page = chance.randrange(2, size // PAGE)  # the first two tell which root is the newest
            opened.seek(page * PAGE)
            data = bytearray(opened.read(PAGE))
            if kind == "zeroed":
                data = bytearray(PAGE)
            else:
                data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
            opened.seek(page * PAGE)
            opened.write(data)


def main(path: Path, kind: str, seed: int) -> None:
    from test_disk_tier import PLENTY, key_of, put, right

    from inlay.cache.disk.directory import open_disk

    tier = open_disk(path, PLENTY)
    for start in range(0, len(NUMBERS), 500):
        put(tier, range(start, start + 500))
    damage(path / "index" / "data.mdb", kind, random.Random(seed))
    raised = 0
    here: set[int] = set()
    for start in range(0, len(NUMBERS), 100):  # a wrong vector fails in `right`
        try:
            here |= right(tier, range(start, start + 100))
        except AssertionError:
            raise
        except Exception:  # noqa: BLE001 - counted
            raised += 1
    end = time.monotonic() + 20
    while tier._is_mending and time.monotonic() < end:
        time.sleep(0.01)
    try:
        put(tier, range(9000, 9010))
        after = len(right(tier, NUMBERS)) + len(right(tier, range(9000, 9010)))
    except Exception as error:  # noqa: BLE001 - told
        after, raised = repr(error), raised + 1
    print(json.dumps({"before": len(here), "raised": raised, "after": after, "key": len(key_of(1))}))
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
