"""The corpora of a server: `NAME=DIR` opened for search, and those of exact vectors as cache tiers too."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from inlay.corpus.search.batcher import SearchBatcher
from inlay.corpus.search.searcher import Searcher
from inlay.errors import ConfigError
from inlay.telemetry.logs import get_logger

log = get_logger("corpus")


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


def foreign_corpora(corpora: Mapping[str, SearchBatcher], fingerprints: Collection[str]) -> dict[str, str]:
    """The corpora that no model with one of these fingerprints has made, and what they were made with."""
    recipes = {name: batcher.searcher.corpus.recipe for name, batcher in corpora.items()}
    return {name: recipe.model for name, recipe in recipes.items() if recipe.fingerprint not in fingerprints}


def warn_of_foreign_corpora(corpora: Mapping[str, SearchBatcher], fingerprints: Collection[str]) -> None:
    """Say at once which corpora no served model has made; their searches will be refused."""
    for name, model in foreign_corpora(corpora, fingerprints).items():
        log.warning("no served model has made this corpus", corpus=name, made_with=model)
