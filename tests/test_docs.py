"""What the docs say of options, verbs and the library is what the code says: `make docs` writes it."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

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


def test_every_verb_and_flag_is_in_the_commands() -> None:
    page = generated()[ROOT / "docs" / "commands.md"]
    for said in ("## inlay serve", "## inlay bench engine", "## inlay cache verify", "`--store-dtype`", "`--dtype`"):
        assert said in page


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
