from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest
from job_directories import add_batch, add_file, line_of

from inlay.errors import ConfigError, StorageFull
from inlay.jobs.batch import Status
from inlay.jobs.directory import JobDirectory, Upload


def test_what_was_kept_is_there_after_a_start(tmp_path: Path) -> None:
    directory = JobDirectory(tmp_path, 1 << 20)
    file, batch = add_file(directory, b"abc", owner="me"), add_batch(directory, [line_of("a")])
    used = directory.used_bytes
    directory.close()
    again = JobDirectory(tmp_path, 1 << 20)
    assert again.store.file(file.id) == file
    assert again.store.unended() == [batch]
    assert again.path_of(file.id).read_bytes() == b"abc"
    assert again.used_bytes == used == 3 + len(line_of("a"))
    again.close()


def test_a_directory_has_one_server_at_a_time(tmp_path: Path) -> None:
    directory = JobDirectory(tmp_path, 1 << 20)
    with pytest.raises(ConfigError, match="another server uses it"):
        JobDirectory(tmp_path, 1 << 20)
    directory.close()
    JobDirectory(tmp_path, 1 << 20).close()


def test_a_directory_that_cannot_be_used_is_a_mistake_of_who_starts_the_server(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"--jobs .* cannot be used"):
        JobDirectory(tmp_path / "file", 1 << 20)
    (tmp_path / "jobs.sqlite3").write_bytes(b"x" * 4096)
    with pytest.raises(ConfigError, match="cannot be used"):
        JobDirectory(tmp_path, 1 << 20)


def test_records_of_another_version_are_not_touched(tmp_path: Path) -> None:
    JobDirectory(tmp_path, 1 << 20).close()
    connection = sqlite3.connect(tmp_path / "jobs.sqlite3")
    connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(ConfigError, match="another version"):
        JobDirectory(tmp_path, 1 << 20)


def test_an_upload_that_ends_early_leaves_nothing(tmp_path: Path) -> None:
    directory = JobDirectory(tmp_path, 1 << 20)
    with contextlib.suppress(OSError), Upload(directory, "file-1") as upload:
        upload.write(b"abc")
        raise OSError("gone")
    assert directory.used_bytes == 0
    assert not directory.path_of("file-1").exists()
    directory.close()


def test_bytes_without_a_record_go_at_the_next_start(tmp_path: Path) -> None:
    directory = JobDirectory(tmp_path, 1 << 20)
    batch = add_batch(directory, [line_of("a")])
    directory.path_of(batch.output_file_id).write_bytes(b"half")  # of a batch that goes on
    directory.path_of("file-lost").write_bytes(b"lost")
    directory.close()
    again = JobDirectory(tmp_path, 1 << 20)
    assert again.path_of(batch.output_file_id).exists()
    assert not again.path_of("file-lost").exists()
    again.close()


def test_all_files_together_are_bounded(tmp_path: Path) -> None:
    directory = JobDirectory(tmp_path, 10)
    file = add_file(directory, b"12345678")
    with Upload(directory, "file-2") as upload:
        upload.write(b"12")
        with pytest.raises(StorageFull, match="--max-jobs-bytes"):
            upload.write(b"3")
    assert directory.used_bytes == 8
    directory.remove(file)
    assert directory.used_bytes == 0
    assert add_file(directory, b"1234567890").num_bytes == 10
    directory.close()


def test_a_key_has_an_owner_that_lasts_and_does_not_tell_it(tmp_path: Path) -> None:
    directory = JobDirectory(tmp_path, 10)
    owner = directory.owner_of(b"secret")
    directory.close()
    again = JobDirectory(tmp_path, 10)
    assert again.owner_of(b"secret") == owner
    assert again.owner_of(b"other") != owner
    assert again.owner_of(None) == ""
    assert "secret" not in owner
    again.close()


def test_lists_are_of_one_owner_in_order_page_by_page(tmp_path: Path) -> None:
    directory = JobDirectory(tmp_path, 1 << 20)
    ids = [add_file(directory, b"x", owner="me").id for _ in range(3)]
    add_file(directory, b"x", owner="you")
    store = directory.store
    assert [one.id for one in store.files("me", None, None, 9, descends=False)] == ids
    assert [one.id for one in store.files("me", "batch", ids[2], 1, descends=True)] == [ids[1]]
    assert store.files("me", "batch_output", None, 9, descends=True) == []
    directory.close()


def test_a_change_that_fails_leaves_the_record_as_it_was(tmp_path: Path) -> None:
    directory = JobDirectory(tmp_path, 1 << 20)
    batch = add_batch(directory, [line_of("a")])
    with pytest.raises(sqlite3.IntegrityError):  # the batch's file is there already
        directory.store.update(batch.id, lambda found: found.to(Status.COMPLETED), directory.store.all_files())
    assert directory.store.batch(batch.id) == batch
    directory.close()
