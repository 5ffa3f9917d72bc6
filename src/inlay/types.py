"""The nouns that cross rooms. Each field says who fills it.

A request comes in as an `EmbedRequest`; what no cache holds of it crosses to a worker as `Work` and comes back as an
`Answer`, both frozen and serialisable. An output is canonical: of a vector, the full width in float32, pooled, before
Matryoshka cut, normalisation and output encoding. Knows nothing of torch or HTTP.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Struct

from inlay.error_codes import error_of
from inlay.errors import InlayError

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

# Kinds of output: one vector, or the scores of a pair. All are in `models.registry.OUTPUTS`.
DENSE, SPARSE, COLBERT, SCORES = "dense", "sparse", "colbert", "scores"
TOKEN_EMBEDDINGS = "token_embeddings"  # noqa: S105 - no secret
SPARSE_ROW = np.dtype([("id", "<u4"), ("weight", "<f4")])  # of a sparse output: a token and its weight


class Task(StrEnum):
    """What a model is for."""

    EMBED = "embed"  # a text gets a vector
    RANK = "rank"  # a query and a document get a score


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
class Ranking:
    """How a reranker reads a pair and scores it. Filled by `models.ranking`."""

    layout: str  # of its head, see `models.heads.scores`
    template: str | None = None  # of a body with "{query}" and "{document}"; None: two segments, as the tokenizer pairs
    prefix: str = ""  # of special tokens and text before a body, and behind it
    suffix: str = ""
    instruction: str | None = None  # by default, for a template that has "{instruction}"
    has_types: bool = True  # are the segments of a pair told apart, where the model can
    yes_no: tuple[int, int] | None = None  # token ids whose logits' difference is the score


@dataclass(frozen=True, slots=True)
class DenseLayer:
    """A product behind pooling, with weights in a directory of its own. Filled by `models.modules`."""

    path: Path
    width_in: int
    width_out: int
    has_bias: bool
    activation: str  # "none" or "tanh"


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
    ranking: Ranking | None = None  # of a reranker
    head_files: Mapping[str, Path] = field(default_factory=dict)  # by kind of output, of heads with files of their own
    dense_layers: tuple[DenseLayer, ...] = ()  # behind pooling; the last gives vectors of `width`
    has_norm_before_cut: bool = False  # is a vector layer-normalised before it is cut, without weights
    adds_special_tokens: bool = True  # do special tokens stand around a text
    leaves_out_unknown: bool = False  # do tokens go that stand for what is not in the vocabulary
    adapter: Path | None = None  # the directory of a LoRA that changes the weights
    adapters: Mapping[str, ModelSpec] = field(default_factory=dict)  # served from the same weights, by their names
    dtype: str = ""
    fingerprint: str = ""

    @property
    def hidden_width(self) -> int:
        """Components of the model's hidden states."""
        return self.dense_layers[0].width_in if self.dense_layers else self.width

    @property
    def task(self) -> Task:
        return Task.EMBED if self.ranking is None else Task.RANK


class Pair(Struct, frozen=True):
    """What a reranker reads: two segments, or two parts of one text."""

    first: str  # the query, with all that comes before the document
    second: str  # the document

    def __len__(self) -> int:
        return len(self.first) + len(self.second)


Content = str | list[int] | Pair  # the final text, token ids, or a pair


class Work(Struct, frozen=True):
    """What crosses to a worker: one content to compute. Filled by the service."""

    id: int  # unique among the work of a worker; whoever waits holds it
    content: Content  # prompt included
    truncate: Truncate
    max_tokens: int
    prompt: str = ""  # with which the content begins
    priority: Priority = Priority.NORMAL
    outputs: tuple[str, ...] = (DENSE,)  # the kinds to compute
    adapter: str = ""  # with which to compute; by default the weights as they are. Filled by `serving.adapter_worker`


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


BATCH_TOKENS = (16, 64, 256, 1024, 4096, 16384, 65536)  # bounds by which batches are counted


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
    batches_by_tokens: list[int] = msgspec.field(default_factory=lambda: [0] * (len(BATCH_TOKENS) + 1))


WORKER_NUMBERS = tuple(name for name in WorkerStats.__struct_fields__ if name != "batches_by_tokens")


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
    def device_bytes(self) -> int:
        """Memory of a GPU that is held; 0 on a processor."""
        ...

    @property
    def is_counted_elsewhere(self) -> bool:
        """Is what it computes counted by another worker, or by another process?"""
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
