"""What peers notify and ask beside images: availability, procedure steps, storage commitment."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from io import BytesIO

from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, ImplicitVRLittleEndian
from pynetdicom.dsutils import decode

from engine.headers import MALFORMED
from hostile_input.samples import UIDS, encoded
from hostile_input.target import stateless
from scp.announcements import availability, performed
from scp.commitment_content import RequestRefused, parse_request
from scp.instances import valid_uid


def seeds() -> Sequence[bytes]:
    """One of each, implicit little endian."""
    reference, series, scheduled = Dataset(), Dataset(), Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = CTImageStorage, UIDS[0]
    series.SeriesInstanceUID, series.ReferencedSOPSequence = UIDS[2], [reference]
    series.ReferencedImageSequence = [reference]
    scheduled.StudyInstanceUID = UIDS[1]
    available, step, commitment = Dataset(), Dataset(), Dataset()
    available.StudyInstanceUID, available.ReferencedSeriesSequence = UIDS[1], [series]
    step.ScheduledStepAttributesSequence, step.PerformedSeriesSequence = [scheduled], [series]
    commitment.TransactionUID, commitment.ReferencedSOPSequence = "1.2.8", [reference]
    return [encoded(dataset, ImplicitVRLittleEndian) for dataset in (available, step, commitment)]


def take(data: bytes) -> None:
    """Decode as pynetdicom does, and read it as each of the three."""
    try:
        content = decode(BytesIO(data), True, True)
    except MALFORMED:
        return  # pynetdicom's; its caller answers with a failure
    for read in (availability, performed):
        with suppress(MALFORMED):
            statement = read(content)
            assert valid_uid(statement.study_instance_uid)
            assert all(valid_uid(uid) for uid in statement.instances)
    try:
        transaction, references = parse_request(1, content)
    except (RequestRefused, *MALFORMED):
        return
    assert valid_uid(transaction)
    assert all(valid_uid(uid) for pair in references for uid in pair)


NOTIFICATION = stateless(seeds, take)
