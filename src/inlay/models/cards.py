"""What model cards ask for and no file of the checkpoint holds, by the model's name: prompts, and where it may be cut.

In: a name, as it is served. Out: facts, or none. Files that say otherwise come first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from inlay.models.prompts import DOCUMENT, QUERY

_SEARCH = "Given a web search query, retrieve relevant passages that answer the query"
_NOMIC = {
    QUERY: "search_query: ",
    DOCUMENT: "search_document: ",
    "clustering": "clustering: ",
    "classification": "classification: ",
}


@dataclass(frozen=True, slots=True)
class Card:
    """Of models whose names end so."""

    name: re.Pattern[str]
    prompts: Mapping[str, str] = field(default_factory=dict)
    smallest_dimension: int | None = None  # trained with Matryoshka down to here

    @classmethod
    def of(cls, name: str, prompts: Mapping[str, str] | None = None, smallest_dimension: int | None = None) -> Card:
        pattern = re.compile(rf"(^|[/_]){name}$", re.IGNORECASE)
        return cls(pattern, prompts or {}, smallest_dimension)


_CARDS = (
    Card.of(
        "(multilingual-)?e5-(small|base|large)(-v2)?",
        {QUERY: "query: ", DOCUMENT: "passage: ", "passage": "passage: "},
    ),
    Card.of("multilingual-e5-large-instruct", {QUERY: f"Instruct: {_SEARCH}\nQuery: "}),
    Card.of(
        r"bge-(small|base|large)-en(-v1\.5)?",
        {QUERY: "Represent this sentence for searching relevant passages: "},
    ),
    Card.of(r"bge-(small|base|large)-zh(-v1\.5)?", {QUERY: "为这个句子生成表示以用于检索相关文章："}),
    Card.of("nomic-embed-text-v1", _NOMIC),
    Card.of(r"nomic-embed-text-v1\.5", _NOMIC, 64),
    Card.of("modernbert-embed-(base|large)", {key: _NOMIC[key] for key in (QUERY, DOCUMENT)}, 256),
    Card.of("gte-multilingual-base", smallest_dimension=128),
    Card.of("embeddinggemma-300m", smallest_dimension=128),
    Card.of(r"snowflake-arctic-embed-(m-v1\.5|m-v2\.0|l-v2\.0)", smallest_dimension=256),
)


def card_of(name: str) -> Card | None:
    """The card of a model, by a hub id or the last part of a path."""
    return next((card for card in _CARDS if card.name.search(name)), None)
