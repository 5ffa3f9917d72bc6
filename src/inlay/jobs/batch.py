"""The nouns of jobs: a file, a batch of lines, and how far it has come. Each is what the store keeps, and all of it.

Knows nothing of HTTP and nothing of models.
"""

from __future__ import annotations

import time
import uuid
from enum import StrEnum

from msgspec import Struct
from msgspec.structs import replace

INPUT, OUTPUT = "batch", "batch_output"  # what a file is for


class Status(StrEnum):
    """Where a batch is; the last four end it."""

    VALIDATING = "validating"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    CANCELLING = "cancelling"
    COMPLETED = "completed"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"

    @property
    def is_end(self) -> bool:
        return self in ENDS


ENDS = frozenset({Status.COMPLETED, Status.FAILED, Status.EXPIRED, Status.CANCELLED})


class StoredFile(Struct, frozen=True):
    """Lines that were sent, or that answer some; the bytes lie in the directory under the id."""

    id: str
    owner: str  # "" where the server has no keys
    purpose: str
    filename: str
    num_bytes: int
    created_at: int  # seconds since 1970, as all times here
    expires_at: int | None


class Problem(Struct, frozen=True):
    """Why a batch cannot be run."""

    code: str
    message: str
    line: int | None = None  # from 1
    param: str | None = None


class Progress(Struct, frozen=True):
    """What has been answered: the beginning of the input, and the lengths that the two files have with its answers."""

    next_offset: int = 0
    num_lines: int = 0  # of the file, before that offset
    completed: int = 0
    failed: int = 0
    unanswered: int = 0  # of those that failed: the batch was over
    output_bytes: int = 0
    error_bytes: int = 0
    num_tokens: int = 0
    cached_tokens: int = 0


class Batch(Struct, frozen=True):
    """One job."""

    id: str
    owner: str
    endpoint: str
    input_file_id: str
    completion_window: str  # as it was asked for
    created_at: int
    expires_at: int
    output_file_id: str
    error_file_id: str
    status: Status = Status.VALIDATING
    metadata: dict[str, str] | None = None
    output_seconds: int | None = None  # that what it gives is kept; None: as long as any file
    total: int = 0  # lines
    progress: Progress = Progress()
    problems: list[Problem] = []
    reached: dict[Status, int] = {}  # when it came to be in each status

    def to(self, status: Status) -> Batch:
        """The batch in another status, from now on."""
        return replace(self, status=status, reached={**self.reached, status: now()})

    def begun(self, total: int) -> Batch:
        """Its lines can be answered; it may have been cancelled while they were looked at."""
        counted = replace(self, total=total)
        return counted if self.status is Status.CANCELLING else counted.to(Status.IN_PROGRESS)

    def finished(self) -> Batch:
        """Nothing more is done for its lines."""
        if self.status is Status.CANCELLING:
            return self.to(Status.CANCELLED)
        return self.to(Status.FINALIZING).to(Status.EXPIRED if self.progress.unanswered else Status.COMPLETED)

    def is_expired(self) -> bool:
        return time.time() >= self.expires_at


def now() -> int:
    return int(time.time())


def new_id(kind: str) -> str:
    """An id that nobody guesses: `file-…`, `batch_…`."""
    return kind + uuid.uuid4().hex
