"""docs/configuration.md lists every option; the list is made from `Settings` and kept current here."""

from __future__ import annotations

from pathlib import Path

from inlay.config import ENV_PREFIX, OPTIONS, Settings, flag_of, meta_of

PAGE = Path(__file__).resolve().parents[1] / "docs" / "configuration.md"


def table() -> str:
    rows = ["| flag | variable | verbs | default | |", "|---|---|---|---|---|"]
    for name in OPTIONS:
        meta, default = meta_of(name), getattr(Settings(), name)
        shown = {True: "true", False: "false"}.get(default) if isinstance(default, bool) else default
        shown = ",".join(default) if isinstance(default, list) else shown
        verbs = ", ".join((meta.extra or {})["verbs"])
        flag = f"`{flag_of(name)}`" if verbs else "MODEL…"
        shown = "" if shown in (None, "") else f"`{shown}`"
        rows.append(f"| {flag} | `{ENV_PREFIX}{name.upper()}` | {verbs or 'serve'} | {shown} | {meta.description} |")
    return "\n".join(rows)


def test_the_page_of_options_is_current() -> None:
    assert table() in PAGE.read_text(), f"put this into {PAGE}:\n{table()}"
