from __future__ import annotations

from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from inlay.errors import ConfigError
from inlay.precompute.input_rows import read_rows


def test_every_format_gives_the_same_rows(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one", "id": "x"}\n{"text": "two", "id": "y"}\n')
    (tmp_path / "a.csv").write_text("id,text\nx,one\ny,two\n")
    parquet.write_table(pyarrow.table({"id": ["x", "y"], "text": ["one", "two"]}), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.csv", "a.parquet"):
        rows = list(read_rows(str(tmp_path / name), "auto", "text"))
        assert [(row.number, row.place, row.text, row.values["id"]) for row in rows] == [
            (1, f"{name}:1", "one", "x"),
            (2, f"{name}:2", "two", "y"),
        ]


def test_a_folder_is_read_in_the_order_of_names_and_places_name_the_file(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("three\n")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "c.jsonl").write_text('{"text": "four"}\n')
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    (tmp_path / "ignored.png").write_bytes(b"\xff")
    rows = list(read_rows(str(tmp_path), "auto", "text"))
    assert [(row.number, row.place, row.text) for row in rows] == [
        (1, "a.txt:1", "one"),
        (2, "a.txt:2", "two"),
        (3, "b.txt:1", "three"),
        (4, "sub/c.jsonl:1", "four"),
    ]


def test_what_has_been_read_is_told_in_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("line\n" * 10_000)
    told: list[int] = []
    assert len(list(read_rows(str(tmp_path / "a.txt"), "auto", "text", told.append))) == 10_000
    assert sum(told) == 50_000


def test_rows_without_a_text_say_why(tmp_path: Path) -> None:
    parquet.write_table(pyarrow.table({"text": ["one", None]}), tmp_path / "a.parquet")
    first, second = read_rows(str(tmp_path / "a.parquet"), "auto", "text")
    assert first.problem is None
    assert second.problem == "is of type NoneType, not a text"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.parquet", b"no parquet", "not a parquet file"),
        ("a.csv", b"id,body\n1,2\n", "no column 'text'"),
        ("a.csv", b"text\n\xff\xfe\n", "not UTF-8"),
        ("a.tsv", b"text\n", "--input-format"),
        ("missing/a.txt", None, "cannot be read"),
        ("empty", None, "cannot be read"),
    ],
)
def test_an_input_that_cannot_be_read_is_named(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        list(read_rows(str(tmp_path / name), "auto", "text"))


def test_a_line_that_is_not_utf_8_costs_only_itself(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\ncaf\xe9\nthree\r\n")
    first, second, third = read_rows(str(tmp_path / "a.txt"), "auto", "text")
    assert (first.text, third.text) == ("one", "three")
    assert second.problem == "is not UTF-8 (at its byte 3)"


def test_a_folder_without_texts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no files of the formats"):
        list(read_rows(str(tmp_path), "auto", "text"))
