"""An index over a corpus, for more rows than exact search can read in time: FAISS's HNSW or IVF, bits or bytes.

In: a corpus. Out: `index.json` and the file that it names, with the recall@10 that was measured against exact
search when it was built. It holds a copy of the vectors in memory, or of their bits. Rows that are added later are
searched exactly until the index is rebuilt.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct

from inlay.corpus.corpus import Corpus
from inlay.corpus.files.part import VECTORS, sha256_of
from inlay.corpus.search.binary import BinaryIndex
from inlay.corpus.search.exact import Found, search, unit_rows
from inlay.corpus.search.int8 import Int8Index
from inlay.durable import write_atomically
from inlay.errors import ConfigError
from inlay.telemetry.logs import get_logger
from inlay.types import FloatArray

log = get_logger("corpus")

INDEX = "index.json"
HNSW, BINARY, INT8 = "hnsw", "binary", "int8"  # the fourth kind is ivf
SMALL_CODES: dict[str, Any] = {BINARY: BinaryIndex, INT8: Int8Index}
RANGE_ROWS = 100_000  # that ranges of int8 are taken from
HNSW_LINKS, HNSW_BUILD_EFFORT = 32, 200
TRAINING_ROWS_PER_LIST = 64
PROBED = 200  # rows that recall is measured with
RECALL_AT = 10
ENOUGH_RECALL = 0.95
ROUNDING = 1e-5  # of a float32 cosine, with room
EFFORTS = (16, 32, 64, 128, 256, 512)  # efSearch or nprobe: the first that is enough is kept
RESCORED = {BINARY: (40, 80, 160, 320, 640), INT8: (20, 40, 80)}  # the same: vectors that are read for ten rows
ADDED_ROWS = 50_000


class IndexInfo(Struct, frozen=True):
    """What `index.json` says."""

    kind: str
    file: str
    parts: dict[str, str]  # names of the parts that it covers, with the hash of their vectors
    num_rows: int
    effort: int
    recall_at_10: float
    sha256: str  # of the file
    build_seconds: float


class Index:
    """An index open for searching."""

    def __init__(self, info: IndexInfo, path: Path, corpus: Corpus) -> None:
        faiss = _faiss()
        self.info = info
        self.num_parts = len(info.parts)
        codes = SMALL_CODES.get(info.kind)
        self._index = faiss.read_index(str(path)) if codes is None else codes.read(faiss, corpus, path)
        _set_effort(self._index, info.kind, info.effort)

    def search(self, queries: FloatArray, top_k: int) -> list[Found]:
        """For each query its best rows among those that the index covers."""
        return _search(self._index, queries, top_k)


def open_index(corpus: Corpus) -> Index | None:
    """The index of a corpus; None where there is none, or where it is of other vectors (which is logged)."""
    try:
        info = msgspec.json.decode((corpus.path / INDEX).read_bytes(), type=IndexInfo)
        if info.parts != _parts_of(corpus, len(info.parts)):
            raise ValueError("it is of other vectors")
        if sha256_of(corpus.path / info.file) != info.sha256:
            raise ValueError("its file is not the one that was built")
        return Index(info, corpus.path / info.file, corpus)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RuntimeError, msgspec.DecodeError, ConfigError) as error:
        log.warning("the index cannot be used; searching exactly", corpus=str(corpus.path), reason=str(error))
        return None


def build_index(corpus: Corpus, kind: str, tell: Callable[[str], None]) -> IndexInfo:
    """Build, measure and publish an index; `tell` hears each effort with its recall."""
    faiss = _faiss()
    began = time.monotonic()
    width = corpus.recipe.width
    if kind in SMALL_CODES:
        index = SMALL_CODES[kind](faiss, corpus)
        if kind == INT8:
            index.train(_sample(corpus, RANGE_ROWS))
    elif kind == HNSW:
        index = faiss.IndexHNSWFlat(width, HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = HNSW_BUILD_EFFORT
    else:
        num_lists = max(1, min(round(4 * corpus.num_rows**0.5), corpus.num_rows // 39))
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, num_lists, faiss.METRIC_INNER_PRODUCT)
        index.train(_sample(corpus, num_lists * TRAINING_ROWS_PER_LIST))
    for part in corpus.parts:
        for start in range(0, len(part.vectors), ADDED_ROWS):
            index.add(unit_rows(part.vectors[start : start + ADDED_ROWS].astype(np.float32)))
    effort, recall = _choose_effort(corpus, index, kind, tell)
    name = f"index-{time.time_ns()}.faiss"
    if kind in SMALL_CODES:
        index.write(corpus.path / name)
    else:
        faiss.write_index(index, str(corpus.path / name))
    seconds = round(time.monotonic() - began, 1)
    parts = _parts_of(corpus, len(corpus.parts))
    sha256 = sha256_of(corpus.path / name)
    info = IndexInfo(kind, name, parts, corpus.num_rows, effort, round(recall, 4), sha256, seconds)
    write_atomically(corpus.path / INDEX, info)
    for old in corpus.path.glob("index-*.faiss"):
        if old.name != name:
            old.unlink()
    return info


def _choose_effort(corpus: Corpus, index: Any, kind: str, tell: Callable[[str], None]) -> tuple[int, float]:  # noqa: ANN401
    """The least effort that finds enough, with its recall@10 against exact search; rows are the queries."""
    queries = _sample(corpus, PROBED)
    exact = _but_best(search(corpus.parts, queries, RECALL_AT + 1))
    efforts = RESCORED[kind] if kind in SMALL_CODES else EFFORTS
    effort, recall = efforts[0], 0.0
    for effort in efforts:
        _set_effort(index, kind, effort)
        recall = recall_of(_but_best(_search(index, queries, RECALL_AT + 1)), exact)
        tell(f"effort {effort}: recall@{RECALL_AT} {recall:.4f}")
        if recall >= ENOUGH_RECALL:
            break
    return effort, recall


def _but_best(founds: list[Found]) -> list[Found]:
    """Without the first hit, which is the query's own row."""
    return [Found(found.rows[1:], found.scores[1:]) for found in founds]


def recall_of(found: list[Found], exact: list[Found]) -> float:
    """The share of the exact hits that were found; one that scores as high as the last exact hit is as good."""
    hits = wanted = 0
    for one, truth in zip(found, exact, strict=True):
        wanted += len(truth.rows)
        if not len(truth.rows):  # a corpus of one row has none besides it
            continue
        border = truth.scores[-1] - ROUNDING
        hits += min(len(truth.rows), int((one.scores >= border).sum()))
    return hits / wanted if wanted else 1.0


def _sample(corpus: Corpus, number: int) -> FloatArray:
    """Unit vectors of rows drawn evenly from the corpus, the same each time."""
    rows = np.random.default_rng(0).choice(corpus.num_rows, min(number, corpus.num_rows), replace=False)
    vectors = []
    for row in np.sort(rows).tolist():
        part = corpus.part_of(row)
        vectors.append(part.vectors[row - part.first_row].astype(np.float32))
    return unit_rows(np.array(vectors))


def _search(index: Any, queries: FloatArray, top_k: int) -> list[Found]:  # noqa: ANN401
    scores, rows = index.search(unit_rows(queries), top_k)
    return [Found(r[r >= 0].astype(np.int64), s[r >= 0]) for r, s in zip(rows, scores, strict=True)]


def _set_effort(index: Any, kind: str, effort: int) -> None:  # noqa: ANN401
    if kind in SMALL_CODES:
        index.rescored = effort
    elif kind == HNSW:
        index.hnsw.efSearch = effort
    else:
        index.nprobe = effort


def _parts_of(corpus: Corpus, number: int) -> dict[str, str]:
    return {info.name: info.sha256[VECTORS] for info in corpus.manifest.parts[:number]}


def _faiss() -> Any:  # noqa: ANN401 - it has no types
    try:
        import faiss
    except ImportError as error:
        raise ConfigError("indexes need FAISS: pip install 'inlay[search]'") from error
    return faiss
