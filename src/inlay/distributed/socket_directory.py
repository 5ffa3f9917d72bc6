"""A directory for the sockets of one server's processes, which nobody else may enter.

In: nothing. Out: its path. It is locked for as long as the process runs that made it; what a process that was killed
has left behind is taken away by the next one.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import weakref
from contextlib import suppress
from pathlib import Path

from inlay.errors import ConfigError

_PREFIX = "inlay-sockets-"
_NEW = "inlay-new-"  # until it is locked


class SocketDirectory:
    """Made at once; `ConfigError` where it cannot be."""

    def __init__(self) -> None:
        _remove_abandoned()
        try:
            made = Path(tempfile.mkdtemp(prefix=_NEW))
            self._descriptor = os.open(made, os.O_RDONLY)
            fcntl.flock(self._descriptor, fcntl.LOCK_SH)
            self.path = made.rename(made.with_name(made.name.replace(_NEW, _PREFIX)))  # which others look at
            self._remove = weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)  # at the latest at exit
        except OSError as error:
            raise ConfigError(
                f"engines in processes of their own need a directory for their sockets ({error}): "
                "set TMPDIR to one that can be written, or use --isolation thread"
            ) from error

    def close(self) -> None:
        """Remove it."""
        self._remove()
        os.close(self._descriptor)


def _remove_abandoned() -> None:
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):  # somebody else's
            descriptor = os.open(path, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(descriptor)
