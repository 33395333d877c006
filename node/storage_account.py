"""How much room there is for images, what is deleted of them, and what was: for `lungnode status`."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from node.configuration import StorageConfiguration
from store import retention

LOOK_BACK = timedelta(days=7)


@dataclass(frozen=True)
class StorageAccount:
    """free_bytes: on the disk of the storage folder, None where that is not here. deleted_studies: of the last week."""

    free_bytes: int | None
    deleted_studies: int
    rule: str

    @property
    def words(self) -> str:
        """The account in one line."""
        free = (
            "the storage folder is not here"
            if self.free_bytes is None
            else f"{self.free_bytes / 2**30:.1f} GiB free"
        )
        return (
            f"Storage: {free}; {self.rule}; {self.deleted_studies} studies lost their images in the last week"
        )


def storage_account(session: Session, section: StorageConfiguration, now: datetime) -> StorageAccount:
    """The account of a storage folder and of the store beside it."""
    try:
        free = shutil.disk_usage(section.path).free
    except OSError:
        free = None
    return StorageAccount(free, retention.purges_since(session, now - LOOK_BACK), deletion_rule(section))


def deletion_rule(section: StorageConfiguration) -> str:
    """When images of studies that are done with are deleted, in words."""
    rules = []
    if section.keep_days is not None:
        rules.append(f"after {section.keep_days:g} days")
    if section.make_room and section.reserve_mb:
        rules.append(f"with less than {2 * section.reserve_mb} MiB free")
    if not rules:
        return "images are never deleted, see storage.keep_days"
    return f"images of delivered and skipped studies are deleted {' or '.join(rules)}"
