"""Makes a directory ready for the disk tier: on a local filesystem, with an index that can be opened.

In: a path. Out: the tier; its index is rebuilt from the segments where it is lost or broken. What cannot be
used is a `ConfigError` that says why.
"""

from __future__ import annotations

from pathlib import Path

import lmdb

from inlay.cache.disk.segment_index import DAMAGE, DATA, move_away
from inlay.cache.disk.segments import SEGMENTS
from inlay.cache.disk.tier import INDEX, DiskTier
from inlay.errors import ConfigError
from inlay.telemetry.logs import get_logger

log = get_logger("cache")

NETWORK_FILESYSTEMS = ("nfs", "cifs", "smb", "fuse.sshfs", "9p", "ceph", "glusterfs", "lustre", "afs")


def open_disk(path: Path, max_bytes: int, ttl: float | None = None) -> DiskTier:
    """The tier of a directory, made if need be; a lost or broken index is rebuilt from the segments."""
    _check_filesystem(path)
    try:
        (path / SEGMENTS).mkdir(parents=True, exist_ok=True)
        tier = _open(path, max_bytes, ttl)
    except OSError as error:
        raise ConfigError(f"--cache disk://{path}: cannot be used ({error.strerror or error})") from error
    except lmdb.Error as error:
        raise ConfigError(f"--cache disk://{path}: its index cannot be opened ({error})") from error
    return tier


def _open(path: Path, max_bytes: int, ttl: float | None) -> DiskTier:
    is_new = not (path / INDEX / DATA).exists()
    try:
        tier = DiskTier(path, max_bytes, ttl)
    except DAMAGE as error:
        log.warning("the cache's index is broken; rebuilding it", path=str(path), error=str(error))
        move_away(path / INDEX)
        tier, is_new = DiskTier(path, max_bytes, ttl), True
    if tier.is_index_lost:
        tier.mend()
    elif is_new:
        tier.rebuild()
    else:
        tier.settle()
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
