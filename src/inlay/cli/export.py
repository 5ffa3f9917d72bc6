"""`inlay export`: a corpus into an existing vector database."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The corpus's directory.")],
    to: Annotated[str, typer.Option("--to", metavar="URL", help="qdrant://HOST/COLLECTION, milvus://HOST/COLLECTION.")],
) -> None:
    """Write all rows of a corpus to Qdrant or Milvus. May be repeated: the same rows are the same points."""
    from inlay.corpus.corpus import Corpus
    from inlay.corpus.export.database import export as write
    from inlay.corpus.export.database import open_database

    corpus = Corpus(directory)
    done = 0

    def tell(number: int) -> None:
        nonlocal done
        done += number

    with open_database(to) as database:
        write(corpus, database, tell)
    typer.echo(f"{done} rows of {directory} are in {to}", err=True)
