"""One HTTP/1.1 connection: uvicorn's protocol, with bounds on what a client may send, and how slowly.

In: bytes from a socket. Out: requests for the app. A head is bounded in bytes, lines and time; requests that come
before the last one was answered, in number; a reply that is not read, in time. Whatever is no HTTP is answered in
JSON. A client that has closed its side for writing still gets its reply.
"""

from __future__ import annotations

import asyncio
import fcntl
import re
import struct
import termios
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from inlay.api.connections import Connections
from inlay.api.replies import RenderError, refuse
from inlay.api.whole_reply import offer_whole_reply
from inlay.errors import BodyTimeout, HeadTimeout, HeadTooLarge, InlayError, Overloaded, RequestError

MOST_HEAD_BYTES = 64 << 10
MOST_HEAD_LINES = 128
SLOWEST_BODY = 64 << 10  # bytes a second that a body must come in, beyond the time that all have
MOST_PIPELINED = 32  # requests that wait on a connection for the one before them
SLOWEST_BYTES = 16 << 10  # of a reply that a client takes in `SEND_CHECK_SECONDS`, or it has stopped reading
SEND_CHECK_SECONDS = 10.0
_UPGRADE = re.compile(rb"\r\nupgrade:", re.IGNORECASE)  # to a protocol that is not spoken here: to be ignored
PROBE = b"HTTP/1.1 100 Continue\r\n\r\n"  # which every client skips
PROBE_SECONDS = (0.0, 0.02, 0.1, 0.5, 2.0)  # after the end: the first one asks, a later one finds the answer


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What the connections of a server share."""

    connections: Connections
    head_seconds: float
    body_seconds: float
    renderer_of: Callable[[str], RenderError]  # how errors are told, by the path that is asked for


class BoundedConnection(HttpToolsProtocol):
    """See the module. Made by uvicorn for each connection."""

    limits: ConnectionLimits

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.url = b""  # uvicorn's, which it sets when a request begins
        self._is_in_head = True
        self._has_ended_part = False
        self._head_bytes = self._chunk_bytes = self._body_bytes = 0
        self._body_began = 0.0
        self._head_timer: asyncio.TimerHandle | None = None
        self._body_timer: asyncio.TimerHandle | None = None
        self._send_timer: asyncio.TimerHandle | None = None
        self._unread_before = 0
        self._is_half_closed = False
        self._running: RequestResponseCycle | None = None
        self._late_refusal: InlayError | None = None  # goes out behind the replies to what came before
        self._refusal: InlayError | None = None  # why the parser was stopped

    @property
    def unread_bytes(self) -> int:
        return self.transport.get_write_buffer_size() + self._kernel_bytes()

    def abort(self) -> None:
        self._disconnect()
        self.transport.abort()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self.limits.connections.add(self):
            self._await_head()
        else:
            self._refuse(Overloaded("this server has as many connections as it takes: try again", retry_after=1.0))

    def connection_lost(self, exc: Exception | None) -> None:
        self.limits.connections.remove(self)
        for timer in (self._head_timer, self._body_timer, self._send_timer):
            if timer is not None:
                timer.cancel()
        self._disconnect()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing() or self._late_refusal is not None:
            return
        if self._is_in_head and b"pgrade" in data:
            head, end, rest = data.partition(b"\r\n\r\n")
            data = _UPGRADE.sub(b"\r\nx-upgrade:", head) + end + rest
        self._has_ended_part = self._has_body = False
        self._chunk_bytes = len(data)
        super().data_received(data)
        if not self._is_in_head and self._body_timer is None:
            self._await_body()
        if self._has_ended_part or self._has_body or self.transport.is_closing():
            return
        self._head_bytes += len(data)  # of a head, or of what follows a body: httptools keeps a line until it is whole
        if self._head_bytes > MOST_HEAD_BYTES or len(self.headers or ()) > MOST_HEAD_LINES:
            self._refuse(_head_too_large())
        elif self._is_in_head and self._head_timer is None and (self.cycle is None or self.cycle.response_complete):
            self._await_head()

    def eof_received(self) -> bool:  # type: ignore[override]
        """True keeps the connection open for writing: the client may only have closed its own side.

        Or it has gone altogether, which shows when something is sent to it.
        """
        cycle = self.cycle
        if cycle is None or cycle.response_complete or cycle.more_body:  # the rest of a body will not come
            return False
        self._is_half_closed = True
        for seconds in PROBE_SECONDS if cycle.scope["http_version"] == "1.1" else ():
            self.loop.call_later(seconds, self._probe, cycle)
        return True

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.url = b""  # uvicorn's, which it sets when a request begins
        self._is_in_head = True

    def on_headers_complete(self) -> None:
        self._is_in_head, self._has_ended_part = False, True
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        if len(self.headers) > MOST_HEAD_LINES or self._head_is_large():
            self._refusal = _head_too_large()
            raise ValueError(self._refusal.message)  # stops the parser
        if len(self.pipeline) >= MOST_PIPELINED:
            self._refusal = RequestError(f"over {MOST_PIPELINED} requests wait on this connection: wait for replies")
            raise ValueError(self._refusal.message)
        self.limits.connections.note_work(self)
        before = self.cycle
        super().on_headers_complete()
        if self.cycle is not None and self.cycle is not before:
            offer_whole_reply(self.cycle)

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        self._has_body = True
        self._body_bytes += len(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._is_in_head, self._has_ended_part, self._head_bytes = True, True, 0
        if self._body_timer is not None:
            self._body_timer.cancel()
            self._body_timer = None

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing() or (self.cycle is not None and not self.cycle.response_complete):
            return
        self.limits.connections.note_rest(self)
        if self._late_refusal is not None:
            self._refuse(self._late_refusal)
        elif self._is_half_closed:
            self.transport.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.limits.connections.note_unread(self)
        self._unread_before = self.unread_bytes
        self._send_timer = self.loop.call_later(SEND_CHECK_SECONDS, self._check_reading)

    def resume_writing(self) -> None:
        super().resume_writing()
        self.limits.connections.note_read(self)
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None

    def send_400_response(self, msg: str) -> None:
        """In the place of uvicorn's plain text."""
        self._refuse(self._refusal or RequestError("what was sent is not an HTTP/1.1 request"))

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:  # noqa: ANN401 - uvicorn's own type
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _refuse(self, error: InlayError) -> None:
        """Answer and close, behind the replies to requests that came whole."""
        cycle = self.cycle
        if self.transport.is_closing():
            return
        if cycle is not None and not (cycle.response_complete or cycle.more_body):
            self._late_refusal = self._late_refusal or error
            return
        path = unquote(self.url.partition(b"?")[0].decode("latin-1"))  # as far as it has come
        reply = refuse(error, self.limits.renderer_of(path))
        headers = [*reply.head(), (b"connection", b"close")]
        lines = b"".join(b"%b: %b\r\n" % header for header in headers)
        status = b"HTTP/1.1 %d %b\r\n" % (error.status, error.code.encode())
        self.transport.write(b"".join((status, lines, b"\r\n", reply.body)))
        self._disconnect()
        self.transport.close()

    def _disconnect(self) -> None:
        """Tell the requests under way at once: nothing may be written to a transport that is closing."""
        for cycle in (self._running, self.cycle, *(cycle for cycle, _ in self.pipeline)):
            if cycle is not None:
                cycle.disconnected = True
                cycle.message_event.set()

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self.limits.head_seconds, self._end_waiting)

    def _end_waiting(self) -> None:
        """No whole head came in time: nobody waits for a reply where not a byte came."""
        self._head_timer = None
        if self._head_bytes and not self.transport.is_closing():
            self._refuse(HeadTimeout(f"the head of the request did not arrive within {self.limits.head_seconds:g} s"))
        else:
            self.transport.close()

    def _await_body(self) -> None:
        """Of a request whose head is there; a body that comes with it needs no clock."""
        self._body_began, self._body_bytes = self.loop.time(), 0
        self._body_timer = self.loop.call_later(self.limits.body_seconds, self._check_body)

    def _check_body(self) -> None:
        seconds = self._body_began + self.limits.body_seconds + self._body_bytes / SLOWEST_BODY - self.loop.time()
        if seconds > 0:
            self._body_timer = self.loop.call_later(seconds, self._check_body)
        else:
            self._refuse(BodyTimeout("the body did not arrive in time: send it at once, or raise --body-timeout"))

    def _head_is_large(self) -> bool:
        """Only looked at where it did not come alone in a small piece."""
        if self._chunk_bytes + self._head_bytes <= MOST_HEAD_BYTES:
            return False
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > MOST_HEAD_BYTES

    def _check_reading(self) -> None:
        if self._unread_before - self.unread_bytes < SLOWEST_BYTES:
            self.abort()
            return
        self._unread_before = self.unread_bytes
        self._send_timer = self.loop.call_later(SEND_CHECK_SECONDS, self._check_reading)

    def _kernel_bytes(self) -> int:
        """What the kernel has taken and the client has not."""
        try:
            descriptor = self.transport.get_extra_info("socket").fileno()
            return int(struct.unpack("i", fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(4)))[0])
        except (OSError, ValueError, AttributeError):  # closed, or a system that cannot tell
            return 0

    def _probe(self, cycle: RequestResponseCycle) -> None:
        """While nothing of a reply has been sent, and no other reply may be under way."""
        if not (self.transport.is_closing() or self.pipeline or cycle.response_started):
            self.transport.write(PROBE)


def _head_too_large() -> HeadTooLarge:
    return HeadTooLarge(
        f"the head of the request has over {MOST_HEAD_BYTES} bytes or {MOST_HEAD_LINES} lines: send less of it"
    )


def connection_class(limits: ConnectionLimits) -> type[BoundedConnection]:
    """The connections of one server."""
    return type("ServerConnection", (BoundedConnection,), {"limits": limits})
