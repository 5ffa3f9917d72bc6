"""One message as bytes: a head of fixed size, the message as msgpack, and behind it the outputs of answers, raw.

In: messages. Out: buffers to send one after the other, and messages again. Nothing is ever pickled. A frame of another
version, of too many bytes, or that is no frame is a `FrameError`, and whoever reads one ends the connection.
"""

from __future__ import annotations

import struct
from pathlib import Path

import msgspec
from msgspec.structs import replace

from inlay.distributed.messages import Answers, AnyMessage
from inlay.types import Answer

MAGIC = b"INLY"
VERSION = 1
MOST_BYTES = 1 << 30  # of a message, and of the outputs behind it
_HEAD = struct.Struct("!4sBxxxII")  # magic, version, bytes of the message, bytes of the outputs

_encoder = msgspec.msgpack.Encoder(enc_hook=lambda value: str(value) if isinstance(value, Path) else dict(value))
_decoder: msgspec.msgpack.Decoder[AnyMessage] = msgspec.msgpack.Decoder(
    AnyMessage, dec_hook=lambda kind, value: kind(value)
)


class FrameError(Exception):
    """What came is no frame that can be read here, or a message is too large for one."""


def pack_frame(message: AnyMessage) -> list[bytes]:
    """The buffers of a message; `FrameError` when they have too many bytes."""
    payloads: list[bytes] = []
    if isinstance(message, Answers):
        payloads = [payload for answer in message.answers for payload in answer.outputs.values()]
        sizes = [{kind: len(payload) for kind, payload in answer.outputs.items()} for answer in message.answers]
        message = Answers([replace(answer, outputs={}) for answer in message.answers], sizes)
    body = _encoder.encode(message)
    num_bytes = sum(map(len, payloads))
    if max(len(body), num_bytes) > MOST_BYTES:
        raise FrameError(f"a message between processes has {max(len(body), num_bytes)} bytes, over {MOST_BYTES}")
    return [_HEAD.pack(MAGIC, VERSION, len(body), num_bytes) + body, *payloads]


class FrameReader:
    """Cuts what comes, in pieces of any size, into messages."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> list[AnyMessage]:
        """The messages that are whole now; `FrameError` when what came is none."""
        self._data += data
        messages = []
        start = 0
        while (sizes := self._sizes_at(start)) is not None:
            body = start + _HEAD.size
            payload, end = body + sizes[0], body + sum(sizes)
            if len(self._data) < end:
                break
            with memoryview(self._data) as view:
                messages.append(_message_of(bytes(view[body:payload]), bytes(view[payload:end])))
            start = end
        del self._data[:start]
        return messages

    def _sizes_at(self, start: int) -> tuple[int, int] | None:
        """Bytes of the message and of the outputs behind it; None where the head is not whole yet."""
        if len(self._data) - start < _HEAD.size:
            return None
        magic, version, num_body, num_payload = _HEAD.unpack_from(self._data, start)
        if magic != MAGIC:
            raise FrameError("what came does not begin as a frame does")
        if version != VERSION:
            raise FrameError(f"a frame of version {version} came, this is {VERSION}: start all processes anew")
        if max(num_body, num_payload) > MOST_BYTES:
            raise FrameError(f"a frame of {max(num_body, num_payload)} bytes was announced, over {MOST_BYTES}")
        return num_body, num_payload


def _message_of(body: bytes, payload: bytes) -> AnyMessage:
    try:
        message = _decoder.decode(body)
    except (msgspec.DecodeError, ValueError, TypeError) as error:
        raise FrameError(f"a frame has no message that is known here ({error})") from error
    if not isinstance(message, Answers):
        return message
    if sum(size for sizes in message.sizes for size in sizes.values()) != len(payload):
        raise FrameError("the outputs behind a message have another size than it says")
    return Answers(_filled(message, payload))


def _filled(message: Answers, payload: bytes) -> list[Answer]:
    """The answers of a message with their outputs."""
    answers, start = [], 0
    for answer, sizes in zip(message.answers, message.sizes, strict=True):
        outputs = {}
        for kind, size in sizes.items():
            outputs[kind] = payload[start : start + size]
            start += size
        answers.append(replace(answer, outputs=outputs))
    return answers
