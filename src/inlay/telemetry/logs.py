"""Structured logs: key-value lines on a terminal, JSON elsewhere. Never the text of an input.

Rooms call `get_logger`; nothing is printed until `configure_logs` is called (the command line does), so
the library stays quiet but for warnings.
"""

from __future__ import annotations

import logging
import re
import sys
import time
import traceback
from collections import Counter

import structlog

from inlay.errors import ConfigError, InlayError
from inlay.telemetry.tracing import current_trace

LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("auto", "console", "json")
SILENT_SECONDS = 10.0
# What a terminal obeys, and what turns the direction of text.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
_TOLD = (InlayError, OSError, RuntimeError, MemoryError)  # whose messages never have an input in them


def get_logger(room: str) -> structlog.stdlib.BoundLogger:
    """A logger that takes key-value pairs and hands them to the standard library's logging."""
    logger: structlog.stdlib.BoundLogger = structlog.wrap_logger(
        logging.getLogger(f"inlay.{room}"),
        processors=[structlog.stdlib.filter_by_level, structlog.stdlib.render_to_log_kwargs],
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    return logger


def configure_logs(level: str, format_: str, process: str | None = None) -> None:
    """Send the logs of Inlay and of the web server to stderr. `auto` is `console` on a terminal.

    A process that is one of several adds its name to each line.
    """
    if level not in LEVELS:
        raise ConfigError(f"--log-level {level}: use {', '.join(LEVELS)}")
    if format_ not in FORMATS:
        raise ConfigError(f"--log-format {format_}: use {', '.join(FORMATS)}")
    is_console = format_ == "console" or (format_ == "auto" and sys.stderr.isatty())
    shared: list[structlog.types.Processor] = [
        structlog.stdlib.ExtraAdder(),
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _with_trace,
    ]
    if process is not None:
        shared.append(lambda logger, name, event: {**event, "process_name": process})
    if is_console:
        renderer = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
        last: list[structlog.types.Processor] = [_without_controls, _format_exception, renderer]
    else:
        last = [_format_exception, structlog.processors.JSONRenderer()]
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("inlay").setLevel(level.upper())
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # what clients do wrong is told by our own


def _with_trace(logger: object, name: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
    """The ids of the trace that the request under way belongs to."""
    if (trace := current_trace()) is not None:
        event["trace_id"], event["span_id"] = trace.trace_id, trace.span_id
    return event


def _without_controls(logger: object, name: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
    """Values as text that a terminal only shows."""
    return {
        key: _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", value) if isinstance(value, str) else value
        for key, value in event.items()
    }


def _format_exception(logger: object, name: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
    """Where it was raised and of what type; messages only of errors that cannot quote an input. Never local values."""
    given = event.pop("exc_info", None)
    if not given:
        return event
    error = given if isinstance(given, BaseException) else (given if isinstance(given, tuple) else sys.exc_info())[1]
    if error is None:
        return event
    shown = [*traceback.format_tb(error.__traceback__), type(error).__name__]
    event["exception"] = "".join(shown) + (f": {error}" if isinstance(error, _TOLD) else "")
    return event


class Complaints:
    """Warnings about what goes on being wrong: for each tier at most every ten seconds."""

    def __init__(self, log: structlog.stdlib.BoundLogger) -> None:
        self._log = log
        self._last: dict[tuple[str, str], float] = {}
        self._left_out: Counter[tuple[str, str]] = Counter()

    def tell(self, event: str, tier: str, error: Exception) -> None:
        """Warn, or count one more for the next warning."""
        now, about = time.monotonic(), (event, tier)
        if now - self._last.get(about, -SILENT_SECONDS) < SILENT_SECONDS:
            self._left_out[about] += 1
            return
        self._last[about] = now
        self._log.warning(event, tier=tier, error=repr(error), left_out=self._left_out.pop(about, 0))
