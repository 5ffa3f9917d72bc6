"""One kind of fault: what it is given, and what it has to tell."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from server import TEXTS, Server
from tries import Tries, asking


@dataclass
class Shared:
    """Servers that several kinds ask, one after the other, by their arguments."""

    held: ExitStack
    servers: dict[tuple[str, ...], Server] = field(default_factory=dict)

    def server(self, *arguments: str) -> Server:
        found = self.servers.get(arguments)
        if found is None or not found.is_running():
            found = self.servers[arguments] = self.held.enter_context(Server(*arguments))
        return found


@dataclass
class Run:
    """A kind's run: `number` is how many tries it makes at least, where it has a choice."""

    name: str
    number: int
    is_quick: bool
    chance: random.Random
    shared: Shared
    held: ExitStack = field(default_factory=ExitStack)
    tries: Tries = field(default_factory=Tries)
    notes: list[str] = field(default_factory=list)

    def server(self, *arguments: str) -> Server:
        """A server that others use, too: the fault may not outlast the kind."""
        return self.shared.server(*arguments)

    def own_server(self, *arguments: str, **more: Any) -> Server:  # noqa: ANN401 - as `Server` takes them
        """A server of this kind alone."""
        return self.held.enter_context(Server(*arguments, **more))

    def folder(self) -> Path:
        folder = Path(tempfile.mkdtemp(prefix=f"inlay-{self.name}-"))
        self.held.callback(shutil.rmtree, folder, ignore_errors=True)
        return folder

    def ask(self, server: Server, number: int | None = None) -> None:
        """Good clients, one after the other."""
        for place in range(self.number if number is None else number):
            text = TEXTS[place % len(TEXTS)]
            self.tries.good(server.address, server.expected[text], asking(text))

    def ask_patiently(self, server: Server, number: int, headers: str = "cache-control: no-cache\r\n") -> None:
        """Good clients that try again while the server is away."""
        for _ in range(number):
            text = self.chance.choice(TEXTS)
            self.tries.patient(server.address, server.expected[text], asking(text, headers))

    def say(self, text: str) -> None:
        self.notes.append(f"{self.name}: {text}")


Kind = Callable[[Run], None]
