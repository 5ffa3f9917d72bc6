"""Imports point one way, without a circle, and what should start fast does not load torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import inlay

SOURCE = Path(inlay.__file__).parent
COMMON = {
    "types",
    "requests",
    "config",
    "errors",
    "error_codes",
    "quantities",
    "file_guard",
    "durable",
    "telemetry",
    "inlay",
    "thread_count",
    "config_values",
}
FACTS = {
    "models.adapter_config",
    "models.adapters",
    "models.prompts",
    "models.ranking",
    "models.spec",
    "models.source",
    "models.registry",
    "models.served",
}  # of checkpoints; they know no torch
# Each room, and what it may import beside itself and COMMON; what is not listed here may not be there.
ALLOWED = {
    "cli": {
        "config_sources",
        "api",
        "bench",
        "cache",
        "corpus",
        "distributed",
        "engine",
        "evaluation",
        "library",
        "models",
        "precompute",
        "serving",
    },
    "distributed": {"config_sources", "api", "serving", "cache", "engine", "library", *FACTS},
    "api": {"jobs", "serving", "cache", "corpus", *FACTS},
    "jobs": set(),
    "bench": {"engine", "models", "ops"},
    "evaluation": {"bench", "library"},
    "precompute": {"library", "serving", "corpus", *FACTS},
    "library": {"serving", "cache", "engine", *FACTS},
    "serving": {"cache", *FACTS},
    "cache": {"corpus.corpus", "corpus.tier"},
    "corpus": set(),
    "engine": {"models", "ops"},
    "models": {"ops"},
    "ops": set(),
    "telemetry": set(),
    "config": set(),
    "config_sources": set(),
    "config_values": set(),
    "types": set(),
    "requests": set(),
    "errors": set(),
    "error_codes": set(),
    "file_guard": set(),
    "durable": set(),
    "thread_count": set(),
    "quantities": set(),
    "inlay": {"library"},
    "integrations": set(),
    "__main__": {"cli"},
}
BELOW_COMMON = {
    "telemetry": {"types", "requests", "errors", "inlay"},
    "requests": {"types", "errors"},
    "types": {"errors", "error_codes"},
    "config": {"types"},
    "quantities": set(),
}
BELOW_COMMON |= {"error_codes": {"errors"}, "errors": set(), "file_guard": set(), "durable": set(), "inlay": {"errors"}}
BELOW_COMMON |= {"thread_count": {"config", "errors"}, "config_values": {"config", "errors", "quantities"}}
FRONT_HALF = ("api", "distributed", "jobs", "serving", "cache", "corpus", "precompute", "library", "telemetry", "cli")


def module_of(file: Path) -> str:
    """The dotted name of a file, without the `inlay.` in front; the package itself is `inlay`."""
    parts = file.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts if parts[-1] != "__init__" else parts[:-1]) or "inlay"


MODULES = {module_of(file): file for file in sorted(SOURCE.rglob("*.py"))}


def room_of(module: str) -> str:
    return module.split(".")[0]


def imports_of(module: str, source: str) -> Iterator[str]:
    """Modules of Inlay that a source imports in any form, also relatively and by a name's text."""
    is_package = MODULES.get(module, Path("x.py")).name == "__init__.py"
    here = ["inlay", *([] if module == "inlay" else module.split("."))]
    package = here if is_package else here[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (found for alias in node.names if (found := _known(alias.name)))
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:  # `from inlay.ops import rows` names a module, or something in one
                if found := _known(f"{origin}.{alias.name}") or _known(origin):
                    yield found
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and ":" in node.value:
            if found := _known(node.value.split(":")[0]):  # "inlay.models.bert:Bert"
                yield found
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in (
            "import_module",
            "__import__",
        ):
            texts = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
            yield from (found for text in texts if (found := _known(str(text))))


def _known(name: str) -> str:
    """The module of Inlay that a dotted name means; empty for any other."""
    name = name.removeprefix("inlay.")
    return name if name in MODULES else ""


GRAPH = {
    module: {name for name in imports_of(module, file.read_text()) if name != module}
    for module, file in MODULES.items()
}


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("ops.norm", "from inlay.api.app import make_app"),
        ("ops.norm", "import inlay.api.app as app"),
        ("ops.norm", "from inlay.api import app"),
        ("ops.norm", "from ..api import app"),
        ("ops.norm", "from ..api.app import make_app"),
        ("ops.norm", "from inlay.telemetry import metrics\ndef f():\n    from inlay.api import app"),
        ("ops.norm", "import importlib\nimportlib.import_module('inlay.api.app')"),
        ("ops.norm", "forward = 'inlay.api.app:make_app'"),
        ("ops.norm", "if TYPE_CHECKING:\n    import inlay.api.app"),
    ],
)
def test_every_form_of_import_is_seen(module: str, source: str) -> None:
    assert "api.app" in set(imports_of(module, source))


def test_every_room_is_listed() -> None:
    assert {room_of(module) for module in MODULES} == ALLOWED.keys()


@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_imports_only_what_lies_below_it(room: str) -> None:
    allowed = ALLOWED[room] | BELOW_COMMON.get(room, COMMON) | {room}
    for module in (name for name in MODULES if room_of(name) == room):
        for imported in GRAPH[module]:
            assert imported in allowed or room_of(imported) in allowed, f"{module} imports {imported}"


def circles_of(graph: dict[str, set[str]]) -> list[str]:
    """Nodes that reach themselves."""
    found = []
    for start in graph:
        seen: set[str] = set()
        waiting = [*graph[start]]
        while waiting:
            node = waiting.pop()
            if node not in seen:
                seen.add(node)
                waiting += graph.get(node, ())
        if start in seen:
            found.append(start)
    return found


def test_no_file_imports_itself_by_a_detour() -> None:
    assert circles_of({"a": {"b"}, "b": {"a"}, "c": {"a"}}) == ["a", "b"]
    assert circles_of(GRAPH) == []


def test_no_room_imports_itself_by_a_detour() -> None:
    """But for the corpus tier, which a cache makes from its URL, rooms have no circle; nor has that one."""
    rooms: dict[str, set[str]] = {}
    for module, imported in GRAPH.items():
        names = {room_of(name) for name in imported} - {room_of(module)}
        rooms.setdefault(room_of(module), set()).update(names)
    rooms["inlay"] -= {"library"}  # its names are loaded when they are asked for
    assert circles_of(rooms) == []


@pytest.mark.parametrize("room", FRONT_HALF)
def test_no_file_of_the_front_half_imports_torch(room: str) -> None:
    for module in (name for name in MODULES if room_of(name) == room and name not in TORCH_VERBS):
        for node in ast.walk(ast.parse(MODULES[module].read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & {"torch", "transformers"}, module


RUN = "import inlay.__main__ as entry\ntry:\n entry.run()\nexcept SystemExit: pass"
TORCH_VERBS = {"cli.quantize", "cli.bench"}  # they run the engine themselves


@pytest.mark.parametrize(
    "program",
    [
        "import inlay",
        "from inlay import Embedder, AsyncEmbedder",
        "import inlay.serving.service, inlay.api.app, inlay.api.server, inlay.cache.tiers, inlay.precompute.run",
        "import inlay.distributed.front_ends, inlay.distributed.front_end_process, inlay.distributed.engine_process",
        "import inlay.models.spec, inlay.models.source, inlay.engine.scheduler, inlay.engine.queue",
        f"import sys; sys.argv = ['inlay', '--help']\n{RUN}",
        f"import sys; sys.argv = ['inlay', 'serve', '--help']\n{RUN}",
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
    for module, file in MODULES.items():
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.split(".")[0] == "transformers" for name in names), module


@pytest.mark.parametrize("package", sorted({room_of(module) for module in MODULES if "." in module}))
def test_every_package_says_what_it_is_for(package: str) -> None:
    for file in (SOURCE / package).rglob("__init__.py"):
        assert ast.get_docstring(ast.parse(file.read_text())), file


def test_no_file_is_longer_than_300_lines() -> None:
    long = {module: lines for module, file in MODULES.items() if (lines := file.read_text().count("\n")) > 300}
    assert not long
