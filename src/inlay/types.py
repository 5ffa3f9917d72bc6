"""The nouns that cross rooms. Each field says who fills it.

A request comes in as an `EmbedRequest`, becomes `Item`s, and the items that no cache holds become
`Sequence`s in a packed `Batch` on the device. What comes back is the canonical vector: full width,
float32, pooled, before Matryoshka cut, normalisation and output encoding. Knows nothing of torch or HTTP.
"""

from __future__ import annotations

from collections import abc
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from inlay.errors import InlayError

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


class Pooling(StrEnum):
    """Which rows of the last hidden state make the vector."""

    LAST = "last"
    MEAN = "mean"
    CLS = "cls"


class Truncate(StrEnum):
    """Which end of a too long input is dropped; NONE refuses it instead."""

    NONE = "none"
    START = "start"
    END = "end"


class Priority(StrEnum):
    """The share of the device that a request gets while others wait (see `engine.scheduler`)."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"

    def is_above(self, other: Priority) -> bool:
        order = list(Priority)
        return order.index(self) < order.index(other)


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What a checkpoint says of itself. Filled by `models.spec`; dtype and fingerprint by the worker."""

    name: str
    path: Path
    family: str  # the key of `models.registry`
    width: int  # components of the canonical vector
    num_layers: int
    vocab_rows: int  # rows of the embedding table: token ids lie below
    max_tokens: int  # special tokens included
    pooling: Pooling
    normalize: bool  # does the checkpoint ask for unit vectors
    prompts: Mapping[str, str]
    default_prompt: str | None  # name of the prompt used when a request names none
    instruction_template: str | None  # contains "{instruction}"; None: the model takes no instructions
    matryoshka: tuple[int, int] | None  # smallest and largest trained dimension
    config: Mapping[str, Any]  # config.json, for the family's forward pass
    dtype: str = ""
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class EmbedOptions:
    """How the inputs of one request are to be embedded. Filled by a dialect or the library."""

    prompt_name: str | None = None
    instruction: str | None = None
    dimensions: int | None = None
    normalize: bool | None = None  # None: as the checkpoint says; cut vectors are always normalised
    truncate: Truncate = Truncate.NONE
    priority: Priority = Priority.NORMAL
    read_cache: bool = True
    write_cache: bool = True
    allow_untrained_cut: bool = False  # cut vectors of a model that was not trained for it


@dataclass(frozen=True, slots=True)
class EmbedRequest:
    """One call after its dialect is gone. Filled by a dialect or the library."""

    model: str | None
    inputs: abc.Sequence[str | list[int]]
    options: EmbedOptions = field(default_factory=EmbedOptions)
    deadline: float | None = None  # on the clock of time.monotonic()
    departed: Callable[[], Awaitable[object]] | None = None  # returns when the client has gone


@dataclass(slots=True, eq=False)
class Item:
    """One input of a request, or the one in-flight computation that several requests have joined."""

    index: int  # place in the request; results are written here and nowhere else
    content: str | list[int]  # the final text, prompt included, or token ids; filled by the service
    truncate: Truncate
    max_tokens: int
    prefix: str = ""  # the prompt, with which the content begins; filled by the service
    key: bytes = b""  # of the vector if the content is not cut; filled by the service (`cache.key`)
    cut_key: bytes | None = None  # of the vector if it is, where it may be; filled by the service
    priority: Priority = Priority.NORMAL
    is_cancelled: bool = False  # set by the service when nobody waits any more
    vector: FloatArray | None = None  # canonical, read-only; filled by a cache tier or the engine
    num_tokens: int = 0  # filled with the vector
    is_truncated: bool = False  # filled with the vector
    is_cached: bool = False  # did the vector come from a cache; filled by the service
    queue_seconds: float = 0.0  # filled by the engine
    model_seconds: float = 0.0  # filled by the engine
    error: InlayError | None = None  # filled by whoever failed

    @property
    def work_key(self) -> bytes:
        """Of the computation: equal for items that have the same answer, whatever it is."""
        return self.cut_key or self.key

    @property
    def answer_key(self) -> bytes | None:
        """Of the vector that it has."""
        return self.cut_key if self.is_truncated else self.key


class Entry(NamedTuple):
    """What a cache tier keeps for a key; made by the hundred thousand, so the cheapest kind of noun."""

    vector: FloatArray  # canonical
    num_tokens: int
    is_truncated: bool


Done = Callable[[list[Item]], None]  # how a worker hands items back, on one of its threads


@dataclass(slots=True, eq=False)
class Sequence:
    """A tokenised item that waits for the device. Filled by the worker."""

    item: Item
    ids: IntArray  # [L]
    arrived: float  # time.monotonic()
    done: Done

    @property
    def num_tokens(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Batch:
    """Sequences packed end to end, without padding. Filled by `engine.batch`."""

    sequences: list[Sequence]
    rows: IntArray  # the place in the batch of each sequence; those with equal ids share one
    ids: IntArray  # [T]
    positions: IntArray  # [T], restarting at 0 with each sequence
    offsets: IntArray  # [B + 1], where each place begins; the last is T

    @property
    def num_tokens(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class EmbedResult:
    """The answer to an `EmbedRequest`. Filled by the service."""

    model: str
    fingerprint: str
    vectors: FloatArray  # [n, dimensions], in the order of the inputs
    item_tokens: list[int]  # of each input, cached ones included
    cached_tokens: int
    num_hits: int
    truncated: list[int]  # indices of the inputs that were cut
    queue_seconds: float
    model_seconds: float

    @property
    def num_tokens(self) -> int:
        """Of all inputs."""
        return sum(self.item_tokens)

    @property
    def cache_status(self) -> str:
        """`hit`: all from a cache; `miss`: none; else `partial`."""
        if self.num_hits == 0:
            return "miss"
        return "hit" if self.num_hits == len(self.vectors) else "partial"


class Worker(Protocol):
    """The seam between the front half and the back half: a thread today, a process or a node tomorrow."""

    @property
    def spec(self) -> ModelSpec: ...

    def embed(self, items: list[Item], done: Done) -> None:
        """Take all items or none, and return at once.

        Every item comes back exactly once through `done` (called on a thread of the worker), with
        its vector or its error.
        """
        ...

    def cancel_many(self, items: list[Item]) -> None:
        """Nobody waits for these any more (their `is_cancelled` is set); what still waits here goes at once."""
        ...

    def promote_many(self, items: list[Item]) -> None:
        """The priority of these, which are under way, has risen."""
        ...

    def health(self) -> str | None:
        """None while all is well, else the reason why not."""
        ...

    def close(self, timeout: float | None = None) -> bool:
        """Stop; what waits is refused. False when it has not stopped within the time (seconds)."""
        ...
