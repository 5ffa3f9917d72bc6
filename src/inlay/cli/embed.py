"""`inlay embed`: a file of texts in, vectors out. A bad row is reported by its number and costs only itself."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Protocol

import typer

from inlay.cli.embedders import open_embedder, plain_warnings
from inlay.cli.options import with_settings
from inlay.config import EMBED, Settings
from inlay.errors import ConfigError
from inlay.models.source import DEMO
from inlay.precompute.input_rows import STDIN, Row, read_rows

if TYPE_CHECKING:
    from inlay.library.embedder import Embedder
    from inlay.precompute.remote_model import RemoteModel
    from inlay.types import FloatArray

BLOCK = 2048  # rows embedded at a time
SHOWN_PROBLEMS = 20


@with_settings(EMBED)
def embed(
    settings: Settings,
    source: Annotated[str, typer.Argument(metavar="INPUT", help="A txt, jsonl or csv file, or - for stdin.")] = "-",
) -> None:
    """Embed the texts of a file.

    The status is 1 when rows failed; the others are written all the same, and with an .npy the file
    OUTPUT.rows.txt has the row number of each vector.
    """
    if source != STDIN and Path(source).resolve() == Path(settings.output).resolve():
        raise ConfigError(f"--output {settings.output} is the input: name another file")
    rows = read_rows(source, settings.input_format, settings.column)
    try:
        with _open_output(settings.output) as output:
            with (
                _open_model(settings) as embedder,
                _progress() as progress,
                plain_warnings(),
            ):
                problems = _embed_blocks(rows, embedder, settings, output, progress)
            output.finish(problems)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise ConfigError(f"--output {settings.output} cannot be written: {error.strerror}") from error
    for number in sorted(problems)[:SHOWN_PROBLEMS]:
        typer.echo(f"row {number}: {problems[number]}", err=True)
    if len(problems) > SHOWN_PROBLEMS:
        typer.echo(f"and {len(problems) - SHOWN_PROBLEMS} more", err=True)
    if problems:
        typer.echo(f"{len(problems)} rows failed, {output.num_rows} were embedded", err=True)
        raise typer.Exit(1)


def _open_model(settings: Settings) -> Embedder | RemoteModel:
    """A running server's where one is named, which may be any that speaks OpenAI's API or TEI's."""
    if settings.server is None:
        return open_embedder(settings.model or DEMO, settings, settings.cache)
    from inlay.precompute.remote_model import RemoteModel

    return RemoteModel(settings.server, settings.model, next(iter(settings.api_key), None))


def _embed_blocks(
    rows: Iterator[Row],
    embedder: Embedder | RemoteModel,
    settings: Settings,
    output: Output,
    progress: Any,  # noqa: ANN401
) -> dict[int, str]:
    """Embed and write block by block; returns the problem of each bad row."""
    problems: dict[int, str] = {}
    block = list(islice(rows, BLOCK))
    while True:
        good = [row for row in block if row.problem is None]
        problems |= {row.number: row.problem for row in block if row.problem is not None}
        results = embedder.embed_rows(
            [row.text for row in good],
            prompt=settings.prompt,
            instruction=settings.instruction,
            dimensions=settings.dimensions,
            truncate=settings.truncate,
        )
        problems |= {good[index].number: error.message for index, error in results.errors.items()}
        output.write([good[index].number for index in results.rows], results.vectors)
        if progress is not None:
            progress.advance(progress.task_ids[0], len(block))
        if not (block := list(islice(rows, BLOCK))):  # an empty file is one empty block, of the right width
            break
    return problems


def _progress() -> AbstractContextManager[Any]:
    """A bar on a terminal's stderr; nothing elsewhere."""
    if not sys.stderr.isatty():
        return nullcontext()
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TimeElapsedColumn

    bar = Progress(
        SpinnerColumn(), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=Console(stderr=True)
    )
    bar.add_task("rows", total=None)
    return bar


class Output(Protocol):
    """Where vectors go."""

    num_rows: int

    def write(self, numbers: list[int], vectors: FloatArray) -> None: ...

    def finish(self, problems: dict[int, str]) -> None: ...


def _open_output(output: str) -> AbstractContextManager[Any]:
    if Path(output).is_dir():
        raise ConfigError(f"--output {output} is a directory: name a file in it")
    if output.endswith(".npy"):
        return NpyOutput(Path(output))
    if output == "-" or output.endswith((".jsonl", ".ndjson")):
        return JsonlOutput(None if output == "-" else Path(output))
    raise ConfigError(f"--output {output}: name a .npy or .jsonl file, or - for standard output")


class JsonlOutput:
    """A line a row: `{"row": 1, "embedding": [...]}`."""

    def __init__(self, path: Path | None) -> None:
        self.num_rows = 0
        self._path = path
        self._file: BinaryIO = sys.stdout.buffer if path is None else _create(_partial(path))

    def write(self, numbers: list[int], vectors: FloatArray) -> None:
        import orjson

        option = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE
        for number, vector in zip(numbers, vectors, strict=True):
            self._file.write(orjson.dumps({"row": number, "embedding": vector}, option=option))
        self._file.flush()
        self.num_rows += len(numbers)

    def finish(self, problems: dict[int, str]) -> None:
        if self._path is not None:
            self._file.close()
            _partial(self._path).replace(self._path)

    def __enter__(self) -> JsonlOutput:
        return self

    def __exit__(self, *error: object) -> None:
        if self._path is not None:
            self._file.close()
            _partial(self._path).unlink(missing_ok=True)


class NpyOutput:
    """One float32 array; when rows failed, OUTPUT.rows.txt beside it says which row each vector is."""

    def __init__(self, path: Path) -> None:
        self.num_rows = 0
        self._path = path
        self._numbers: list[int] = []
        self._blocks: list[FloatArray] = []
        _create(_partial(path)).close()  # a path that cannot be written should fail before the work

    def write(self, numbers: list[int], vectors: FloatArray) -> None:
        self._numbers += numbers
        self._blocks.append(vectors)
        self.num_rows += len(numbers)

    def finish(self, problems: dict[int, str]) -> None:
        import numpy as np

        with _create(_partial(self._path)) as file:
            np.save(file, np.concatenate(self._blocks))
        _partial(self._path).replace(self._path)
        listing = self._path.with_name(f"{self._path.name}.rows.txt")
        if problems:
            listing.write_text("".join(f"{number}\n" for number in self._numbers))
            typer.echo(f"{listing} has the row number of each vector", err=True)
        else:
            listing.unlink(missing_ok=True)

    def __enter__(self) -> NpyOutput:
        return self

    def __exit__(self, *error: object) -> None:
        _partial(self._path).unlink(missing_ok=True)


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


def _create(path: Path) -> BinaryIO:
    try:
        return path.open("wb")
    except OSError as error:
        raise ConfigError(f"{path.parent} cannot be written to: {error.strerror}") from error
