"""A scripted Storage SCP on loopback, and small objects to send it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from clocks import Clock
from delivery_desk import Desk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE, evt
from pynetdicom.presentation import build_context

from scp.peer import Peer
from store.database import Database

CT = "1.2.840.10008.5.1.4.1.1.2"
SEG = "1.2.840.10008.5.1.4.1.1.66.4"
VERIFICATION = "1.2.840.10008.1.1"


@dataclass
class ScriptedPACS:
    """Accepts `classes`; answers with `status(sop_instance_uid)`; keeps what it stored."""

    peer: Peer
    status: Callable[[str], int] = lambda uid: 0x0000
    stored: dict[str, Dataset] = field(default_factory=dict)
    syntaxes: list[str] = field(default_factory=list)
    associations: int = 0


@pytest.fixture
def pacs_with() -> Iterator[Callable[..., ScriptedPACS]]:
    """Start a PACS that takes the given (SOP class, transfer syntaxes); handlers: of further events."""
    servers = []

    def start(
        classes: dict[str, list[str]], ae_title: str = "PACS", handlers: Sequence[Any] = ()
    ) -> ScriptedPACS:
        entity = AE(ae_title=ae_title)
        entity.require_called_aet = True
        entity.supported_contexts = [build_context(c, s) for c, s in classes.items()]
        pacs = ScriptedPACS(Peer(ae_title, "127.0.0.1", 0))

        def store(event: evt.Event) -> int:
            status = pacs.status(event.request.AffectedSOPInstanceUID)
            if status in (0x0000, 0xB000):
                pacs.stored[event.request.AffectedSOPInstanceUID] = event.dataset
                pacs.syntaxes.append(event.context.transfer_syntax)
            return status

        def count(event: evt.Event) -> None:
            pacs.associations += 1

        heard = [(evt.EVT_C_STORE, store), (evt.EVT_ACCEPTED, count), *handlers]
        server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=heard)
        servers.append(server)
        pacs.peer = Peer(ae_title, "127.0.0.1", server.socket.getsockname()[1])
        return pacs

    yield start
    for server in servers:
        server.shutdown()


@pytest.fixture
def write_object(tmp_path: Path) -> Callable[..., Path]:
    """Write a minimal object of a SOP class as a DICOM file."""

    def write(sop_class: str = CT, syntax: str = ExplicitVRLittleEndian, size: int = 0) -> Path:
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = UID(syntax)
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = UID(sop_class)
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
        dataset.PatientID = "1"
        if size:
            dataset.add_new("EncapsulatedDocument", "OB", bytes(size))
        path = tmp_path / f"{dataset.SOPInstanceUID}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        return path

    return write


@pytest.fixture
def desk(database: Database, tmp_path: Path, write_object: Callable[..., Path]) -> Desk:
    """A store whose study can be screened, and who delivers its results."""
    return Desk(database, Clock(), tmp_path, write_object)
