"""Errors by their codes: how one is the same on the other side of a seam."""

from __future__ import annotations

from functools import lru_cache

from inlay.errors import InlayError


def error_of(code: str, message: str, retry_after: float | None = None) -> InlayError:
    """A new error of the class that has a code; of `InlayError` where none has it."""
    return _class_of(code)(message, retry_after=retry_after)


@lru_cache(maxsize=64)
def _class_of(code: str) -> type[InlayError]:
    waiting: list[type[InlayError]] = [InlayError]
    for kind in waiting:
        if kind.code == code:
            return kind
        waiting += kind.__subclasses__()
    return InlayError
