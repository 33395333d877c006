"""What a PACS answers by DIMSE: matches of C-FIND, and reports of storage commitment."""

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
from reporting.delivery.confirmation import parse_report
from scp.pacs_query.dimse import DimseSource
from scp.pacs_query.source import QueryFailed
from scp.peer import Peer


class _Matching(DimseSource):
    """A source whose every query has one match."""

    match: Dataset

    def find(self, keys: Dataset) -> list[Dataset]:
        return [self.match]


def seeds() -> Sequence[bytes]:
    """A match on each level, and a report, implicit little endian."""
    match, reference, report = Dataset(), Dataset(), Dataset()
    match.SOPInstanceUID, match.StudyInstanceUID, match.SeriesInstanceUID = UIDS
    match.Modality, match.NumberOfSeriesRelatedInstances = "CT", "3"
    match.PatientName, match.PatientBirthDate, match.StudyDate = "Doe^Jane", "19700101", "20260101"
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = CTImageStorage, UIDS[0]
    reference.FailureReason = 0x0110
    report.TransactionUID, report.FailedSOPSequence = "1.2.8", [reference]
    return [encoded(dataset, ImplicitVRLittleEndian) for dataset in (match, report)]


def take(data: bytes) -> None:
    """Decode as pynetdicom does, ask for series, studies and instances, and read it as a report."""
    try:
        content = decode(BytesIO(data), True, True)
    except MALFORMED:
        return  # pynetdicom's; it answers with a failure
    source = _Matching(Peer("PACS", "127.0.0.1", 104), "LUNGNODE")
    object.__setattr__(source, "match", content)
    for ask in (
        lambda: source.series(UIDS[1]),
        lambda: source.studies_of("patient"),
        lambda: source.instances(UIDS[1], UIDS[2]),
        lambda: source.holds(UIDS[1], UIDS[2], UIDS[0]),
    ):
        try:
            ask()
        except QueryFailed as error:
            assert "\n" not in str(error)
    with suppress(*MALFORMED):  # what its callers look for
        assert parse_report(content).transaction_uid


FIND_ANSWER = stateless(seeds, take)
