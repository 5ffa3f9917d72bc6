from __future__ import annotations

import pytest
from msgspec.structs import astuple

from inlay.cache import key as module
from inlay.cache.key import cache_keys
from inlay.types import Truncate

BASE = ("f" * 32, "dense", "some text", Truncate.END, 64)


@pytest.mark.parametrize(
    "other",
    [
        ("e" * 32, "dense", "some text", Truncate.END, 64),
        ("f" * 32, "dense", "some text ", Truncate.END, 64),
        ("f" * 32, "dense", "Some text", Truncate.END, 64),
        ("f" * 32, "sparse", "some text", Truncate.END, 64),
    ],
)
def test_model_kind_and_text_change_both_keys(other: tuple[str, str, str, Truncate, int]) -> None:
    assert not set(astuple(cache_keys(*other))) & set(astuple(cache_keys(*BASE)))


@pytest.mark.parametrize(
    "other", [("f" * 32, "dense", "some text", Truncate.START, 64), ("f" * 32, "dense", "some text", Truncate.END, 63)]
)
def test_side_and_limit_change_the_key_of_a_cut_text_alone(other: tuple[str, str, str, Truncate, int]) -> None:
    assert cache_keys(*other).whole == cache_keys(*BASE).whole
    assert cache_keys(*other).cut != cache_keys(*BASE).cut


def test_what_is_not_to_be_cut_or_fits_for_certain_has_one_key() -> None:
    assert cache_keys("f", "dense", "some text", Truncate.NONE, 64).cut is None
    assert cache_keys("f", "dense", "some text", Truncate.END, 9 * 11 + 16).cut is None
    assert cache_keys("f", "dense", "some text", Truncate.END, 9 * 11 + 15).cut is not None
    assert cache_keys("f", "dense", [1, 2, 3], Truncate.END, 3).cut is None
    assert cache_keys("f", "dense", [1, 2, 3], Truncate.END, 2).cut is not None


def test_the_version_changes_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = cache_keys(*BASE)
    monkeypatch.setattr(module, "KEY_VERSION", b"0")
    assert not set(astuple(cache_keys(*BASE))) & set(astuple(before))


def test_the_same_fields_give_the_same_key() -> None:
    assert cache_keys(*BASE) == cache_keys(*BASE)
    assert [len(key or b"") for key in astuple(cache_keys(*BASE))] == [32, 32]


def test_fields_cannot_run_into_each_other() -> None:
    assert cache_keys("ab", "dense", "c", Truncate.NONE, 1) != cache_keys("a", "dense", "bc", Truncate.NONE, 1)


def test_token_ids_are_not_the_text_they_look_like() -> None:
    ids = [int.from_bytes(b"abcdefgh", "little")]
    assert cache_keys("f", "dense", "abcdefgh", Truncate.NONE, 9) != cache_keys("f", "dense", ids, Truncate.NONE, 9)
    assert cache_keys("f", "dense", [1, 2], Truncate.NONE, 9) != cache_keys("f", "dense", [2, 1], Truncate.NONE, 9)
