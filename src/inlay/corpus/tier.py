"""The corpus tier: vectors that were computed beforehand, read-only.

In: keys. Out: entries that a precomputed corpus holds. What is put is not kept. Only corpora of float32 will
do: a hit must be bit for bit what a miss would have given.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from inlay.corpus.corpus import Corpus
from inlay.corpus.files.row_file import NO_WAIT
from inlay.errors import ConfigError
from inlay.types import DENSE, Entry

FEW = 64  # look-ups that the event loop does itself where no disk is waited for: they take a fraction of a thread


class CorpusTier:
    """A corpus as a place to look for vectors."""

    name = "corpus"
    lookup_seconds = 0.5  # its pages may have to come from a disk

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus
        self._errors = 0

    async def get_many(self, keys: Iterable[bytes]) -> dict[bytes, Entry]:
        """The entries that are here and prove themselves."""
        wanted = list(keys)
        if NO_WAIT is not None and len(wanted) <= FEW:
            with suppress(OSError):  # something lies on the disk, or its filesystem cannot tell
                return self.read_many(wanted, NO_WAIT)
        return await asyncio.to_thread(self.read_many, wanted)

    async def put_many(self, entries: Mapping[bytes, Entry]) -> None:
        """A corpus is made by `inlay precompute` alone."""

    def read_many(self, keys: list[bytes], flags: int = 0) -> dict[bytes, Entry]:
        """The same as `get_many`, on the calling thread; with `NO_WAIT`, only what is in memory."""
        found: dict[bytes, Entry] = {}
        for key in keys:
            match self._corpus.find(key, flags):
                case _, None:
                    self._errors += 1
                case _, kept:
                    found[key] = Entry(DENSE, kept.vector.tobytes(), kept.num_tokens, kept.is_truncated)
        return found

    def numbers(self) -> Mapping[str, float]:
        num_bytes = sum(part.vectors.nbytes for part in self._corpus.parts)
        return {"entries": self._corpus.num_rows, "bytes": num_bytes, "errors": self._errors}

    async def close(self) -> None:
        """Nothing is held that does not go with the process."""


def open_corpus_tier(directory: Path) -> CorpusTier:
    """The tier of a directory; `ConfigError` when its vectors are rounded."""
    corpus = Corpus(directory)
    if not corpus.is_exact:
        raise ConfigError(
            f"{directory} has vectors rounded to f16, which are good for search but are not what the model gives: "
            "precompute it with --store-dtype f32 to use it as a cache"
        )
    return CorpusTier(corpus)
