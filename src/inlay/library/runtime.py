"""A service for one model, on an event loop in a thread of its own: what embedders and rerankers stand on.

In: coroutines from any thread, or from any other loop. Out: their results. Long lists of texts go to the service
in slices, a few at a time.
"""

from __future__ import annotations

import asyncio
import os
import warnings
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Lock, Thread, current_thread, main_thread
from typing import Any, TypedDict, TypeVar

import numpy as np
import numpy.typing as npt

from inlay.cache.urls import make_cache, read_secret
from inlay.config_values import make_settings
from inlay.errors import ConfigError, InlayError, ModelError, ShuttingDown
from inlay.library.outputs import Outputs
from inlay.models.adapters import is_named_base, locate_adapter
from inlay.models.source import locate, served_name
from inlay.models.spec import read_spec
from inlay.requests import EmbedOptions, EmbedRequest, RankRequest, RankResult
from inlay.serving.service import Service
from inlay.types import DENSE, FloatArray, ModelSpec, Task

T = TypeVar("T")

SLICE = 1024  # texts handed to the service at a time
SLICES_AHEAD = 2  # so that the device finds work while a slice is being finished
CLOSED = "the model was closed: make a new Embedder or Reranker"
UNBOUNDED_QUEUE = 1 << 62  # the slices bound it
_KINDS = {Task.EMBED: "an embedding model", Task.RANK: "a reranker"}
_FACES = {Task.EMBED: "Embedder", Task.RANK: "Reranker"}


@dataclass(frozen=True, slots=True)
class RowResults:
    """What `embed_rows` gives: vectors of the good rows, and why the others have none."""

    vectors: npt.NDArray[Any]  # [len(rows), dimensions], or bytes of bits
    rows: list[int]  # the input that each vector belongs to, ascending
    errors: dict[int, InlayError]
    num_tokens: list[int]  # of each vector's text
    truncated: list[int]  # the inputs that were cut
    num_cached: int  # vectors that a cache had
    others: dict[str, list[npt.NDArray[Any]]] = field(default_factory=dict)  # by kind, where more than dense was asked


class EngineArguments(TypedDict, total=False):
    """How a model is run. What is left out is chosen for the machine."""

    dtype: str  # auto, float32, bfloat16, float16, int8 or fp8
    int8_cosine: float  # least mean cosine of int8 to bfloat16
    device: str  # auto, cpu, cuda, cuda:N or mps
    deterministic: bool  # on a GPU: the same bits for a text whatever runs beside it
    cache: str | Sequence[str]  # none, a tier's URL such as memory://512MiB, or a list of them
    cache_secret: str | None  # signs what is kept in Redis
    cache_secret_file: str | None
    adapter: str | None  # a LoRA in peft's format, put into the model's weights: a directory or a hub id
    context_length: int | None  # tokens; default: the model's own
    max_batch_tokens: int | None
    max_batch_sequences: int
    tokenizer_threads: int | None
    tensor_parallel_size: int  # GPUs that share the weights
    data_parallel_size: int  # GPUs, or groups of them, that each hold the model whole


class Runtime:
    """A service for one model, on an event loop in a thread."""

    def __init__(self, model: str, arguments: EngineArguments, task: Task = Task.EMBED) -> None:
        from inlay.engine.starting import start_worker  # torch comes in here

        unknown = arguments.keys() - EngineArguments.__annotations__.keys()
        if unknown:
            known = ", ".join(EngineArguments.__annotations__)
            raise ConfigError(f"there is no argument {sorted(unknown)[0]!r}; these are: {known}")
        given: dict[str, object] = {name: value for name, value in arguments.items() if value is not None}
        if isinstance(given.get("cache"), str):
            given["cache"] = [given["cache"]]
        adapter = given.pop("adapter", None)
        settings = make_settings({**given, "max_queue_tokens": UNBOUNDED_QUEUE})
        spec = _read_spec(model, adapter, settings.context_length)
        if spec.task is not task:
            raise ModelError(f"{spec.name} is {_KINDS[spec.task]}: use {_FACES[spec.task]}")
        secret = read_secret(settings.cache_secret, settings.cache_secret_file)
        tiers = make_cache(settings.cache, secret=secret)  # after the model: what was opened would have to be closed
        self.worker = start_worker(spec, settings)
        self._service = Service({spec.name: self.worker}, tiers)
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="inlay-embedder", daemon=True)
        self._thread.start()
        self._is_closed = False
        self._closing = Lock()
        self._process = os.getpid()

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        if os.getpid() != self._process:  # its threads are in the process that was forked
            work.close()
            raise ConfigError(
                "the embedder was made before this process was forked: make one in the process that uses it"
            )
        with self._closing:
            if not self._is_closed:
                return asyncio.run_coroutine_threadsafe(self._until_closed(work), self._loop)
        work.close()
        raise ShuttingDown(CLOSED)

    def wait_for(self, work: Coroutine[Any, Any, T]) -> T:
        """The result; whoever is interrupted while he waits wants nothing of it any more."""
        future = self.submit(work)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def let_go(self) -> None:
        """`close` for an embedder that was forgotten: the collector may find it on one of its own threads."""
        if current_thread() is main_thread():
            self.close()
        else:
            Thread(target=self.close, name="inlay-closing", daemon=True).start()

    def close(self) -> None:
        """Whoever still waits is told; then the threads end."""
        if os.getpid() != self._process:
            return
        with self._closing:
            if self._is_closed:
                return
            self._is_closed = True
        self.worker.close()
        asyncio.run_coroutine_threadsafe(self._finish(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _until_closed(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            return await work
        except asyncio.CancelledError as error:
            if error.args != (CLOSED,):  # the caller's own, who wants nothing of it any more
                raise
            raise ShuttingDown(CLOSED) from None

    async def _finish(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel(CLOSED)
        await asyncio.gather(*others, return_exceptions=True)
        await self._service.close()

    async def embed(self, texts: list[str], options: EmbedOptions) -> FloatArray:
        """[n, dimensions]; raises the error of the first text that has no vector."""
        results = await self._embed_slices(texts, options, is_patient=False)
        return self._concatenate(results, options)

    async def embed_outputs(self, texts: list[str], options: EmbedOptions) -> Outputs:
        """All kinds that are asked for; raises the error of the first text that has none."""
        results = await self._embed_slices(texts, options, is_patient=False)
        return Outputs.of(self._concatenate(results, options), _others_of(results))

    async def embed_rows(self, texts: list[str], options: EmbedOptions) -> RowResults:
        """Vectors of the good texts, and the errors of the others."""
        results = await self._embed_slices(texts, options, is_patient=True)
        return RowResults(
            vectors=self._concatenate(results, options),
            rows=[row for result in results for row in result.rows],
            errors={row: error for result in results for row, error in result.errors.items()},
            num_tokens=[number for result in results for number in result.num_tokens],
            truncated=[row for result in results for row in result.truncated],
            num_cached=sum(result.num_cached for result in results),
            others=_others_of(results),
        )

    async def rank(self, request: RankRequest) -> RankResult:
        """Scores of all documents; raises the error of the first that has none."""
        await asyncio.to_thread(self.worker.wait_loaded)
        try:
            return await self._service.rank(request)
        except InlayError as error:
            raise error.renamed({"input": "documents"}) from error

    def _concatenate(self, results: list[RowResults], options: EmbedOptions) -> FloatArray:
        width = options.dimensions or self.worker.spec.width if DENSE in options.outputs else 0
        empty = np.empty((0, width), dtype=np.float32)
        return np.concatenate([empty, *(result.vectors for result in results)])

    async def _embed_slices(self, texts: list[str], options: EmbedOptions, *, is_patient: bool) -> list[RowResults]:
        await asyncio.to_thread(self.worker.wait_loaded)
        ahead = asyncio.Semaphore(SLICES_AHEAD)
        tasks = [
            asyncio.create_task(self._embed_slice(texts, start, options, ahead, is_patient))
            for start in range(0, len(texts), SLICE)
        ]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def _embed_slice(
        self, texts: list[str], start: int, options: EmbedOptions, ahead: asyncio.Semaphore, is_patient: bool
    ) -> RowResults:
        async with ahead:
            part = texts[start : start + SLICE]
            request = EmbedRequest(model=None, inputs=part, options=options)
            result, failed = await self._service.embed_each(request, is_patient=is_patient)
        errors = {start + given.index: given.error for given in failed if given.error is not None}
        if errors and not is_patient:
            row, error = next(iter(errors.items()))
            raise error.for_input(row)
        rows = [start + index for index in range(len(part)) if start + index not in errors]
        truncated = [start + index for index in result.truncated]
        told = (rows, errors, result.item_tokens, truncated, result.num_hits)
        return RowResults(result.vectors, *told, dict(result.others))


def _others_of(results: list[RowResults]) -> dict[str, list[npt.NDArray[Any]]]:
    kinds = {kind for result in results for kind in result.others}
    return {kind: [array for result in results for array in result.others.get(kind, [])] for kind in kinds}


def _read_spec(model: str, adapter: object, context_length: int | None) -> ModelSpec:
    """Of a model, or of an adapter with that as its base."""
    if adapter is None:
        return read_spec(locate(model), served_name(model), context_length)
    path = locate_adapter(adapter)
    spec = read_spec(locate(model), path.name, context_length, path)
    if not is_named_base(spec, model):
        warnings.warn(f"the adapter {path} names another base than {model} in its config", stacklevel=4)
    return spec
