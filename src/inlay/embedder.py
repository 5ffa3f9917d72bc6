"""The library's face: `Embedder` for plain code, `AsyncEmbedder` for coroutines.

In: texts. Out: numpy arrays. Both run the same service as the server, on an event loop of their own in a
thread, so they work inside a running loop (a notebook) as well as without one.
"""

from __future__ import annotations

import asyncio
import warnings
import weakref
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Lock, Thread
from types import TracebackType
from typing import Any, Self, TypedDict, TypeVar, Unpack

import numpy as np

from inlay.cache.tiers import make_cache
from inlay.config import make_settings
from inlay.errors import ConfigError, InlayError, InvalidInput, ShuttingDown
from inlay.models.source import locate, served_name
from inlay.models.spec import read_spec
from inlay.service import Service
from inlay.types import EmbedOptions, EmbedRequest, FloatArray, ModelSpec, Truncate

T = TypeVar("T")

SLICE = 1024  # texts handed to the service at a time
SLICES_AHEAD = 2  # so that the device finds work while a slice is being finished
CLOSED = "the embedder is closed: make a new one"
UNBOUNDED_QUEUE = 1 << 62  # the slices bound it


@dataclass(frozen=True, slots=True)
class RowResults:
    """What `embed_rows` gives: vectors of the good rows, and why the others have none."""

    vectors: FloatArray  # [len(rows), dimensions]
    rows: list[int]  # the input that each vector belongs to, ascending
    errors: dict[int, InlayError]
    num_tokens: list[int]  # of each vector's text
    truncated: list[int]  # the inputs that were cut
    num_cached: int  # vectors that a cache had


class EngineArguments(TypedDict, total=False):
    """How a model is run. What is left out is chosen for the machine."""

    dtype: str  # auto, float32, bfloat16 or float16
    device: str  # auto, cpu, cuda, cuda:N or mps
    cache: str | Sequence[str]  # none, a tier's URL such as memory://512MiB, or a list of them
    context_length: int | None  # tokens; default: the model's own
    max_batch_tokens: int | None
    max_batch_sequences: int
    tokenizer_threads: int | None


class EmbedArguments(TypedDict, total=False):
    """How texts are embedded."""

    prompt: str | None  # the name of one of the model's prompts; query and document always are
    instruction: str | None  # a task, for models that take one
    dimensions: int | None  # components to keep
    truncate: str  # none (too long texts are errors), start or end
    normalize: bool | None  # unit length; default: as the model says


class _Core:
    """A service for one model, on an event loop in a thread."""

    def __init__(self, model: str, arguments: EngineArguments) -> None:
        from inlay.engine.loading import load_engine  # torch comes in here
        from inlay.engine.worker import DeviceWorker

        unknown = arguments.keys() - EngineArguments.__annotations__.keys()
        if unknown:
            known = ", ".join(EngineArguments.__annotations__)
            raise ConfigError(f"there is no argument {sorted(unknown)[0]!r}; these are: {known}")
        given: dict[str, object] = {name: value for name, value in arguments.items() if value is not None}
        if isinstance(given.get("cache"), str):
            given["cache"] = [given["cache"]]
        settings = make_settings({**given, "max_queue_tokens": UNBOUNDED_QUEUE})
        tiers = make_cache(settings.cache)
        spec = read_spec(locate(model), served_name(model), settings.context_length)
        self.worker = DeviceWorker(spec, lambda spec, stats: load_engine(spec, settings, stats), settings.stall_timeout)
        self._service = Service({spec.name: self.worker}, tiers)
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="inlay-embedder", daemon=True)
        self._thread.start()
        self._is_closed = False
        self._closing = Lock()

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        with self._closing:
            if not self._is_closed:
                return asyncio.run_coroutine_threadsafe(self._until_closed(work), self._loop)
        work.close()
        raise ShuttingDown(CLOSED)

    def close(self) -> None:
        """Whoever still waits is told; then the threads end."""
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
        except asyncio.CancelledError:
            if not self._is_closed:
                raise
            raise ShuttingDown(CLOSED) from None

    async def _finish(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._service.close()

    async def embed(self, texts: list[str], options: EmbedOptions) -> FloatArray:
        """[n, dimensions]; raises the error of the first text that has no vector."""
        results = await self._embed_slices(texts, options, is_patient=False)
        return self._concatenate(results, options)

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
        )

    def _concatenate(self, results: list[RowResults], options: EmbedOptions) -> FloatArray:
        empty = np.empty((0, options.dimensions or self.worker.spec.width), dtype=np.float32)
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
        errors = {start + item.index: item.error for item in failed if item.error is not None}
        if errors and not is_patient:
            row, error = next(iter(errors.items()))
            raise error.for_input(row)
        rows = [start + index for index in range(len(part)) if start + index not in errors]
        truncated = [start + index for index in result.truncated]
        return RowResults(result.vectors, rows, errors, result.item_tokens, truncated, result.num_hits)


class Embedder:
    """Embeds texts with one model, in this process.

    `model` is `demo`, a hub id or a directory; the other arguments are those of `EngineArguments`.

    >>> with Embedder("demo") as embedder:
    ...     embedder.embed(["a", "b"]).shape
    (2, 384)
    """

    def __init__(self, model: str = "demo", **arguments: Unpack[EngineArguments]) -> None:
        self._core = _Core(model, arguments)
        try:
            self._core.worker.wait_loaded()
        except InlayError:
            self._core.close()
            raise
        weakref.finalize(self, self._core.close)  # one that is forgotten lets its model go all the same

    @property
    def spec(self) -> ModelSpec:
        """What is served: width, max tokens, prompts, dtype, fingerprint."""
        return self._core.worker.spec

    def embed(self, texts: str | Sequence[str], **arguments: Unpack[EmbedArguments]) -> FloatArray:
        """Vectors as float32 [n, d], of unit length unless the model says otherwise; [d] for a lone string.

        Raises the error of the first text that has no vector, by its place (`input[3] has 600 tokens, …`).
        """
        work = self._core.embed(_texts_of(texts), _options_of(self.spec, arguments))
        vectors = self._core.submit(work).result()
        return vectors[0] if isinstance(texts, str) else vectors

    def embed_rows(self, texts: Sequence[str], **arguments: Unpack[EmbedArguments]) -> RowResults:
        """Like `embed`, but a bad text costs only itself: it is listed with its error."""
        work = self._core.embed_rows(_texts_of(texts), _options_of(self.spec, arguments))
        return self._core.submit(work).result()

    def close(self) -> None:
        """Let the model go. Further calls raise `ShuttingDown`."""
        self._core.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncEmbedder:
    """`Embedder` for coroutines: the same arguments, `await embedder.embed(...)`, `async with`.

    The constructor returns while the model is still loading; the first call waits for it.
    """

    def __init__(self, model: str = "demo", **arguments: Unpack[EngineArguments]) -> None:
        self._core = _Core(model, arguments)
        weakref.finalize(self, self._core.close)

    @property
    def spec(self) -> ModelSpec:
        """What is served; dtype and fingerprint once the model is loaded."""
        return self._core.worker.spec

    async def embed(self, texts: str | Sequence[str], **arguments: Unpack[EmbedArguments]) -> FloatArray:
        """See `Embedder.embed`."""
        work = self._core.embed(_texts_of(texts), _options_of(self.spec, arguments))
        vectors = await asyncio.wrap_future(self._core.submit(work))
        return vectors[0] if isinstance(texts, str) else vectors

    async def embed_rows(self, texts: Sequence[str], **arguments: Unpack[EmbedArguments]) -> RowResults:
        """See `Embedder.embed_rows`."""
        work = self._core.embed_rows(_texts_of(texts), _options_of(self.spec, arguments))
        return await asyncio.wrap_future(self._core.submit(work))

    async def close(self) -> None:
        """Let the model go."""
        await asyncio.to_thread(self._core.close)

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self._core.worker.wait_loaded)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _texts_of(texts: str | Sequence[str]) -> list[str]:
    rows = [texts] if isinstance(texts, str) else list(texts)
    for index, text in enumerate(rows):
        if not isinstance(text, str):
            raise InvalidInput(f"input[{index}] is of type {type(text).__name__}: give texts", param=f"input[{index}]")
    return rows


def _options_of(spec: ModelSpec, arguments: EmbedArguments) -> EmbedOptions:
    unknown = arguments.keys() - EmbedArguments.__annotations__.keys()
    if unknown:
        known = ", ".join(EmbedArguments.__annotations__)
        raise TypeError(f"embed() got unknown arguments {', '.join(sorted(unknown))}; it takes {known}")
    truncate = arguments.get("truncate", Truncate.NONE)
    if truncate not in set(Truncate):
        raise InvalidInput(f"truncate={truncate!r} is not known: use none, start or end", param="truncate")
    dimensions = arguments.get("dimensions")
    if dimensions is not None and (not isinstance(dimensions, int) or isinstance(dimensions, bool)):
        raise InvalidInput(f"dimensions must be a whole number, not {dimensions!r}", param="dimensions")
    if dimensions is not None and dimensions < 1:
        raise InvalidInput(f"dimensions must be at least 1, not {dimensions}", param="dimensions")
    if dimensions is not None and spec.matryoshka is None and dimensions < spec.width:
        warnings.warn(
            f"model {spec.name!r} was not trained to be cut (no Matryoshka): "
            f"{dimensions} of its {spec.width} components lose more than they need to",
            stacklevel=3,
        )
    return EmbedOptions(
        prompt_name=arguments.get("prompt"),
        instruction=arguments.get("instruction"),
        dimensions=dimensions,
        normalize=arguments.get("normalize"),
        truncate=Truncate(truncate),
        allow_untrained_cut=True,
    )
