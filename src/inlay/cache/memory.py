"""The memory tier: the most recently used vectors, bounded in bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping

from inlay.types import Entry

ENTRY_OVERHEAD = 512  # bytes of key, dict slot, entry and array header beside the vector's own, rounded up


class MemoryTier:
    """Least recently used goes first. Vectors are copied in, so that no batch stays alive for one row."""

    name = "memory"

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self.evictions = 0
        self._entries: OrderedDict[bytes, Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    async def get_many(self, keys: Iterable[bytes]) -> dict[bytes, Entry]:
        """The entries that are here."""
        found = {key: entry for key in keys if (entry := self._entries.get(key)) is not None}
        for key in found:
            self._entries.move_to_end(key)
        return found

    async def put_many(self, entries: Mapping[bytes, Entry]) -> None:
        """Keep entries, and let go of the oldest until the bound holds again."""
        for key, entry in entries.items():
            size = _size_of(entry)
            if key in self._entries or size > self.max_bytes:
                continue
            vector = entry.vector.copy()
            vector.flags.writeable = False
            self._entries[key] = Entry(vector, entry.num_tokens, entry.is_truncated)
            self.num_bytes += size
            while self.num_bytes > self.max_bytes:
                _, evicted = self._entries.popitem(last=False)
                self.num_bytes -= _size_of(evicted)
                self.evictions += 1

    def numbers(self) -> Mapping[str, int]:
        return {"entries": len(self), "bytes": self.num_bytes, "evictions": self.evictions}

    async def close(self) -> None:
        self._entries.clear()
        self.num_bytes = 0


def _size_of(entry: Entry) -> int:
    return entry.vector.nbytes + ENTRY_OVERHEAD
