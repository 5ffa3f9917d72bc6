"""Writes the parts of the docs that the code already says: `make docs`. `tests/test_docs.py` keeps them current.

The table of options in configuration.md, every verb with its flags in commands.md, the library in library.md.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

from inlay import errors
from inlay.cli.main import app
from inlay.config import ENV_PREFIX, OPTIONS, Settings, flag_of, meta_of
from inlay.library.embedder import AsyncEmbedder, EmbedArguments, Embedder
from inlay.library.outputs import Outputs
from inlay.library.reranker import AsyncReranker, RankArguments, Ranked, Reranker
from inlay.library.runtime import EngineArguments, RowResults

DOCS = Path(__file__).resolve().parent
FIELD = re.compile(r"^    (\w+): ([^#\n]+?)(?: = [^#\n]+?)?\s*(?:# (.+))?$", re.MULTILINE)


def options_table() -> str:
    """Every option: flag, variable, verbs, default, meaning."""
    rows = ["| flag | variable | verbs | default | |", "|---|---|---|---|---|"]
    for name in OPTIONS:
        meta, default = meta_of(name), getattr(Settings(), name)
        shown = {True: "true", False: "false"}.get(default) if isinstance(default, bool) else default
        shown = ",".join(default) if isinstance(default, list) else shown
        verbs = ", ".join((meta.extra or {})["verbs"])
        flag = f"`{flag_of(name)}`" if verbs else "MODEL…"
        shown = "" if shown in (None, "") else f"`{shown}`"
        rows.append(f"| {flag} | `{ENV_PREFIX}{name.upper()}` | {verbs or 'serve'} | {shown} | {meta.description} |")
    return "\n".join(rows) + "\n"


def commands_page() -> str:
    """Every verb with its arguments and flags."""
    root: Any = typer.main.get_command(app)
    parts = [
        "# Commands\n",
        "Every verb, as `inlay VERB --help` tells it. What an option does not say is in "
        "[configuration](configuration.md): each flag with a variable can also be set there.\n",
    ]
    for name, command in _commands("inlay", root):
        parts.append(f"## {name}\n\n{_text(command.help)}\n")
        parts.append(f"```\n{_usage(name, command)}\n```\n")
        rows = [_row(parameter) for parameter in command.params if parameter.name != "help"]
        if rows:
            parts.append("\n".join(["| | |", "|---|---|", *rows]) + "\n")
    return "\n".join(parts)


def library_page() -> str:
    """The library's classes, from their docstrings."""
    parts = ["# The library\n", f"{_text(inspect.getdoc(inspect.getmodule(Embedder)))}\n"]
    parts.append("```python\nfrom inlay import AsyncEmbedder, AsyncReranker, Embedder, InvalidInput, Reranker\n```\n")
    for kind in (Embedder, AsyncEmbedder, Reranker, AsyncReranker):
        parts.append(f"## {kind.__name__}\n\n{_code(inspect.getdoc(kind))}\n")
        rows = [f"| `{_cell(name)}` | {_cell(inspect.getdoc(member) or '')} |" for name, member in _members(kind)]
        parts.append("\n".join(["| | |", "|---|---|", *rows]) + "\n")
    arguments = {
        EngineArguments: "Arguments of the constructors",
        EmbedArguments: "Arguments of `embed`, `embed_rows` and `embed_outputs`",
        RankArguments: "Arguments of `rank`",
    }
    results = {
        RowResults: "What `embed_rows` gives: RowResults",
        Outputs: "What `embed_outputs` gives: Outputs",
        Ranked: "What `rank` gives: Ranked",
    }
    for kind, title in {**arguments, **results}.items():
        rows = [f"| `{name}` | `{_cell(type_)}` | {_cell(about)} |" for name, type_, about in _fields(kind)]
        parts.append(
            f"## {title}\n\n{_text(inspect.getdoc(kind))}\n\n" + "\n".join(["| | | |", "|---|---|---|", *rows]) + "\n"
        )
    tree = re.search(r"    InlayError\n(?:    [│├└ ].*\n)+", errors.__doc__ or "")
    parts.append(
        "## Errors\n\nFrom `inlay`, all of them. `message` names the remedy; `code` and `status` are the API's.\n"
    )
    parts.append(f"```\n{inspect.cleandoc(tree[0] if tree else '')}\n```\n")
    return "\n".join(parts)


def _commands(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    """The verbs below a command, and their own."""
    for below, inner in getattr(command, "commands", {}).items():
        if getattr(inner, "commands", None):
            yield from _commands(f"{name} {below}", inner)
        else:
            yield f"{name} {below}", inner


def _usage(name: str, command: Any) -> str:
    arguments = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    shown = [f"{_metavar(a)}…" if a.nargs == -1 else _metavar(a) for a in arguments]
    return " ".join(
        [name, *(text if a.required else f"[{text}]" for a, text in zip(arguments, shown, strict=True)), "[OPTIONS]"]
    )


def _row(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"| `{_metavar(parameter)}` | {_cell(parameter.help or '')} |"
    flags = ", ".join(f"`{flag}`" for flag in [*parameter.opts, *parameter.secondary_opts])
    is_said = parameter.default in (None, False) or not parameter.show_default
    default = "" if is_said else f" [default: {parameter.default}]"
    return f"| {flags} | {_cell(parameter.help or '')}{default} |"


def _metavar(argument: Any) -> str:
    return str(argument.metavar or argument.name).upper()


def _members(kind: type) -> list[tuple[str, object]]:
    """The public methods and properties, with the signature of methods."""
    found = []
    for name, member in vars(kind).items():
        if not name.startswith("_"):
            texts = str(inspect.signature(member)).replace("self, ", "").replace("self", "") if callable(member) else ""
            found.append((name + re.sub(r"typing\.|inlay\.\w+\.\w+\.", "", texts.replace("'", "")), member))
    return found


def _fields(kind: type) -> list[tuple[str, str, str]]:
    """The fields of a class, each with its type and the comment behind it."""
    return [(name, type_.strip(), about) for name, type_, about in FIELD.findall(inspect.getsource(kind))]


def _text(text: str | None) -> str:
    return re.sub(r"\s*\n\s*", " ", (text or "").strip())


def _code(text: str | None) -> str:
    """A docstring with its example fenced."""
    return re.sub(
        r"((?:^(?:>>>|\.\.\.).*\n?(?:^(?!>>>|$).*\n?)*)+)", r"```python\n\1\n```", text or "", flags=re.MULTILINE
    )


def _cell(text: str) -> str:
    return _text(text).replace("|", "\\|")


def pages() -> dict[Path, str]:
    """Each page that is generated, whole, as it should be."""
    configuration = DOCS / "configuration.md"
    before, _, _ = configuration.read_text().partition("| flag | variable |")
    return {
        configuration: before + options_table(),
        DOCS / "commands.md": commands_page(),
        DOCS / "library.md": library_page(),
    }


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text)
