"""Taking received images from the spool into the object store that the nodes share.

    acknowledged   in the spool of one node, flushed; its row says which node holds it
    uploaded       in the object store; its row says that nobody holds it, and workers may claim the study
    released       the file in the spool is gone, once reception of its study has ended

Each step may be done twice, and none is done before the one before it is certain: whoever is killed in between goes on
from what the store says. A file leaves the spool only after the object store has shown an object of its size.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from itertools import islice
from pathlib import Path

import structlog
from sqlalchemy.exc import SQLAlchemyError

from scp.spool import Spool
from store import uploads
from store.database import Database
from store.object_folder import ObjectFolder, ObjectStoreAway
from store.uploads import HeldImage
from store.wakeups import Stop

BATCH = 32
"""So many images are uploaded at once, and noted in one transaction."""
COPIES = 500
AWAY_S = 5.0
"""An object store that does not answer is asked again after this long."""
RELEASE_EVERY_S = 10.0
FRESH_S = 60.0
"""A file that is younger may just be received anew although its study's images were deleted."""
OLD_FOLDER_S = 3600.0

log: structlog.stdlib.BoundLogger = structlog.get_logger("uploader")


def node_of(storage: Path) -> str:
    """The name under which the store knows this storage folder; made at the first start. Raises OSError."""
    file = storage / "node-name"
    try:
        return file.read_text("ascii")
    except FileNotFoundError:
        storage.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = storage / f"node-name.{secrets.token_hex(4)}"
    part.write_text(f"{socket.gethostname()[:100]}-{secrets.token_hex(4)}", "ascii")
    with suppress(FileExistsError):  # another listener of this folder was faster: its name counts
        os.link(part, file)
    part.unlink()
    return file.read_text("ascii")


class Uploader:
    """Uploads what lies in one spool. clock: of the store; seconds: passes evenly; file_clock: as files are dated."""

    def __init__(
        self,
        database: Database,
        spool: Spool,
        objects: ObjectFolder,
        clock: Callable[[], datetime],
        seconds: Callable[[], float] = time.monotonic,
        file_clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._spool = spool
        self._objects = objects
        self._node = node_of(spool.storage)
        self._clock = clock
        self._seconds = seconds
        self._file_clock = file_clock
        self._delayed: set[int] = set()
        self._missing: set[int] = set()

    def run(self, stop: Stop, poll_seconds: float) -> None:
        """Upload and release until told to stop; of several listeners of a spool one does it."""
        with self._turn(stop) as mine:
            release_at = self._seconds()
            while mine and not stop.is_set():
                try:
                    if not self.upload():
                        stop.wait(poll_seconds)
                    if self._seconds() >= release_at:
                        self.release()
                        release_at = self._seconds() + RELEASE_EVERY_S
                except (ObjectStoreAway, SQLAlchemyError, OSError) as error:
                    log.error("not uploaded: tried again", why=" ".join(str(error).split())[:200])
                    stop.wait(AWAY_S)

    def upload(self) -> int:
        """Upload what has waited longest; how many images. Raises ObjectStoreAway, and then their studies say so."""
        with self._database.read() as session:
            batch = uploads.held_images(session, self._node, BATCH, self._missing)
        if not batch:
            return 0
        try:
            done = self._put(batch)
        except ObjectStoreAway as error:
            self._delay(batch, f"waits for the object store: {error}")
            raise
        late = [image for image in done if image.study_id in self._delayed]
        with self._database.write() as session:
            uploads.record_uploaded(session, done, self._node)
            uploads.remark(session, late, why="the object store answers again", now=self._clock())
        self._delayed -= {image.study_id for image in late}
        return len(batch)

    def release(self) -> int:
        """Remove from the spool what is in the object store and no longer read here; how many files.

        A file that ought to be there and is not (this node had no object store when it came) is uploaded from now on.
        """
        released = 0
        paths = self._spool.kept_paths()
        while batch := list(islice(paths, COPIES)):
            released += self._release(batch)
        self._remove_empty_folders()
        return released

    def _put(self, batch: list[HeldImage]) -> list[HeldImage]:
        """Those of a batch that are in the object store now."""
        here = [image for image in batch if (self._spool.storage / image.path).exists()]
        if here:
            self._objects.put([(self._spool.storage / image.path, image.path) for image in here])
        gone = [image for image in batch if image not in here]
        there = [image for image in gone if self._objects.size(image.path) is not None]
        lost = [image for image in gone if image not in there]
        self._missing |= {image.instance_id for image in lost}
        self._delay(lost, f"images are neither on {self._node} nor in {self._objects.name}")
        return here + there

    def _delay(self, images: list[HeldImage], why: str) -> None:
        """Note in the account of each study why it waits, once until it goes on."""
        new = [image for image in images if image.study_id not in self._delayed]
        if new:
            with self._database.write() as session:
                uploads.remark(session, new, why=why, now=self._clock())
            self._delayed |= {image.study_id for image in new}

    def _release(self, paths: list[str]) -> int:
        with self._database.read() as session:
            copies = uploads.local_copies(session, paths)
        free = [copy.path for copy in copies if copy.held_by is None and not copy.needed and not copy.purged]
        folders = {path.rpartition("/")[0] for path in free}
        sizes = {path: size for folder in folders for path, size in self._objects.sizes(folder).items()}
        lacking = [path for path in free if sizes.get(path) != self._size(path)]
        if lacking:
            with self._database.write() as session:
                uploads.hold(session, lacking, self._node)
        over = [copy.path for copy in copies if copy.purged and self._is_settled(copy.path)]
        doomed = [*(path for path in free if path not in set(lacking)), *over]
        for path in doomed:
            (self._spool.storage / path).unlink(missing_ok=True)
        return len(doomed)

    def _size(self, path: str) -> int | None:
        try:
            return (self._spool.storage / path).stat().st_size
        except FileNotFoundError:
            return None

    def _is_settled(self, path: str) -> bool:
        try:
            return self._file_clock() - (self._spool.storage / path).stat().st_mtime > FRESH_S
        except FileNotFoundError:
            return False

    def _remove_empty_folders(self) -> None:
        for folder in self._spool.kept.iterdir():
            with suppress(OSError):  # not empty, or gone
                if self._file_clock() - folder.stat().st_mtime > OLD_FOLDER_S:
                    folder.rmdir()

    @contextmanager
    def _turn(self, stop: Stop) -> Iterator[bool]:
        """Wait for the turn, which the kernel takes from a process that dies; False where told to stop before."""
        with (self._spool.storage / "upload.lock").open("w") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if stop.wait(1.0):
                        yield False
                        return
            yield True
