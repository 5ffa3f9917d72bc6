"""Imports point one way, and what should start fast does not load torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import inlay

SOURCE = Path(inlay.__file__).parent
COMMON = {"types", "config", "errors", "file_guard", "telemetry", "__init__"}
SPEC_ROOMS = {"models.prompts", "models.spec", "models.source", "models.registry"}  # torch-free facts
ALLOWED = {
    "ops": {"ops"},
    "models": {"models", "ops"},
    "engine": {"engine", "models", "ops"},
    "cache": {"cache", "corpus.corpus", "corpus.tier"},
    "precompute": {"precompute", "corpus", "serving", "library"},
    "corpus": {"corpus"},
    "serving": {"serving", "cache", *SPEC_ROOMS},
    "api": {"api", "serving", "cache", "corpus", *SPEC_ROOMS},
    "bench": {"bench", "engine", "models", "ops"},
    "telemetry": {"telemetry"},
    "config": set(),
    "errors": set(),
    "types": set(),
}


def imports_of(file: Path) -> set[str]:
    """Modules of Inlay that a file imports, without the `inlay.` in front."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("inlay."):
            found.add(node.module.removeprefix("inlay."))
    return found


@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_imports_only_what_lies_below_it(room: str) -> None:
    files = (SOURCE / room).rglob("*.py") if (SOURCE / room).is_dir() else [SOURCE / f"{room}.py"]
    for file in files:
        for module in imports_of(file):
            allowed = ALLOWED[room] | COMMON
            assert module in allowed or module.split(".")[0] in allowed, f"{file} imports {module}"


@pytest.mark.parametrize(
    "program",
    [
        "import inlay",
        "from inlay import Embedder, AsyncEmbedder",
        "import inlay.serving.service, inlay.api.app, inlay.api.server, inlay.cache.tiers, inlay.precompute.run",
        "import inlay.models.spec, inlay.models.source, inlay.engine.scheduler, inlay.engine.queue",
        "import sys; sys.argv = ['inlay', '--help']\ntry:\n import inlay.__main__\nexcept SystemExit: pass",
        "import sys; sys.argv = ['inlay', 'serve', '--help']\ntry:\n import inlay.__main__\nexcept SystemExit: pass",
    ],
)
def test_the_front_half_does_not_load_torch(program: str) -> None:
    check = "import sys; assert 'torch' not in sys.modules; assert 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", f"{program}\n{check}"], check=True, capture_output=True, timeout=60)


def test_importing_inlay_loads_next_to_nothing() -> None:
    program = "import sys; before = set(sys.modules); import inlay; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert loaded <= {"inlay"} | sys.stdlib_module_names


def test_transformers_is_never_imported() -> None:
    for file in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("transformers"):
                raise AssertionError(file)
