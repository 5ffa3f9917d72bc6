"""Tests Inlay's aarch64 wheel on this machine: python packaging/test_arm.py [FOLDER] after `make wheels`.

A Python and a torch for ARM (Debian's and PyPI's own files) run under qemu-user with that wheel: the kernels' tests, in
each build, and a whole forward pass of the demo model, whose vectors are compared with this machine's. It says that ARM
computes right, and nothing about its speed. Needs `qemu-user`, `apt-get` and network; the last run's figures are in
docs/performance.md.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
# Debian 12's Python 3.11, and what it and torch are linked with.
DEBIAN = """libpython3.11-minimal python3.11-minimal libpython3.11-stdlib libc6 libstdc++6 libgcc-s1 libgomp1 zlib1g libexpat1
libffi8 libssl3 libbz2-1.0 liblzma5 libsqlite3-0 libuuid1""".split()
# The newest torch whose wheel for ARM needs no CUDA; the rest as installed here.
TORCH = "torch==2.10.0"
PACKAGES = """numpy safetensors tokenizers msgspec orjson pybase64 structlog huggingface_hub pytest pytest-timeout pluggy
iniconfig packaging typing_extensions filelock sympy mpmath networkx jinja2 markupsafe fsspec pyyaml tqdm pygments httpx
httpcore h11 anyio idna certifi sniffio""".split()
TESTS = ["test_int8.py", "test_native.py", "test_embedding.py", "test_linear.py", "test_attention.py"]
FORWARD = """
import json, sys
from pathlib import Path
from inlay.config import make_settings
from inlay.engine.loading import load_engine
from inlay.engine.batch import Sequence, pack
from inlay.engine.sample import PROBE
from inlay.engine.stats import EngineStats
from inlay.engine.loading import _sequences
from inlay.engine.tokenizer import Tokenizer
from inlay.models.spec import read_spec
from inlay.ops.native import kernels_name
import numpy as np
spec = read_spec(Path(sys.argv[1]), "demo")
found = {"build": kernels_name()}
for dtype in ("float32", "bfloat16", "int8"):
    engine = load_engine(spec, make_settings({"device": "cpu", "dtype": dtype}), EngineStats())
    batch = pack(_sequences(PROBE, Tokenizer(spec.path), engine.runner.spec))
    payloads = engine.runner.collect(engine.runner.launch(batch))["dense"]
    found[dtype] = [np.frombuffer(payload, "<f4").tolist() for payload in payloads]
print(json.dumps(found))
"""


def run(command: list[str], **options: object) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, **options).stdout  # type: ignore[call-overload,no-any-return]


def make_root(folder: Path) -> None:
    """A folder of ARM's libraries and Python; the system's list of architectures is left as it was."""
    if (folder / "root").exists():
        return
    debs = folder / "debs"
    debs.mkdir(parents=True, exist_ok=True)
    run(["dpkg", "--add-architecture", "arm64"])
    try:
        run(["apt-get", "update", "-qq"])
        run(["apt-get", "download", "-qq", *(f"{name}:arm64" for name in DEBIAN)], cwd=debs)
    finally:
        run(["dpkg", "--remove-architecture", "arm64"])
    for deb in debs.glob("*.deb"):
        run(["dpkg-deb", "-x", str(deb), str(folder / "root")])


def make_site(folder: Path) -> None:
    site = folder / "site"
    if site.exists():
        return
    from importlib.metadata import PackageNotFoundError, version

    pinned = [TORCH]
    for name in PACKAGES:
        try:
            pinned.append(f"{name}=={version(name)}")
        except PackageNotFoundError:
            pinned.append(name)
    platforms = [f"--platform=manylinux_2_{glibc}_aarch64" for glibc in (28, 17)] + ["--platform=manylinux2014_aarch64"]
    pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps"]
    run([*pip, *platforms, "--python-version=3.11", "--only-binary=:all:", f"--target={site}", *pinned])


def lay_out(folder: Path) -> None:
    """The wheel and the tests that it is to pass; their conftest for the whole suite needs more than there is."""
    wheels = sorted((ROOT / "dist").glob("inlay-*aarch64.whl"), key=lambda file: file.stat().st_mtime)
    if not wheels:
        sys.exit("dist/ has no wheel for aarch64: run `make wheels` first")
    shutil.rmtree(folder / "inlay", ignore_errors=True)
    shutil.rmtree(folder / "tests", ignore_errors=True)
    with zipfile.ZipFile(wheels[-1]) as wheel:
        wheel.extractall(folder / "inlay")
    shutil.copytree(ROOT / "tests" / "ops", folder / "tests")


def on_arm(folder: Path, *arguments: str, build: str = "") -> str:
    root = folder / "root"
    command = ["qemu-aarch64", "-cpu", "max,sve=off", "-L", str(root), str(root / "usr/bin/python3.11"), *arguments]
    environment = {
        **os.environ,
        "PYTHONHOME": str(root / "usr"),
        "PYTHONPATH": f"{folder / 'inlay'}{os.pathsep}{folder / 'site'}",
        "INLAY_MAX_CPU_ISA": build,
    }
    return run(command, env=environment, cwd=folder)


def compare_vectors(folder: Path) -> None:
    from inlay.models.source import locate

    model = str(locate("demo"))
    here = json.loads(run([sys.executable, "-c", FORWARD, model]).splitlines()[-1])
    there = json.loads(on_arm(folder, "-c", FORWARD, model).splitlines()[-1])
    for dtype, least in (("float32", 0.9999999), ("bfloat16", 0.9995), ("int8", 0.998)):
        ours, theirs = (np.array(found[dtype]) for found in (here, there))
        cosines = (ours * theirs).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
        print(f"{dtype}: least cosine of {here['build']} and {there['build']}: {cosines.min():.7f}")
        if cosines.min() < least:
            sys.exit(f"{dtype} differs by more than it may: less than {least}")


def main() -> None:
    if shutil.which("qemu-aarch64") is None:
        sys.exit("there is no qemu-aarch64: install it (Debian: qemu-user)")
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else Path(tempfile.gettempdir()) / "inlay-arm").absolute()
    make_root(folder)
    make_site(folder)
    lay_out(folder)
    compare_vectors(folder)
    chosen = [f"tests/{name}" for name in TESTS]
    pytest = ["-m", "pytest", "-q", "-W", "ignore", "-c", "/dev/null", f"--rootdir={folder}", "-p", "no:cacheprovider"]
    print(on_arm(folder, *pytest, "-k", "not on_a_gpu", "--timeout=600", *chosen))


if __name__ == "__main__":
    main()
