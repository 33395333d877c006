"""Where the studies of a batch come from: a directory tree, a PACS by C-FIND and C-GET, a DICOMweb server."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Protocol

import pydicom
from pydicom.dataset import Dataset

from engine.headers import MALFORMED
from node.batch.journal import Journal, content_digest
from scp.pacs_query.source import FetchedInstance, QuerySource
from scp.spool import file_meta

STUDY_INSTANCE_UID = 0x0020000D


@dataclass(frozen=True)
class ArchivedStudy:
    """A study of the archive.

    content: digest of what it consists of, so far as that is known without fetching it.
    """

    study_instance_uid: str
    content: str


@dataclass(frozen=True)
class DateRange:
    """Study dates from `first` to `last`, both included; None for no bound."""

    first: date | None = None
    last: date | None = None

    def __str__(self) -> str:
        """As a DICOM range (PS3.4 C.2.2.2.5.1); empty for no bound at all."""
        if self.first is None and self.last is None:
            return ""
        return "-".join("" if day is None else f"{day:%Y%m%d}" for day in (self.first, self.last))


class Archive(Protocol):
    """Where studies come from."""

    def studies(self) -> list[ArchivedStudy]:
        """Every study, in a stable order. Raises OSError, scp.pacs_query.source.QueryFailed."""
        ...

    def files(self, study: ArchivedStudy) -> AbstractContextManager[list[Path]]:
        """Its files, while the context lasts. Raises OSError, scp.pacs_query.source.QueryFailed."""
        ...


@dataclass(frozen=True)
class DirectoryTree:
    """Every DICOM file below `root`, grouped by Study Instance UID; other files are passed over.

    A folder that has not changed since an earlier run is not read again. looked: told how many files were looked at.
    """

    root: Path
    journal: Journal
    looked: Callable[[int], None] = lambda count: None

    def studies(self) -> list[ArchivedStudy]:
        present, seen = set(), 0
        for place, folders, names in os.walk(self.root):
            folders.sort()
            if not names:
                continue
            present.add(place)
            self._look_through(Path(place), sorted(names))
            seen += len(names)
            self.looked(seen)
        self.journal.keep_folders(present)
        return [
            ArchivedStudy(uid, content_digest(self.journal.files_of(uid))) for uid in self.journal.studies()
        ]

    def files(self, study: ArchivedStudy) -> AbstractContextManager[list[Path]]:
        return nullcontext([Path(path) for path in self.journal.files_of(study.study_instance_uid)])

    def _look_through(self, folder: Path, names: list[str]) -> None:
        changed = folder.stat().st_mtime_ns
        if self.journal.knows_folder(str(folder), changed, len(names)):
            return
        paths = (folder / name for name in names)
        found = ((str(path), study_of(path)) for path in paths if path.is_file())
        self.journal.record_folder(str(folder), changed, found, len(names))


@dataclass(frozen=True)
class QueriedArchive:
    """A PACS or DICOMweb server that is asked for CT studies and gives their CT instances.

    find: the Study Instance UIDs. scratch: folder in which a study's files lie while it is screened.
    """

    find: Callable[[], list[str]]
    source: QuerySource
    scratch: Path

    def studies(self) -> list[ArchivedStudy]:
        return [ArchivedStudy(uid, "") for uid in sorted(set(self.find()))]

    @contextmanager
    def files(self, study: ArchivedStudy) -> Iterator[list[Path]]:
        self.scratch.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=self.scratch))
        try:
            uid = study.study_instance_uid
            for series in self.source.series(uid):
                if series.modality == "CT":
                    wanted = self.source.instances(uid, series.series_instance_uid)
                    self.source.fetch(uid, series.series_instance_uid, wanted, _writer(folder))
            yield sorted(folder.iterdir())
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def study_keys(dates: DateRange) -> Dataset:
    """Keys of a C-FIND for CT studies on the level of studies (PS3.4 C.6.2.1)."""
    keys = Dataset()
    keys.QueryRetrieveLevel = "STUDY"
    keys.StudyInstanceUID = ""
    keys.StudyDate = str(dates)
    keys.ModalitiesInStudy = "CT"
    return keys


def study_of(path: Path) -> str | None:
    """The Study Instance UID of a DICOM file; None for any other file."""
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=[STUDY_INSTANCE_UID])
        return str(header.get("StudyInstanceUID") or "") or None
    except MALFORMED:
        return None


def _writer(folder: Path) -> Callable[[FetchedInstance], int]:
    """Writes what is fetched as Part 10 files, named by number: no received value names a file."""

    def write(instance: FetchedInstance) -> int:
        meta = file_meta(instance.sop_class_uid, instance.sop_instance_uid, instance.transfer_syntax_uid)
        path = folder / f"{len(list(folder.iterdir())):06d}.dcm"
        path.write_bytes(meta + instance.data_set)
        return 0x0000

    return write
