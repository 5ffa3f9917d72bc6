"""Measures any OpenAI-compatible server: a sweep of concurrency, and the highest rate that keeps a promise.

In: a URL and how the requests look. Out: one record a step. Every text is new, so no server answers from a
cache; lengths are in words, and tokens are what the server itself counts.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from inlay.bench.load import Figures, run_load
from inlay.bench.target import Target
from inlay.errors import ConfigError

FEWEST_UNIQUE = 6  # with so many words of these, no text comes twice
# Common words, each of which is one token to nearly every tokenizer.
WORDS = """
the of and to in is you that it he was for on are as with his they at be this have from or one had by word
but not what all were we when your can said there use an each which she do how their if will up other about
out many then them these so some her would make like him into time has look two more write go see number no
way could people my than first water been call who oil its now find long down day did get come made may part
""".split()
OPEN_CONNECTIONS = 512
LOWEST_RATE = 0.25  # requests per second
BISECTIONS = 5
WARM_UP = 8  # requests


@dataclass(frozen=True, slots=True)
class Requests:
    """How each request looks."""

    model: str | None
    inputs: int  # texts in one request
    shortest: int  # words
    longest: int

    def bodies(self, seed: int) -> Iterator[bytes]:
        """Request bodies without end; none twice."""
        generator = random.Random(seed)  # noqa: S311 - texts, not secrets
        for number in itertools.count():
            texts = [self._text(generator, f"{seed}{number}{place}") for place in range(self.inputs)]
            body: dict[str, Any] = {"input": texts if self.inputs > 1 else texts[0], "encoding_format": "base64"}
            yield json.dumps(body | ({"model": self.model} if self.model else {})).encode()

    def _text(self, generator: random.Random, unique: str) -> str:
        words = generator.choices(WORDS, k=generator.randint(self.shortest, self.longest))
        if len(words) < FEWEST_UNIQUE:
            words[0] = unique
        return " ".join(words)


class ServerBench:
    """Runs loads on one server."""

    def __init__(self, target: Target, requests: Requests) -> None:
        self._target = target
        self._requests = requests
        self._seeds = itertools.count(random.SystemRandom().randrange(1 << 40))  # other texts in every run

    def warm_up(self) -> None:
        """A few requests, so that the first step is like the others; refuses a server that answers none."""
        figures = self._run(WARM_UP, 1)
        if figures.num_errors == figures.requests:
            raise ConfigError(f"the server answers no request: {next(iter(figures.errors))}")

    def sweep(self, concurrencies: list[int], seconds: float) -> Iterator[dict[str, Any]]:
        """A record for each number of connections, each loaded for about so many seconds."""
        for connections in concurrencies:
            trial = self._run(2 * connections, connections)
            count = max(int(trial.qps * seconds), 4 * connections)
            yield {"connections": connections, **msgspec.to_builtins(self._run(count, connections))}

    def highest_rate(self, slo_ms: float, seconds: float) -> Iterator[dict[str, Any]]:
        """A record for each rate tried; `keeps` says whether P99 stayed within the promise without an error.

        Doubles the rate until the promise breaks, then halves the gap; gives up on a server that fails at the rate of
        one connection. Arrivals do not wait for answers.
        """
        good, bad = 0.0, 0.0
        rate = max(self._run(WARM_UP, 1).qps, LOWEST_RATE)
        for _ in range(BISECTIONS + 20):
            record = self._try(rate, slo_ms, seconds)
            yield record
            good, bad = (max(good, rate), bad) if record["keeps"] else (good, min(bad or rate, rate))
            is_failing = record["errors"] and not good
            if is_failing or (bad and (bad - good < bad / 2**BISECTIONS or bad < LOWEST_RATE)):
                return
            rate = (good + bad) / 2 if bad else 2 * good

    def _try(self, rate: float, slo_ms: float, seconds: float) -> dict[str, Any]:
        figures = self._run(max(int(rate * seconds), WARM_UP), OPEN_CONNECTIONS, rate)
        keeps = figures.p99_ms <= slo_ms and not figures.num_errors
        return {"rate": round(rate, 2), "keeps": keeps, **msgspec.to_builtins(figures)}

    def _run(self, count: int, connections: int, rate: float | None = None) -> Figures:
        bodies = list(itertools.islice(self._requests.bodies(next(self._seeds)), count))
        return run_load(self._target, bodies, min(connections, count), rate)


def parse_words(text: str) -> tuple[int, int]:
    """Shortest and longest of `15` or `5-200`."""
    shortest, dash, longest = text.partition("-")
    longest = longest if dash else shortest
    if not shortest.isdecimal() or not longest.isdecimal():
        raise ConfigError(f"--words {text}: write a number such as 15, or a range such as 5-200")
    bounds = int(shortest), int(longest)
    if not 1 <= bounds[0] <= bounds[1]:
        raise ConfigError(f"--words {text}: the range must rise from at least 1")
    return bounds


def parse_counts(text: str, flag: str) -> list[int]:
    """Positive numbers of `1,8,32`."""
    parts = text.split(",")
    if not all(part.isdecimal() and int(part) for part in parts):
        raise ConfigError(f"{flag} {text}: write numbers such as 1,8,32")
    return [int(part) for part in parts]
