"""How long things take to start, each in a fresh process with a warm file cache (median of 5).

.venv/bin/python benchmarks/start_up.py
"""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
import time

RUNS = 5


def seconds_of(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - began


def seconds_to_ready() -> float:
    """From the start of the process to the line that says the server is ready."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "inlay", "serve", "demo", "--port", "0"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    if server.stderr is None:
        raise SystemExit("no log to read")
    try:
        for line in server.stderr:
            if re.search(r'"event": "ready"', line):
                return time.perf_counter() - began
        raise SystemExit("the server did not become ready")
    finally:
        server.kill()
        server.wait()


def main() -> None:
    measures = {
        "python alone": lambda: seconds_of([sys.executable, "-c", "pass"]),
        "import inlay": lambda: seconds_of([sys.executable, "-c", "import inlay"]),
        "inlay --help": lambda: seconds_of([sys.executable, "-m", "inlay", "--help"]),
        "inlay serve demo, to ready": seconds_to_ready,
    }
    figures = {}
    for name, measure in measures.items():
        measure()
        figures[name] = round(statistics.median(measure() for _ in range(RUNS)), 3)
        print(f"{name:28}{figures[name]:>8.3f} s")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
