"""A day of requests on replicas that an autoscaler starts and stops: Inlay's own scheduler, a device that is simulated.

    python benchmarks/simulate_day.py [--hours 24] [--peak 3.0] [--plot docs/plots/day.png]

Queries (short, one at a time) follow the hours of a day, with a surge at noon; bulk of the low lane comes at night and
in the afternoon. Each replica has a scheduler of `inlay.engine` and a device that takes tokens / rate and a fixed time
for a batch. A balancer gives a request to the replica with the fewest under way. Every 15 s the autoscaler does what
the HPA does with KEDA's numbers: as many as the largest of its triggers asks for, at most twice as many at a time, and
fewer only once nothing has asked for more for 300 s. Compared are its triggers: the seconds of work that wait, the
seconds that devices are busy, both, and numbers of replicas that stay.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import random
import statistics
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from inlay.engine.batch import Sequence
from inlay.engine.scheduler import Scheduler
from inlay.types import Priority, Truncate, Work

RATE, BATCH_SECONDS = 1_000.0, 0.004  # tokens a second of a device, and what any batch takes beside
MAX_BATCH_TOKENS, MAX_QUEUE_TOKENS = 256, 1 << 18
QUERY_TOKENS, BULK_TOKENS, BULK_TEXTS = 64, 256, 32
BULK_RATE = 0.15  # requests a second, where there is bulk: 1.2 devices
START_SECONDS, POLL_SECONDS, STABLE_SECONDS, WINDOW = 45.0, 15.0, 300.0, 60.0
QUEUED_SECONDS, BUSY_SHARE = 2.0, 0.7  # the triggers' thresholds, for each replica
FEWEST, MOST = 2, 20


@dataclass(slots=True)
class Replica:
    """One server: what waits, what runs, and what it has done."""

    ready_at: float
    scheduler: Scheduler = field(default_factory=lambda: Scheduler(MAX_BATCH_TOKENS, 1024, MAX_QUEUE_TOKENS))
    running: list[Sequence] = field(default_factory=list)
    under_way: int = 0
    busy_seconds: float = 0.0
    is_leaving: bool = False


class Day:
    """Events in their order, and what came of the requests."""

    def __init__(self, hours: float, peak: float, desired: Callable[[Day], int], seed: int = 1) -> None:
        self.now = 0.0
        self.end = hours * 3600
        self.peak = peak
        self.replicas = [Replica(0.0) for _ in range(FEWEST)]
        self.latencies: list[tuple[float, float]] = []  # of queries: when they came, and seconds
        self.counts: list[tuple[float, int, float]] = []  # replicas, and tokens a second that came
        self.refused = self.asked = 0
        self.replica_seconds = 0.0
        self.queued: deque[tuple[float, float]] = deque()  # seconds of work that waited, of the last minute
        self.busy: deque[tuple[float, float]] = deque()
        self._desired = desired
        self._wanted: deque[tuple[float, int]] = deque()
        self._random = random.Random(seed)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self._came = 0

    def run(self) -> Day:
        self._at(0.0, self._query)
        self._at(0.0, self._bulk)
        self._at(POLL_SECONDS, self._poll)
        while self._events and self.now < self.end:
            self.now, _, act = heapq.heappop(self._events)
            act()
        return self

    def _at(self, moment: float, act: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._events, (moment, self._number, act))

    def demand(self) -> float:
        """Queries a second: 0.15 to 1 of the peak by the hour of the day, and at noon twice that for a while."""
        hour = self.now / 3600 % 24
        share = 0.15 + 0.85 * max(0.0, math.sin((hour - 6) / 14 * math.pi)) ** 2 if 6 <= hour <= 20 else 0.15
        surge = 2.0 if 12 <= hour < 12 + 1 / 6 else 1.0
        return self.peak * RATE / QUERY_TOKENS * share * surge

    def _query(self) -> None:
        self._at(self.now + self._random.expovariate(self.demand()), self._query)
        self._send([QUERY_TOKENS], Priority.NORMAL)

    def _bulk(self) -> None:
        hour = self.now / 3600 % 24
        self._at(
            self.now + self._random.expovariate(BULK_RATE if hour < 5 or 14 <= hour < 16 else BULK_RATE / 50),
            self._bulk,
        )
        self._send([BULK_TOKENS] * BULK_TEXTS, Priority.LOW)

    def _send(self, lengths: list[int], priority: Priority) -> None:
        self.asked += 1
        self._came += sum(lengths)
        serving = [one for one in self.replicas if one.ready_at <= self.now and not one.is_leaving]
        replica = min(serving, key=lambda one: one.under_way)
        if not replica.scheduler.has_room(sum(lengths)):
            self.refused += 1
            return
        replica.scheduler.add_many([_sequence(length, self.now, priority) for length in lengths])
        replica.under_way += len(lengths)
        if not replica.running:
            self._start(replica)

    def _start(self, replica: Replica) -> None:
        batch, _ = replica.scheduler.next_batch()
        replica.running = batch
        if batch:
            seconds = BATCH_SECONDS + sum(sequence.num_tokens for sequence in batch) / RATE
            replica.busy_seconds += seconds
            self._at(self.now + seconds, lambda: self._finish(replica))
        elif replica.is_leaving:
            self.replicas.remove(replica)

    def _finish(self, replica: Replica) -> None:
        for sequence in replica.running:
            replica.under_way -= 1
            if sequence.priority is not Priority.LOW:
                self.latencies.append((sequence.arrived, self.now - sequence.arrived))
        self._start(replica)

    def _poll(self) -> None:
        self._at(self.now + POLL_SECONDS, self._poll)
        serving = [one for one in self.replicas if not one.is_leaving]
        self.replica_seconds += POLL_SECONDS * len(self.replicas)
        self.counts.append((self.now, len(serving), self._came / POLL_SECONDS))
        self._came = 0
        _note(self.queued, self.now, sum(one.scheduler.queued_tokens for one in self.replicas) / RATE)
        _note(self.busy, self.now, sum(one.busy_seconds for one in self.replicas))
        for one in self.replicas:
            one.busy_seconds = 0.0
        _note(self._wanted, self.now, min(max(self._desired(self), FEWEST), MOST, 2 * len(serving)), STABLE_SECONDS)
        wanted = max(number for _, number in self._wanted)
        for _ in range(wanted - len(serving)):
            self.replicas.append(Replica(self.now + START_SECONDS))
        for one in serving[wanted:]:
            one.is_leaving = True
            if not one.running:
                self.replicas.remove(one)


def _note(kept: deque[Any], now: float, value: float, seconds: float = WINDOW) -> None:
    kept.append((now, value))
    while kept[0][0] <= now - seconds:
        kept.popleft()


_IDS = {length: np.zeros(length, np.int64) for length in (QUERY_TOKENS, BULK_TOKENS)}


def _sequence(length: int, now: float, priority: Priority) -> Sequence:
    work = Work(0, "", Truncate.END, 512, priority=priority)
    return Sequence(work, lambda answers: None, now, priority, _IDS[length])


def by_queue(day: Day) -> int:
    mean = statistics.mean(seconds for _, seconds in day.queued)
    return math.ceil(mean / QUEUED_SECONDS)


def by_busy(day: Day) -> int:
    return math.ceil(sum(seconds for _, seconds in day.busy) / (POLL_SECONDS * len(day.busy)) / BUSY_SHARE)


TRIGGERS: dict[str, Callable[[Day], int]] = {
    "queued seconds": by_queue,
    "busy seconds": by_busy,
    "both": lambda day: max(by_queue(day), by_busy(day)),
    "fixed 2": lambda day: 2,
    "fixed 8": lambda day: 8,
}


def told_of(day: Day) -> dict[str, float]:
    seconds = sorted(one for _, one in day.latencies)
    return {
        "query_p50_ms": 1000 * seconds[len(seconds) // 2],
        "query_p99_ms": 1000 * seconds[int(len(seconds) * 0.99)],
        "query_max_s": seconds[-1],
        "refused_share": day.refused / day.asked,
        "replica_hours": day.replica_seconds / 3600,
        "changes": sum(one != other for (_, one, _), (_, other, _) in zip(day.counts, day.counts[1:], strict=False)),
        "most_replicas": max(number for _, number, _ in day.counts),
    }


def plot(days: dict[str, Day], file: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7), layout="constrained")
    top, middle, bottom = figure.subplots(3, sharex=True)
    some = next(iter(days.values()))
    came = list(_smooth([came for _, _, came in some.counts]))
    top.plot([now / 3600 for now, _, _ in some.counts], came, color="grey")
    top.set_ylabel("tokens/s that come")
    for name, day in days.items():
        middle.plot([now / 3600 for now, _, _ in day.counts], [number for _, number, _ in day.counts], label=name)
        hours, worst = _p99_by_minute(day)
        bottom.semilogy(hours, worst, label=name)
    middle.set_ylabel("replicas")
    middle.legend()
    bottom.set_ylabel("P99 of queries, s, by 10 min")
    bottom.set_xlabel("hour")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)


def _smooth(values: list[float], width: int = 20) -> Iterator[float]:
    for place in range(len(values)):
        part = values[max(place - width, 0) : place + 1]
        yield sum(part) / len(part)


def _p99_by_minute(day: Day, minutes: int = 10) -> tuple[list[float], list[float]]:
    parts: dict[int, list[float]] = {}
    for came, seconds in day.latencies:
        parts.setdefault(int(came // (60 * minutes)), []).append(seconds)
    return [part * minutes / 60 for part in parts], [sorted(found)[int(len(found) * 0.99)] for found in parts.values()]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=24.0)
    parser.add_argument("--peak", type=float, default=3.0, help="queries at the peak, in devices that they keep busy")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    days = {name: Day(given.hours, given.peak, desired).run() for name, desired in TRIGGERS.items()}
    result = {name: told_of(day) for name, day in days.items()}
    print(json.dumps(result, indent=2))
    if given.json:
        given.json.write_text(json.dumps(result, indent=2) + "\n")
    if given.plot:
        plot(days, given.plot)
