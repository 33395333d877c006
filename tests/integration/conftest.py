"""A listener on a loopback port with a store of its own, and CT instances to send to it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.association import Association
from sqlalchemy import select

from scp.listener import Listener
from scp.policy import ListenerPolicy
from store.database import Database, open_database
from store.migrations import upgrade
from store.models import Instance, Refusal

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="session")
def chromium() -> Iterator[Callable[..., Browser]]:
    """Starts Debian's Chromium with arguments of its command line; skipped where it or Playwright is absent.

    Playwright bears one instance of itself in a process.
    """
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("Chromium is not installed; on Debian: apt install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    with playwright.sync_playwright() as running:
        yield lambda *arguments: running.chromium.launch(
            executable_path=program, headless=True, args=arguments
        )


@dataclass(frozen=True)
class RunningListener:
    """A listener with its store and storage folder."""

    listener: Listener
    database: Database
    storage: Path

    @property
    def port(self) -> int:
        return self.listener.port

    def files(self) -> list[Path]:
        """Every file in the spool."""
        return sorted((self.storage / "spool").rglob("*.dcm"))

    def unfinished(self) -> list[Path]:
        """Every file that is being written."""
        return sorted((self.storage / "incoming").iterdir())

    def instances(self) -> list[Instance]:
        with self.database.read() as session:
            rows = list(session.scalars(select(Instance).order_by(Instance.id)))
            session.expunge_all()
        return rows

    def refusals(self) -> list[Refusal]:
        with self.database.read() as session:
            rows = list(session.scalars(select(Refusal).order_by(Refusal.id)))
            session.expunge_all()
        return rows

    def associate(
        self, *contexts: tuple[str, str], calling: str = "SENDER", host: str = "127.0.0.1"
    ) -> Association:
        """Open an association for (abstract syntax, transfer syntax) pairs; not established where it is rejected.

        host: the address that it comes from.
        """
        ae = AE(ae_title=calling)
        for abstract, transfer in contexts or ((CTImageStorage, ExplicitVRLittleEndian),):
            ae.add_requested_context(abstract, transfer)
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 20
        called = self.listener.policy.ae_title
        return ae.associate("127.0.0.1", self.port, ae_title=called, bind_address=(host, 0))

    def send(self, *datasets: Dataset) -> list[int | None]:
        """Send data sets on one association; their statuses, None where none came."""
        contexts = {(d.SOPClassUID, d.file_meta.TransferSyntaxUID): None for d in datasets}
        association = self.associate(*contexts)
        assert association.is_established
        statuses = [association.send_c_store(d).get("Status") for d in datasets]
        association.release()
        return statuses


StartListener = Callable[..., RunningListener]


@pytest.fixture(params=["streaming", "ordinary"])
def start_listener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StartListener]:
    """Starts listeners, once with the streaming receiver and once with the ordinary handler."""
    url = f"sqlite:///{tmp_path / 'lungnode.db'}"
    upgrade(url)
    running: list[RunningListener] = []
    policy = ListenerPolicy(
        "LUNGNODE", port=0, reserve_bytes=0, grace_seconds=1.0, streaming=request.param == "streaming"
    )

    def start(name: str | None = None, **changes: object) -> RunningListener:
        database = open_database(url)
        storage = tmp_path / "storage"
        asked = replace(policy, **changes)  # type: ignore[arg-type]
        listener = Listener(asked, database, storage, lambda: datetime.now(UTC), name)
        listener.start()
        running.append(RunningListener(listener, database, storage))
        return running[-1]

    yield start
    for one in running:
        one.listener.stop()
        one.database.close()


@pytest.fixture
def listener(start_listener: StartListener) -> RunningListener:
    """A listener with the ordinary settings."""
    return start_listener()


def ct_slice(number: int, study: str = "1.2.826.0.1.99.1", size: int = 64) -> Dataset:
    """A small CT instance, explicit little endian."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = f"{study}.1.{number}"
    dataset.StudyInstanceUID = study
    dataset.SeriesInstanceUID = f"{study}.1"
    dataset.Modality = "CT"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.PatientName = "Doe^Jane"
    dataset.PatientID = "SECRET-4711"
    dataset.InstanceNumber = number
    dataset.ImagePositionPatient = [0, 0, float(number)]
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing = [0.7, 0.7]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows = dataset.Columns = size
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 1
    dataset.RescaleIntercept, dataset.RescaleSlope = -1024, 1
    pixels = np.random.default_rng(number).integers(0, 2000, (size, size), dtype=np.int16)
    dataset.PixelData = pixels.tobytes()
    return dataset


@pytest.fixture
def ct() -> Callable[..., Dataset]:
    """Makes CT instances: `ct(number, study=..., size=...)`."""
    return ct_slice
