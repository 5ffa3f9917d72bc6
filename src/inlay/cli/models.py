"""`inlay models`: what can be served, and what a checkpoint says of itself."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from inlay.types import ModelSpec, Task


def models(
    model: Annotated[
        Optional[list[str]],  # noqa: UP045 - typer reads it
        typer.Argument(help="Models to look at: demo, hub ids or directories. Without: the families."),
    ] = None,
) -> None:
    """List the families that can be served, or show what a checkpoint says of itself."""
    from rich.table import Table

    from inlay.cli.tables import print_table
    from inlay.models.packages import PACKAGED
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
        print_table(table)
        named = Table("fetched on first use", "is", "licence", "MB")
        for name, packaged in PACKAGED.items():
            named.add_row(name, packaged.model, packaged.licence, str(packaged.megabytes))
        print_table(named)
        return
    specs = [read_spec(locate(name), served_name(name)) for name in model]
    table = Table("", *(spec.name for spec in specs))
    for fact, of_each in zip(_FACTS, zip(*map(_facts_of, specs), strict=True), strict=True):
        table.add_row(fact, *of_each)
    print_table(table)


_FACTS = (
    *("task", "family", "adapter of", "outputs", "width", "layers", "max tokens"),
    *("pooling", "normalised", "Matryoshka"),
    *("takes instructions", "prompts", "products for int8 and fp8"),
)


def _facts_of(spec: ModelSpec) -> tuple[str, ...]:
    """In the order of `_FACTS`."""
    from inlay.models.building import count_products
    from inlay.models.ranking import takes_instructions

    is_reranker = spec.task is Task.RANK
    cut = "no" if spec.matryoshka is None else f"{spec.matryoshka[0]} to {spec.matryoshka[1]}"
    prompts = "\n".join(f"{key}: {text!r}" for key, text in spec.prompts.items() if text)
    return (
        *(spec.task, spec.family, "–" if spec.adapter is None else str(spec.path), ", ".join(spec.outputs)),
        *map(str, (spec.width, spec.num_layers, spec.max_tokens)),
        *(spec.pooling, "–" if is_reranker else _yes(spec.normalize), "–" if is_reranker else cut),
        *(_yes(takes_instructions(spec)), prompts or "none", str(count_products(spec) or "none")),
    )


def _yes(is_so: bool) -> str:
    return "yes" if is_so else "no"
