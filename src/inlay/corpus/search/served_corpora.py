"""The corpora of a server: `NAME=DIR` opened for search, and those of exact vectors as cache tiers too."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from inlay.corpus.search.batcher import SearchBatcher
from inlay.corpus.search.searcher import Searcher
from inlay.errors import ConfigError


def open_corpora(given: list[str]) -> Mapping[str, SearchBatcher]:
    """A batcher for each name; `ConfigError` names what is invalid."""
    batchers: dict[str, SearchBatcher] = {}
    for value in given:
        name, equals, directory = value.partition("=")
        if not name or not equals or not directory:
            raise ConfigError(f"--corpus {value}: write NAME=DIR, as in wiki=/data/wiki")
        if name in batchers:
            raise ConfigError(f"--corpus {value}: there is a corpus {name!r} already")
        batchers[name] = SearchBatcher(Searcher(Path(directory)))
    return batchers
