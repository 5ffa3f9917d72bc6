"""Sends generated requests to a server of the demo model, by its own description: python check_schema.py SCHEMATHESIS EXAMPLES.

Fails for a 5xx, for a status, a type of content or a shape that the description does not have.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from servers import RunningServer

CHECKS = "not_a_server_error,response_schema_conformance,status_code_conformance,content_type_conformance"


def main() -> None:
    with TemporaryDirectory() as jobs, RunningServer("demo", "--dtype=float32", f"--jobs={jobs}") as server:
        command = [sys.argv[1], "run", f"{server.url}/openapi.json", "--checks", CHECKS, "--continue-on-failure"]
        done = subprocess.run([*command, "--max-examples", sys.argv[2], "--phases", "coverage,fuzzing"])
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
