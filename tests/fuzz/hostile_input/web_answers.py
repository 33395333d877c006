"""What servers answer that the node asks by HTTP: QIDO-RS, WADO-RS and UPS-RS."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from io import BytesIO
from pathlib import Path
from typing import Any

import requests
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from requests.adapters import BaseAdapter

from hostile_input.multipart_bodies import HEADERS, body_of
from hostile_input.samples import UIDS, file_of, image
from hostile_input.target import Take, Target, stateless
from reporting.delivery.scu import Parcel, PeerUnreachableError, Verdict
from reporting.delivery.stow import StowSender, StowService
from scp.pacs_query.dicomweb import DicomwebSource
from scp.pacs_query.source import FetchedInstance, QueryFailed
from scp.pacs_query.worklist import WorkitemCode, Worklist, WorklistFailed

URL = "http://pacs.invalid/dicomweb"
CODE = WorkitemCode("screen", "99LUNGNODE", "Screening")


class _Answering(BaseAdapter):
    """Answers every request with the same bytes."""

    def __init__(self, kind: str, body: bytes, status: HTTPStatus) -> None:
        super().__init__()
        self._kind, self._body, self._status = kind, body, status

    def send(self, request: requests.PreparedRequest, *_args: Any, **_options: Any) -> requests.Response:
        answer = requests.Response()
        answer.status_code, answer.reason = self._status, self._status.phrase
        answer.headers["Content-Type"] = self._kind
        answer.url, answer.request = request.url or "", request
        answer.raw = BytesIO(self._body)
        return answer

    def close(self) -> None:
        """Nothing is open."""


def session(kind: str, body: bytes, status: HTTPStatus = HTTPStatus.OK) -> requests.Session:
    """A session to a server that always answers this."""
    made = requests.Session()
    made.mount("http://", _Answering(kind, body, status))
    return made


def matches() -> bytes:
    """A right answer to QIDO-RS for series and studies alike."""
    match = Dataset()
    match.SOPInstanceUID, match.StudyInstanceUID, match.SeriesInstanceUID = UIDS
    match.Modality, match.NumberOfSeriesRelatedInstances = "CT", "3"
    match.PatientName, match.PatientBirthDate, match.StudyDate = "Doe^Jane", "19700101", "20260101"
    return json.dumps([match.to_json_dict()]).encode()


def workitems() -> bytes:
    """A right answer to a search for workitems."""
    code, item, given = Dataset(), Dataset(), Dataset()
    code.CodeValue, code.CodingSchemeDesignator = CODE.value, CODE.scheme
    given.StudyInstanceUID = UIDS[1]
    item.SOPInstanceUID, item.ProcedureStepState = "1.2.9", "SCHEDULED"
    item.ScheduledWorkitemCodeSequence, item.InputInformationSequence = [code], [given]
    return json.dumps([item.to_json_dict()]).encode()


def nested() -> bytes:
    """Sequences in sequences, deeper than any reader that calls itself can follow."""
    return b'[{"00081110":{"vr":"SQ","Value":' * 3000


def take_query(data: bytes) -> None:
    """Ask for series, studies and instances."""
    source = DicomwebSource(URL, session("application/dicom+json", data))
    for ask in (
        lambda: source.series(UIDS[1]),
        lambda: source.studies_of("patient"),
        lambda: source.studies("20260101-"),
        lambda: source.instances(UIDS[1], UIDS[2]),
    ):
        try:
            ask()
        except QueryFailed as error:
            assert "\n" not in str(error)


def take_fetched(data: bytes) -> None:
    """Fetch one instance; the first line is the answer's Content-Type."""
    header, _, body = data.partition(b"\n")
    source = DicomwebSource(URL, session(header.decode("latin-1"), body))

    def receive(instance: FetchedInstance) -> int:
        assert len(instance.data_set) <= len(data)
        return 0

    try:
        source.fetch(UIDS[1], UIDS[2], [UIDS[0]], receive)
    except QueryFailed as error:
        assert "\n" not in str(error)


def take_worklist(data: bytes) -> None:
    """Ask for workitems."""
    try:
        found = Worklist(URL, session("application/dicom+json", data), 1.0).scheduled(CODE)
    except WorklistFailed as error:
        assert "\n" not in str(error)
        return
    assert all(item.uid for item in found)


def stored() -> bytes:
    """A right answer to STOW-RS: stored, with a warning."""
    reference, answer = Dataset(), Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = CTImageStorage, UIDS[0]
    reference.WarningReason = 0xB000
    answer.ReferencedSOPSequence = [reference]
    return answer.to_json().encode()


def failed() -> bytes:
    """A right answer to STOW-RS: not stored."""
    reference, answer = Dataset(), Dataset()
    reference.ReferencedSOPInstanceUID, reference.FailureReason = UIDS[0], 0x0110
    answer.FailedSOPSequence = [reference]
    return answer.to_json().encode()


@contextmanager
def opened_store(folder: Path) -> Iterator[Take]:
    """Sends an object; the first byte of an answer chooses its HTTP status."""
    path = folder / "result.dcm"
    path.write_bytes(file_of(image()))
    result = Parcel(path, CTImageStorage, UIDS[0], ExplicitVRLittleEndian)

    def take(data: bytes) -> None:
        status = HTTPStatus.CONFLICT if data[:1] == b"f" else HTTPStatus.OK
        answers = session("application/dicom+json", data[1:], status)
        sender = StowSender(StowService(URL, compare=True), answers)
        try:
            (outcome,) = sender([result])
        except PeerUnreachableError as error:
            assert "\n" not in str(error)
            return
        assert outcome.verdict in Verdict and "\n" not in outcome.reason

    yield take


def fetched_seeds() -> Sequence[bytes]:
    """One file in a part, and an empty part."""
    return [HEADERS[0] + b"\n" + body_of(content) for content in (file_of(image()), b"")]


QUERY_ANSWER = stateless(lambda: [matches(), b"[]", b"[{}]", nested()], take_query)
FETCHED_INSTANCE = stateless(fetched_seeds, take_fetched)
STORE_ANSWER = Target(lambda: [b"s" + stored(), b"s" + failed(), b"f" + failed(), b"s{}"], opened_store)
WORKLIST_ANSWER = stateless(lambda: [workitems(), b"[]", b"[{}]", nested()], take_worklist)
