"""The library's face: `Embedder` for plain code, `AsyncEmbedder` for coroutines.

In: texts. Out: numpy arrays. Both run the same service as the server, on an event loop of their own in a
thread, so they work inside a running loop (a notebook) as well as without one.
"""

from __future__ import annotations

import asyncio
import warnings
import weakref
from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Self, TypedDict, Unpack

import numpy.typing as npt
from msgspec import structs

from inlay.errors import InlayError, InvalidInput
from inlay.library.outputs import Outputs
from inlay.library.runtime import EngineArguments, RowResults, Runtime
from inlay.requests import EmbedOptions
from inlay.serving.output_dtypes import OutputDtype, convert_rows
from inlay.types import DENSE, TOKEN_EMBEDDINGS, ModelSpec, Truncate

AnyArray = npt.NDArray[Any]


class EmbedArguments(TypedDict, total=False):
    """How texts are embedded."""

    prompt: str | None  # the name of one of the model's prompts; query and document always are
    instruction: str | None  # a task, for models that take one
    dimensions: int | None  # components to keep
    truncate: str  # none (too long texts are errors), start or end
    normalize: bool | None  # unit length; default: as the model says
    output_dtype: str  # float, float16, int8, uint8, or a bit for each component in bytes: binary, ubinary


class Embedder:
    """Embeds texts with one model, in this process.

    `model` is `demo`, a hub id or a directory; the other arguments are those of `EngineArguments`.

    >>> with Embedder("demo") as embedder:
    ...     embedder.embed(["a", "b"]).shape
    (2, 384)
    """

    def __init__(self, model: str = "demo", **arguments: Unpack[EngineArguments]) -> None:
        self._runtime = Runtime(model, arguments)
        try:
            self._runtime.worker.wait_loaded()
        except InlayError:
            self._runtime.close()
            raise
        weakref.finalize(self, self._runtime.let_go)  # one that is forgotten lets its model go all the same

    @property
    def spec(self) -> ModelSpec:
        """What is served: width, max tokens, prompts, dtype, fingerprint."""
        return self._runtime.worker.spec

    def embed(self, texts: str | Sequence[str], **arguments: Unpack[EmbedArguments]) -> AnyArray:
        """Vectors as float32 [n, d], of unit length unless the model says otherwise; [d] for a lone string.

        `output_dtype` gives them smaller (see `serving.output_dtypes.convert_rows`). Raises the error of the first text
        that has no vector, by its place (`input[3] has 600 tokens, …`).
        """
        output_dtype = _output_dtype_of(arguments)
        vectors = self._runtime.wait_for(self._runtime.embed(_texts_of(texts), _options_of(self.spec, arguments)))
        converted = convert_rows(vectors, output_dtype)
        return converted[0] if isinstance(texts, str) else converted

    def embed_outputs(
        self, texts: Sequence[str], outputs: Sequence[str] | None = None, **arguments: Unpack[EmbedArguments]
    ) -> Outputs:
        """Several kinds of output from one pass, see `spec.outputs`; by default all but token_embeddings."""
        options = _options_with(self.spec, outputs, arguments)
        return self._runtime.wait_for(self._runtime.embed_outputs(_texts_of(texts), options))

    def embed_rows(
        self, texts: Sequence[str], outputs: Sequence[str] = (DENSE,), **arguments: Unpack[EmbedArguments]
    ) -> RowResults:
        """Like `embed`, but a bad text costs only itself: it is listed with its error. `others` has further outputs."""
        output_dtype = _output_dtype_of(arguments)
        work = self._runtime.embed_rows(_texts_of(texts), _options_of_rows(self.spec, outputs, arguments))
        return _converted(self._runtime.wait_for(work), output_dtype)

    def close(self) -> None:
        """Let the model go. Further calls raise `ShuttingDown`."""
        self._runtime.close()

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
        self._runtime = Runtime(model, arguments)
        weakref.finalize(self, self._runtime.let_go)

    @property
    def spec(self) -> ModelSpec:
        """What is served; dtype and fingerprint once the model is loaded."""
        return self._runtime.worker.spec

    async def embed(self, texts: str | Sequence[str], **arguments: Unpack[EmbedArguments]) -> AnyArray:
        """See `Embedder.embed`."""
        output_dtype = _output_dtype_of(arguments)
        work = self._runtime.embed(_texts_of(texts), _options_of(self.spec, arguments))
        converted = convert_rows(await asyncio.wrap_future(self._runtime.submit(work)), output_dtype)
        return converted[0] if isinstance(texts, str) else converted

    async def embed_outputs(
        self, texts: Sequence[str], outputs: Sequence[str] | None = None, **arguments: Unpack[EmbedArguments]
    ) -> Outputs:
        """See `Embedder.embed_outputs`."""
        work = self._runtime.embed_outputs(_texts_of(texts), _options_with(self.spec, outputs, arguments))
        return await asyncio.wrap_future(self._runtime.submit(work))

    async def embed_rows(
        self, texts: Sequence[str], outputs: Sequence[str] = (DENSE,), **arguments: Unpack[EmbedArguments]
    ) -> RowResults:
        """See `Embedder.embed_rows`."""
        output_dtype = _output_dtype_of(arguments)
        work = self._runtime.embed_rows(_texts_of(texts), _options_of_rows(self.spec, outputs, arguments))
        return _converted(await asyncio.wrap_future(self._runtime.submit(work)), output_dtype)

    async def close(self) -> None:
        """Let the model go."""
        await asyncio.to_thread(self._runtime.close)

    async def __aenter__(self) -> Self:
        try:
            await asyncio.to_thread(self._runtime.worker.wait_loaded)
        except BaseException:
            await self.close()
            raise
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


def _output_dtype_of(arguments: EmbedArguments) -> OutputDtype:
    output_dtype = arguments.get("output_dtype", OutputDtype.FLOAT)
    if output_dtype not in set(OutputDtype):
        known = ", ".join(OutputDtype)
        raise InvalidInput(f"output_dtype={output_dtype!r} is not known: use one of {known}", param="output_dtype")
    if arguments.get("normalize") is False and OutputDtype(output_dtype).is_of_unit_vectors:
        raise InvalidInput(
            f"output_dtype={output_dtype!r} is of vectors of unit length: leave out normalize", param="output_dtype"
        )
    return OutputDtype(output_dtype)


def _converted(results: RowResults, output_dtype: OutputDtype) -> RowResults:
    return replace(results, vectors=convert_rows(results.vectors, output_dtype))


def _options_with(spec: ModelSpec, outputs: Sequence[str] | None, arguments: EmbedArguments) -> EmbedOptions:
    """Options that ask for kinds of output; without any for all that say something of the whole text."""
    kinds = [kind for kind in spec.outputs if kind != TOKEN_EMBEDDINGS] if outputs is None else outputs
    if not isinstance(kinds, list | tuple) or not kinds or not all(isinstance(kind, str) for kind in kinds):
        raise InvalidInput(f"outputs={outputs!r} is not a list of names such as {spec.outputs}", param="outputs")
    if _output_dtype_of(arguments) is not OutputDtype.FLOAT:
        raise InvalidInput("output_dtype is for vectors alone: leave it out", param="output_dtype")
    return structs.replace(_options_of(spec, arguments), outputs=tuple(dict.fromkeys(kinds)))


def _options_of_rows(spec: ModelSpec, outputs: Sequence[str], arguments: EmbedArguments) -> EmbedOptions:
    """The same for vectors alone, in whatever type, or with other kinds."""
    return _options_of(spec, arguments) if tuple(outputs) == (DENSE,) else _options_with(spec, outputs, arguments)


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
        normalize=True if _output_dtype_of(arguments).is_of_unit_vectors else arguments.get("normalize"),
        truncate=Truncate(truncate),
        allow_untrained_cut=True,
    )
