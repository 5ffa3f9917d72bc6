"""Makes a directory ready for the disk tier: on a local filesystem, with an index that can be opened.

In: a path. Out: the tier; its index is made anew from the segments where it is lost or broken. What cannot be
used is a `ConfigError` that says why.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import lmdb

from inlay.cache.disk import INDEX, SEGMENTS, DiskTier
from inlay.errors import ConfigError
from inlay.telemetry.logs import get_logger

log = get_logger("cache")

NETWORK_FILESYSTEMS = ("nfs", "cifs", "smb", "fuse.sshfs", "9p", "ceph", "glusterfs", "lustre", "afs")
BROKEN = (lmdb.CorruptedError, lmdb.InvalidError, lmdb.VersionMismatchError, lmdb.PageNotFoundError, lmdb.PanicError)


def open_disk(path: Path, max_bytes: int, ttl: float | None = None) -> DiskTier:
    """The tier of a directory, made if need be; a lost or broken index is made anew from the segments."""
    _check_filesystem(path)
    try:
        (path / SEGMENTS).mkdir(parents=True, exist_ok=True)
        has_index = (path / INDEX / "data.mdb").exists()
        try:
            tier = DiskTier(path, max_bytes, ttl)
            if tier.is_index_cut_short:
                tier.release()
                raise lmdb.CorruptedError("it was cut short")
        except BROKEN as error:
            broken = path / f"{INDEX}.broken-{time.time_ns()}"
            (path / INDEX).rename(broken)
            log.warning("the cache's index is broken; making it anew", path=str(path), error=str(error))
            has_index, tier = False, DiskTier(path, max_bytes, ttl)
            shutil.rmtree(broken, ignore_errors=True)
    except OSError as error:
        raise ConfigError(f"--cache disk://{path}: cannot be used ({error.strerror or error})") from error
    except lmdb.Error as error:
        raise ConfigError(f"--cache disk://{path}: its index cannot be opened ({error})") from error
    if not has_index:
        tier.rebuild()
    return tier


def _check_filesystem(path: Path) -> None:
    """LMDB and locks do not hold on a network filesystem."""
    existing = next(parent for parent in [path, *path.resolve().parents] if parent.exists()).resolve()
    best, kind = "", ""
    mounts = Path("/proc/mounts")
    for line in mounts.read_text().splitlines() if mounts.exists() else []:
        _, place, name = line.split()[:3]
        if existing.is_relative_to(place) and len(place) > len(best):
            best, kind = place, name
    if kind.startswith(NETWORK_FILESYSTEMS):
        raise ConfigError(f"--cache disk://{path}: lies on a network filesystem ({kind}); use a local disk, or redis")
