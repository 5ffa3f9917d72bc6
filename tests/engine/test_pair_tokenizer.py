"""Pairs become the ids that the publishers' code gives them, cut as it cuts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from checkpoints import text_of
from hypothesis import given
from hypothesis import strategies as st
from rerankers import make_chat_tokenizer, make_pair_tokenizer, make_reranker
from tokenizers import normalizers

from inlay.engine import tokenizer as module
from inlay.engine.pair_tokenizer import SegmentTokenizer, _cut_longest_first
from inlay.engine.pair_tokenizer import make_pair_tokenizer as make
from inlay.engine.tokenizer import Tokenizer
from inlay.errors import ModelError
from inlay.library.rank_verification import check_qwen3_ids
from inlay.models.ranking import first_part
from inlay.models.spec import read_spec
from inlay.types import ModelSpec, Pair, Truncate

# Qwen3-Reranker's own tokenizer; `shared/models2.md` has where they come from.
PREFIX = """151644 8948 198 60256 3425 279 11789 20027 279 8502 3118 389 279 11361 323 279 758 1235 3897 13 7036 429 279
4226 646 1172 387 330 9693 1 476 330 2152 3263 151645 198 151644 872 198"""
BODY = """27 641 1235 26818 16246 264 3482 2711 3239 11 17179 9760 46769 429 4226 279 3239 198 27 2859 26818 3555 374
279 6722 315 5616 5267 75692 26818 576 6722 315 5616 374 26549 13"""
SUFFIX = "151645 198 151644 77091 198 151667 271 151668 271"
DOCUMENT_SIGN = 26818  # ">:"


@pytest.fixture(scope="module")
def qwen3(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    path = make_reranker(tmp_path_factory.mktemp("qwen3") / "m", "causal")
    (path / "tokenizer.json").write_bytes((shared / "qwen3-tokenizer" / "reranker" / "tokenizer.json").read_bytes())
    return read_spec(path, "m")


def test_qwen3_rerankers_ids_are_the_golden_ones(qwen3: ModelSpec) -> None:
    assert qwen3.ranking is not None
    first = first_part(qwen3, "What is the capital of China?", None)
    pair = Pair(first, "The capital of China is Beijing.")
    encoded = make(qwen3.path, qwen3.ranking).encode(pair, 8192, Truncate.NONE)
    golden = [[int(number) for number in ids.split()] for ids in (PREFIX, BODY, SUFFIX)]
    assert encoded.ids.tolist() == [*golden[0], *golden[1], *golden[2]]
    assert check_qwen3_ids(qwen3).has_passed
    other = replace(qwen3, ranking=replace(qwen3.ranking, suffix=qwen3.ranking.suffix + "\n"))
    assert check_qwen3_ids(other).has_passed is False
    shared_part = encoded.ids[: encoded.prefix_length].tolist()
    assert shared_part == [*golden[0], *golden[1][: len(golden[1]) - 7]]
    assert shared_part[-1] == DOCUMENT_SIGN


@pytest.mark.parametrize("max_tokens", [60, 90, 150])
def test_a_cut_leaves_prefix_and_suffix_whole(qwen3: ModelSpec, max_tokens: int) -> None:
    assert qwen3.ranking is not None
    pairs = make(qwen3.path, qwen3.ranking)
    whole = pairs.encode(Pair("a question ", "word " * 400), 8192, Truncate.NONE)
    cut = pairs.encode(Pair("a question ", "word " * 400), max_tokens, Truncate.END)
    assert len(cut.ids) == max_tokens
    assert cut.num_tokens == len(whole.ids)
    number = len(SUFFIX.split())
    assert cut.ids.tolist() == [*whole.ids[: max_tokens - number].tolist(), *map(int, SUFFIX.split())]


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 40))
def test_segments_are_cut_as_the_tokenizers_longest_first_does(first: int, second: int, room: int) -> None:
    tokenizer = make_pair_tokenizer("bert")
    if room > 0:
        tokenizer.enable_truncation(room + 3, strategy="longest_first")
        types = np.array(tokenizer.encode(text_of(first), text_of(second)).type_ids)
        expected = int((types == 0).sum()) - 2, int((types == 1).sum()) - 1
    else:
        expected = 0, 0
    cut = _cut_longest_first(np.arange(first), np.arange(second), room)
    assert tuple(map(len, cut)) == expected


def test_a_tokenizer_without_a_template_for_pairs_is_told_of(tmp_path: Path) -> None:
    """One whose normaliser takes all letters away shows no place for either segment."""
    tokenizer = make_chat_tokenizer()
    tokenizer.normalizer = normalizers.Replace("a", "")
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ModelError, match="no template for pairs"):
        SegmentTokenizer(Tokenizer(tmp_path), Tokenizer(tmp_path, takes_special_tokens=False), has_types=True)


def test_a_very_long_document_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = read_spec(make_reranker(tmp_path / "m", "bert"), "m")
    assert spec.ranking is not None
    text = text_of(4000)
    whole = make(spec.path, spec.ranking).encode(Pair("hello", text), 10**6, Truncate.NONE)
    monkeypatch.setattr(module, "PIECE", 500)
    in_pieces = make(spec.path, spec.ranking).encode(Pair("hello", text), 10**6, Truncate.NONE)
    assert np.array_equal(in_pieces.ids, whole.ids)
    refused = make(spec.path, spec.ranking).encode(Pair("hello", text), 512, Truncate.NONE)
    assert 512 < refused.num_tokens < 4000
    assert not refused.is_whole
