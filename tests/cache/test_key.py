from __future__ import annotations

import pytest

from inlay.cache import key as module
from inlay.cache.key import cache_key
from inlay.types import Truncate

BASE = ("f" * 32, "some text", Truncate.NONE, 256)


@pytest.mark.parametrize(
    "other",
    [
        ("e" * 32, "some text", Truncate.NONE, 256),
        ("f" * 32, "some text ", Truncate.NONE, 256),
        ("f" * 32, "Some text", Truncate.NONE, 256),
        ("f" * 32, "some text", Truncate.END, 256),
        ("f" * 32, "some text", Truncate.NONE, 255),
    ],
)
def test_each_field_changes_the_key(other: tuple[str, str, Truncate, int]) -> None:
    assert cache_key(*other) != cache_key(*BASE)


def test_the_version_changes_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = cache_key(*BASE)
    monkeypatch.setattr(module, "KEY_VERSION", b"0")
    assert cache_key(*BASE) != before


def test_the_same_fields_give_the_same_key() -> None:
    assert cache_key(*BASE) == cache_key(*BASE)
    assert len(cache_key(*BASE)) == 32


def test_fields_cannot_run_into_each_other() -> None:
    assert cache_key("ab", "c", Truncate.NONE, 1) != cache_key("a", "bc", Truncate.NONE, 1)


def test_token_ids_are_not_the_text_they_look_like() -> None:
    ids = [int.from_bytes(b"abcdefgh", "little")]
    assert cache_key("f", "abcdefgh", Truncate.NONE, 9) != cache_key("f", ids, Truncate.NONE, 9)
    assert cache_key("f", [1, 2], Truncate.NONE, 9) != cache_key("f", [2, 1], Truncate.NONE, 9)
