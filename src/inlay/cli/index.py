"""`inlay index`: an index for a corpus that has grown too large to be read for each search."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

SMALL = 200_000  # rows that exact search reads quickly enough


class Kind(StrEnum):
    """Kinds of index."""

    HNSW = "hnsw"
    IVF = "ivf"
    BINARY = "binary"
    INT8 = "int8"


def index(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The corpus's directory.")],
    kind: Annotated[
        Kind,
        typer.Option(
            help="hnsw: quicker to search; ivf: quicker to build; binary: a bit a component, int8: a byte, less memory."
        ),
    ] = Kind.HNSW,
) -> None:
    """Build an index, and measure its recall@10 against exact search."""
    from inlay.corpus.corpus import Corpus
    from inlay.corpus.search.index import build_index

    corpus = Corpus(directory)
    if corpus.num_rows < SMALL:
        typer.echo(f"{corpus.num_rows} rows: exact search is quick enough up to about {SMALL}", err=True)
    info = build_index(corpus, kind, lambda line: typer.echo(line, err=True))
    typer.echo(
        f"{info.kind} over {info.num_rows} rows in {info.build_seconds} s: recall@10 {info.recall_at_10:.4f} "
        "against exact search"
    )
