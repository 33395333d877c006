"""A store with a delivered study, and scripted PACSs on loopback."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from clocks import Clock
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.presentation import PresentationContext

from scp.peer import Peer
from store import claims, receipts, results, revisions
from store.database import Database

NOW = datetime(2026, 1, 5, 8, 0, tzinfo=UTC)
STUDY = "1.2.3"
SEG = "1.2.840.10008.5.1.4.1.1.66.4"
SR = "1.2.840.10008.5.1.4.1.1.88.34"


@pytest.fixture
def clock() -> Clock:
    return Clock(NOW)


def ct_dataset(number: int, *, series: str = f"{STUDY}.1", study: str = STUDY, **attributes: str) -> Dataset:
    """A small CT image; ImagePositionPatient goes up 2 mm a number. attributes: further ones, by keyword."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = CTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = UID(f"{series}.{number}")
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, series
    dataset.Modality, dataset.PatientID, dataset.PatientName = "CT", "P1", "Test^A"
    dataset.InstanceNumber = number
    dataset.ImagePositionPatient = [0, 0, 2.0 * number]
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.Rows = dataset.Columns = 2
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.PixelData = bytes(8)
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


@pytest.fixture
def record(database: Database, tmp_path: Path) -> Callable[..., str]:
    """Put an instance into the store as if it had been received; returns its SOP Instance UID."""

    def record(number: int, at: datetime = NOW, association_id: int | None = None, **kind: Any) -> str:
        dataset = ct_dataset(number, **kind)
        path = tmp_path / "spool" / f"{dataset.SOPInstanceUID}.dcm"
        path.parent.mkdir(exist_ok=True)
        dataset.save_as(path, enforce_file_format=True)
        with database.write() as session:
            receipts.record_instance(
                session,
                receipts.ReceivedInstance(
                    study_instance_uid=str(dataset.StudyInstanceUID),
                    series_instance_uid=str(dataset.SeriesInstanceUID),
                    sop_instance_uid=str(dataset.SOPInstanceUID),
                    sop_class_uid=str(dataset.SOPClassUID),
                    transfer_syntax_uid=str(ExplicitVRLittleEndian),
                    modality="CT",
                    patient_digest="0" * 64,
                    sha256=f"{number:064x}",
                    size=path.stat().st_size - 200,
                    path=str(path.relative_to(tmp_path)),
                ),
                association_id=association_id,
                now=at,
            )
        return str(dataset.SOPInstanceUID)

    return record


@dataclass(frozen=True)
class Outbox:
    """A screened study whose results wait for `pacs`."""

    study_instance_uid: str
    uids: tuple[str, str]
    paths: tuple[Path, Path]


@pytest.fixture
def outbox(database: Database, record: Callable[..., str], tmp_path: Path) -> Outbox:
    """Two results, a SEG and an SR, waiting for the destination `pacs`."""
    record(1)
    with database.write() as session:
        (study,) = revisions.receiving_studies(session)
        revisions.complete_study(session, study.study_id, who="test", why="test", now=NOW)
    with database.write() as session:
        claim = claims.claim_next(session, worker="w", lease=timedelta(minutes=1), max_attempts=3, now=NOW)
        assert claim is not None
        objects, paths = [], []
        for kind, sop_class, uid in (("seg", SEG, "2.25.11"), ("sr", SR, "2.25.12")):
            dataset = Dataset()
            dataset.file_meta = FileMetaDataset()
            dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = UID(sop_class)
            dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = UID(uid)
            dataset.StudyInstanceUID = STUDY
            dataset.SeriesInstanceUID = UID("2.25.19" if kind == "sr" else "2.25.29")
            dataset.Modality, dataset.PatientID = kind.upper(), "P1"
            dataset.SeriesDescription = f"content of {kind}"
            path = tmp_path / "outbox" / f"{kind}.dcm"
            path.parent.mkdir(exist_ok=True)
            dataset.save_as(path, enforce_file_format=True)
            paths.append(path)
            objects.append(
                results.ResultObject(
                    kind, sop_class, uid, str(dataset.SeriesInstanceUID), f"outbox/{kind}.dcm"
                )
            )
        results.record_results(
            session,
            claim,
            objects,
            destinations={"pacs": ("seg", "sr")},
            settings_digest="a" * 64,
            summary={},
            now=NOW,
        )
    return Outbox(STUDY, ("2.25.11", "2.25.12"), (paths[0], paths[1]))


@dataclass
class Server:
    """A scripted peer that listens."""

    peer: Peer
    seen: list[Any] = field(default_factory=list)


Start = Callable[..., Server]


@pytest.fixture
def start_server() -> Iterator[Start]:
    """Start an SCP with the given contexts and handlers."""
    servers = []

    def start(contexts: list[PresentationContext], handlers: list[Any], ae_title: str = "PACS") -> Server:
        entity = AE(ae_title=ae_title)
        for context in contexts:  # assigning them all at once would drop their roles
            entity.add_supported_context(
                str(context.abstract_syntax), context.transfer_syntax, context.scu_role, context.scp_role
            )
        server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        servers.append(server)
        return Server(Peer(ae_title, "127.0.0.1", server.socket.getsockname()[1]))

    yield start
    for server in servers:
        server.shutdown()
