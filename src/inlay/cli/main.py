"""The entry point: `inlay VERB …`. Each verb is a file; torch is loaded by the verbs that need it."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

import inlay
from inlay.cli import (
    bench,
    cache,
    doctor,
    embed,
    evaluate,
    export,
    health,
    index,
    models,
    precompute,
    quantize,
    rerank,
    search,
    serve,
    verify,
)
from inlay.cli.sglang import translate
from inlay.config import DOCTOR, EVAL, HEALTH, RERANK, SERVE
from inlay.errors import ConfigError, InlayError

app = typer.Typer(
    name="inlay",
    help="Text embeddings that are never computed twice.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    rich_markup_mode=None,
)
app.command(SERVE)(serve.serve)
app.command("embed")(embed.embed)
app.command("precompute")(precompute.precompute)
app.command("search")(search.search)
app.command(RERANK)(rerank.rerank)
app.command(HEALTH)(health.health)
app.command(DOCTOR)(doctor.doctor)
app.command(EVAL)(evaluate.evaluate)
app.command("index")(index.index)
app.command("export")(export.export)
app.command("verify")(verify.verify)
app.command("models")(models.models)
app.command("quantize")(quantize.quantize)
app.add_typer(bench.app, name="bench")
app.add_typer(cache.app, name="cache")


def _print_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"inlay {inlay.__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Text embeddings that are never computed twice."""


def run() -> None:
    """Run the command line; errors are one line, with status 2 for the user's and 1 for others."""
    try:
        arguments: list[str] = sys.argv[1:]
        notes: list[str] = []
        if arguments[:1] == [SERVE]:
            translated, notes = translate(arguments[1:])
            arguments = [SERVE, *translated]
        app(args=arguments, obj=notes)
    except InlayError as error:
        typer.echo(f"inlay: {error.message}", err=True)
        sys.exit(2 if isinstance(error, ConfigError) else 1)
