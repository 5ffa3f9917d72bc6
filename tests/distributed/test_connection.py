"""Sending never blocks and keeps the order; what goes wrong ends a connection, and both sides learn of it."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator

import pytest
from waiting import until

from inlay.distributed import connection as module
from inlay.distributed.connection import Connection, ConnectionLost
from inlay.distributed.messages import Answers, Ask
from inlay.types import Answer

Ends = tuple[Connection, Connection]


@pytest.fixture
def ends() -> Iterator[Ends]:
    ours, theirs = (Connection(one, "the other") for one in socket.socketpair())
    yield ours, theirs
    ours.close()
    theirs.close()


def test_what_is_sent_arrives_in_its_order_whatever_its_size(ends: Ends) -> None:
    """Also what the socket does not take at once, and what many threads send."""
    ours, theirs = ends
    sizes = [1, 3 << 20, 0, 600_000, 17, 1 << 20]

    def send(first: int) -> None:
        for number, size in enumerate(sizes):
            ours.send(Answers([Answer(first + number, {"dense": bytes([number]) * size})]))

    senders = [threading.Thread(target=send, args=(first,)) for first in (0, 100, 200)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()  # nobody has read anything yet
    seen: dict[int, list[int]] = {}
    for _ in range(3 * len(sizes)):
        message = theirs.receive()
        assert isinstance(message, Answers)
        (answer,) = message.answers
        number = answer.id % 100
        seen.setdefault(answer.id - number, []).append(number)
        assert answer.outputs["dense"] == bytes([number]) * sizes[number]
    assert seen == {first: list(range(len(sizes))) for first in (0, 100, 200)}


def test_many_outputs_go_in_one_message(ends: Ends) -> None:
    ours, theirs = ends
    answers = [Answer(number, {"dense": bytes([number % 256]) * 9}) for number in range(3000)]
    ours.send(Answers(answers))
    assert theirs.receive() == Answers(answers)


def test_whoever_reads_nothing_loses_the_connection(
    ends: Ends, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "MOST_WAITING", 1 << 20)
    ours, _ = ends
    large = Answers([Answer(1, {"dense": bytes(8 << 20)})])
    ours.send(large)
    with pytest.raises(ConnectionLost):
        ours.send(large)
    with pytest.raises(ConnectionLost):
        ours.send(Ask())
    assert "reads nothing" in caplog.text


def test_where_no_thread_is_to_be_had_for_what_waits_the_connection_ends(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    ours, theirs = ends
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(ConnectionLost):
            ours.send(Answers([Answer(1, {"dense": bytes(8 << 20)})]))
    assert theirs.receive() is None
    ours.close()


def test_what_has_come_is_seen_before_it_is_received(ends: Ends) -> None:
    ours, theirs = ends
    assert not theirs.has_unread()
    ours.send(Ask())
    until(theirs.has_unread)
    theirs.receive()
    assert not theirs.has_unread()
    ours.shutdown()
    until(theirs.has_unread)


def test_both_sides_learn_of_the_end(ends: Ends) -> None:
    ours, theirs = ends
    received: list[object] = []
    reader = threading.Thread(target=lambda: received.append(theirs.receive()))
    reader.start()
    ours.shutdown()
    reader.join(10)
    assert received == [None]
    assert ours.receive() is None
    with pytest.raises(ConnectionLost):
        ours.send(Ask())


def test_what_waits_when_the_other_side_goes_is_dropped(ends: Ends) -> None:
    ours, theirs = ends
    ours.send(Answers([Answer(1, {"dense": bytes(8 << 20)})]))
    theirs.shutdown()
    while True:
        try:
            ours.send(Ask())
        except ConnectionLost:
            break


def test_garbage_ends_the_connection_with_a_reason(caplog: pytest.LogCaptureFixture) -> None:
    mine, given = socket.socketpair()
    connection = Connection(given, "a stranger")
    mine.sendall(b"GET /metrics HTTP/1.1\r\nhost: inlay\r\n\r\n")
    with caplog.at_level(logging.ERROR):
        assert connection.receive() is None
    assert "does not begin as a frame does" in str(caplog.records[0].__dict__)
    connection.close()
    mine.close()
