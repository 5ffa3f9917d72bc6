"""The nouns that cross rooms. Each field says who fills it.

A request comes in as an `EmbedRequest`; what no cache holds of it crosses to a worker as `Work` and comes back as an
`Answer`, both frozen and serialisable. An output is canonical: of a vector, the full width in float32, pooled, before
Matryoshka cut, normalisation and output encoding. Knows nothing of torch or HTTP.
"""

from __future__ import annotations

from collections import abc
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from inlay.errors import InlayError, error_of

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

DENSE = "dense"  # the kind of output that is one vector; the others are in `models.registry.OUTPUTS`


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
    outputs: tuple[str, ...] = (DENSE,)  # the kinds that it can give
    dtype: str = ""
    fingerprint: str = ""


class EmbedOptions(Struct, frozen=True):
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
    outputs: tuple[str, ...] = (DENSE,)  # the kinds asked for


class EmbedRequest(Struct, frozen=True):
    """One call after its dialect is gone. Filled by a dialect or the library."""

    model: str | None
    inputs: abc.Sequence[str | list[int]]
    options: EmbedOptions = EmbedOptions()
    deadline: float | None = None  # on the clock of time.monotonic()
    departed: Callable[[], Awaitable[object]] | None = None  # returns when the client has gone


class Work(Struct, frozen=True):
    """What crosses to a worker: one content to compute. Filled by the service."""

    id: int  # unique among the work of a worker; whoever waits holds it
    content: str | list[int]  # the final text, prompt included, or token ids
    truncate: Truncate
    max_tokens: int
    prompt: str = ""  # with which the content begins
    priority: Priority = Priority.NORMAL
    outputs: tuple[str, ...] = (DENSE,)  # the kinds to compute


class Failure(Struct, frozen=True):
    """An error of the tree in `errors`, as it crosses from a worker. Filled by whoever failed."""

    code: str
    message: str
    retry_after: float | None = None  # seconds

    @classmethod
    def of(cls, error: InlayError) -> Failure:
        return cls(error.code, error.message, error.retry_after)

    def error(self) -> InlayError:
        """A new error of the class that it was made of."""
        return error_of(self.code, self.message, self.retry_after)


class Answer(Struct, frozen=True):
    """What comes back from a worker for one piece of work: outputs or a failure. Filled by the engine."""

    id: int
    outputs: dict[str, bytes] = {}
    failure: Failure | None = None
    num_tokens: int = 0
    is_truncated: bool = False
    queue_seconds: float = 0.0
    model_seconds: float = 0.0


Deliver = Callable[[list[Answer]], None]  # how a worker hands answers over, on one of its threads


class Entry(Struct, frozen=True, gc=False):
    """What a cache tier keeps for a key; made by the hundred thousand, so the cheapest kind of noun."""

    kind: str
    payload: bytes  # canonical, little-endian
    num_tokens: int
    is_truncated: bool


class EmbedResult(Struct, frozen=True):
    """The answer to an `EmbedRequest`. Filled by the service."""

    model: str
    fingerprint: str
    vectors: FloatArray  # [n, dimensions], in the order of the inputs; [n, 0] where none was asked for
    item_tokens: list[int]  # of each input, cached ones included
    cached_tokens: int
    num_hits: int
    truncated: list[int]  # indices of the inputs that were cut
    queue_seconds: float
    model_seconds: float
    others: Mapping[str, list[npt.NDArray[Any]]]  # the kinds other than dense, in the order of the inputs

    @property
    def num_inputs(self) -> int:
        return len(self.item_tokens)

    @property
    def num_tokens(self) -> int:
        """Of all inputs."""
        return sum(self.item_tokens)

    @property
    def cache_status(self) -> str:
        """`hit`: all from a cache; `miss`: none; else `partial`."""
        if self.num_hits == 0:
            return "miss"
        return "hit" if self.num_hits == self.num_inputs else "partial"


class WorkerStats(Struct):
    """Counters of a worker since its start, and the present rate; torn reads do no harm."""

    batches: int = 0
    sequences: int = 0
    tokens: int = 0
    busy_seconds: float = 0.0
    failed_sequences: int = 0
    dropped_sequences: int = 0
    retried_batches: int = 0
    out_of_memory: int = 0
    tokens_per_second: float = 0.0


class Worker(Protocol):
    """The seam between the front half and the back half: a thread today, a process or a node tomorrow."""

    @property
    def spec(self) -> ModelSpec:
        """With dtype and fingerprint once the model is loaded."""
        ...

    @property
    def is_ready(self) -> bool: ...

    @property
    def queued_tokens(self) -> int:
        """Tokens that wait for the device."""
        ...

    @property
    def stats(self) -> WorkerStats: ...

    def health(self) -> str | None:
        """None while all is well, else the reason why not."""
        ...

    def wait_loaded(self) -> None:
        """Block until the model is served; raises what went wrong while it was loaded."""
        ...

    def submit_many(self, works: list[Work], deliver: Deliver) -> None:
        """Take all work or none, and return at once.

        Each piece is answered exactly once through `deliver` (called on a thread of the worker).
        """
        ...

    def cancel_many(self, ids: list[int]) -> None:
        """Nobody waits for these any more; what still waits here goes at once."""
        ...

    def promote_many(self, ids: list[int], priority: Priority) -> None:
        """The priority of these, which are under way, has risen."""
        ...

    def close(self, timeout: float | None = None) -> bool:
        """Stop; what waits is refused. False when it has not stopped within the time (seconds)."""
        ...
