"""A corpus as a cache tier: what it gives is bit for bit what the model would give, or nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import numpy as np
import pytest
from corpus.sources import RECIPE, make_corpus, vector_of, write_rows
from entries import vector_in
from fakes import SPEC

from inlay.cache.key import cache_keys
from inlay.cache.urls import make_cache
from inlay.corpus.corpus import Corpus
from inlay.corpus.tier import CorpusTier, open_corpus_tier
from inlay.errors import ConfigError
from inlay.types import Truncate


def key_of(text: str) -> bytes:
    return cache_keys(SPEC.fingerprint, "dense.1", text, Truncate.NONE, SPEC.max_tokens).whole


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "a.jsonl", [{"id": n, "text": f"t{n}"} for n in range(300)])


def test_hits_are_bit_for_bit_what_was_computed(tmp_path: Path, file: Path) -> None:
    make_corpus(tmp_path / "c", file)
    more = write_rows(tmp_path / "b.jsonl", [{"id": n, "text": f"t{n}"} for n in range(300, 400)])
    make_corpus(tmp_path / "c", more, is_append=True)
    tier = open_corpus_tier(tmp_path / "c")
    found = asyncio.run(tier.get_many([key_of(f"t{n}") for n in range(500)]))
    assert found.keys() == {key_of(f"t{n}") for n in range(400)}
    for n in range(400):
        entry = found[key_of(f"t{n}")]
        assert np.array_equal(vector_in(entry), vector_of(f"t{n}"))
        assert (entry.num_tokens, entry.is_truncated) == (len(f"t{n}"), False)


def test_flipped_bits_are_misses_and_counted(tmp_path: Path, file: Path) -> None:
    make_corpus(tmp_path / "c", file)
    path = tmp_path / "c" / "part-0001" / "vectors.npy"
    data = bytearray(path.read_bytes())
    generator = np.random.default_rng(0)
    for place in generator.integers(128, len(data), 40).tolist():  # past the header
        data[place] ^= 1 << int(generator.integers(8))
    path.write_bytes(data)
    tier = open_corpus_tier(tmp_path / "c")
    found = tier.read_many([key_of(f"t{n}") for n in range(300)])
    assert 200 < len(found) < 300
    assert tier.numbers()["errors"] == 300 - len(found)
    texts = {key_of(f"t{n}"): f"t{n}" for n in range(300)}
    assert all(np.array_equal(vector_in(entry), vector_of(texts[key])) for key, entry in found.items())


def test_a_rounded_corpus_is_no_cache(tmp_path: Path, file: Path) -> None:
    make_corpus(tmp_path / "c", file, recipe=msgspec.structs.replace(RECIPE, store_dtype="f16"))
    with pytest.raises(ConfigError, match="f16"):
        make_cache([f"corpus://{tmp_path / 'c'}"])
    assert [tier.name for tier in make_cache(["memory://1MiB"], [Corpus(tmp_path / "c")]).tiers] == ["memory"]


def test_a_served_corpus_is_asked_after_the_memory(tmp_path: Path, file: Path) -> None:
    make_corpus(tmp_path / "c", file)
    cache = make_cache(["memory://1MiB", f"disk://{tmp_path / 'd'}"], [Corpus(tmp_path / "c")])
    assert [tier.name for tier in cache.tiers] == ["memory", "corpus", "disk"]
    asyncio.run(cache.close())
    cache = make_cache(["memory://1MiB", "redis://127.0.0.1:1/0"], [Corpus(tmp_path / "c")])
    assert [tier.name for tier in cache.tiers] == ["memory", "corpus", "redis"]


@pytest.mark.parametrize(
    "damage", ["no manifest", "garbage", "broken header", "flipped bit", "cut short", "missing file"]
)
def test_a_directory_that_is_no_whole_corpus_is_refused(tmp_path: Path, file: Path, damage: str) -> None:
    make_corpus(tmp_path / "c", file)
    if damage == "no manifest":
        (tmp_path / "c" / "manifest.json").unlink()
    elif damage == "garbage":
        (tmp_path / "c" / "manifest.json").write_bytes(b"{")
    elif damage == "broken header":
        path = tmp_path / "c" / "part-0001" / "rows.npy"
        path.write_bytes(path.read_bytes().replace(b"}", b"(", 1))
    elif damage == "flipped bit":
        path = tmp_path / "c" / "part-0001" / "rows.npy"
        data = bytearray(path.read_bytes())
        data[-100] ^= 1
        path.write_bytes(data)
    elif damage == "cut short":
        path = tmp_path / "c" / "part-0001" / "vectors.npy"
        path.write_bytes(path.read_bytes()[:-100])
    else:
        (tmp_path / "c" / "part-0001" / "places.npy").unlink()
    with pytest.raises(ConfigError, match=r"precompute|rebuild"):
        make_cache([f"corpus://{tmp_path / 'c'}"])


def test_what_is_put_is_not_kept(tmp_path: Path, file: Path) -> None:
    make_corpus(tmp_path / "c", file)
    tier = CorpusTier(Corpus(tmp_path / "c"))
    entry = tier.read_many([key_of("t1")])[key_of("t1")]
    asyncio.run(tier.put_many({b"x" * 32: entry}))
    assert tier.read_many([b"x" * 32]) == {}
