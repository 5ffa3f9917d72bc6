"""The Redis tier alone on loopback, with a redis-server of its own: writes and reads in batches of 256.

.venv/bin/python benchmarks/redis_tier.py --entries 40000 --width 1024
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import subprocess
import time
from typing import Any

import numpy as np
import uvloop
from serving import free_port, print_table

from inlay.cache.redis import RedisTier
from inlay.types import DENSE, Entry

BATCH = 256


async def measure(url: str, entries: int, width: int) -> dict[str, Any]:
    tier = RedisTier(url)
    generator = np.random.default_rng(0)
    vectors = generator.standard_normal((BATCH, width)).astype(np.float32)
    entries = [Entry(DENSE, vector.tobytes(), 9, False) for vector in vectors]
    keys = [hashlib.sha256(b"%d" % i).digest() for i in range(entries // BATCH * BATCH)]
    batches = [keys[at : at + BATCH] for at in range(0, len(keys), BATCH)]
    began = time.perf_counter()
    for batch in batches:
        await tier.put_many(dict(zip(batch, entries, strict=True)))
        await tier.flush()
    written = len(keys) / (time.perf_counter() - began)
    began = time.perf_counter()
    found = [len(await tier.get_many(batch)) for batch in batches]
    read = len(keys) / (time.perf_counter() - began)
    await tier.close()
    return {"written/s": round(written), "read/s": round(read), "found": sum(found), "of": len(keys)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--entries", type=int, default=40_000)
    parser.add_argument("--width", type=int, default=1024)
    options = parser.parse_args()
    port = free_port()
    server = subprocess.Popen(
        ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", ""], stdout=subprocess.DEVNULL
    )
    try:
        time.sleep(1)
        uvloop.install()
        figures = asyncio.run(measure(f"redis://127.0.0.1:{port}/0", options.entries, options.width))
    finally:
        server.terminate()
        server.wait()
    print_table({f"redis, width {options.width}": figures})


if __name__ == "__main__":
    main()
