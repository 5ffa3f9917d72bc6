"""One digest of all that decides a model's vectors, so that a cache never mixes two models.

In: the files and the choices made at load. Out: 32 hex digits. In it: weights, tokenizer, config, pooling,
dtype, and the version of the forward pass. Not in it: prompts and limits (they are in each cache key),
normalisation (cached vectors come before it) and the device (it changes rounding, as a batch does).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import msgspec

from inlay.models.registry import family_of
from inlay.models.weights import adapter_files
from inlay.types import ModelSpec

CHUNK = 32 << 20  # bytes hashed by one task
DIGITS = 32
ADAPTER_VERSION = 1  # raise when a change to `models.adapted` changes the vectors


def fingerprint(spec: ModelSpec, weight_files: Iterable[Path], dtype: str, quantisation: Sequence[str] = ()) -> str:
    """SHA-256 over length-prefixed fields; weights as the digests of fixed chunks, hashed on all cores.

    `quantisation` is all that int8 adds to the dtype: what it was measured on, and the products kept out of it.
    """
    fields = [
        str(family_of(spec.family).forward_version).encode(),
        dtype.encode(),
        *(choice.encode() for choice in quantisation),
        spec.pooling.encode(),
        msgspec.json.encode(spec.config, order="sorted"),
        *([] if spec.ranking is None else [msgspec.json.encode(spec.ranking)]),
        *(layer.activation.encode() for layer in spec.dense_layers),
        hashlib.sha256((spec.path / "tokenizer.json").read_bytes()).digest(),
        *_digest_files(weight_files),
    ]
    digest = hashlib.sha256()
    for field in fields:
        digest.update(len(field).to_bytes(8, "little") + field)
    return digest.hexdigest()[:DIGITS]


def with_fingerprints(spec: ModelSpec, own: str) -> ModelSpec:
    """The spec with its fingerprint, and those of its adapters, which have its dtype and their own files."""
    adapters = {}
    for name, adapter in spec.adapters.items():
        fields = [f"beside {ADAPTER_VERSION}", own, *(digest.hex() for digest in _digest_files(adapter_files(adapter)))]
        digest = hashlib.sha256("\n".join(fields).encode()).hexdigest()[:DIGITS]
        adapters[name] = replace(adapter, dtype=spec.dtype, fingerprint=digest)
    return replace(spec, fingerprint=own, adapters=adapters)


def _digest_files(files: Iterable[Path]) -> list[bytes]:
    chunks = [(file, start) for file in files for start in range(0, file.stat().st_size, CHUNK)]
    with ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="inlay-hash") as pool:
        return list(pool.map(_digest_chunk, chunks))


def _digest_chunk(chunk: tuple[Path, int]) -> bytes:
    file, start = chunk
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        opened.seek(start)
        remaining = CHUNK
        while remaining and (data := opened.read(min(remaining, 1 << 20))):
            digest.update(data)
            remaining -= len(data)
    return digest.digest()
