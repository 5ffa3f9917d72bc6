"""`inlay precompute`: a corpus in, a directory with its vectors out, to search and to serve from."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inlay.cli.embedders import open_cluster, open_source, plain_warnings
from inlay.cli.options import with_settings
from inlay.config import PRECOMPUTE, Settings
from inlay.errors import ConfigError
from inlay.models.source import DEMO
from inlay.precompute.input_rows import STDIN, Advance, files_of, read_rows
from inlay.types import DENSE, TOKEN_EMBEDDINGS

if TYPE_CHECKING:
    from inlay.precompute.ingestion import Source

Tell = Callable[[int], None]
LINE_SECONDS = 10.0  # between two lines of progress where there is no terminal


@with_settings(PRECOMPUTE)
def precompute(
    settings: Settings,
    source: Annotated[str, typer.Argument(metavar="INPUT", help="jsonl, csv, parquet, txt, a folder of them, or -.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="The corpus's directory.")],
    append: Annotated[bool, typer.Option("--append", help="Add to the corpus the rows that it does not have.")] = False,
) -> None:
    """Compute the vectors of a corpus once. Interrupted, the same command goes on where it was.

    The status is 1 when rows failed: DIR/failed.jsonl lists them, and the others are there.
    """
    from inlay.corpus.recipe import Recipe
    from inlay.precompute.ingestion import Columns
    from inlay.precompute.run import precompute as run

    if Path(source).is_dir() and output.resolve().is_relative_to(Path(source).resolve()):
        raise ConfigError(f"--output {output} lies in the input: name a directory outside of {source}")
    columns = Columns(settings.text, settings.id, tuple(settings.keep))
    try:
        with ExitStack() as stack:
            stack.enter_context(plain_warnings())
            advance, tell = stack.enter_context(_progress(source))
            rows = read_rows(source, settings.input_format, settings.text, advance)
            if settings.on is None:
                embedding = stack.enter_context(open_source(settings, settings.model))
            else:
                embedding = stack.enter_context(open_cluster(settings, settings.on, settings.model))
            recipe = Recipe(
                model=_lasting_name(settings, embedding),
                fingerprint=embedding.spec.fingerprint,
                width=embedding.spec.width,
                max_tokens=embedding.spec.max_tokens,
                dtype=embedding.spec.dtype,
                store_dtype=settings.store_dtype,
                prompt=settings.prompt,
                instruction=settings.instruction,
                truncate=settings.truncate,
                outputs=_outputs_of(settings, embedding),
                adapter=None if embedding.spec.adapter is None else str(embedding.spec.adapter),
            )
            name = source if source == STDIN else str(Path(source).resolve())
            outcome = run(output, rows, name, columns, embedding, recipe, is_append=append, tell=tell)
    except OSError as error:
        raise ConfigError(f"{error.filename or output}: {error.strerror or error}") from error
    except KeyboardInterrupt:
        typer.echo("\ninterrupted: the same command goes on from here", err=True)
        raise typer.Exit(130) from None
    total = outcome.manifest.num_rows
    typer.echo(f"{output}: {outcome.num_new} new rows, {total} in all, {outcome.num_failed} failed", err=True)
    if outcome.report is not None:
        typer.echo(f"{outcome.report} lists the rows that failed", err=True)
        raise typer.Exit(1)


def _outputs_of(settings: Settings, source: Source) -> tuple[str, ...]:
    """The kinds to keep, in the model's order; dense is always one, as search begins with it."""
    asked = {kind.strip() for kind in settings.outputs.split(",")}
    given = [kind for kind in source.spec.outputs if kind != TOKEN_EMBEDDINGS]  # no search reads those
    if DENSE not in asked or not asked <= set(given):
        raise ConfigError(
            f"--outputs {settings.outputs}: name dense, and what else a corpus keeps of the model's "
            f"({source.spec.name} has {', '.join(given)})"
        )
    return tuple(kind for kind in given if kind in asked)


def _lasting_name(settings: Settings, source: Source) -> str:
    """The model as a later search from another folder can find it."""
    if settings.server is not None:
        return source.spec.name
    model = settings.model or DEMO
    path = Path(model).expanduser()
    return str(path.resolve()) if path.is_dir() else model


@contextmanager
def _progress(source: str) -> Iterator[tuple[Advance, Tell]]:
    """Rows, rate and time left: a bar on a terminal, else a line every ten seconds."""
    total = None
    if source != STDIN:
        try:
            total = sum(file.stat().st_size for file in files_of(source))
        except OSError as error:
            raise ConfigError(f"{source} cannot be read: {error.strerror}") from error
    with _bar(total) if sys.stderr.isatty() else _lines(total) as told:
        yield told


@contextmanager
def _bar(total: int | None) -> Iterator[tuple[Advance, Tell]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (BarColumn(), TextColumn("{task.fields[shown]}"), TimeElapsedColumn(), TimeRemainingColumn())
    count = _Count(total)
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("rows", total=total, shown="")

        def tell(number: int) -> None:
            count.tell(number)
            progress.update(task, completed=count.bytes_done, shown=count.shown())

        yield count.advance, tell


@contextmanager
def _lines(total: int | None) -> Iterator[tuple[Advance, Tell]]:
    count = _Count(total)
    last = time.monotonic()

    def tell(number: int) -> None:
        nonlocal last
        count.tell(number)
        if time.monotonic() - last > LINE_SECONDS:
            last = time.monotonic()
            typer.echo(f"{count.shown()}{count.left()}", err=True)

    yield count.advance, tell


class _Count:
    """How far a run is: rows that are done, and bytes of the input that have been read for them."""

    def __init__(self, total: int | None) -> None:
        self.bytes_done = 0
        self._total = total
        self._rows = 0
        self._began = time.monotonic()

    def advance(self, num_bytes: int) -> None:
        self.bytes_done += num_bytes

    def tell(self, number: int) -> None:
        self._rows += number

    def shown(self) -> str:
        rate = self._rows / max(time.monotonic() - self._began, 1e-9)
        return f"{self._rows} rows, {rate:.0f} a second"

    def left(self) -> str:
        if not self._total or not self.bytes_done:
            return ""
        seconds = (time.monotonic() - self._began) * (self._total / self.bytes_done - 1)
        return f", {max(seconds, 0):.0f} s left"
