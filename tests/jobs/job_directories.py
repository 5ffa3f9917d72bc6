"""Directories of jobs for tests, with files and batches in them."""

from __future__ import annotations

import json
from collections.abc import Sequence

from inlay.jobs.batch import INPUT, Batch, StoredFile, new_id, now
from inlay.jobs.directory import JobDirectory, Upload

ENDPOINT = "/v1/embeddings"


def line_of(custom_id: str, body: object = None) -> bytes:
    value = {"custom_id": custom_id, "method": "POST", "url": ENDPOINT, "body": body or {"input": custom_id}}
    return json.dumps(value).encode() + b"\n"


def add_file(directory: JobDirectory, data: bytes, owner: str = "", seconds: int = 3600) -> StoredFile:
    file = StoredFile(new_id("file-"), owner, INPUT, "in.jsonl", len(data), now(), now() + seconds)
    with Upload(directory, file.id) as upload:
        upload.write(data)
        upload.finish(file)
    return file


def add_batch(directory: JobDirectory, rows: Sequence[bytes], seconds: int = 3600) -> Batch:
    file = add_file(directory, b"".join(rows))
    batch = Batch(
        id=new_id("batch_"),
        owner="",
        endpoint=ENDPOINT,
        input_file_id=file.id,
        completion_window="1h",
        created_at=now(),
        expires_at=now() + seconds,
        output_file_id=new_id("file-"),
        error_file_id=new_id("file-"),
    )
    directory.store.add_batch(batch)
    return batch


def results_of(directory: JobDirectory, batch: Batch) -> dict[str, list[dict]]:
    """The answers of a batch by the ids of their lines, wherever they lie."""
    found: dict[str, list[dict]] = {}
    for file_id in (batch.output_file_id, batch.error_file_id):
        path = directory.path_of(file_id)
        for row in path.read_text().splitlines() if path.exists() else ():
            value = json.loads(row)
            found.setdefault(value["custom_id"], []).append(value)
    return found
