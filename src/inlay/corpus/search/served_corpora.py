"""The corpora of a server: `NAME=DIR` opened for search, and those of exact vectors as cache tiers too."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from inlay.corpus.search.batcher import SearchDesk
from inlay.corpus.search.searcher import Searcher
from inlay.errors import ConfigError


def open_corpora(given: list[str]) -> Mapping[str, SearchDesk]:
    """A desk for each name; `ConfigError` names what is off."""
    desks: dict[str, SearchDesk] = {}
    for value in given:
        name, equals, directory = value.partition("=")
        if not name or not equals or not directory:
            raise ConfigError(f"--corpus {value}: write NAME=DIR, as in wiki=/data/wiki")
        if name in desks:
            raise ConfigError(f"--corpus {value}: there is a corpus {name!r} already")
        desks[name] = SearchDesk(Searcher(Path(directory)))
    return desks
