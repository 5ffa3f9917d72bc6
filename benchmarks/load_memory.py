"""Peak resident memory while a checkpoint of Qwen3-Embedding-0.6B's shape is loaded, over its weights.

Makes the checkpoint (random weights, 1.2 GB) in a temporary folder and loads it in fresh processes, once as
it is stored (bfloat16) and once converted (float32). What Python and torch take by themselves is subtracted.

    .venv/bin/python benchmarks/load_memory.py
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from inlay.bench.shapes import SHAPES, make_checkpoint

LOAD = r"""
import re, sys, time
from pathlib import Path
import torch
from inlay.engine.device import choose
from inlay.engine.runner import Runner
from inlay.models.spec import read_spec
torch.zeros(64, 64) @ torch.zeros(64, 64)
def peak():  # of this program alone: the figure of getrusage begins with its parent's
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024
before, began = peak(), time.perf_counter()
runner = Runner(read_spec(Path(sys.argv[1]), "x"), choose("cpu", sys.argv[2]))
seconds = time.perf_counter() - began
for parameter in runner._model.parameters():
    parameter.view(-1)[::512].sum()
print(peak() - before, seconds)
"""


def main() -> None:
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        stored = make_checkpoint(Path(folder), SHAPES["qwen3-embedding-0.6b"])
        print(f"{'dtype':12}{'weights GB':>12}{'peak GB':>10}{'ratio':>8}{'seconds':>9}")
        for dtype, factor in (("bfloat16", 1), ("float32", 2)):
            command = [sys.executable, "-c", LOAD, folder, dtype]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            peak, seconds = (float(part) for part in done.stdout.split())
            size = stored * factor
            ratio = round(peak / size, 3)
            figures[dtype] = {"weights": size, "peak": peak, "ratio": ratio, "seconds": round(seconds, 2)}
            print(f"{dtype:12}{size / 1e9:>12.2f}{peak / 1e9:>10.2f}{ratio:>8.2f}{seconds:>9.2f}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
