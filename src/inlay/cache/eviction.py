"""S3-FIFO (Yang et al., SOSP 2023): which key goes when room is needed.

New keys enter a small queue and go from there unless they are asked for again; what is asked for moves to
the main queue, where it gets another turn for each time it was used. So a scan of a corpus, each text once,
passes through the small queue and leaves the hot queries where they are. Knows keys only, no values.
"""

from __future__ import annotations

from collections import OrderedDict

SMALL_SHARE = 10  # the small queue is this part of all keys: one tenth
MOST_USES = 3


class S3Fifo:
    """Keys in the order they may go. Not thread-safe."""

    def __init__(self) -> None:
        self._uses: dict[bytes, int] = {}  # of every key that is kept
        self._small: OrderedDict[bytes, None] = OrderedDict()
        self._main: OrderedDict[bytes, None] = OrderedDict()
        self._ghosts: OrderedDict[bytes, None] = OrderedDict()  # keys that went from the small queue

    def __len__(self) -> int:
        return len(self._uses)

    def __contains__(self, key: bytes) -> bool:
        return key in self._uses

    def use(self, key: bytes) -> None:
        """A kept key was asked for."""
        if (uses := self._uses[key]) < MOST_USES:
            self._uses[key] = uses + 1

    def add(self, key: bytes) -> None:
        """Keep a new key; one that went not long ago has shown that it comes back."""
        self._uses[key] = 0
        if key in self._ghosts:
            del self._ghosts[key]
            self._main[key] = None
        else:
            self._small[key] = None

    def evict(self) -> bytes:
        """Let one key go and name it. There must be one."""
        while True:
            is_small_turn = len(self._small) * SMALL_SHARE >= len(self._uses) or not self._main
            key = self._evict_small() if is_small_turn else self._evict_main()
            if key is not None:
                del self._uses[key]
                return key

    def remove(self, key: bytes) -> None:
        """Let a certain key go."""
        del self._uses[key]
        del (self._small if key in self._small else self._main)[key]

    def _evict_small(self) -> bytes | None:
        key, _ = self._small.popitem(last=False)
        if self._uses[key] > 0:
            self._uses[key] = 0
            self._main[key] = None
            return None
        self._ghosts[key] = None
        while len(self._ghosts) > len(self._uses):
            self._ghosts.popitem(last=False)
        return key

    def _evict_main(self) -> bytes | None:
        key, _ = self._main.popitem(last=False)
        if self._uses[key] > 0:
            self._uses[key] -= 1
            self._main[key] = None
            return None
        return key
