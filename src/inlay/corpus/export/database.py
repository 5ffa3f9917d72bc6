"""A corpus in a vector database: exported to, and searched in, Qdrant or Milvus through their own clients.

In: a URL such as `qdrant://host:6333/wiki`, or `qdrant:///path?collection=wiki` for the client's local mode.
Out: rows as points with their record and the model's fingerprint, so that a search with another model is
refused. Exporting again writes the same points: it can be repeated after a fault.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from inlay.corpus.corpus import Corpus
from inlay.corpus.export.point import Point
from inlay.corpus.search.exact import unit_rows
from inlay.corpus.search.searcher import Hit
from inlay.errors import ConfigError, DatabaseError
from inlay.types import FloatArray

USAGE = (
    "qdrant://HOST:6333/COLLECTION, milvus://HOST:19530/COLLECTION, or on this machine "
    "qdrant:///DIR?collection=NAME, milvus:///FILE.db?collection=NAME"
)
LONGEST_REASON = 300
POINTS = 256  # written at a time
PORTS = {"qdrant": 6333, "milvus": 19530}


class Database(Protocol):
    """One collection."""

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        """What its client raises."""
        ...

    def fingerprint(self) -> str | None:
        """Of the model whose vectors are in it; None while it is empty or not there."""
        ...

    def create(self, width: int) -> None:
        """Make the collection if it is not there."""
        ...

    def write(self, points: list[Point], fingerprint: str) -> None: ...

    def search(self, query: FloatArray, top_k: int) -> list[Hit]: ...

    def close(self) -> None: ...


def export(corpus: Corpus, database: Database, tell: Callable[[int], None]) -> None:
    """Write all rows; `ConfigError` when the collection has another model's."""
    check_fingerprint(corpus, database)
    database.create(corpus.recipe.width)
    for points in _points(corpus):
        database.write(points, corpus.recipe.fingerprint)
        tell(len(points))


def check_fingerprint(corpus: Corpus, database: Database) -> None:
    """`ConfigError` when the collection has vectors of another model than the corpus."""
    there = database.fingerprint()
    if there not in (None, corpus.recipe.fingerprint):
        raise ConfigError(
            f"the collection has vectors of another model (fingerprint {there}, the corpus has "
            f"{corpus.recipe.fingerprint}): name another collection"
        )


@contextmanager
def open_database(url: str) -> Iterator[Database]:
    """The collection that a URL names.

    `ConfigError` for a URL that is invalid or a client that is not installed, `DatabaseError` for what the database
    itself says.
    """
    database = _connect(url)
    try:
        yield database
    except database.errors as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DatabaseError(f"{url}: {reason[:LONGEST_REASON]}") from error
    finally:
        database.close()


def _connect(url: str) -> Database:
    parts = urlsplit(url)
    try:
        if parts.scheme == "qdrant":
            from inlay.corpus.export.qdrant import QdrantDatabase

            return QdrantDatabase(*_place_of(parts))
        if parts.scheme == "milvus":
            from inlay.corpus.export.milvus import MilvusDatabase

            return MilvusDatabase(*_place_of(parts))
    except ImportError as error:
        raise ConfigError(f"{url} needs the package {error.name}: pip install 'inlay[{parts.scheme}]'") from error
    except (ValueError, OSError, RuntimeError) as error:
        raise ConfigError(f"{url}: {error}; use {USAGE}") from error
    raise ConfigError(f"{url}: there is no such database; use {USAGE}")


def _place_of(parts: SplitResult) -> tuple[str, str]:
    """Address (a URL, or a path of this machine) and name of the collection."""
    options = dict(parse_qsl(parts.query))
    if parts.netloc:
        collection = parts.path.strip("/")
        address = f"http://{parts.hostname}:{parts.port or PORTS[parts.scheme]}"
    else:
        collection, address = options.get("collection", ""), unquote(parts.path)
    if not collection or not address.strip("/"):
        raise ValueError("a collection is missing")
    return address, collection


def _points(corpus: Corpus) -> Iterator[list[Point]]:
    for start in range(0, corpus.num_rows, POINTS):
        rows = range(start, min(start + POINTS, corpus.num_rows))
        entries, records = [corpus.vector_of(row) for row in rows], [corpus.record(row) for row in rows]
        points = []
        for row, entry, record in zip(rows, entries, records, strict=True):
            if entry is None or record is None:
                raise ConfigError(f"row {row} of {corpus.path} is broken: rebuild the corpus")
            (unit,) = unit_rows(entry.vector[None]).tolist()
            points.append(Point(row, unit, record))
        yield points
