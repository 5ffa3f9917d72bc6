"""What the docs say of options, verbs and the library is what the code says: `make docs` writes it."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from inlay.cli.main import app

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*(ROOT / "docs").glob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])


def generated() -> dict[Path, str]:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.pages()


@pytest.mark.parametrize("name", ["configuration.md", "commands.md", "library.md"])
def test_a_generated_page_is_current(name: str) -> None:
    path = ROOT / "docs" / name
    assert path.read_text() == generated()[path], "run: make docs"


def commands_of(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    for below, inner in getattr(command, "commands", {}).items():
        yield from commands_of(f"{name} {below}", inner)
    if not getattr(command, "commands", {}):
        yield name, command


def test_every_verb_has_its_section_with_all_flags_of_its_help() -> None:
    sections = re.split(r"^## ", (ROOT / "docs" / "commands.md").read_text(), flags=re.MULTILINE)
    said = {section.splitlines()[0]: section for section in sections[1:]}
    verbs = dict(commands_of("inlay", typer.main.get_command(app)))
    assert said.keys() == verbs.keys()
    for name, command in verbs.items():
        shown = CliRunner().invoke(app, [*name.split()[1:], "--help"], env={"COLUMNS": "200"}).output
        flags = set(re.findall(r"(?<![\w-])--[a-z][\w-]+", shown)) - {"--help"}
        declared = {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}
        declared = {flag for flag in declared if flag.startswith("--")}
        assert len(flags & declared) >= len(declared) // 2, f"{name}: its help was not read"
        for flag in flags & declared:
            assert f"`{flag}`" in said[name], f"{name} {flag}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_the_docs_name_are_there(page: Path) -> None:
    """Links, and paths in backticks such as `serving/service.py`."""
    text = page.read_text()
    for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
        assert (page.parent / link).exists(), link
    for named in re.findall(r"`([\w/.-]+/[\w.-]+\.(?:py|md|cpp|h))`", text):
        if "NAME" in named:  # for the reader to fill in
            continue
        homes = [ROOT, ROOT / "src" / "inlay", ROOT / "docs"]
        assert any((home / named).exists() for home in homes), named
