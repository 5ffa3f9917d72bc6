"""`inlay doctor`: what this machine offers, what Inlay would choose and why, and what to change."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from inlay.cli.options import with_settings
from inlay.config import DOCTOR, Settings

if TYPE_CHECKING:
    from inlay.engine.machine import Finding


@with_settings(DOCTOR)
def doctor(
    settings: Settings,
    model: Annotated[
        Optional[list[str]],  # noqa: UP045 - typer reads it
        typer.Argument(help="Models that are to fit: demo, hub ids or directories."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what this machine offers, what would be chosen for it and why, and what to change.

    The status is 1 where something keeps models from being served.
    """
    import orjson

    from inlay.distributed.isolation import choose_isolation
    from inlay.engine.machine import Finding, look_at_machine
    from inlay.models.served import read_specs

    findings = list(look_at_machine(settings, read_specs(model, settings) if model else ()))
    isolation = choose_isolation(settings)
    findings.append(Finding("engines of a server", f"in a {isolation.kind}: {isolation.reason}"))
    if as_json:
        typer.echo(orjson.dumps([asdict(finding) for finding in findings], option=orjson.OPT_INDENT_2))
    else:
        _print(findings)
    if any(finding.is_fault for finding in findings):
        raise typer.Exit(1)


def _print(findings: list[Finding]) -> None:
    from rich.markup import escape
    from rich.table import Table

    from inlay.cli.tables import print_table

    table = Table("", "is", "could be better")
    for finding in findings:
        mark = "fault: " if finding.is_fault else ""
        table.add_row(*map(escape, (finding.thing, finding.is_now, mark + (finding.advice or ""))))
    print_table(table)
