"""One batch from its first state to its last: look at its lines, answer them slice by slice, and hand over the files.

In: a batch as the store has it, wherever it was left. Out: the same, ended. A slice counts once its answers are on the
disk and in the record; so a batch goes on where it was, and no line is answered twice. Lines that are refused for now
wait and are asked again.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from inlay.errors import DeviceLost, Overloaded, Refused, TooLarge, WorkerDead
from inlay.jobs.answers import CANCELLED, EXPIRED, LineReply, written_problem, written_reply
from inlay.jobs.batch import OUTPUT, Batch, Problem, Progress, Status, StoredFile, now
from inlay.jobs.directory import JobDirectory
from inlay.jobs.lines import Line, Slice, find_problems, read_slice
from inlay.jobs.results import ResultFiles

# Of a slice at most; it begins small, and is as large as is answered in a while: what is under way is lost to a crash.
FEWEST_LINES, SLICE_LINES, SLICE_BYTES = 64, 1024, 128 << 10
SHORTEST_SLICE, LONGEST_SLICE = 2.0, 6.0  # seconds
AHEAD = 2  # slices under way, so that the device finds work while one is written down
CHECK_SECONDS = 0.25  # after which a batch is looked at that may be over while its lines are worked on
SHORTEST_PAUSE, LONGEST_PAUSE = 0.05, 10.0  # seconds before refused lines are asked again

# Answers bodies of an endpoint, in their order.
AnswerMany = Callable[[str, Sequence[bytes]], Awaitable[list[LineReply]]]
_Answered = tuple[Slice, dict[int, LineReply], Problem | None]  # replies by place; why the others have none


@dataclass(frozen=True, slots=True)
class JobContext:
    """What the batches of a server share."""

    directory: JobDirectory
    answer_many: AnswerMany
    turns: asyncio.Semaphore  # first come, first served: batches take turns
    longest_line: int  # bytes
    file_seconds: int  # that files are kept
    counts: Counter[str]  # of lines, by what came of them


class BatchRun:
    """See the module."""

    def __init__(self, batch: Batch, context: JobContext) -> None:
        self._batch = batch
        self._context = context
        self._store = context.directory.store
        self._slice_lines = FEWEST_LINES

    async def run(self) -> None:
        """Until the batch has ended; an `InlayError` is why it never will."""
        if self._batch.total == 0:
            await self._validate()
        if not self._batch.status.is_end:
            with await asyncio.to_thread(ResultFiles, self._context.directory, self._batch) as files:
                await self._answer_lines(files)
            await self._end(Batch.finished)

    async def fail(self, problems: Sequence[Problem]) -> None:
        """End it for what cannot be mended, with the answers that there are."""
        await self._end(lambda found: replace(found.to(Status.FAILED), problems=list(problems)))

    async def _validate(self) -> None:
        batch, context = self._batch, self._context
        path = context.directory.path_of(batch.input_file_id)
        total, problems = await asyncio.to_thread(find_problems, path, batch.endpoint, context.longest_line)
        if problems:
            await self.fail(problems)
        else:
            await self._update(lambda found: found.begun(total))

    async def _answer_lines(self, files: ResultFiles) -> None:
        offset, number = self._batch.progress.next_offset, self._batch.progress.num_lines + 1
        under_way: deque[asyncio.Task[_Answered]] = deque()
        is_over = False
        try:
            while not (is_over and not under_way):
                while not is_over and len(under_way) < AHEAD:
                    part = await asyncio.to_thread(self._read, offset, number)
                    is_over = part.next_offset == offset
                    offset, number = part.next_offset, part.next_number
                    under_way.append(asyncio.create_task(self._answer(part)))
                await self._keep(files, *await under_way.popleft())
        finally:
            for task in under_way:
                task.cancel()

    def _read(self, offset: int, number: int) -> Slice:
        path = self._context.directory.path_of(self._batch.input_file_id)
        return read_slice(path, self._batch.endpoint, offset, number, self._slice_lines, SLICE_BYTES)

    async def _answer(self, part: Slice) -> _Answered:
        """Until each line has its reply, or the batch is over."""
        replies: dict[int, LineReply] = {}
        waiting = [place for place, line in enumerate(part.lines) if isinstance(line, Line)]
        pause, most = SHORTEST_PAUSE, len(waiting)
        while waiting:
            asked = waiting[:most]
            async with self._context.turns:
                began = time.monotonic()
                got = await self._ask([part.lines[place] for place in asked])
            if isinstance(got, Problem):
                return part, replies, got
            self._note(len(asked), time.monotonic() - began)
            found = dict(zip(asked, got, strict=True))
            answered = {place: reply for place, reply in found.items() if not _is_for_later(reply, len(asked))}
            replies |= answered
            waiting = [place for place in waiting if place not in replies]
            if any(isinstance(reply.error, Overloaded | TooLarge) for reply in found.values()):
                most = max(1, len(asked) // 2)  # the queue may be too short for so many at a time
            elif answered:
                most = max(most, len(asked) * 2)
            if answered:
                pause = SHORTEST_PAUSE
            else:
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE)
        return part, replies, None

    def _note(self, num_lines: int, seconds: float) -> None:
        """How long a slice took; the next ones are larger or smaller for it."""
        if seconds < SHORTEST_SLICE and num_lines >= self._slice_lines:
            self._slice_lines = min(self._slice_lines * 2, SLICE_LINES)
        elif seconds > LONGEST_SLICE:
            self._slice_lines = max(self._slice_lines // 2, FEWEST_LINES // 4)

    async def _ask(self, lines: Sequence[Line | Problem]) -> list[LineReply] | Problem:
        """The replies, unless the batch is over before they are there."""
        if (over := await self._why_over()) is not None:
            return over
        bodies = [line.body for line in lines if isinstance(line, Line)]
        asking = asyncio.ensure_future(self._context.answer_many(self._batch.endpoint, bodies))
        try:
            while not (await asyncio.wait({asking}, timeout=CHECK_SECONDS))[0]:
                if (over := await self._why_over()) is not None:
                    return over
            return await asking
        finally:
            asking.cancel()

    async def _why_over(self) -> Problem | None:
        """Why no more lines are answered; None where they are."""
        found = await asyncio.to_thread(self._store.batch, self._batch.id)
        if found is not None and found.status is Status.CANCELLING:
            return CANCELLED
        return EXPIRED if self._batch.is_expired() else None

    async def _keep(self, files: ResultFiles, part: Slice, replies: dict[int, LineReply], over: Problem | None) -> None:
        """Write answers down, then count them."""
        output: list[bytes] = []
        errors: list[bytes] = []
        for place, line in enumerate(part.lines):
            reply = replies.get(place)
            if isinstance(line, Line) and reply is not None:
                (output if reply.is_good else errors).append(written_reply(self._batch.id, line, reply))
            else:
                errors.append(
                    written_problem(self._batch.id, line, line if isinstance(line, Problem) else over or EXPIRED)
                )
            if place % 64 == 0:
                await asyncio.sleep(0)  # others use the event loop, too
        lengths = await asyncio.to_thread(files.add, output, errors)
        progress = _advanced(self._batch.progress, part, replies, (len(output), len(errors)), lengths)
        await self._update(lambda found: replace(found, progress=progress))
        self._context.counts.update(completed_lines=len(output), failed_lines=len(errors))

    async def _end(self, change: Callable[[Batch], Batch]) -> None:
        files = self._files()
        for file_id in {self._batch.output_file_id, self._batch.error_file_id} - {file.id for file in files}:
            await asyncio.to_thread(self._context.directory.path_of(file_id).unlink, missing_ok=True)  # it is empty
        await self._update(change, files)

    def _files(self) -> list[StoredFile]:
        """Those that have a line."""
        batch = self._batch
        seconds = batch.output_seconds or self._context.file_seconds
        given = (
            (batch.output_file_id, "output", batch.progress.output_bytes),
            (batch.error_file_id, "errors", batch.progress.error_bytes),
        )
        return [
            StoredFile(file_id, batch.owner, OUTPUT, f"{batch.id}_{name}.jsonl", size, now(), now() + seconds)
            for file_id, name, size in given
            if size
        ]

    async def _update(self, change: Callable[[Batch], Batch], files: list[StoredFile] | None = None) -> None:
        self._batch = await asyncio.to_thread(self._store.update, self._batch.id, change, files)


def _is_for_later(reply: LineReply, num_asked: int) -> bool:
    """Is a line to be asked again, sooner or later, or with fewer beside it?"""
    if isinstance(reply.error, TooLarge):
        return reply.error.is_of_request and num_asked > 1
    return isinstance(reply.error, Refused | DeviceLost | WorkerDead)


def _advanced(
    before: Progress, part: Slice, replies: Mapping[int, LineReply], counts: tuple[int, int], lengths: tuple[int, int]
) -> Progress:
    unanswered = sum(isinstance(line, Line) and place not in replies for place, line in enumerate(part.lines))
    return Progress(
        next_offset=part.next_offset,
        num_lines=part.next_number - 1,
        completed=before.completed + counts[0],
        failed=before.failed + counts[1],
        unanswered=before.unanswered + unanswered,
        output_bytes=lengths[0],
        error_bytes=lengths[1],
        num_tokens=before.num_tokens + sum(reply.num_tokens for reply in replies.values()),
        cached_tokens=before.cached_tokens + sum(reply.cached_tokens for reply in replies.values()),
    )
