"""`Reranker` and `AsyncReranker`: the best first, mistakes named, and a cache as the server has."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from checkpoints import text_of
from command import run_inlay
from rerankers import make_reranker

import inlay
from inlay import AsyncReranker, InvalidInput, ModelError, Ranked, Reranker
from inlay.ops.int8 import can_multiply_bytes

QUERY, DOCUMENTS = text_of(4), [text_of(length, seed=length) for length in (3, 8, 5, 8)]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_reranker(tmp_path_factory.mktemp("reranker") / "m", "xlm-roberta"))


@pytest.fixture(scope="module")
def reranker(path: str):
    with Reranker(path, dtype="float32") as made:
        yield made


def test_the_best_come_first_and_equal_ones_in_their_order(reranker: Reranker) -> None:
    ranked = reranker.rank(QUERY, DOCUMENTS)
    assert all(isinstance(one, Ranked) for one in ranked)
    assert [one.score for one in ranked] == sorted((one.score for one in ranked), reverse=True)
    places = [one.index for one in ranked]
    assert sorted(places) == [0, 1, 2, 3]
    assert places.index(1) + 1 == places.index(3), "two equal documents"
    assert reranker.rank(QUERY, DOCUMENTS, top_n=2) == ranked[:2]
    assert reranker.rank(QUERY, []) == []
    assert reranker.rank(QUERY, (document for document in DOCUMENTS)) == ranked  # type: ignore[arg-type]


def test_the_same_from_coroutines(path: str, reranker: Reranker) -> None:
    async def story() -> list[Ranked]:
        async with AsyncReranker(path, dtype="float32") as made:
            return await made.rank(QUERY, DOCUMENTS)

    assert asyncio.run(story()) == reranker.rank(QUERY, DOCUMENTS)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"query": "", "documents": ["a"]}, "query"),
        ({"query": 5, "documents": ["a"]}, "query"),
        ({"query": "a", "documents": "abc"}, "documents"),
        ({"query": "a", "documents": ["a", None]}, "documents[1]"),
        ({"query": "a", "documents": ["a", ""]}, "documents[1]"),
        ({"query": "a", "documents": ["a"], "top_n": 0}, "top_n"),
        ({"query": "a", "documents": ["a"], "long_documents": "shred"}, "long_documents"),
    ],
)
def test_a_mistake_is_named(reranker: Reranker, arguments: dict[str, object], named: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        reranker.rank(**arguments)  # type: ignore[arg-type]
    assert raised.value.param == named


def test_unknown_arguments_and_other_models_are_told_of(reranker: Reranker) -> None:
    with pytest.raises(TypeError, match="it takes top_n"):
        reranker.rank(QUERY, DOCUMENTS, top=2)  # type: ignore[call-arg]
    with pytest.raises(ModelError, match="demo is an embedding model: use Embedder"):
        Reranker("demo")


def test_after_close_it_says_so(path: str) -> None:
    made = Reranker(path)
    made.close()
    with pytest.raises(inlay.ShuttingDown):
        made.rank(QUERY, DOCUMENTS)


@pytest.mark.skipif(not can_multiply_bytes(), reason="there is no product of bytes")
@pytest.mark.parametrize("layout", ["causal", "logit_score", "score", "xlm-roberta", "bert"])
def test_it_is_quantised_once_with_its_head(layout: str, tmp_path: Path) -> None:
    source, target = make_reranker(tmp_path / layout, layout), tmp_path / "int8"
    done = run_inlay("quantize", str(source), "-o", str(target), "--int8-cosine", "0.9")
    assert done.returncode == 0, done.stderr
    with Reranker(str(target)) as stored, Reranker(str(source), dtype="int8", int8_cosine=0.9) as measured:
        found, expected = stored.rank(QUERY, DOCUMENTS), measured.rank(QUERY, DOCUMENTS)
    assert [one.index for one in found] == [one.index for one in expected]
    # A table that scores, too, is stored in bfloat16, as it is published.
    assert [one.score for one in found] == pytest.approx([one.score for one in expected], abs=5e-3)
