"""Reads a form with one file: the file goes to where it is written as it comes, the other fields are given back.

In: a `multipart/form-data` body, in pieces. Out: its fields. Only a piece of the file is ever in memory.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from inlay.api.exchange import Exchange, header
from inlay.errors import Cancelled, InvalidInput, RequestError, TooLarge

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

PIECE = 1 << 20  # bytes that are written at a time
MOST_FIELDS, LONGEST_FIELD = 16, 4 << 10  # beside the file; bytes of each
FILE = "file"


class FileWriter(Protocol):
    """Takes the bytes of the file; may wait for a disk."""

    def write(self, data: bytes) -> None: ...


async def read_form(exchange: Exchange, file: FileWriter) -> tuple[dict[str, str], str]:
    """The fields but the file, and the file's name."""
    kind, options = parse_options_header(header(exchange.scope, b"content-type") or "")
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise RequestError("the body must be multipart/form-data with a boundary: send a form with the field file")
    form = _Form()
    try:
        parser = MultipartParser(options[b"boundary"], form.callbacks())
        is_more = True
        while is_more:
            message = await exchange.receive()
            if message["type"] == "http.disconnect":
                raise Cancelled("the client has gone")
            is_more = message.get("more_body", False)
            parser.write(message.get("body", b""))
            if len(form.pending) >= PIECE or not is_more:
                await asyncio.to_thread(file.write, bytes(form.pending))
                form.pending.clear()
        parser.finalize()
    except FormParserError as error:
        raise RequestError(f"the body is no valid multipart/form-data: {error}") from error
    if form.filename is None or not form.is_whole:
        raise InvalidInput("the form has no whole field file: send the file in it", param=FILE)
    return {name: value.decode("utf-8", "replace") for name, value in form.fields.items()}, form.filename


class _Form:
    """What the parser has found so far."""

    def __init__(self) -> None:
        self.fields: dict[str, bytearray] = {}
        self.filename: str | None = None
        self.pending = bytearray()  # of the file, still to be written
        self.is_whole = False
        self._into = self.pending
        self._is_file = False
        self._name = self._value = b""
        self._headers: dict[bytes, bytes] = {}

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._add_name,
            "on_header_value": self._add_value,
            "on_header_end": self._end_header,
            "on_headers_finished": self._end_headers,
            "on_part_data": self._add_data,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        self._headers = {}

    def _add_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _add_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        self._headers[self._name.lower()] = self._value
        self._name = self._value = b""

    def _end_headers(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        name = options.get(b"name", b"").decode("utf-8", "replace")
        if name == FILE and self.filename is not None:
            raise InvalidInput("the form has two files: send one", param=FILE)
        self._is_file = name == FILE
        if self._is_file:
            self.filename = options.get(b"filename", b"").decode("utf-8", "replace")[:LONGEST_FIELD]
            self._into = self.pending
        elif len(self.fields) >= MOST_FIELDS:
            raise InvalidInput(f"the form has over {MOST_FIELDS} fields: send file and purpose")
        else:
            self._into = self.fields[name] = bytearray()

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        if not self._is_file and len(self._into) + end - start > LONGEST_FIELD:
            raise TooLarge(f"a field of the form has over {LONGEST_FIELD} bytes: only the field file may")
        self._into += data[start:end]

    def _end(self) -> None:
        self.is_whole = True
