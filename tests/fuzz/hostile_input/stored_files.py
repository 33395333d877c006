"""Files in the spool as the worker reads them, and as rules, completeness and the page look at them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import count
from pathlib import Path

from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from engine.errors import EngineError
from engine.loading import load_series
from hostile_input.samples import encoded, file_of, image
from hostile_input.target import Take, Target
from node.routing.facts import read_series, values_at
from node.web.identity import identity_of
from scp.gap_check import read_slice

ARRIVED = datetime(2026, 1, 2, 3, 4)
PATHS = ("Modality", "ImageType", "RequestAttributesSequence.RequestedProcedurePriority", "PatientID")


def seeds() -> Sequence[bytes]:
    """An image as a file, with and without its head."""
    return [
        file_of(image()),
        file_of(image(), ImplicitVRLittleEndian),
        encoded(image(), ImplicitVRLittleEndian),
        encoded(image(), ExplicitVRLittleEndian),
    ]


@contextmanager
def opened(folder: Path) -> Iterator[Take]:
    """Writes each input to a file, beside a right one of the same series."""
    right, numbers = folder / "right.dcm", count()
    neighbour = image()
    neighbour.SOPInstanceUID, neighbour.InstanceNumber = "1.2.3.1.2", 2
    neighbour.ImagePositionPatient = [0, 0, 2]
    right.write_bytes(file_of(neighbour))

    def take(data: bytes) -> None:
        other = folder / f"{next(numbers)}.dcm"  # who is in a file that was read before is remembered
        other.write_bytes(data)
        for paths in ([other], [right, other]):
            try:
                load_series(paths)
            except EngineError as error:
                assert "\n" not in str(error)
        read_slice(other)
        identity_of(other)
        for series in read_series([other], calling_ae=None, arrived_at=ARRIVED):
            for path in PATHS:
                values_at(series.sample, path)
        other.unlink()

    yield take


STORED_FILE = Target(seeds, opened)
