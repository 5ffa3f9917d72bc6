"""OpenAI's files and batches on the wire, and how the nouns of jobs are told in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from inlay.jobs.batch import Batch, Problem, Status, StoredFile

SHORTEST_KEPT, LONGEST_KEPT = 3600, 30 * 86_400  # seconds, as OpenAI has them

Key = Annotated[str, Meta(max_length=64)]
Value = Annotated[str, Meta(max_length=512)]


class ExpiresAfter(Struct):
    """When what a batch gives is deleted."""

    seconds: Annotated[int, Meta(ge=SHORTEST_KEPT, le=LONGEST_KEPT)]
    anchor: Literal["created_at"] = "created_at"


class CreateBatchRequest(Struct):
    """The body of `POST /v1/batches`."""

    input_file_id: Annotated[str, Meta(description="Of a file that was sent to /v1/files.")]
    endpoint: Annotated[str, Meta(description="Of all lines: /v1/embeddings or /v1/rerank.")]
    completion_window: Annotated[
        str, Meta(description="After it, lines that are left are not answered: 24h, 30m, …")
    ] = "24h"
    metadata: Annotated[dict[Key, Value], Meta(max_length=16)] | None = None
    output_expires_after: ExpiresAfter | None = None


class FileObject(Struct):
    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    status: Literal["processed"]


class BatchError(Struct):
    code: str
    message: str
    param: str | None
    line: int | None


class BatchErrors(Struct):
    object: Literal["list"]
    data: list[BatchError]


class RequestCounts(Struct):
    total: int
    completed: int
    failed: int


class BatchObject(Struct):
    """Times are in seconds since 1970; those of what has not come to be are null."""

    id: str
    object: Literal["batch"]
    endpoint: str
    errors: BatchErrors | None
    input_file_id: str
    completion_window: str
    status: Status
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    usage: dict[str, Any]
    metadata: dict[str, str] | None


def file_body(file: StoredFile) -> dict[str, Any]:
    """`FileObject` as JSON takes it."""
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.num_bytes,
        "created_at": file.created_at,
        "expires_at": file.expires_at,
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
    }


def batch_body(batch: Batch) -> dict[str, Any]:
    """`BatchObject` as JSON takes it."""
    progress = batch.progress
    has_ended = batch.status.is_end
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "errors": _errors_of(batch.problems),
        "input_file_id": batch.input_file_id,
        "completion_window": batch.completion_window,
        "status": batch.status,
        "output_file_id": batch.output_file_id if has_ended and progress.output_bytes else None,
        "error_file_id": batch.error_file_id if has_ended and progress.error_bytes else None,
        "created_at": batch.created_at,
        "expires_at": batch.expires_at,
        **{f"{status}_at": batch.reached.get(status) for status in Status if status is not Status.VALIDATING},
        "request_counts": {"total": batch.total, "completed": progress.completed, "failed": progress.failed},
        "usage": {
            "input_tokens": progress.num_tokens,
            "input_tokens_details": {"cached_tokens": progress.cached_tokens},
            "output_tokens": 0,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": progress.num_tokens,
        },
        "metadata": batch.metadata,
    }


def list_body(rows: Sequence[dict[str, Any]], limit: int) -> dict[str, Any]:
    """A page of rows, of which one more than the limit were looked for."""
    shown = rows[:limit]
    return {
        "object": "list",
        "data": shown,
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
        "has_more": len(rows) > limit,
    }


def _errors_of(problems: Sequence[Problem]) -> dict[str, Any] | None:
    if not problems:
        return None
    rows = [{"code": one.code, "message": one.message, "param": one.param, "line": one.line} for one in problems]
    return {"object": "list", "data": rows}
