"""The run of a precomputation over its input: which rows get a vector, which share one, which fail.

In: rows and whoever embeds. Out: rows appended to a part, in the order of the input. Equal texts are computed
once, also those of older parts; the next blocks are embedded while the last one is being written. Killed at
any point, it goes on from the last checkpoint and ends with the same rows.
"""

from __future__ import annotations

import hashlib
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple, Protocol

import msgspec
from msgspec.structs import astuple

from inlay.corpus.corpus import Corpus
from inlay.corpus.files.part import TextVector
from inlay.corpus.files.part_writer import NewRow, PartWriter
from inlay.corpus.recipe import Recipe
from inlay.errors import ConfigError, InlayError
from inlay.precompute.input_rows import Row
from inlay.requests import EmbedRequest
from inlay.serving.items import make_inputs
from inlay.types import DENSE, ModelSpec

BLOCK = 512  # rows embedded at a time
CHECKPOINT_SECONDS = 2.0

Embedded = TextVector | InlayError


class Source(Protocol):
    """Whoever gives canonical vectors: the library, or a running server."""

    @property
    def spec(self) -> ModelSpec: ...

    @property
    def num_parallel(self) -> int:
        """Blocks that it embeds at a time, each on a thread of its own."""
        ...

    def embed_texts(self, texts: list[str], recipe: Recipe) -> list[Embedded]:
        """For each text its canonical vector with its tokens, or the reason why there is none."""
        ...


class Columns(NamedTuple):
    """Which columns of the input to use; without an id column, the place of a row is its id."""

    text: str
    id: str | None
    keep: tuple[str, ...]


@dataclass(slots=True)
class _Candidate:
    """A row that may get a vector: its keys, or what is wrong with it."""

    row: Row
    id: str | int
    keys: tuple[bytes, ...] = ()  # of the whole text, and of it cut where that may be
    problem: str | None = None


class _Block(NamedTuple):
    """Rows that are written together, and how far the input has been read with them."""

    candidates: list[_Candidate]
    answers: Future[dict[tuple[bytes, ...], Embedded]]
    rows_read: int
    rows_hash: str


@dataclass(slots=True)
class _Known:
    """What has been seen so far."""

    ids: dict[str | int, bytes] = field(default_factory=dict)  # the key of each id's text
    rows: dict[bytes, int] = field(default_factory=dict)  # in the whole corpus, by key
    under_way: set[tuple[bytes, ...]] = field(default_factory=set)  # by the keys of the text
    failed: dict[tuple[bytes, ...], str] = field(default_factory=dict)

    def row_of(self, keys: tuple[bytes, ...]) -> int | None:
        return next((self.rows[key] for key in keys if key in self.rows), None)


class Ingestion:
    """One run; `tell` hears how many more rows are done."""

    def __init__(
        self,
        writer: PartWriter,
        older: Corpus | None,
        columns: Columns,
        source: Source,
        tell: Callable[[int], None],
    ) -> None:
        self._writer = writer
        self._older = older
        self._first_row = 0 if older is None else older.num_rows
        self._columns = columns
        self._source = source
        self._recipe = writer.progress.recipe
        self._tell = tell
        self._hash = hashlib.sha256()
        self._known = _Known()
        self._rows_read = 0

    def run(self, rows: Iterator[Row]) -> None:
        """Take up the work where it was, and bring it to the end of the input."""
        self._remember()
        self._skip(rows)
        saved = time.monotonic()
        for block, is_last in self._blocks(rows):
            self._write(block)
            if is_last or time.monotonic() - saved > CHECKPOINT_SECONDS:
                self._writer.checkpoint(block.rows_read, block.rows_hash)
                saved = time.monotonic()
            self._tell(len(block.candidates))

    def _blocks(self, rows: Iterator[Row]) -> Iterator[tuple[_Block, bool]]:
        """Blocks in the order of the input, and whether each is the last; those behind one are embedded meanwhile."""
        most = self._source.num_parallel
        with ThreadPoolExecutor(most, thread_name_prefix="inlay-precompute") as threads:
            try:
                blocks = deque([self._begin(rows, threads)])
                self._check_kept(blocks[0])
                while blocks[0].candidates:
                    while len(blocks) <= most and blocks[-1].candidates:
                        blocks.append(self._begin(rows, threads))
                    block = blocks.popleft()
                    yield block, not blocks[0].candidates
            finally:
                threads.shutdown(wait=False, cancel_futures=True)

    def _check_kept(self, block: _Block) -> None:
        """Say early that a column's name may be misspelt."""
        rows = [candidate.row for candidate in block.candidates]
        for name in self._columns.keep:
            if rows and not any(name in row.values for row in rows):
                warnings.warn(f"none of the first {len(rows)} rows has a column {name!r} to keep", stacklevel=2)

    def _remember(self) -> None:
        """Ids and texts of older parts, and of this one up to its checkpoint."""
        for row, (id_, key) in enumerate(self._rows_before()):
            self._known.ids[id_] = key
            self._known.rows.setdefault(key, row)

    def _rows_before(self) -> Iterator[tuple[str | int, bytes]]:
        for part in self._older.parts if self._older is not None else ():
            for row, record in enumerate(part.records()):
                if record is None:
                    raise ConfigError(f"row {part.first_row + row} of the corpus is broken: rebuild the corpus")
                yield record["id"], part.key(row)
        yield from self._writer.rows_before()

    def _skip(self, rows: Iterator[Row]) -> None:
        """Pass over what the checkpoint has, and make sure that it is the same input."""
        progress = self._writer.progress
        for row in islice(rows, progress.rows_read):
            self._count(row)
        if self._rows_read != progress.rows_read or self._hash.hexdigest() != progress.rows_hash:
            raise ConfigError(
                f"the input is not the one that {self._writer.path} was begun with: give that one, or remove "
                f"{self._writer.path} to start again"
            )
        self._tell(self._rows_read)

    def _count(self, row: Row) -> None:
        self._rows_read += 1
        self._hash.update(_bytes_of(row, self._columns))

    def _begin(self, rows: Iterator[Row], threads: ThreadPoolExecutor) -> _Block:
        """Read a block, and have its new texts embedded."""
        candidates = [self._examine(row) for row in islice(rows, BLOCK)]
        answers = threads.submit(self._embed, self._new_texts(candidates))
        return _Block(candidates, answers, self._rows_read, self._hash.hexdigest())

    def _examine(self, row: Row) -> _Candidate:
        self._count(row)
        id_ = _id_of(row, self._columns)
        if isinstance(id_, bool) or not isinstance(id_, str | int):
            no_id = f"has no id: {self._columns.id!r} is of type {type(id_).__name__}, not a text or whole number"
            return _Candidate(row, row.place, problem=row.problem or no_id)
        candidate = _Candidate(row, id_, problem=row.problem)
        if candidate.problem is None:
            (given,) = make_inputs(self._source.spec, EmbedRequest(None, [row.text], self._recipe.options))
            keys = given.keys.get(DENSE)
            candidate.keys = () if keys is None else tuple(key for key in astuple(keys) if key is not None)
            candidate.problem = None if given.error is None else given.error.message
        return candidate

    def _new_texts(self, candidates: list[_Candidate]) -> dict[tuple[bytes, ...], str]:
        """Texts that have no vector yet and are not on their way."""
        known = self._known
        new = {
            candidate.keys: candidate.row.text
            for candidate in candidates
            if candidate.problem is None
            and candidate.keys not in known.under_way
            and candidate.keys not in known.failed
            and known.row_of(candidate.keys) is None
        }
        known.under_way |= new.keys()
        return new

    def _embed(self, texts: dict[tuple[bytes, ...], str]) -> dict[tuple[bytes, ...], Embedded]:
        if not texts:
            return {}
        answers = self._source.embed_texts(list(texts.values()), self._recipe)
        return dict(zip(texts, answers, strict=True))

    def _write(self, block: _Block) -> None:
        """Append the rows of a block in their order."""
        entries: dict[tuple[bytes, ...], TextVector] = {}
        for keys, answer in block.answers.result().items():
            self._known.under_way.discard(keys)
            if isinstance(answer, InlayError):
                if not answer.is_of_input:  # not this text's fault: the work stops here, to be taken up again
                    raise answer
                self._known.failed[keys] = answer.message
            else:
                entries[keys] = answer
        for candidate in block.candidates:
            problem = candidate.problem or self._known.failed.get(candidate.keys)
            if problem is None:
                problem = self._append(candidate, entries)
            if problem is not None:
                self._writer.fail({"row": candidate.row.number, "id": candidate.id, "problem": problem})

    def _append(self, candidate: _Candidate, entries: dict[tuple[bytes, ...], TextVector]) -> str | None:
        """The row, or why it cannot be; one that is in the corpus already is passed over."""
        known, keys, row = self._known, candidate.keys, candidate.row
        if candidate.id in known.ids:
            is_same = known.ids[candidate.id] in keys
            return None if is_same else f"has the id {candidate.id!r} of another text: ids must be unique"
        entry = entries.get(keys) or self._entry_of(known.row_of(keys))
        key = keys[-1] if entry.is_truncated else keys[0]
        known.rows.setdefault(key, self._first_row + self._writer.num_rows)
        known.ids[candidate.id] = key
        self._writer.append(NewRow(key, entry, {**_kept(row, self._columns), "id": candidate.id, "text": row.text}))
        return None

    def _entry_of(self, row: int | None) -> TextVector:
        """The vector of a text that the corpus has already."""
        if row is not None and row >= self._first_row:
            return self._writer.vector_of(row - self._first_row)
        entry = None if self._older is None or row is None else self._older.vector_of(row)
        others = None if self._older is None or row is None else self._older.others_of(row)
        if entry is None or others is None:
            raise ConfigError(f"row {row} of the corpus is broken: rebuild the corpus")
        return entry._replace(others=others)


def hash_rows(rows: Iterator[Row], columns: Columns) -> str:
    """What tells an input from another: of all its rows, as far as they are used."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(_bytes_of(row, columns))
    return digest.hexdigest()


def _bytes_of(row: Row, columns: Columns) -> bytes:
    return msgspec.json.encode((_id_of(row, columns), row.text, row.problem, _kept(row, columns)))


def _id_of(row: Row, columns: Columns) -> Any:  # noqa: ANN401 - whatever the input has there
    return row.place if columns.id is None else row.values.get(columns.id)


def _kept(row: Row, columns: Columns) -> dict[str, Any]:
    return {name: row.values[name] for name in columns.keep if name in row.values}
