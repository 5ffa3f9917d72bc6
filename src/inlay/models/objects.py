"""Reads the JSON objects that a checkpoint's configuration is made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from inlay.errors import ModelError


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object; empty where the file is missing."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except FileNotFoundError:
        return {}
    except (msgspec.DecodeError, OSError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
