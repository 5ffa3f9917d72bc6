"""Inlay: a text-embedding server and library that never computes the same thing twice.

Importing the package is cheap: torch and the engine are loaded when an `Embedder` or a `Reranker` is made. Every error
is an `InlayError`; the classes below it can be imported from here, and their tree is in `inlay.errors`.
"""

from typing import TYPE_CHECKING

from inlay import errors
from inlay.errors import *  # noqa: F403 - the tree, whose names are in `errors.__all__`

if TYPE_CHECKING:
    from inlay.library.embedder import AsyncEmbedder, Embedder
    from inlay.library.outputs import Outputs, SparseVector
    from inlay.library.reranker import AsyncReranker, Ranked, Reranker
    from inlay.library.runtime import RowResults

__version__ = "0.1.0"
__all__ = [
    "AsyncEmbedder",
    "AsyncReranker",
    "Embedder",
    "Outputs",
    "Ranked",
    "Reranker",
    "RowResults",
    "SparseVector",
    "__version__",
    *errors.__all__,
]

_HOMES = {  # in `inlay.library`
    "Embedder": "embedder",
    "AsyncEmbedder": "embedder",
    "Reranker": "reranker",
    "AsyncReranker": "reranker",
    "Ranked": "reranker",
    "RowResults": "runtime",
    "Outputs": "outputs",
    "SparseVector": "outputs",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'inlay' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"inlay.library.{_HOMES[name]}"), name)
