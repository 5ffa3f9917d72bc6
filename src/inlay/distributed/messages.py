"""What processes of one server say to each other. All of it is data; a frame (`distributed.frames`) carries one.

A front end asks an engine for work, and the engine tells of its models and gives answers. The process that started
them tells them how to start, and asks how they are.
"""

from __future__ import annotations

from msgspec import Struct

from inlay.config import Settings
from inlay.telemetry.families import Family
from inlay.types import Answer, Failure, ModelSpec, Priority, Work


class Submit(Struct, frozen=True, tag=True, array_like=True):
    """To an engine: all of this work is to be taken or none. Ids are unique among the work of a connection."""

    model: str
    works: list[Work]


class Cancel(Struct, frozen=True, tag=True, array_like=True):
    """To an engine: nobody waits for these any more."""

    model: str
    ids: list[int]


class Promote(Struct, frozen=True, tag=True, array_like=True):
    """To an engine: the priority of these has risen."""

    model: str
    ids: list[int]
    priority: Priority


class Answers(Struct, frozen=True, tag=True, array_like=True):
    """From an engine. As bytes the outputs stand behind the message, by their sizes."""

    answers: list[Answer]
    sizes: list[dict[str, int]] = []  # bytes of each answer's outputs, by kind; filled by `distributed.frames`


class Loaded(Struct, frozen=True, tag=True, array_like=True):
    """From an engine: a model is served, and this is what it is."""

    model: str
    spec: ModelSpec


class NotLoaded(Struct, frozen=True, tag=True, array_like=True):
    """From an engine: a model cannot be served."""

    model: str
    failure: Failure


class ModelState(Struct, frozen=True, array_like=True):
    """How a model is doing."""

    is_ready: bool
    queued_tokens: int
    tokens_per_second: float
    device_bytes: int
    health: str | None


class State(Struct, frozen=True, tag=True, array_like=True):
    """From an engine, a few times a second: it is alive, and so are its models."""

    models: dict[str, ModelState]


class StartEngine(Struct, frozen=True, tag=True, array_like=True):
    """To a new process: be this engine. It listens on a socket that it inherits."""

    name: str
    specs: list[ModelSpec]
    settings: Settings
    replica: int  # of several that hold the same models, each on devices of its own
    listener: int  # the descriptor
    pulse: int  # another one, see `distributed.pulse`


class StartFrontEnd(Struct, frozen=True, tag=True, array_like=True):
    """To a new process: be this front end, for the models of these engines."""

    name: str
    specs: list[ModelSpec]
    settings: Settings
    port: int
    admin_port: int
    engines: list[str]  # addresses of their sockets


class Started(Struct, frozen=True, tag=True, array_like=True):
    """To who started a process: it serves."""


class NotStarted(Struct, frozen=True, tag=True, array_like=True):
    """To who started a process: it cannot serve."""

    failure: Failure


class Ask(Struct, frozen=True, tag=True, array_like=True):
    """To a process: how are you? One at a time."""


class Told(Struct, frozen=True, tag=True, array_like=True):
    """The answer to `Ask`."""

    families: list[Family]
    why_not_ready: str | None = None
    why_unhealthy: str | None = None


AnyMessage = (
    Submit
    | Cancel
    | Promote
    | Answers
    | Loaded
    | NotLoaded
    | State
    | StartEngine
    | StartFrontEnd
    | Started
    | NotStarted
    | Ask
    | Told
)
