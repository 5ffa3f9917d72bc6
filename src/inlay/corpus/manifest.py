"""The manifest: what a corpus is made of. A directory is a corpus from the moment its manifest lies in it.

In and out: `manifest.json`, replaced atomically. Parts are immutable; adding rows adds a part and a line here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from inlay.corpus.recipe import Recipe
from inlay.errors import ConfigError

MANIFEST = "manifest.json"
FORMAT = 3  # raised with the version of the cache key


class PartInfo(Struct, frozen=True):
    """One part: a directory of files with `num_rows` rows."""

    name: str
    num_rows: int
    num_distinct: int  # texts
    num_failed: int
    source: dict[str, Any]  # what decided its rows: input, columns, parts before
    sha256: dict[str, str]  # by file
    rows_hash: str = ""  # of the rows of the input


class Manifest(Struct, frozen=True):
    """The whole corpus."""

    format: int
    recipe: Recipe
    created: str
    parts: list[PartInfo]

    @property
    def num_rows(self) -> int:
        return sum(part.num_rows for part in self.parts)


def read_manifest(directory: Path) -> Manifest:
    """`ConfigError` when the directory is no corpus, or one that this version cannot read."""
    try:
        manifest = msgspec.json.decode((directory / MANIFEST).read_bytes(), type=Manifest)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ConfigError(f"{directory} is not a corpus: make one with inlay precompute") from error
    except OSError as error:
        raise ConfigError(f"{directory}: its {MANIFEST} cannot be read ({error.strerror})") from error
    except msgspec.DecodeError as error:
        raise ConfigError(f"{directory}: its {MANIFEST} is broken ({error}): rebuild the corpus") from error
    if manifest.format != FORMAT:
        raise ConfigError(
            f"{directory} is of format {manifest.format}; this version reads {FORMAT}: rebuild the corpus"
        )
    return manifest
