"""`inlay models`: what can be served, and what a checkpoint says of itself."""

from __future__ import annotations

from typing import Annotated, Optional

import typer


def models(
    model: Annotated[
        Optional[list[str]],  # noqa: UP045 - typer reads it
        typer.Argument(help="Models to look at: demo, hub ids or directories. Without: the families."),
    ] = None,
) -> None:
    """List the families that can be served, or show what a checkpoint says of itself."""
    from rich.table import Table

    from inlay.cli.tables import print_table
    from inlay.models.ranking import RERANKERS
    from inlay.models.registry import FAMILIES
    from inlay.models.source import locate, served_name
    from inlay.models.spec import read_spec

    if not model:
        table = Table("family", "pooling unless the checkpoint says", "for example")
        for family, row in FAMILIES.items():
            table.add_row(family, row.pooling, row.example)
        for family, example in RERANKERS.items():
            table.add_row(f"{family}, rerankers", "–", example)
    else:
        table = Table("model", "task", "family", "width", "layers", "max tokens", "pooling", "prompts", "Matryoshka")
        for name in model:
            spec = read_spec(locate(name), served_name(name))
            cut = "no" if spec.matryoshka is None else f"{spec.matryoshka[0]} to {spec.matryoshka[1]}"
            prompts = ", ".join(key for key, text in spec.prompts.items() if text) or "none"
            facts = (spec.width, spec.num_layers, spec.max_tokens)
            table.add_row(spec.name, spec.task, spec.family, *map(str, facts), spec.pooling, prompts, cut)
    print_table(table)
