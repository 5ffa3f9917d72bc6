"""What is known of the request under way, for traces and for lines of the log.

In: the parts of a request, as they end. Out: spans, where a tracer was made (`telemetry.otlp`); nothing, and next to no
time, where none was. The current trace follows a request through its tasks. Never the text of an input.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Protocol, TypeVar

from inlay.errors import InlayError

Q = TypeVar("Q")
R = TypeVar("R")

Attributes = Mapping[str, str | int | float | bool | Sequence[str]]


class Trace(Protocol):
    """One request. Times are `time.monotonic()`."""

    is_recorded: bool  # else only its ids are known

    @property
    def trace_id(self) -> str:
        """Hexadecimal, as W3C has it."""
        ...

    @property
    def span_id(self) -> str: ...

    def record(self, name: str, began: float, ended: float, attributes: Attributes) -> None:
        """A part of the request that has ended."""
        ...

    def begin_operation(self) -> None:
        """What the request asks for is begun; parts that are recorded belong to it until it ends."""
        ...

    def end_operation(self, name: str, attributes: Attributes) -> None: ...

    def end(self, status: int, attributes: Attributes) -> None:
        """The request is answered."""
        ...


class Tracer(Protocol):
    """Makes traces, and sends them on."""

    def begin(self, name: str, traceparent: str | None, tracestate: str | None, attributes: Attributes) -> Trace:
        """A request has come, perhaps as a part of somebody's trace, as its headers say."""
        ...

    def record_batch(self, traces: Sequence[Trace], began: float, ended: float, attributes: Attributes) -> None:
        """A batch has run, in which these requests had a part."""
        ...

    def close(self) -> None:
        """Send what is left, within a bound."""
        ...


_current: ContextVar[Trace | None] = ContextVar("inlay_trace", default=None)


def current_trace() -> Trace | None:
    """The trace of the request under way."""
    return _current.get()


def recorded_trace() -> Trace | None:
    """The same, where its parts are recorded."""
    trace = _current.get()
    return trace if trace is not None and trace.is_recorded else None


class Within:
    """What runs within belongs to a trace; to none where there is none."""

    __slots__ = ("_token", "_trace")

    def __init__(self, trace: Trace | None) -> None:
        self._trace = trace

    def __enter__(self) -> None:
        self._token = None if self._trace is None else _current.set(self._trace)

    def __exit__(self, *error: object) -> None:
        if self._token is not None:
            _current.reset(self._token)


async def perform(
    operation: Callable[[Q], Awaitable[R]], asked: Q, describe: Callable[[R], tuple[str, Attributes]]
) -> R:
    """Do what is asked for, as an operation of the trace; `describe` gives its name and attributes."""
    trace = recorded_trace()
    if trace is None:
        return await operation(asked)
    trace.begin_operation()
    try:
        result = await operation(asked)
    except InlayError as error:
        trace.end_operation("refused", {"error.type": error.code})
        raise
    except BaseException as error:  # whatever it is, what was begun ends
        trace.end_operation("failed", {"error.type": type(error).__name__})
        raise
    trace.end_operation(*describe(result))
    return result
