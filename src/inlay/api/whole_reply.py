"""Sends a reply that is there as a whole in one write, where ASGI would take two messages and uvicorn two writes.

In: uvicorn's cycle of one request, and a reply. Out: its bytes. The app finds the function in the scope's extensions,
and sends messages where there is none or where the client is slow to read.
"""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from inlay.api.replies import WHOLE_REPLY, Headers

LARGE_BODY = 64 << 10  # bytes, from which on a copy costs more than another write


def offer_whole_reply(cycle: RequestResponseCycle) -> None:
    """Put the function into the scope of a cycle that has not begun."""

    def send_whole(status: int, headers: Headers, body: bytes) -> bool:
        """False: not sent, and messages may be."""
        if cycle.response_started or (cycle.flow.write_paused and not cycle.disconnected):
            return False
        if not cycle.disconnected:
            _write(cycle, status, headers, body)
        return True

    extensions: dict[str, Any] = {WHOLE_REPLY: send_whole}
    cycle.scope["extensions"] = extensions


def _write(cycle: RequestResponseCycle, status: int, headers: Headers, body: bytes) -> None:
    lines = [STATUS_LINE[status]]
    for name, value in (*cycle.default_headers, *headers):
        lines += (name, b": ", value, b"\r\n")
    lines.append(b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n")
    has_body = cycle.scope["method"] != "HEAD"
    is_large = len(body) > LARGE_BODY
    if has_body and not is_large:
        lines.append(body)
    cycle.response_started, cycle.waiting_for_100_continue = True, False
    cycle.transport.write(b"".join(lines))
    if has_body and is_large:
        cycle.transport.write(body)
    cycle.response_complete = True
    cycle.message_event.set()
    if not cycle.keep_alive:
        cycle.transport.close()
    cycle.on_response()
