"""Deleting the images of studies that are delivered and old enough. What is not delivered is never touched."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import structlog

from store import retention
from store.database import Database
from store.object_folder import ObjectFolder

LOGGER = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Purged:
    """What a purge deleted."""

    studies: int
    files: int


def purge_delivered(
    database: Database, storage: Path, keep: timedelta, now: datetime, objects: ObjectFolder | None = None
) -> Purged:
    """Delete the images of every study that was delivered longer than `keep` ago. Raises OSError.

    The store first, the images after its commit: a study never counts as whole while files of it are gone. Pictures
    beside its results show its images too; they go before the commit, since a purge that is killed begins again.
    So do `objects`, what the nodes have in an object store: no sweep looks for what would be left over there.
    """
    before = now - keep
    studies = files = 0
    with database.read() as session:
        expired = retention.expired_studies(session, before)
    for study_id in expired:
        with database.write() as session:
            study = retention.begin_purge(session, study_id, before, now)
            if study is not None:
                files += _delete_beside(storage, study.results)
                files += 0 if objects is None else _delete_objects(objects, study)
                _mark_changed(storage, study.paths)
        if study is None:
            continue
        studies += 1
        files += sum(_delete(storage / path) for path in study.paths)
        LOGGER.info("images deleted after delivery", study=study.study_id, files=len(study.paths))
    return Purged(studies, files)


def _mark_changed(storage: Path, paths: tuple[str, ...]) -> None:
    """Let the next start look into these folders, whatever becomes of the deletion."""
    for folder in {(storage / path).parent for path in paths}:
        with suppress(FileNotFoundError):
            os.utime(folder)


def _delete_beside(storage: Path, results: tuple[str, ...]) -> int:
    """Delete what lies in the folders of the results and is none of them; how many files."""
    kept = {storage / path for path in results}
    folders = {path.parent for path in kept if path.parent.is_dir()}
    return sum(_delete(file) for folder in folders for file in folder.iterdir() if file not in kept)


def _delete_objects(objects: ObjectFolder, study: retention.ExpiredStudy) -> int:
    """Delete the images, and what lies beside the results; how many objects. Raises ObjectStoreAway."""
    folders = {path.rpartition("/")[0] for path in study.results}
    beside = {key for folder in folders for key in objects.sizes(folder)} - set(study.results)
    return objects.delete([*study.paths, *beside])


def _delete(path: Path) -> bool:
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True
