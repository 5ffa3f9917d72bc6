"""Inlay: a text-embedding server and library that never computes the same vector twice.

Importing the package is cheap: torch and the engine are loaded when an `Embedder` is made.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from inlay.errors import InlayError
    from inlay.library.embedder import AsyncEmbedder, Embedder

__version__ = "0.1.0"
__all__ = ["AsyncEmbedder", "Embedder", "InlayError", "__version__"]

_HOMES = {"Embedder": "library.embedder", "AsyncEmbedder": "library.embedder", "InlayError": "errors"}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'inlay' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"inlay.{_HOMES[name]}"), name)
