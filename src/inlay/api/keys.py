"""The keys that an operator gives: as options, in a file with one a line, or in a TOML file that says more of each.

In: options. Out: each key's digest with its facts; a `ConfigError` names what is wrong with which. The keys themselves
are not kept.

    [[keys]]
    name = "search"                 # in the log and in metrics
    key = "…"                       # or key_sha256, in hexadecimal
    tokens_per_minute = 100_000
    priority = "normal"             # the highest
    models = ["demo"]
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from inlay.errors import ConfigError
from inlay.serving.callers import Key
from inlay.types import Priority

BLANKS = " \t\r\n"  # no others: a key's last byte, read as Latin-1, may be a blank such as A0
TOML = ".toml"
UNNAMED = "key-"  # and its number, of a key that has no name
_LIKE_TOML = re.compile(r"^\s*(\[\[?\w+\]\]?|\w+\s*=\s*[\"'\[\d]).*$", re.MULTILINE)
_DIGEST = re.compile(r"[0-9a-f]{64}")

Keys = Mapping[bytes, Key]  # by the digest


class _Entry(Struct, frozen=True, forbid_unknown_fields=True):
    name: Annotated[str, Meta(min_length=1, max_length=64)]
    key: str | None = None
    key_sha256: str | None = None
    tokens_per_minute: Annotated[int, Meta(ge=1, le=1 << 50)] | None = None
    priority: Priority = Priority.HIGH
    models: list[str] | None = None


class _File(Struct, frozen=True, forbid_unknown_fields=True):
    keys: list[_Entry] = []


def digest_of(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def read_keys(keys: list[str], file: str | None) -> Keys:
    """Keys from settings and from a file."""
    plain = [key.strip(BLANKS) for key in keys]
    if not all(plain):
        raise ConfigError("--api-key is empty: give a key, or leave the option out to serve without keys")
    entries: dict[bytes, Key] = {}
    if file is not None:
        text = _read(file)
        if file.lower().endswith(TOML):
            entries = _entries_of(text, file)
        elif _LIKE_TOML.search(text):  # not shown, as it may be a key
            raise ConfigError(f"--api-key-file {file} looks like TOML: name it KEYS{TOML}, or put one key on each line")
        else:
            plain += [line.strip(BLANKS) for line in text.splitlines() if line.strip(BLANKS) and line[0] != "#"]
        if not entries and len(plain) == len(keys):
            raise ConfigError(f"--api-key-file {file} has no keys: the server would be open to all")
    named = {digest_of(key.encode()): Key(f"{UNNAMED}{number}") for number, key in enumerate(plain, start=1)}
    return {**named, **entries}


def _read(file: str) -> str:
    try:
        return Path(file).expanduser().read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--api-key-file {file} cannot be read: {error}") from error


def _entries_of(text: str, file: str) -> dict[bytes, Key]:
    try:
        given: Any = msgspec.toml.decode(text, type=_File)
    except (msgspec.DecodeError, ValueError) as error:
        raise ConfigError(f"--api-key-file {file}: {error}") from error
    entries: dict[bytes, Key] = {}
    names: set[str] = set()
    for entry in given.keys:
        digest = _digest_of(entry, file)
        if entry.name.startswith(UNNAMED):
            raise ConfigError(
                f"--api-key-file {file}: {entry.name!r} is a name for keys that have none: choose another"
            )
        if entry.name in names or digest in entries:
            raise ConfigError(f"--api-key-file {file}: {entry.name!r}, or its key, is there twice")
        names.add(entry.name)
        models = None if entry.models is None else frozenset(entry.models)
        entries[digest] = Key(entry.name, entry.tokens_per_minute, entry.priority, models)
    return entries


def _digest_of(entry: _Entry, file: str) -> bytes:
    if (entry.key is None) == (entry.key_sha256 is None):
        raise ConfigError(f"--api-key-file {file}: {entry.name!r} needs key or key_sha256, one of the two")
    if entry.key_sha256 is not None:
        if not _DIGEST.fullmatch(entry.key_sha256):
            raise ConfigError(f"--api-key-file {file}: key_sha256 of {entry.name!r} is no SHA-256 in hexadecimal")
        return bytes.fromhex(entry.key_sha256)
    if not (key := (entry.key or "").strip(BLANKS)):
        raise ConfigError(f"--api-key-file {file}: the key of {entry.name!r} is empty")
    return digest_of(key.encode())
