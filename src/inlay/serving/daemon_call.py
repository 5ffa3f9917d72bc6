"""A blocking call on a thread that nothing waits for at the end of the process.

asyncio.to_thread's threads are joined before a process ends: one that hangs (a dead network disk, a model that does not
load) would keep it from ending for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from threading import Thread
from typing import TypeVar

from inlay.errors import EngineError, InlayError

T = TypeVar("T")


async def call_in_daemon(call: Callable[[], T]) -> T:
    """What it gives, or the error that it raises; what is no error of ours as `EngineError`."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            result = call()
        except InlayError as error:
            tell(future.set_exception, error)
        except Exception as error:  # noqa: BLE001 - whoever asked is told
            tell(future.set_exception, EngineError(f"failed ({type(error).__name__}: {error}): the log has more"))
        else:
            tell(future.set_result, result)

    def tell(act: Callable[..., None], value: object) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(lambda: None if future.done() else act(value))

    Thread(target=run, name="inlay-blocking", daemon=True).start()
    return await future
