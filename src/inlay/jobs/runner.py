"""Runs the batches of a server, a few at a time that take turns, and removes files whose time is over.

In: batches that the store has, from before this process, too. A batch whose files or records cannot be written for now
is tried again, and the log says so; one that can never be run is ended with the reason.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Mapping

from inlay.errors import InlayError
from inlay.jobs.batch import Problem, now
from inlay.jobs.directory import JobDirectory
from inlay.jobs.run import AHEAD, AnswerMany, BatchRun, JobContext
from inlay.telemetry.logs import get_logger

log = get_logger("jobs")

MOST_RUNNING = 8
RETRY_SECONDS = 10.0
SWEEP_SECONDS = 60.0
FILE_SECONDS = 30 * 86_400  # that files, and batches that have ended, are kept unless told otherwise


class JobRunner:
    """Lives on one event loop."""

    def __init__(self, directory: JobDirectory, answer_many: AnswerMany, longest_line: int) -> None:
        self.directory = directory
        counts = Counter({"completed_lines": 0, "failed_lines": 0})
        turns = asyncio.Semaphore(AHEAD)
        self._context = JobContext(directory, answer_many, turns, longest_line, FILE_SECONDS, counts)
        self._places = asyncio.Semaphore(MOST_RUNNING)
        self._running: dict[str, asyncio.Task[None]] = {}
        self._sweeping: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Go on with what was left."""
        for batch in self.directory.store.unended():
            log.info("going on with a batch", batch=batch.id, status=batch.status, answered=batch.progress.num_lines)
            self.add(batch.id)
        self._sweeping = asyncio.create_task(self._sweep())

    def add(self, batch_id: str) -> None:
        """Run a batch that the store has, behind those before it."""
        task = self._running[batch_id] = asyncio.create_task(self._run(batch_id))
        task.add_done_callback(lambda _: self._running.pop(batch_id, None))

    async def close(self) -> None:
        """What is under way is left as the record has it."""
        tasks = [*self._running.values(), *([self._sweeping] if self._sweeping else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.to_thread(self.directory.close)

    def numbers(self) -> Mapping[str, float]:
        """For the metrics."""
        counts = self._context.counts
        return {"unfinished_batches": len(self._running), "bytes": self.directory.used_bytes, **counts}

    async def _run(self, batch_id: str) -> None:
        async with self._places:
            while True:
                try:
                    await self._run_to_end(batch_id)
                    return
                except (OSError, sqlite3.Error) as error:
                    log.warning("a batch waits for its files", batch=batch_id, error=str(error), seconds=RETRY_SECONDS)
                await asyncio.sleep(RETRY_SECONDS)

    async def _run_to_end(self, batch_id: str) -> None:
        """`OSError` and `sqlite3.Error` where it cannot go on for now."""
        batch = await asyncio.to_thread(self.directory.store.batch, batch_id)
        if batch is None or batch.status.is_end:
            return
        run = BatchRun(batch, self._context)
        try:
            await run.run()
        except InlayError as error:
            await run.fail([Problem(error.code, error.message)])
        except FileNotFoundError as error:
            if not self.directory.is_there():
                raise
            log.warning("a file of a batch is gone", batch=batch_id, error=str(error))
            await run.fail([Problem("file_not_found", "a file of the batch is not on the disk any more")])
        except (OSError, sqlite3.Error):
            raise
        except Exception as error:
            log.exception("a batch failed", batch=batch_id)
            await run.fail([Problem("internal_error", f"internal error ({type(error).__name__}); the log has more")])

    async def _sweep(self) -> None:
        while True:
            try:
                await asyncio.to_thread(self._remove_old)
            except (OSError, sqlite3.Error) as error:
                log.warning("old files cannot be removed", error=str(error))
            await asyncio.sleep(SWEEP_SECONDS)

    def _remove_old(self) -> None:
        store = self.directory.store
        in_use = {batch.input_file_id for batch in store.unended()}
        for file in store.all_files():
            if file.expires_at is not None and file.expires_at <= now() and file.id not in in_use:
                self.directory.remove(file)
        store.forget_batches(ended_before=now() - FILE_SECONDS)
