"""What is deleted, and when: images of studies that have ended, by age or because the room is needed; old records."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import structlog

from scp.policy import RetentionPolicy
from scp.spool import Spool
from store import pruning, retention
from store.database import Database
from store.object_folder import ObjectFolder, ObjectStoreAway
from store.retention import DONE_WITH, Expiry
from store.states import StudyState

LOGGER = structlog.get_logger(__name__)

TOGETHER = 64
"""So many files are deleted while their study is locked."""
LEAST_KEPT = timedelta(days=1)
"""Images of studies that ended less long ago stay however little room there is: it is not they who fill the disk."""
BATCHES = 100
"""Of records, in one round."""


@dataclass(frozen=True)
class Purged:
    """What a purge deleted."""

    studies: int
    files: int


@dataclass(frozen=True)
class Retention:
    """Deletes what a policy says of one store. objects: where the nodes have their images, None: in the spool."""

    policy: RetentionPolicy
    database: Database
    spool: Spool
    objects: ObjectFolder | None = None

    def purge(self, now: datetime) -> Purged:
        """Delete the images of studies that ended too long ago.

        Raises store.object_folder.ObjectStoreAway, sqlalchemy.exc.SQLAlchemyError.
        """
        files: list[int] = []
        ages = ((self.policy.keep_done, DONE_WITH), (self.policy.keep_failed, (StudyState.FAILED,)))
        for keep, states in ages:
            if keep is not None:
                files += self._purged(Expiry(now - keep, states), now)
        return Purged(len(files), sum(files))

    def make_room(self, now: datetime) -> Purged:
        """Delete images of delivered and skipped studies, the oldest first, until there is room again.

        None of studies that a sender has asked commitment for: it may have deleted its own.
        Raises OSError, sqlalchemy.exc.SQLAlchemyError. Nothing with an object store: what fills this disk leaves it by
        itself.
        """
        files: list[int] = []
        if self.objects is None and self._lacks_room():
            expiry = Expiry(now - LEAST_KEPT, promised=False, why="the room was needed")
            for deleted in self._purged(expiry, now):
                files.append(deleted)
                if not self._lacks_room():
                    break
        return Purged(len(files), sum(files))

    def prune(self, now: datetime) -> int:
        """Delete records that are too old; how many. Raises sqlalchemy.exc.SQLAlchemyError."""
        rows = 0
        if self.policy.keep_records is None:
            return rows
        for _ in range(BATCHES):
            with self.database.write() as session:
                pruned = pruning.prune(session, now - self.policy.keep_records)
            rows += pruned.rows
            if not pruned.more:
                break
        return rows

    def _lacks_room(self) -> bool:
        return self.spool.free_bytes() < self.policy.room_bytes

    def _purged(self, expiry: Expiry, now: datetime) -> Iterator[int]:
        """Purge the studies one by one, the oldest first; how many files each. One that cannot be holds up no other."""
        with self.database.read() as session:
            expired = retention.expired_studies(session, expiry)
        for study_id in expired:
            try:
                files = self._purge(study_id, expiry, now)
            except ObjectStoreAway:
                raise
            except OSError as error:
                LOGGER.error("images not deleted", study=study_id, why=error.strerror)
                continue
            if files is not None:
                yield files

    def _purge(self, study_id: int, expiry: Expiry, now: datetime) -> int | None:
        """Delete the images of one study; how many files, None where it is not to be purged any more.

        The store first, the images after its commit: a study never counts as whole while files of it are gone. Pictures
        beside its results show its images too; they go before the commit, since a purge that is killed begins again.
        So do the objects that the nodes have in an object store: no sweep looks for what would be left over there.
        """
        with self.database.write() as session:
            study = retention.begin_purge(session, study_id, expiry, now)
            if study is None:
                return None
            files = _delete_beside(self.spool.storage, study.results)
            files += 0 if self.objects is None else _delete_objects(self.objects, study)
            _mark_changed(self.spool.storage, study.paths)
        files += sum(self._delete(study_id, some, now) for some in _pieces(study.paths))
        LOGGER.info("images deleted", study=study_id, files=files, why=expiry.why)
        return files

    def _delete(self, study_id: int, paths: tuple[str, ...], purged_at: datetime) -> int:
        """Delete some images; none once something of their study has come again, for that may be one of these files."""
        with self.database.write() as session:
            if not retention.is_still_purged(session, study_id, purged_at):
                return 0
            return sum(_unlink(self.spool.storage / path) for path in paths)


def _pieces(paths: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for start in range(0, len(paths), TOGETHER):
        yield paths[start : start + TOGETHER]


def _mark_changed(storage: Path, paths: tuple[str, ...]) -> None:
    """Let the next start look into these folders, whatever becomes of the deletion."""
    for folder in {(storage / path).parent for path in paths}:
        with suppress(FileNotFoundError):
            os.utime(folder)


def _delete_beside(storage: Path, results: tuple[str, ...]) -> int:
    """Delete what lies in the folders of the results and is none of them; how many files."""
    kept = {storage / path for path in results}
    folders = {path.parent for path in kept if path.parent.is_dir()}
    return sum(_unlink(file) for folder in folders for file in folder.iterdir() if file not in kept)


def _delete_objects(objects: ObjectFolder, study: retention.ExpiredStudy) -> int:
    """Delete the images, and what lies beside the results; how many objects. Raises ObjectStoreAway."""
    folders = {path.rpartition("/")[0] for path in study.results}
    beside = {key for folder in folders for key in objects.sizes(folder)} - set(study.results)
    return objects.delete([*study.paths, *beside])


def _unlink(path: Path) -> bool:
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True
