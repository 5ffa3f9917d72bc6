from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inlay.jobs import lines
from inlay.jobs.batch import Problem
from inlay.jobs.lines import Line, find_problems, read_slice

ENDPOINT = "/v1/embeddings"


def written(custom_id: str = "a", **others: object) -> str:
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": ENDPOINT, "body": {"input": "x"}, **others})


def file_of(tmp_path: Path, *rows: str) -> Path:
    path = tmp_path / "lines.jsonl"
    path.write_text("\n".join(rows), "utf-8")
    return path


@pytest.mark.parametrize(
    ("row", "code", "param"),
    [
        ("{", "invalid_json_line", None),
        ("[]", "invalid_line", None),
        ('{"custom_id": "a"}', "invalid_line", None),
        (written(""), "invalid_custom_id", "custom_id"),
        (written("a" * 513), "invalid_custom_id", "custom_id"),
        (written(method="GET"), "invalid_method", "method"),
        (written(url="/v1/rerank"), "invalid_url", "url"),
    ],
)
def test_a_line_that_asks_for_nothing_is_named_by_its_number(
    tmp_path: Path, row: str, code: str, param: str | None
) -> None:
    total, problems = find_problems(file_of(tmp_path, written(), row), ENDPOINT, 1 << 20)
    assert total == 2
    assert [(one.code, one.line, one.param) for one in problems] == [(code, 2, param)]


def test_a_line_in_another_encoding_is_named_too(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(f"{written()}\n".encode() + written("\xe9").replace("\\u00e9", "\xe9").encode("latin-1"))
    _, (problem,) = find_problems(path, ENDPOINT, 1 << 20)
    assert (problem.code, problem.line, "save the file as UTF-8" in problem.message) == ("invalid_json_line", 2, True)


def test_a_good_file_has_no_problems_and_blank_lines_count_for_nothing(tmp_path: Path) -> None:
    path = file_of(tmp_path, "\ufeff" + written("a"), "", written("b"), "")
    assert find_problems(path, ENDPOINT, 1 << 20) == (2, [])


def test_a_file_without_lines_is_a_problem(tmp_path: Path) -> None:
    total, problems = find_problems(file_of(tmp_path, "", " "), ENDPOINT, 1 << 20)
    assert (total, [one.code for one in problems]) == (0, ["empty_file"])


def test_each_line_has_an_id_of_its_own(tmp_path: Path) -> None:
    path = file_of(tmp_path, written("a"), written("b"), "", written("a"), written("a"))
    _, problems = find_problems(path, ENDPOINT, 1 << 20)
    assert [(one.code, one.line) for one in problems] == [("duplicate_custom_id", 4), ("duplicate_custom_id", 5)]
    assert "line 1" in problems[0].message


def test_a_line_is_bounded_and_those_after_it_are_still_read(tmp_path: Path) -> None:
    path = file_of(tmp_path, written("a", more="x" * 500), written("b"), "{")
    total, problems = find_problems(path, ENDPOINT, 200)
    assert total == 3
    assert [(one.code, one.line) for one in problems] == [("line_too_long", 1), ("invalid_json_line", 3)]


def test_the_number_of_lines_and_of_problems_told_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MOST_LINES", 3)
    _, problems = find_problems(file_of(tmp_path, *[written(str(i)) for i in range(4)]), ENDPOINT, 1 << 20)
    assert [one.code for one in problems] == ["too_many_lines"]
    monkeypatch.setattr(lines, "MOST_PROBLEMS", 2)
    _, problems = find_problems(file_of(tmp_path, "{", "{", "{"), ENDPOINT, 1 << 20)
    assert [one.line for one in problems] == [1, 2]


@given(
    rows=st.lists(st.sampled_from(["good", "bad", "blank"]), max_size=12),
    most_lines=st.integers(1, 4),
    most_bytes=st.integers(1, 300),
)
def test_slices_give_every_line_once_with_its_number(
    tmp_path_factory: pytest.TempPathFactory, rows: list[str], most_lines: int, most_bytes: int
) -> None:
    kinds = {"good": lambda i: written(f"id{i}"), "bad": lambda i: "{", "blank": lambda i: " "}
    path = file_of(tmp_path_factory.mktemp("slices"), *[kinds[kind](i) for i, kind in enumerate(rows, start=1)])
    found: list[tuple[int | None, str]] = []
    offset, number = 0, 1
    while True:
        part = read_slice(path, ENDPOINT, offset, number, most_lines, most_bytes)
        if part.next_offset == offset:
            break
        assert len(part.lines) <= most_lines
        for line in part.lines:
            assert isinstance(line, Line | Problem)
            found.append((line.number, "good") if isinstance(line, Line) else (line.line, "bad"))
        offset, number = part.next_offset, part.next_number
    assert found == [(i, kind) for i, kind in enumerate(rows, start=1) if kind != "blank"]
