"""Every example runs, and the README's code prints what the README says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from servers import RunningServer

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted(path for path in (ROOT / "examples").iterdir() if path.suffix != ".ipynb")
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
SERVED_AT = "http://localhost:8000"


def run(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120, cwd=ROOT).stdout


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_short_and_runs(example: Path, server: RunningServer) -> None:
    assert len(example.read_text().splitlines()) <= 35
    command = ["bash"] if example.suffix == ".sh" else [sys.executable]
    printed = run([*command, str(example), server.url])
    assert printed.strip()
    expected = {
        "cached_client.py": "second time: (2, 384), 2 from the cache",
        "search_the_docs.py": "caching:",
        "curl.sh": '{"status":"ready"}',
        "many_at_once.py": "100 answers, 10 different",
        "openai_client.py": "input[1] - input[1] is empty",
        "similar.py": "A kitten naps where it is cosy.",
    }
    assert expected[example.name] in printed


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_runs_in_a_kernel_and_shows_its_plot(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in shown)


def python_blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("block", python_blocks(), ids=["client", "library"])
def test_the_readmes_code_prints_what_it_says(block: str, server: RunningServer) -> None:
    expected = "".join(f"{line}\n" for line in re.findall(r"^# (.*)$", block, re.MULTILINE))
    assert expected
    assert run([sys.executable, "-c", block.replace(SERVED_AT, server.url)]) == expected


def test_the_readmes_curl_command_gives_what_it_shows(server: RunningServer) -> None:
    found = re.search(r"^\$ (curl .*)\n(.*)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert found is not None
    printed = run(["bash", "-c", found[1].replace("localhost:8000", server.url.removeprefix("http://"))])
    assert printed[:60] == found[2][:60]


def test_the_first_command_comes_early() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert next(number for number, line in enumerate(lines, 1) if "make serve" in line) <= 15


def test_links_in_the_docs_lead_somewhere() -> None:
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
