"""Finds what sequences begin with in common, and keeps its keys and values, so that it runs once.

In: a batch. Out: a `SharedBatch` that holds only the tokens that are left to run, or None where nothing is shared.
A prefix is token ids, never text: at least `SHORTEST` that two sequences have in common, waiting together or one
after the other. The store is bounded; the prefix that was not used for longest goes first. Kept for each beginning
(the first `SHORTEST` ids) is one prefix, the longest that was found; others use as much of it as they share. With an
arena (on a GPU) they are kept there, else as tensors of their own.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

import numpy as np
import torch

from inlay.engine.arena import Arena
from inlay.engine.batch import Batch, Sequence
from inlay.engine.beginnings import Texts, shared_length
from inlay.models.past import Gather, LayerKeyValues, NewRange, SharedPrefixes
from inlay.ops.layout import Layout
from inlay.types import IntArray

SHORTEST = 16  # tokens
STORE_BYTES = 64 << 20
MOST_SEEN = 1024  # beginnings remembered that came once
LARGEST_SHARE = 4  # a prefix may take a quarter of the store
MOST_PLACED = 4  # new prefixes of a batch that go to the arena: each is copied there on its own, layer by layer


Key = tuple[str, bytes]  # what a prefix is found by: the adapter that it ran with, and the first ids


@dataclass(slots=True)
class Prefix:
    """Token ids, and their keys and values once they have run."""

    key: Key
    ids: IntArray
    layers: list[LayerKeyValues] = field(default_factory=list)
    start: int | None = None  # in the arena

    @property
    def nbytes(self) -> int:
        return sum(k.nbytes + v.nbytes for k, v in self.layers)

    def cut(self, length: int) -> list[LayerKeyValues]:
        """Of its first tokens."""
        return [(k[:length], v[:length]) for k, v in self.layers]


@dataclass(frozen=True, slots=True)
class KeptTokens:
    """In the arena: what comes before each segment, and where new prefixes go."""

    starts: IntArray  # [segments]
    lengths: IntArray  # [segments], 0 where nothing does
    new: list[NewRange]


@dataclass(frozen=True, slots=True)
class SharedBatch:
    """What is left to run: new prefixes first, then of each sequence the tokens behind its prefix."""

    ids: IntArray  # [T]
    positions: IntArray  # [T]
    offsets: IntArray  # [segments + 1]: new prefixes and sequences
    wanted: IntArray  # [B], the last row of each sequence
    past: SharedPrefixes | None  # None: they are in the arena
    kept: KeptTokens
    new: list[Prefix]
    adapters: list[str] | None  # of each segment; None: none has one


class PrefixStore:
    """Prefixes by their beginnings. Belongs to the device thread."""

    def __init__(self, bytes_per_token: int, device: torch.device, arena: Arena | None = None) -> None:
        self._kept: OrderedDict[Key, Prefix] = OrderedDict()
        self._seen: OrderedDict[Key, IntArray] = OrderedDict()
        self._longest = (STORE_BYTES // bytes_per_token if arena is None else arena.tokens) // LARGEST_SHARE
        self._device = device
        self._arena = arena
        self._placed: list[Prefix] = []  # of the last batch; they are kept only if it runs

    def kept_length(self, sequence: Sequence) -> int:
        """How many of a sequence's first tokens are kept and need not run."""
        ids = sequence.ids
        beginning = ids[: self._told_length(sequence) or SHORTEST].tobytes()
        prefix = self._kept.get((sequence.work.adapter, beginning)) if len(ids) > SHORTEST else None
        if prefix is None:
            return 0
        length = len(prefix.ids)
        if len(ids) > length and ids[:length].tobytes() == prefix.ids.tobytes():  # nearly always, and sooner known
            return length
        return shared_length(prefix.ids, ids)

    def share(self, batch: Batch) -> SharedBatch | None:
        """Cut from a batch what is kept or can be shared."""
        for failed in self._placed:  # with its batch
            self._give_back(failed)
        self._placed = []
        texts = Texts.of(batch.ids, batch.offsets)
        told = {row: self._told_length(one) for row, one in zip(batch.rows, batch.sequences, strict=True)}
        beginnings: dict[Key, list[int]] = {}
        for place in np.flatnonzero(texts.lengths > SHORTEST).tolist():
            adapter = "" if batch.adapters is None else batch.adapters[place]
            beginning = adapter, texts.first(place, told[place] or SHORTEST).tobytes()
            beginnings.setdefault(beginning, []).append(place)
        prefixes: dict[int, Prefix] = {}
        new: list[Prefix] = []
        for beginning, places in beginnings.items():
            is_first = len(places) == 1 and beginning not in self._kept and beginning not in self._seen
            if is_first:  # as nearly all are
                self._see(beginning, texts.first(places[0], 0 if told[places[0]] else self._longest + 1))
                continue
            find = self._told_prefix if told[places[0]] else self._prefix_of
            prefix = find(beginning, texts, places)
            if prefix is not None:
                prefixes.update(dict.fromkeys(places, prefix))
                new += [] if self._is_kept(prefix) else [prefix]
        for homeless in self._place_many(new, self._arena, prefixes.values()) if new and self._arena else []:
            new.remove(homeless)
            prefixes = {place: other for place, other in prefixes.items() if other is not homeless}
        return self._cut(batch, texts, prefixes, new) if prefixes else None

    def keep(self, prefixes: Iterable[Prefix]) -> None:
        """Keep new prefixes, which have run."""
        for prefix in prefixes:
            if (shorter := self._kept.pop(prefix.key, None)) is not None:
                self._give_back(shorter)
            self._kept[prefix.key] = prefix
        self._placed = []
        while sum(prefix.nbytes for prefix in self._kept.values()) > STORE_BYTES:
            self._kept.popitem(last=False)

    def _is_kept(self, prefix: Prefix) -> bool:
        return self._kept.get(prefix.key) is prefix

    def _place_many(self, new: Iterable[Prefix], arena: Arena, in_use: Iterable[Prefix]) -> list[Prefix]:
        """Find room for the new prefixes that save most; those that were not used for longest make it.

        Gives those that have none.
        """
        uses = Counter(map(id, in_use))
        ordered = sorted(new, key=lambda prefix: uses[id(prefix)] * len(prefix.ids), reverse=True)
        needed, homeless = uses.keys(), ordered[MOST_PLACED:]
        for prefix in ordered[:MOST_PLACED]:
            while (start := arena.take(len(prefix.ids))) is None:
                oldest = next((key for key, kept in self._kept.items() if id(kept) not in needed), None)
                if oldest is None:
                    homeless.append(prefix)
                    break
                self._give_back(self._kept.pop(oldest))
            else:
                prefix.start = start
                self._placed.append(prefix)
        return homeless

    def _give_back(self, prefix: Prefix) -> None:
        if self._arena is not None and prefix.start is not None:
            self._arena.give_back(prefix.start, len(prefix.ids))
            prefix.start = None

    def _told_length(self, sequence: Sequence) -> int:
        """How many first ids others are said to share; 0 where nothing is said, or it is not worth it."""
        length = min(sequence.prefix_length, self._longest, len(sequence.ids) - 1)
        return length if length > SHORTEST else 0

    def _told_prefix(self, beginning: Key, texts: Texts, places: list[int]) -> Prefix | None:
        """The prefix that sequences are said to share, from the second sequence on."""
        if (kept := self._kept.get(beginning)) is not None:
            self._kept.move_to_end(beginning)
            return kept
        has_come = self._seen.pop(beginning, None) is not None or len(places) > 1
        self._see(beginning, texts.first(places[-1], 0))
        ids = np.frombuffer(beginning[1], dtype=np.int64)
        return Prefix(beginning, ids) if has_come else None

    def _see(self, beginning: Key, ids: IntArray) -> None:
        self._seen[beginning] = ids.copy()  # not the whole batch, of which they are a part
        if len(self._seen) > MOST_SEEN:
            self._seen.popitem(last=False)

    def _prefix_of(self, beginning: Key, texts: Texts, places: list[int]) -> Prefix | None:
        """The kept prefix of a beginning, or a longer one that several sequences share."""
        kept = self._kept.get(beginning)
        seen = self._seen.pop(beginning, None)
        self._see(beginning, texts.first(places[-1], self._longest + 1))
        shared = self._common(texts, places, seen)
        if kept is not None:
            self._kept.move_to_end(beginning)
            if len(shared) <= len(kept.ids):
                return kept
        return Prefix(beginning, shared.copy()) if len(shared) >= SHORTEST else None

    def _common(self, texts: Texts, places: list[int], seen: IntArray | None) -> IntArray:
        """What several sequences begin with, one that came before among them; nothing for one alone."""
        first = texts.first(places[0], self._longest)
        if seen is not None:
            first = first[: shared_length(first, seen)]
        elif len(places) == 1:
            return first[:0]
        return first[: int(texts.shared_lengths(first, places).min())]

    def _cut(self, batch: Batch, texts: Texts, prefixes: dict[int, Prefix], new: list[Prefix]) -> SharedBatch:
        lengths = np.zeros(len(texts.lengths), dtype=np.int64)
        places_of: dict[int, list[int]] = {}
        for place, prefix in prefixes.items():
            places_of.setdefault(id(prefix), []).append(place)
        for places in places_of.values():
            lengths[places] = texts.shared_lengths(prefixes[places[0]].ids, places)
        left = batch.positions >= np.repeat(lengths, texts.lengths)  # [T], is a token left to run
        before = [len(prefix.ids) for prefix in new]
        offsets = np.cumsum([0, *before, *(texts.lengths - lengths).tolist()])
        return SharedBatch(
            ids=np.concatenate([*(prefix.ids for prefix in new), batch.ids[left]]),
            positions=np.concatenate([*map(np.arange, before), batch.positions[left]]),
            offsets=offsets,
            wanted=offsets[len(new) + 1 :] - 1,
            past=None if self._arena is not None else self._gathered(prefixes, new, lengths, offsets),
            kept=_kept_tokens(lengths, prefixes, new, offsets),
            new=new,
            adapters=None if batch.adapters is None else [*(prefix.key[0] for prefix in new), *batch.adapters],
        )

    def _gathered(
        self, prefixes: dict[int, Prefix], new: list[Prefix], lengths: IntArray, offsets: IntArray
    ) -> SharedPrefixes:
        """What comes before each segment as rows to gather: of the kept prefixes, then of the batch."""
        kept = [prefix for prefix in {id(p): p for p in prefixes.values()}.values() if self._is_kept(prefix)]
        starts = dict(zip(map(id, kept), accumulate([0, *(len(prefix.ids) for prefix in kept)]), strict=False))
        num_kept = sum(len(prefix.ids) for prefix in kept)
        starts |= {id(prefix): num_kept + int(offsets[number]) for number, prefix in enumerate(new)}
        own = [np.arange(start, end) + num_kept for start, end in pairwise(offsets.tolist())]
        for place, prefix in prefixes.items():
            first = starts[id(prefix)] + np.arange(lengths[place])
            own[len(new) + place] = np.concatenate([first, own[len(new) + place]])
        return SharedPrefixes(
            kept=[prefix.layers for prefix in kept],
            every=self._gather(own),
            wanted=self._gather(own[len(new) :]),
            new=[(_rows(offsets, number), prefix.layers) for number, prefix in enumerate(new)],
        )

    def _gather(self, rows: list[IntArray]) -> Gather:
        offsets = np.array([0, *accumulate(map(len, rows))], dtype=np.int64)
        return Gather(torch.from_numpy(np.concatenate(rows)), Layout.of(offsets, self._device))


def _kept_tokens(lengths: IntArray, prefixes: dict[int, Prefix], new: list[Prefix], offsets: IntArray) -> KeptTokens:
    """The same as ranges of the arena."""
    starts = np.zeros(len(new) + len(lengths), dtype=np.int64)
    starts[[len(new) + place for place in prefixes]] = [prefix.start or 0 for prefix in prefixes.values()]
    ranges = [NewRange(_rows(offsets, number), prefix.start or 0) for number, prefix in enumerate(new)]
    return KeptTokens(starts, np.concatenate([np.zeros(len(new), dtype=np.int64), lengths]), ranges)


def _rows(offsets: IntArray, segment: int) -> slice:
    return slice(int(offsets[segment]), int(offsets[segment + 1]))
