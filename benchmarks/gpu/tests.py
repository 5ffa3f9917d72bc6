"""The tests that are marked gpu."""

from __future__ import annotations

import re
import subprocess
import sys

from report import ROOT, report


def main() -> None:
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "--tb=short", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "tests/ops", "tests/models", "tests/engine"], cwd=ROOT, capture_output=True, text=True
    )
    print(done.stdout[-20_000:], done.stderr[-1500:], flush=True)
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|error)", done.stdout)}
    report("tests marked gpu: passed", counts.get("passed", 0))
    report("tests marked gpu: failed", counts.get("failed", 0) + counts.get("error", 0), bar=0)
    if done.returncode or not counts.get("passed"):
        sys.exit("tests failed, or none ran")


if __name__ == "__main__":
    main()
