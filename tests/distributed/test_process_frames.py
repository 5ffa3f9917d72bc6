"""Messages survive the way through bytes, and what is none is refused with its reason."""

from __future__ import annotations

import struct
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest
from fakes import SPEC
from hypothesis import given
from hypothesis import strategies as st

from inlay.config import Settings
from inlay.distributed import frames
from inlay.distributed.frames import FrameError, FrameReader, pack_frame
from inlay.distributed.messages import (
    Answers,
    AnyMessage,
    Ask,
    Cancel,
    Loaded,
    ModelState,
    NotLoaded,
    Promote,
    StartEngine,
    State,
    Submit,
    Told,
)
from inlay.models.spec import read_spec
from inlay.telemetry.families import Family
from inlay.types import Answer, Failure, Pair, Priority, Truncate, Work

CONTENTS = st.one_of(
    st.text(max_size=20), st.lists(st.integers(0, 1 << 40), max_size=5), st.builds(Pair, st.text(), st.text())
)
WORKS = st.builds(
    Work,
    st.integers(0, 1 << 60),
    CONTENTS,
    st.sampled_from(list(Truncate)),
    st.integers(1, 1 << 20),
    st.text(max_size=5),
    st.sampled_from(list(Priority)),
    st.lists(st.sampled_from(["dense", "sparse"]), min_size=1, unique=True).map(tuple),
    st.text(max_size=5),
)
ANSWERS = st.builds(
    Answer,
    st.integers(0, 1 << 60),
    st.dictionaries(st.sampled_from(["dense", "sparse", "colbert"]), st.binary(max_size=64)),
    st.none() | st.builds(Failure, st.text(), st.text(), st.none() | st.floats(0, 100)),
    st.integers(0, 1 << 20),
    st.booleans(),
    st.floats(0, 100),
    st.floats(0, 100),
)
MESSAGES = st.one_of(
    st.builds(Submit, st.text(max_size=5), st.lists(WORKS, max_size=4)),
    st.builds(Answers, st.lists(ANSWERS, max_size=4), st.just([])),
    st.builds(Cancel, st.text(max_size=5), st.lists(st.integers(0, 1 << 60))),
    st.builds(Promote, st.text(max_size=5), st.lists(st.integers(0, 9)), st.sampled_from(list(Priority))),
    st.builds(Ask),
)


def bytes_of(*messages: AnyMessage) -> bytes:
    return b"".join(part for message in messages for part in pack_frame(message))


def read(data: bytes, *cuts: int) -> list[AnyMessage]:
    """What is read of bytes that come in pieces."""
    reader = FrameReader()
    ends = [*sorted(cut for cut in cuts if cut < len(data)), len(data)]
    pieces = [data[start:end] for start, end in pairwise([0, *ends])]
    return [message for piece in pieces for message in reader.feed(piece)]


@given(st.lists(MESSAGES, max_size=4), st.lists(st.integers(0, 500)))
def test_messages_come_out_as_they_went_in_whatever_the_pieces(messages: list[AnyMessage], cuts: list[int]) -> None:
    assert read(bytes_of(*messages), *cuts) == messages


def test_facts_of_models_and_settings_come_out_as_they_went_in(checkpoint: Callable[[str], Path]) -> None:
    spec = read_spec(checkpoint("qwen3"), "tiny")
    messages: list[AnyMessage] = [
        Loaded("fake", SPEC),
        NotLoaded("fake", Failure("unusable_model", "no", 1.0)),
        State({"fake": ModelState(True, 3, 5.5, 4, None)}),
        StartEngine("engine-0", [spec], Settings(dtype="float32"), 0, 7, 8),
        Told([Family("a", "b", "counter", [("a_total", {"model": "m"}, 1.0)])], "loading"),
    ]
    assert read(bytes_of(*messages)) == messages


@given(MESSAGES, st.data())
def test_a_frame_that_is_not_whole_yet_is_waited_for(message: AnyMessage, data: st.DataObject) -> None:
    whole = bytes_of(message)
    assert read(whole[: data.draw(st.integers(0, len(whole) - 1))]) == []


def head(magic: bytes = frames.MAGIC, version: int = frames.VERSION, body: int = 0, payload: int = 0) -> bytes:
    return struct.pack("!4sBxxxII", magic, version, body, payload)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (head(magic=b"HTTP"), "does not begin"),
        (b"GET / HTTP/1.1\r\n\r\n", "does not begin"),
        (head(version=9), "version 9"),
        (head(body=frames.MOST_BYTES + 1), "announced"),
        (head(payload=frames.MOST_BYTES + 1), "announced"),
        (head(body=3) + b"\xff\xff\xff", "no message"),
        (head(body=1) + b"\x93", "no message"),
        (head(body=2) + b"\x91\x01", "no message"),
        (bytes_of(Answers([Answer(1, {"dense": b"1234"})]))[:-4].replace(b"\0\0\0\4", b"\0\0\0\0"), "size"),
    ],
)
def test_what_is_no_frame_is_refused_with_its_reason(data: bytes, told: str) -> None:
    with pytest.raises(FrameError, match=told):
        read(data)


@given(st.binary(max_size=64))
def test_a_body_of_any_bytes_is_a_message_or_refused(body: bytes) -> None:
    with suppress(FrameError):
        read(head(body=len(body)) + body)


def test_a_message_that_is_too_large_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "MOST_BYTES", 64)
    for message in (Submit("m", [Work(1, "x" * 65, Truncate.END, 9)]), Answers([Answer(1, {"dense": bytes(65)})])):
        with pytest.raises(FrameError, match="over 64"):
            pack_frame(message)
