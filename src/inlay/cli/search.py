"""`inlay search`: the nearest rows of a corpus, in its own files or in a vector database that has them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from inlay.cli.embedders import open_reranker, open_source
from inlay.cli.options import with_settings
from inlay.config import SEARCH, Settings
from inlay.errors import ConfigError, CorpusMismatch, InlayError, InvalidInput
from inlay.models.prompts import QUERY
from inlay.types import DENSE

if TYPE_CHECKING:
    from inlay.corpus.recipe import Recipe
    from inlay.corpus.search.searcher import Hit
    from inlay.types import FloatArray

SHOWN_CHARACTERS = 100


@with_settings(SEARCH)
def search(
    settings: Settings,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The corpus's directory.")],
    query: Annotated[str, typer.Argument(metavar="QUERY", help="The text to search for.")],
    top_k: Annotated[int, typer.Option("--top-k", "-k", help="How many rows to find.")] = 10,
    model: Annotated[
        Optional[str],  # noqa: UP045 - typer reads it
        typer.Option(help="The corpus's model, where it is no longer at the place that the corpus names."),
    ] = None,
    prompt: Annotated[str, typer.Option(help="Prompt put before the query.")] = QUERY,
    instruction: Annotated[Optional[str], typer.Option(help="Task put before the query instead.")] = None,  # noqa: UP045
    filters: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--filter", metavar="FIELD=VALUE", help="A value that a kept column must have (repeatable)."),
    ] = None,
    database: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--in", metavar="URL", help="Search the collection that the corpus was exported to."),
    ] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Search exactly, past the index.")] = False,
    hybrid: Annotated[
        bool, typer.Option("--hybrid", help="Search by all outputs that the corpus keeps: dense, sparse, colbert.")
    ] = False,
    weights: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="KIND=WEIGHT,…", help="Of each kind, with --hybrid.  [default: 0.4, 0.2 and 0.4]"),
    ] = None,
    candidates: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, max=1000, help="Rows that dense and sparse vectors each find, with --hybrid.  [100]"),
    ] = None,
    rerank: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="MODEL", help="A reranker that orders what was found by the query."),
    ] = None,
    top_n: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="How many of those to show, with --rerank; default: all."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON line for each row.")] = False,
) -> None:
    """Search a corpus with the model that made it."""
    from inlay.corpus.search.hybrid import CANDIDATES, HybridQuery, weights_for
    from inlay.corpus.search.searcher import Searcher

    searcher = Searcher(directory)
    recipe = searcher.corpus.recipe
    wanted = _parse_filters(filters or [])
    if top_n is not None and rerank is None:
        raise ConfigError("--top-n is for --rerank: without it, --top-k says how many rows to find")
    if database is not None and wanted:
        raise ConfigError("--filter is for the corpus's own files: leave out --in, or ask the database itself")
    if weights is not None and not hybrid:
        raise ConfigError("--weights is for --hybrid: give both, or neither")
    if hybrid and database is not None:
        raise ConfigError("--hybrid is for the corpus's own files: leave out --in")
    if candidates is not None and not hybrid:
        raise ConfigError("--candidates is for --hybrid: give both, or neither")
    try:
        by_kind = weights_for(recipe.outputs, _parse_weights(weights)) if hybrid else None
    except InvalidInput as error:
        raise ConfigError(f"--hybrid: {error.message}") from error
    with open_source(settings, model if settings.server else model or recipe.model, recipe) as source:
        if source.spec.fingerprint != recipe.fingerprint:
            raise CorpusMismatch(
                f"{directory} was made with {recipe.model} in {recipe.dtype} (fingerprint {recipe.fingerprint}); this "
                f"is {source.spec.name} in {source.spec.dtype} (fingerprint {source.spec.fingerprint}): vectors of "
                "different models cannot be compared. Name its model with --model, its --dtype and its --adapter, if "
                "it has one, or rebuild the corpus"
            )
        asked = _query_recipe(recipe, prompt, instruction, recipe.outputs if hybrid else (DENSE,))
        (answer,) = source.embed_texts([query], asked)
    if isinstance(answer, InlayError):
        raise ConfigError(f"the query {answer.message}")
    if by_kind is not None:
        hits = searcher.search_hybrid(
            HybridQuery.of(answer.vector, answer.others, by_kind, candidates or CANDIDATES),
            top_k,
            wanted,
            is_exact=exact,
        )
    elif database is None:
        (hits,) = searcher.search_many(answer.vector[None], top_k, wanted, is_exact=exact)
    else:
        hits = _search_database(database, searcher, answer.vector, top_k)
    if rerank is not None:
        hits = _rerank(rerank, query, hits, top_n, settings)
    _show(hits, as_json=as_json)


def _rerank(model: str, query: str, hits: list[Hit], top_n: int | None, settings: Settings) -> list[Hit]:
    """The hits by the scores of a reranker, which takes the end of a text that is too long for it."""
    documents = [str(hit.record.get("text") or "") for hit in hits]
    if not all(documents):
        raise ConfigError("--rerank needs the texts of the rows, which this corpus has not kept: precompute it again")
    if not documents:
        return []
    with open_reranker(model, settings) as reranker:
        ranked = reranker.rank(query, documents, top_n=top_n, long_documents="truncate")
    return [hits[one.index]._replace(score=one.score) for one in ranked]


def _query_recipe(recipe: Recipe, prompt: str, instruction: str | None, outputs: tuple[str, ...]) -> Recipe:
    from msgspec.structs import replace

    return replace(recipe, prompt=None if instruction else prompt, instruction=instruction, outputs=outputs)


def _parse_weights(given: str | None) -> dict[str, float] | None:
    if given is None:
        return None
    pairs = [part.partition("=") for part in given.split(",")]
    try:
        weights = {kind.strip(): float(weight) for kind, _, weight in pairs}
    except ValueError as error:
        raise ConfigError(f"--weights {given!r}: write KIND=WEIGHT,…, as in dense=1,sparse=0.3,colbert=1") from error
    if len(weights) < len(pairs):
        raise ConfigError(f"--weights {given!r} names a kind twice: give each once")
    return weights


def _search_database(url: str, searcher: Any, query: FloatArray, top_k: int) -> list[Hit]:  # noqa: ANN401
    from inlay.corpus.export.database import check_fingerprint, open_database

    with open_database(url) as store:
        check_fingerprint(searcher.corpus, store)
        return store.search(query, top_k)


def _parse_filters(filters: list[str]) -> Mapping[str, Any]:
    """Values as JSON where they are (`2024`, `true`, `["de", "en"]`), else as texts."""
    wanted = {}
    for given in filters:
        field, equals, value = given.partition("=")
        if not equals:
            raise ConfigError(f"--filter {given}: write FIELD=VALUE")
        try:
            wanted[field] = json.loads(value)
        except ValueError:
            wanted[field] = value
    return wanted


def _show(hits: list[Hit], *, as_json: bool) -> None:
    if as_json:
        for hit in hits:
            scores = {} if hit.scores is None else {"scores": dict(hit.scores)}
            typer.echo(json.dumps({**hit.record, "score": hit.score, **scores}, ensure_ascii=False))
        return
    for hit in hits:
        text = " ".join(str(hit.record.get("text", "")).split())
        shown = text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…"
        typer.echo(f"{hit.score:.4f}  {hit.record['id']}  {shown}")
