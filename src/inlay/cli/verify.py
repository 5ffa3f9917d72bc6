"""`inlay verify MODEL`: does this checkpoint, on this machine, give the vectors or scores it should?"""

from __future__ import annotations

from typing import Annotated

import typer

from inlay.cli.embedders import open_embedder, open_reranker
from inlay.cli.options import with_settings
from inlay.config import VERIFY, Settings


@with_settings(VERIFY)
def verify(
    settings: Settings,
    model: Annotated[str, typer.Argument(help="demo, a hub id or a directory.")],
) -> None:
    """Check a model: tokenizer, finite results, batches, golden values, and sentence-transformers if it is there."""
    from rich.table import Table

    from inlay.cli.tables import print_table
    from inlay.library.rank_verification import verify_reranker
    from inlay.library.verification import verify_model
    from inlay.models.source import locate, served_name
    from inlay.models.spec import read_spec
    from inlay.types import Task

    task = read_spec(locate(model), served_name(model)).task  # no adapter changes it
    if task is Task.RANK:
        with open_reranker(model, settings) as reranker:
            findings, spec = list(verify_reranker(reranker)), reranker.spec
    else:
        with open_embedder(model, settings) as embedder:
            findings, spec = list(verify_model(embedder)), embedder.spec
    table = Table("check", "result", "measured", "bound", title=f"{spec.name} in {spec.dtype}")
    for finding in findings:
        result = {True: "pass", False: "FAIL", None: "skipped"}[finding.has_passed]
        table.add_row(finding.check, result, finding.measured, finding.bound)
    print_table(table)
    if any(finding.has_passed is False for finding in findings):
        raise typer.Exit(1)
