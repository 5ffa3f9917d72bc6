"""`inlay rerank`: the documents of a file by their scores against a query, the best first."""

from __future__ import annotations

import json
import re
from typing import Annotated

import typer

from inlay.cli.embedders import open_reranker
from inlay.cli.options import with_settings
from inlay.config import RERANK, Settings
from inlay.errors import ConfigError, InlayError
from inlay.precompute.input_rows import Row, read_rows

SHOWN_PROBLEMS = 20


@with_settings(RERANK)
def rerank(
    settings: Settings,
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A hub id or a directory of a reranker, or a name that --server serves."),
    ],
    query: Annotated[str, typer.Argument(metavar="QUERY", help="What the documents are scored against.")],
    source: Annotated[str, typer.Argument(metavar="INPUT", help="A txt, jsonl or csv file, or - for stdin.")] = "-",
    top_n: Annotated[
        int | None,
        typer.Option("--top-n", "-n", min=1, help="How many to show; default: all."),
    ] = None,
    long_documents: Annotated[
        str, typer.Option(help="refuse, truncate, or best_chunk: score a too long document by its best part.")
    ] = "refuse",
    raw_scores: Annotated[bool, typer.Option("--raw-scores", help="The model's logits, not their sigmoid.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON line for each document.")] = False,
) -> None:
    """Rank the documents of a file against a query.

    Rows are numbered as in the file. A row without a text is an error, as a list with a gap would look complete.
    """
    rows = list(read_rows(source, settings.input_format, settings.column))
    problems = [f"row {row.number}: {row.problem or 'has no text'}" for row in rows if row.problem or not row.text]
    if problems:
        more = f"; and {len(problems) - SHOWN_PROBLEMS} more" if len(problems) > SHOWN_PROBLEMS else ""
        raise ConfigError(f"{source}: " + "; ".join(problems[:SHOWN_PROBLEMS]) + more)
    if not rows:
        raise ConfigError(f"{source} has no documents")
    if settings.server is not None:
        if raw_scores or long_documents != "refuse":
            raise ConfigError("--raw-scores and --long-documents are not for --server: leave them out")
        scores = _ask_server(settings.server, model, query, rows, settings)
        order = sorted(range(len(rows)), key=lambda place: -scores[place])[:top_n]
        _show([(rows[place], scores[place]) for place in order], as_json=as_json)
        return
    with open_reranker(model, settings, settings.cache) as reranker:
        try:
            ranked = reranker.rank(
                query,
                [row.text for row in rows],
                top_n=top_n,
                instruction=settings.instruction,
                long_documents=long_documents,
                raw_scores=raw_scores,
            )
        except InlayError as error:
            raise _of_row(error, rows) from error
    _show([(rows[one.index], one.score) for one in ranked], as_json=as_json)


def _ask_server(server: str, model: str, query: str, rows: list[Row], settings: Settings) -> list[float]:
    from inlay.precompute.remote_model import RemoteModel

    with RemoteModel(server, model, next(iter(settings.api_key), None)) as remote:
        return remote.score(query, [row.text for row in rows], settings.instruction)


def _show(scored: list[tuple[Row, float]], *, as_json: bool) -> None:
    for row, score in scored:
        if as_json:
            typer.echo(json.dumps({"row": row.number, "score": score, "text": row.text}, ensure_ascii=False))
        else:
            typer.echo(f"{score:8.4f}  {row.number:6}  {' '.join(row.text.split())[:100]}")


def _of_row(error: InlayError, rows: list[Row]) -> InlayError:
    """An error of a document by the number of its row in the file."""
    place = re.match(r"documents\[(\d+)\] ?", error.message)
    if place is None:
        return error
    message = error.message[place.end() :].replace("long_documents to", "--long-documents to")
    return type(error)(f"row {rows[int(place[1])].number} {message}")
