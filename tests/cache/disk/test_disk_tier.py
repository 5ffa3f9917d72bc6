"""The disk tier under all that can happen to a directory: never a wrong vector, never an error to the client."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from entries import dense, vector_in
from hypothesis import given, settings
from hypothesis import strategies as st

from inlay.cache.disk import tier as module
from inlay.cache.disk.directory import open_disk
from inlay.cache.disk.segment import HEADER, Segment, stride_of
from inlay.cache.disk.segment_index import Place
from inlay.cache.disk.segment_writer import MOST_UNSYNCED
from inlay.cache.disk.segments import SEGMENTS
from inlay.cache.disk.tier import INDEX, DiskTier
from inlay.cache.record import Record
from inlay.cache.tiers import Cache
from inlay.cache.urls import make_cache
from inlay.errors import ConfigError
from inlay.types import Entry

WIDTH = 32
PLENTY = 1 << 24


def key_of(number: int) -> bytes:
    return hashlib.sha256(b"%d" % number).digest()


def entry_of(number: int, width: int = WIDTH) -> Entry:
    """The one right entry of a number."""
    vector = np.random.default_rng(number).standard_normal(width).astype(np.float32)
    return dense(vector, number % 1000, number % 2 == 0)


def put(tier: DiskTier, numbers: range, width: int = WIDTH) -> None:
    tier.write_many({key_of(number): entry_of(number, width) for number in numbers})


def right(tier: DiskTier, numbers: range) -> set[int]:
    """The numbers that are here; a wrong vector among them fails the test."""
    found = tier.read_many([key_of(number) for number in numbers])
    here = {number for number in numbers if key_of(number) in found}
    for number in here:
        entry, expected = found[key_of(number)], entry_of(number, len(vector_in(found[key_of(number)])))
        assert np.array_equal(vector_in(entry), vector_in(expected))
        assert (entry.num_tokens, entry.is_truncated) == (expected.num_tokens, expected.is_truncated)
    return here


def files_held(folder: Path) -> list[str]:
    """Files below a folder that this process has open, by their names."""
    held = []
    for link in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            held.append(os.readlink(link))
    return [name for name in held if str(folder) in name]


@pytest.fixture
def tier(tmp_path: Path) -> Iterator[DiskTier]:
    made = open_disk(tmp_path / "cache", PLENTY)
    yield made
    made.release()


def segments(tier: DiskTier) -> list[Path]:
    return sorted((tier.path / SEGMENTS).iterdir())


def test_what_is_written_is_read_again_also_after_a_restart(tmp_path: Path) -> None:
    first = open_disk(tmp_path, PLENTY)
    put(first, range(100))
    put(first, range(100, 120), width=7)
    assert right(first, range(130)) == set(range(120))
    first.release()
    second = open_disk(tmp_path, PLENTY)
    assert right(second, range(130)) == set(range(120))
    assert second.num_entries == 120
    second.release()


def test_the_oldest_go_when_the_bound_is_reached_and_it_holds_in_bytes(tmp_path: Path) -> None:
    max_bytes = 64 << 10
    tier = open_disk(tmp_path, max_bytes)
    for start in range(0, 3000, 50):
        put(tier, range(start, start + 50))
        on_disk = sum(file.stat().st_size for file in segments(tier))
        assert on_disk == tier.num_bytes <= max_bytes
    here = right(tier, range(3000))
    assert here == set(range(3000 - len(here), 3000))
    assert len(here) * stride_of(WIDTH * 4) > max_bytes * 0.8
    assert tier.num_entries == len(here)
    assert tier.evictions == 3000 - len(here)
    tier.release()


def test_a_vector_larger_than_the_bound_is_not_kept(tmp_path: Path) -> None:
    tier = open_disk(tmp_path, 1000)
    put(tier, range(3), width=4096)
    assert right(tier, range(3)) == set()
    tier.release()


def test_entries_expire_by_the_time_they_were_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tier = open_disk(tmp_path, PLENTY, ttl=60)
    put(tier, range(5))
    now = module.time.time()
    assert right(tier, range(5)) == set(range(5))
    monkeypatch.setattr(module.time, "time", lambda: now + 61)
    assert right(tier, range(5)) == set()
    put(tier, range(2))
    assert right(tier, range(5)) == {0, 1}
    tier.release()


def test_kill_9_at_any_moment_of_writing_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    """Fifty writers, each killed after a random time, one after the other in one directory."""
    program = Path(__file__).with_name("disk_writer.py")
    command = [sys.executable, str(program), str(tmp_path / "cache"), "50"]
    rounds = subprocess.run(command, capture_output=True, text=True, timeout=170, check=True)
    acknowledged = int(rounds.stdout)
    assert acknowledged > 1000
    tier = open_disk(tmp_path / "cache", PLENTY * 16)
    assert right(tier, range(acknowledged)) == set(range(acknowledged))
    good, _ = tier.check()
    assert good >= acknowledged
    assert len(segments(tier)) <= 2, "each writer must go on where the one before was killed"
    put(tier, range(acknowledged, acknowledged + 10))
    tier.release()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32))
def test_flipped_bits_are_misses(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    chance = random.Random(seed)
    tier = open_disk(tmp_path_factory.mktemp("flipped"), PLENTY)
    put(tier, range(50))
    (file,) = segments(tier)
    data = bytearray(file.read_bytes()[: HEADER.size + 50 * stride_of(WIDTH * 4)])
    hit = set()
    for _ in range(20):
        place = chance.randrange(HEADER.size, len(data))
        data[place] ^= 1 << chance.randrange(8)
        hit.add((place - HEADER.size) // stride_of(WIDTH * 4))
    with file.open("r+b") as opened:
        opened.write(data)
    assert right(tier, range(50)) >= set(range(50)) - hit
    assert tier.check()[1] <= len(hit)
    tier.release()
    shutil.rmtree(tier.path)


@pytest.mark.parametrize("size", [0, 3, HEADER.size, HEADER.size + 10, HEADER.size + 5 * stride_of(WIDTH * 4) + 9])
def test_a_segment_cut_short_is_misses_while_open_and_after(tier: DiskTier, size: int) -> None:
    put(tier, range(20))
    os.truncate(segments(tier)[0], size)
    kept = max(0, size - HEADER.size) // stride_of(WIDTH * 4)
    assert right(tier, range(20)) == set(range(kept))
    tier.release()
    again = open_disk(tier.path, PLENTY)
    assert right(again, range(20)) == set(range(kept))
    put(again, range(20, 30))
    assert right(again, range(30)) >= set(range(20, 30))
    again.release()
    tier._places = again._places  # the fixture releases it again
    tier.release = lambda: None  # type: ignore[method-assign]


def test_a_vanished_segment_is_misses_and_writing_goes_on(tier: DiskTier) -> None:
    put(tier, range(20))
    segments(tier)[0].unlink()
    put(tier, range(20, 40))
    assert right(tier, range(40)) >= set(range(20, 40))


def test_a_lost_index_is_rebuilt(tmp_path: Path) -> None:
    tier = open_disk(tmp_path, PLENTY)
    put(tier, range(200))
    tier.release()
    shutil.rmtree(tmp_path / INDEX)
    again = open_disk(tmp_path, PLENTY)
    assert right(again, range(200)) == set(range(200))
    put(again, range(200, 210))
    assert right(again, range(210)) == set(range(210))
    again.release()


def test_a_broken_index_is_rebuilt(tmp_path: Path) -> None:
    tier = open_disk(tmp_path, PLENTY)
    put(tier, range(50))
    tier.release()
    (tmp_path / INDEX / "data.mdb").write_bytes(b"nonsense" * 1024)
    again = open_disk(tmp_path, PLENTY)
    assert right(again, range(50)) == set(range(50))
    again.release()


def test_a_newer_value_wins_when_the_index_is_rebuilt(tier: DiskTier) -> None:
    key = key_of(1)
    for value in (1.0, 2.0):
        tier.write_many({key: dense(np.full(WIDTH, value, dtype=np.float32), 1, False)})
    tier.rebuild()
    assert vector_in(tier.read_many([key])[key])[0] == 2


def test_a_stale_index_that_points_at_another_key_is_a_miss(tier: DiskTier) -> None:
    put(tier, range(2))
    (place,) = tier._places.find_many([key_of(0)])
    assert place is not None
    tier._places.put_many([(key_of(1), place)])
    assert right(tier, range(2)) == {0}


def test_a_full_disk_costs_the_write_and_nothing_else(tier: DiskTier, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tier, range(10))
    original = os.pwrite

    def full(descriptor: int, data: bytes, offset: int) -> int:
        if offset > HEADER.size + 15 * stride_of(WIDTH * 4):
            raise OSError(28, "No space left on device")
        return original(descriptor, bytes(data)[: 2 * stride_of(WIDTH * 4) + 50], offset)  # a short write, then none

    async def story() -> None:
        cache = Cache([tier])
        monkeypatch.setattr(os, "pwrite", full)
        await cache.put_many({key_of(number): entry_of(number) for number in range(10, 30)})
        assert cache.stats[0].errors == 1
        assert right(tier, range(30)) == set(range(10))
        monkeypatch.undo()
        await cache.put_many({key_of(number): entry_of(number) for number in range(10, 30)})
        assert right(tier, range(30)) == set(range(30))

    asyncio.run(story())


def test_two_processes_share_a_directory(tmp_path: Path) -> None:
    program = Path(__file__).with_name("disk_writer.py")
    command = [sys.executable, str(program), str(tmp_path)]
    writers = [subprocess.Popen([*command, "write", str(start)]) for start in (0, 10_000)]
    tier = open_disk(tmp_path, PLENTY * 16)
    while any(writer.poll() is None for writer in writers):
        right(tier, range(0, 12_000, 7))
    assert [writer.returncode for writer in writers] == [0, 0]
    assert right(tier, range(2000)) == set(range(2000))
    assert right(tier, range(10_000, 12_000)) == set(range(10_000, 12_000))
    put(tier, range(50_000, 50_010))
    assert right(tier, range(50_000, 50_010)) == set(range(50_000, 50_010))
    assert len(segments(tier)) <= 3, "one for each process at most, and those of ended ones taken over"
    tier.release()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 40), st.sampled_from([3, 32])), max_size=60))
def test_any_order_of_puts_gets_and_reopenings_gives_right_vectors(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[bool, int, int]]
) -> None:
    path = tmp_path_factory.mktemp("orders")
    tier = open_disk(path, 20_000)
    for is_reopened, number, width in steps:
        if is_reopened:
            tier.release()
            tier = open_disk(path, 20_000)
        tier.write_many({key_of(number): entry_of(number, width)})
        assert number in right(tier, range(41))
        assert tier.num_bytes <= 20_000
    tier.release()
    shutil.rmtree(path)


def test_a_file_that_is_no_segment_is_left_alone(tier: DiskTier) -> None:
    (tier.path / SEGMENTS / "notes.txt").write_text("mine")
    (tier.path / SEGMENTS / "0000000099.seg").write_bytes(b"x" * 100)
    put(tier, range(5))
    assert right(tier, range(5)) == set(range(5))
    assert tier.rebuild() == 5
    assert (tier.path / SEGMENTS / "notes.txt").exists()
    with pytest.raises(ValueError, match="not a segment"):
        Segment.open(tier.path / SEGMENTS / "0000000099.seg")


def test_urls_open_it_with_size_and_ttl(tmp_path: Path) -> None:
    (tier,) = make_cache([f"disk://{tmp_path}/a%20b?size=3MiB&ttl=2h"]).tiers
    assert isinstance(tier, DiskTier)
    assert (tier.max_bytes, tier.ttl, tier.path) == (3 << 20, 7200, tmp_path / "a b")
    tier.release()


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("disk://relative/path", "absolute"),
        ("disk:///x?size=big", "not a size"),
        ("disk:///x?ttl=soon", "not a time"),
        ("disk:///x?colour=red", "no option 'colour'"),
        ("disk:///proc/inlay-cache", "cannot be used"),
    ],
)
def test_a_url_that_is_invalid_is_named(url: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        make_cache([url])


def test_a_network_filesystem_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = f"proc /proc proc rw 0 0\nserver:/x {tmp_path} nfs4 rw 0 0\n"
    original = Path.read_text
    monkeypatch.setattr(
        Path, "read_text", lambda self, *a, **k: mounts if str(self) == "/proc/mounts" else original(self, *a, **k)
    )
    with pytest.raises(ConfigError, match="network filesystem"):
        open_disk(tmp_path / "cache", PLENTY)


def test_an_index_that_was_cut_short_is_rebuilt_before_it_is_read(tmp_path: Path) -> None:
    tier = open_disk(tmp_path, 1 << 26)
    for start in range(0, 20_000, 1000):
        put(tier, range(start, start + 1000))
    tier.release()
    index = tmp_path / "index" / "data.mdb"
    os.truncate(index, index.stat().st_size // 2)
    tier = open_disk(tmp_path, 1 << 26)
    assert right(tier, range(20_000)) == set(range(20_000))
    tier.release()


def test_after_a_purge_all_processes_see_what_each_of_them_writes(tmp_path: Path) -> None:
    tier = open_disk(tmp_path, 1 << 28)
    put(tier, range(100))
    subprocess.run([sys.executable, "-m", "inlay", "cache", "purge", str(tmp_path)], check=True, capture_output=True)
    writer = [sys.executable, str(Path(__file__).parent / "disk_writer.py"), str(tmp_path), "write", "1000"]
    subprocess.run(writer, check=True)
    put(tier, range(200, 300))
    expected = {*range(200, 300), *range(1000, 3000)}
    assert right(tier, range(3000)) == expected
    tier.release()
    fresh = open_disk(tmp_path, 1 << 28)
    assert right(fresh, range(3000)) == expected
    fresh.release()


def test_broken_records_are_counted(tmp_path: Path) -> None:
    tier = open_disk(tmp_path, 1 << 26)
    put(tier, range(10))
    (segment,) = segments(tier)
    with segment.open("r+b") as file:
        file.seek(HEADER.size + 3 * stride_of(WIDTH * 4) + 70)
        file.write(b"?")
    assert right(tier, range(10)) == set(range(10)) - {3}
    assert tier.numbers()["errors"] == 1
    tier.release()


def test_new_segments_stay_newer_than_those_before_the_index_was_lost(tmp_path: Path) -> None:
    tier = open_disk(tmp_path, 64 << 10)
    put(tier, range(600))
    tier.release()
    oldest = min(int(file.name.split(".")[0]) for file in segments(tier))
    assert oldest > 1
    shutil.rmtree(tmp_path / INDEX)
    tier = open_disk(tmp_path, 64 << 10)
    put(tier, range(600, 650))
    assert right(tier, range(600, 650)) == set(range(600, 650))
    put(tier, range(650, 700))
    assert right(tier, range(600, 700)) == set(range(600, 700)), "what is new was taken for the oldest"
    tier.release()


@pytest.mark.parametrize("kind", ["cut", "zeroed", "flipped"])
@pytest.mark.parametrize("seed", range(3))
def test_an_index_that_is_damaged_under_an_open_tier_costs_misses_and_is_rebuilt(
    tmp_path: Path, kind: str, seed: int
) -> None:
    program = Path(__file__).with_name("disk_damage.py")
    done = subprocess.run(
        [sys.executable, str(program), str(tmp_path), kind, str(seed)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["raised"] == 0
    assert told["after"] >= 8010 - 40


def test_one_process_opens_a_directory_as_often_as_it_likes(tmp_path: Path) -> None:
    first, second = open_disk(tmp_path, PLENTY), open_disk(tmp_path, PLENTY)
    put(first, range(50))
    put(second, range(50, 100))
    assert right(first, range(100)) == right(second, range(100)) == set(range(100))
    assert len(segments(first)) == 2, "each must fill a segment of its own"
    first.release()
    assert right(second, range(100)) == set(range(100))
    second.release()
    again = open_disk(tmp_path, PLENTY)
    assert right(again, range(100)) == set(range(100))
    again.release()


def test_a_reader_beside_a_writer_lets_go_of_what_was_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inlay.cache.disk.segments.SWEEP_SECONDS", 0.0)
    writer, reader = open_disk(tmp_path, 64 << 10), open_disk(tmp_path, 64 << 10)
    for start in range(0, 6000, 50):
        put(writer, range(start, start + 50))
        right(reader, range(start, start + 50))
    deleted = [name for name in files_held(tmp_path) if name.endswith("(deleted)")]
    assert len(deleted) <= 4 + MOST_UNSYNCED
    writer.release()
    reader.release()


def test_few_files_wait_for_a_slow_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    monkeypatch.setattr(Segment, "sync", lambda self: gate.wait(20))
    tier = open_disk(tmp_path, 64 << 10)
    for start in range(0, 2000, 50):
        put(tier, range(start, start + 50))
    held = [name for name in files_held(tmp_path) if ".seg" in name]
    assert len(held) <= MOST_UNSYNCED + 20  # a bound's segments, and those that the index still names
    gate.set()
    tier.release()


def test_look_ups_do_not_wait_for_a_segment_that_is_written_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    monkeypatch.setattr(Segment, "sync", lambda self: gate.wait(20))

    async def story() -> None:
        tier = open_disk(tmp_path, 64 << 10)
        for start in range(0, 100, 10):  # more than a segment
            await asyncio.wait_for(
                tier.put_many({key_of(number): entry_of(number) for number in range(start, start + 10)}), 10
            )
        found = await asyncio.wait_for(tier.get_many([key_of(number) for number in range(100)]), 10)
        assert len(found) == 100
        gate.set()
        await tier.close()

    asyncio.run(story())


def test_look_ups_do_not_wait_for_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    original = Segment.write

    def slow(self: Segment, first_slot: int, records: list[Record]) -> None:
        gate.wait(20)
        original(self, first_slot, records)

    async def story() -> None:
        tier = open_disk(tmp_path, PLENTY)
        put(tier, range(10))
        monkeypatch.setattr(Segment, "write", slow)
        writing = asyncio.create_task(tier.put_many({key_of(20): entry_of(20)}))
        await asyncio.sleep(0.05)
        assert len(await asyncio.wait_for(tier.get_many([key_of(n) for n in range(10)]), 10)) == 10
        gate.set()
        await writing
        await tier.close()

    asyncio.run(story())


def test_a_reader_takes_an_index_that_grows_for_whole(tmp_path: Path) -> None:
    """Its size was looked at before it grew, and what it needs after."""
    tier = DiskTier(tmp_path, PLENTY)
    has_ended = threading.Event()

    def grow() -> None:
        for start in range(0, 20_000, 100):
            tier._places.put_many((key_of(number), Place(1, number)) for number in range(start, start + 100))
        has_ended.set()

    writer = threading.Thread(target=grow)
    writer.start()
    while not has_ended.is_set() and not tier._places.is_damaged:
        tier._places.find_many([key_of(1)])
    writer.join()
    assert not tier._places.is_damaged
    tier.release()


def test_a_file_that_another_thread_saw_grow_meanwhile_was_not_cut_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tier = DiskTier(tmp_path, PLENTY)
    places = tier._places
    original = Path.stat

    def stat(path: Path, **arguments: bool) -> os.stat_result:
        found = original(path, **arguments)
        if path.name == "data.mdb":  # by the time that this thread goes on, the file has grown and was looked at
            monkeypatch.setattr(Path, "stat", original)
            places.put_many((key_of(number), Place(1, number)) for number in range(2000))
            places.find_many([key_of(1)])
            monkeypatch.setattr(Path, "stat", stat)
        return found

    monkeypatch.setattr(Path, "stat", stat)
    assert places.find_many([key_of(1)]) == [Place(1, 1)]
    assert not places.is_damaged
    monkeypatch.undo()
    tier.release()


def test_numbers_are_told_without_looking_at_the_directory(tier: DiskTier, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tier, range(10))
    mine = threading.current_thread()
    original = os.scandir

    def scandir(path: str) -> object:
        assert threading.current_thread() is not mine
        return original(path)

    monkeypatch.setattr(os, "scandir", scandir)
    numbers = tier.numbers()
    assert (numbers["entries"], numbers["bytes"] > 0) == (10, True)


def stale_index(path: Path) -> None:
    """What a power cut may leave: an index of before, and segments of after."""
    tier = open_disk(path, PLENTY)
    put(tier, range(50))
    tier.release()
    kept = (path / INDEX / "data.mdb").read_bytes()
    tier = open_disk(path, PLENTY)
    put(tier, range(50, 100))
    marks = {mark.name: mark.read_text() for mark in (path / "open").iterdir()}
    tier.release()
    (path / INDEX / "data.mdb").write_bytes(kept)
    for name, boot in marks.items():
        (path / "open" / name).write_text(boot)


def test_after_a_power_cut_the_index_is_rebuilt(tmp_path: Path) -> None:
    stale_index(tmp_path)
    for mark in (tmp_path / "open").iterdir():
        mark.write_text("another boot")
    tier = open_disk(tmp_path, PLENTY)
    assert right(tier, range(100)) == set(range(100))
    tier.release()
    assert list((tmp_path / "open").iterdir()) == []


def test_after_a_kill_the_index_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stale_index(tmp_path)
    tier = open_disk(tmp_path, PLENTY)
    assert right(tier, range(100)) == set(range(50)), "only a power cut can lose what was written"
    assert len(list((tmp_path / "open").iterdir())) == 1, "what the killed one left is forgotten"
    tier.release()


def test_a_segment_that_another_process_locked_first_is_left_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Segment.try_lock
    taken: list[Path] = []

    def lose_once(self: Segment) -> bool:
        if not taken:
            taken.append(self.path)
            return False
        return original(self)

    tier = open_disk(tmp_path, PLENTY)
    monkeypatch.setattr(Segment, "try_lock", lose_once)
    put(tier, range(10))
    assert right(tier, range(10)) == set(range(10))
    assert tier._writer._active[WIDTH * 4][1].path != taken[0]
    tier.release()
