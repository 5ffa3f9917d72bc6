"""A socket between two processes that carries messages. Sending never blocks: what the socket does not take at once
goes out on a thread, up to a bound. Receiving blocks. Whatever goes wrong ends the connection, and that is logged.
"""

from __future__ import annotations

import select
import socket
from collections import deque
from contextlib import suppress
from threading import Condition, Thread

from inlay.distributed.frames import FrameError, FrameReader, pack_frame
from inlay.distributed.messages import AnyMessage
from inlay.telemetry.logs import get_logger

log = get_logger("processes")

MOST_WAITING = 512 << 20  # bytes that may wait for the other side to read
BUFFER = 256 << 10  # bytes
MOST_BUFFERS = 512  # of one call; the kernel takes 1024


class ConnectionLost(Exception):
    """The other side has gone, or reads nothing any more."""


class Connection:
    """One end. Any thread may send; one receives."""

    def __init__(self, given: socket.socket, peer: str) -> None:
        self.peer = peer  # whom it leads to, for messages
        self._socket = given
        self._frames = FrameReader()
        self._received: deque[AnyMessage] = deque()
        self._changed = Condition()
        self._waiting: deque[bytes] = deque()
        self._num_waiting = 0  # bytes
        self._is_lost = False
        self._writer: Thread | None = None

    def send(self, message: AnyMessage) -> None:
        """`ConnectionLost` when it cannot arrive, `FrameError` when it is too large."""
        buffers = pack_frame(message)
        with self._changed:
            if self._is_lost:
                raise ConnectionLost(self.peer)
            if not self._waiting and not (buffers := self._sent_at_once(buffers)):
                return
            self._num_waiting += sum(map(len, buffers))
            if self._num_waiting > MOST_WAITING and self._waiting:
                log.error("a process reads nothing: its connection is ended", peer=self.peer)
                self._end()
                raise ConnectionLost(self.peer)
            self._waiting += buffers
            self._changed.notify()
            if self._writer is None:
                self._writer = self._start_writer()

    def receive(self) -> AnyMessage | None:
        """The next message; None once the other side has gone, or has sent what is none."""
        while not self._received:
            if not self._receive_more(0):
                return None
            if not self._received:  # a part of a message, or an event loop's socket, which does not block
                _wait_for(self._socket, select.POLLIN)
        return self._received.popleft()

    def receive_many(self) -> list[AnyMessage] | None:
        """The messages that are here, without waiting; None as for `receive`."""
        if not self._receive_more(socket.MSG_DONTWAIT) and not self._received:
            return None
        messages = list(self._received)
        self._received.clear()
        return messages

    def has_unread(self) -> bool:
        """Has something come, or its end, that nobody has received yet?"""
        waiting = select.poll()
        waiting.register(self._socket, select.POLLIN)
        return bool(waiting.poll(0))

    def fileno(self) -> int:
        """The descriptor that can be read when something comes."""
        return self._socket.fileno()

    def _receive_more(self, flags: int) -> bool:
        """False at the end."""
        try:
            data = self._socket.recv(BUFFER, flags)
            self._received += self._frames.feed(data)
        except BlockingIOError:
            return True
        except FrameError as error:
            log.error("a connection between processes is ended", peer=self.peer, because=str(error))
            return False
        except OSError as error:  # it was reset, or closed here
            log.debug("a connection between processes has ended", peer=self.peer, because=repr(error))
            return False
        return bool(data)

    def shutdown(self) -> None:
        """Both sides learn that it ends; what was not sent is dropped."""
        with self._changed:
            self._end()

    def close(self) -> None:
        """The same, and let go of the socket; by whoever receives."""
        self.shutdown()
        if self._writer is not None:
            self._writer.join()
        self._socket.close()

    def _sent_at_once(self, buffers: list[bytes]) -> list[bytes]:
        """Send what the socket takes; what is left."""
        if len(buffers) > MOST_BUFFERS:
            buffers = [b"".join(buffers)]
        try:
            sent = self._socket.sendmsg(buffers, (), socket.MSG_DONTWAIT)
        except BlockingIOError:
            return buffers
        except OSError:
            self._end()
            raise ConnectionLost(self.peer) from None
        while buffers and sent >= len(buffers[0]):
            sent -= len(buffers.pop(0))
        return [buffers[0][sent:], *buffers[1:]] if buffers else []

    def _start_writer(self) -> Thread:
        writer = Thread(target=self._write, name="inlay-write", daemon=True)
        try:
            writer.start()
        except RuntimeError as error:  # no thread is to be had: what waits would wait for good
            log.error("a connection between processes is ended", peer=self.peer, because=str(error))
            self._end()
            raise ConnectionLost(self.peer) from None
        return writer

    def _write(self) -> None:
        """Send what waits, in its order, until the connection ends."""
        while True:
            with self._changed:
                while not (self._waiting or self._is_lost):
                    self._changed.wait()
                if self._is_lost:
                    return
                buffer = self._waiting[0]  # stays, so that nobody sends past it
            try:
                self._send_all(buffer)
            except OSError:
                with self._changed:
                    self._end()
                return
            with self._changed:
                if not self._is_lost:
                    self._waiting.popleft()
                    self._num_waiting -= len(buffer)

    def _send_all(self, buffer: bytes) -> None:
        """Blocks, also where an event loop that reads has made the socket one that does not."""
        with memoryview(buffer) as rest:
            sent = 0
            while sent < len(rest):
                try:
                    sent += self._socket.send(rest[sent:])
                except BlockingIOError:
                    _wait_for(self._socket, select.POLLOUT)

    def _end(self) -> None:
        if not self._is_lost:
            self._is_lost = True
            self._waiting.clear()
            self._changed.notify_all()
            with suppress(OSError):  # the other side was first
                self._socket.shutdown(socket.SHUT_RDWR)  # wakes whoever receives


def _wait_for(given: socket.socket, event: int) -> None:
    """Until something can be read or written, or the connection has ended."""
    waiting = select.poll()
    waiting.register(given, event)
    waiting.poll()
