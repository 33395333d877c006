"""At start: what a listener left behind that was killed.

A file whose row was never committed was never acknowledged: its sender has the instance still and sends it again. So
the file is removed, and so is one that a purge of delivered studies left over. Nothing else that a row names is ever
touched.
"""

from __future__ import annotations

import fcntl
import os
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from scp.spool import Spool
from store import receipts, retention
from store.database import Database

BATCH = 500
MARGIN_S = 10.0
"""File systems round times."""
OTHERS_AGE_S = 3600.0
"""While other listeners share the spool, a file younger than this may be one that they are receiving."""


@dataclass(frozen=True)
class Swept:
    """What the sweep removed: files that were being written, and whole files without a row."""

    unfinished: int
    unrecorded: int


class SpoolLock:
    """Held by every listener of a spool while it runs; the kernel releases it when the process dies.

    alone: no other listener held it when this one started.
    """

    def __init__(self, spool: Spool) -> None:
        self._file = os.open(spool.storage / "listener.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.alone = True
        except BlockingIOError:
            self.alone = False

    def share(self) -> None:
        """From now on others may start."""
        fcntl.flock(self._file, fcntl.LOCK_SH)

    def release(self) -> None:
        """Let go."""
        os.close(self._file)


def sweep(spool: Spool, database: Database, *, alone: bool) -> Swept:
    """Remove what was never acknowledged. Raises OSError, and sqlalchemy.exc.SQLAlchemyError.

    alone: no other listener uses the spool, so that whatever is unfinished is so for good.
    """
    before = time.time() if alone else time.time() - OTHERS_AGE_S
    unfinished = sum(_remove(path, before) for path in spool.unfinished())
    unrecorded = 0
    started = time.time()
    marker = spool.storage / "swept"
    paths = spool.kept_paths(_last_sweep(marker) - MARGIN_S)
    while batch := list(islice(paths, BATCH)):
        with database.read() as session:
            known = receipts.known_paths(session, batch) - retention.purged_among(session, batch)
        unrecorded += sum(_remove(spool.storage / path, before) for path in batch if path not in known)
    if alone:  # beside others fresh files were passed over
        marker.touch(mode=0o600)
        os.utime(marker, (started, started))
    return Swept(unfinished, unrecorded)


def _last_sweep(marker: Path) -> float:
    """When the last sweep began, seconds since the epoch: a folder that is older was looked at by then."""
    try:
        return marker.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _remove(path: Path, before: float) -> bool:
    """Remove a file unless it is newer than `before` (seconds since the epoch) or gone already."""
    try:
        if path.stat().st_mtime > before:
            return False
        path.unlink()
    except FileNotFoundError:
        return False
    return True
