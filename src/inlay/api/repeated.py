"""Replies that were answered by the cache alone, for bodies that come again byte for byte.

In: a body. Out: the reply that it had, and the result that it counts as. What a body asks for is in the body, and a
vector of a model never changes, so the reply to the same body is the same while the name stands for the same model; the
cache's keys need not be worked out again. Small bodies and replies only, bounded in bytes; the one that has not been
asked for longest goes first.
"""

from __future__ import annotations

from collections.abc import Callable

from inlay.api.replies import Headers, Reply
from inlay.requests import Result

MOST_BYTES = 16 << 20
LARGEST = 32 << 10  # bytes of a body and its reply
OVERHEAD = 2048  # of a kept reply: what counts its inputs, headers, dictionary


class RepeatedReplies:
    """Kept by body; lives on one event loop."""

    def __init__(self, fingerprint_of: Callable[[str], str], most_bytes: int = MOST_BYTES) -> None:
        self.num_bytes = 0
        self._fingerprint_of = fingerprint_of  # of the model that a name stands for now
        self._most_bytes = most_bytes
        self._kept: dict[bytes, tuple[bytes, Headers, Result]] = {}  # the last asked for comes last

    def find(self, body: bytes) -> tuple[Reply, Result] | None:
        """A reply of its own for a body that was kept."""
        kept = self._kept.pop(body, None)
        if kept is None:
            return None
        content, headers, result = kept
        if result.fingerprint != self._fingerprint_of(result.model):
            self.num_bytes -= _size_of(body, content)
            return None
        self._kept[body] = kept
        return Reply(content, headers=[*headers]), result

    def keep(self, body: bytes, reply: Reply, result: Result) -> None:
        """Keep the reply to a body, where it is small and every input came from the cache."""
        size = _size_of(body, reply.body)
        if size > LARGEST or size > self._most_bytes or result.cache_status != "hit" or body in self._kept:
            return
        told = Result(*(getattr(result, name) for name in Result.__struct_fields__))  # without its vectors
        self._kept[body] = (reply.body, [*reply.headers], told)
        self.num_bytes += size
        while self.num_bytes > self._most_bytes:
            oldest = next(iter(self._kept))
            self.num_bytes -= _size_of(oldest, self._kept.pop(oldest)[0])


def _size_of(body: bytes, content: bytes) -> int:
    return len(body) + len(content) + OVERHEAD
