"""Virtual environments for what Inlay is compared with: each made once, with the torch that Inlay has."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

ENVIRONMENTS = Path(tempfile.gettempdir()) / "inlay-peers"
TORCH = "torch==2.13.0"


def python_of(packages: str, environments: Path) -> str:
    """The interpreter of an environment with these packages; made when it is not there."""
    if not packages:
        return sys.executable
    environments.mkdir(exist_ok=True)
    folder = environments / packages.split()[0].split("[")[0]
    python = folder / "bin" / "python"
    if not (folder / "done").exists():
        print(f"making {folder}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        install = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        (folder / "constraints.txt").write_text(TORCH)
        subprocess.run([*install, "-c", str(folder / "constraints.txt"), TORCH, *packages.split()], check=True)
        # Its build for the wrong torch would keep transformers from being imported.
        subprocess.run([str(python), "-m", "pip", "uninstall", "-q", "-y", "torchvision"], check=True)
        (folder / "done").touch()
    return str(python)
