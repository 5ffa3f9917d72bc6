"""`inlay cache`: look after the directory of a disk tier."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inlay.errors import ConfigError

if TYPE_CHECKING:
    from inlay.cache.disk.tier import DiskTier

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Look after the directory of a disk tier.")

Directory = Annotated[Path, typer.Argument(metavar="DIR", help="The directory of the tier.")]
UNBOUNDED = 1 << 40  # bytes: looking at a directory must not make room in it


@app.command()
def stats(directory: Directory) -> None:
    """Entries and bytes."""
    with _Opened(directory) as tier:
        typer.echo(f"{tier.num_entries} entries, {tier.num_bytes} bytes set aside")


@app.command()
def verify(directory: Directory) -> None:
    """Read every record, or every file of a corpus; the status is 1 when some are not whole."""
    if (directory / "manifest.json").exists():
        _verify_corpus(directory)
        return
    with _Opened(directory) as tier:
        good, bad = tier.check()
    typer.echo(f"{good} records are whole, {bad} are not (they read as misses)")
    if bad:
        raise typer.Exit(1)


@app.command()
def rebuild(directory: Directory) -> None:
    """Rebuild the index from the segments."""
    with _Opened(directory) as tier:
        typer.echo(f"{tier.rebuild()} entries")


@app.command()
def purge(directory: Directory) -> None:
    """Drop all entries."""
    with _Opened(directory) as tier:
        number = tier.num_entries
        tier.purge()
    typer.echo(f"{number} entries dropped")


def _verify_corpus(directory: Path) -> None:
    from inlay.corpus.files.part import sha256_of
    from inlay.corpus.manifest import read_manifest

    manifest = read_manifest(directory)
    broken = 0
    for part in manifest.parts:
        for name, digest in part.sha256.items():
            path = directory / part.name / name
            if not path.is_file() or sha256_of(path) != digest:
                typer.echo(f"{path} is not what was written")
                broken += 1
    typer.echo(f"{manifest.num_rows} rows in {len(manifest.parts)} parts, {broken} files are broken")
    if broken:
        raise typer.Exit(1)


class _Opened:
    """A tier that exists already, for as long as a verb needs it."""

    def __init__(self, directory: Path) -> None:
        from inlay.cache.disk.directory import open_disk
        from inlay.cache.disk.segments import SEGMENTS

        if not (directory / SEGMENTS).is_dir():
            raise ConfigError(f"{directory} is not the directory of a disk tier")
        self._tier = open_disk(directory.resolve(), UNBOUNDED)

    def __enter__(self) -> DiskTier:
        return self._tier

    def __exit__(self, *error: object) -> None:
        self._tier.release()
