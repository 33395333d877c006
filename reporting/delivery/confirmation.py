"""Is a result really kept by its destination? Storage commitment (PS3.4 J) asked for, an object looked up, compared."""

from __future__ import annotations

import enum
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import evt
from pynetdicom.dsutils import decode
from pynetdicom.presentation import build_context

from engine.headers import MALFORMED
from scp.commitment_content import (
    REQUEST_COMMITMENT,
    STORAGE_COMMITMENT,
    STORAGE_COMMITMENT_INSTANCE,
    action_information,
)
from scp.pacs_query.dimse import DimseSource
from scp.pacs_query.source import FetchedInstance, legible
from scp.peer import Peer, Timeouts
from scp.requesting import AssociationRejected, NoAssociation, NothingAccepted, associate, released

FAILURE_REASONS = {
    0x0110: "processing failure",
    0x0112: "no such object instance",
    0x0119: "class-instance conflict",
    0x0122: "referenced SOP class not supported",
    0x0131: "duplicate transaction UID",
    0x0213: "resource limitation",
}
"""Failure Reason (0008,1197) in storage commitment (PS3.3 C.14.1.1)."""


@dataclass(frozen=True)
class Report:
    """What an N-EVENT-REPORT of storage commitment says. failed: SOP Instance UID to the reason."""

    transaction_uid: str
    committed: tuple[str, ...]
    failed: Mapping[str, str]


class Reply(enum.Enum):
    """What became of a request for commitment."""

    ACCEPTED = "accepted"
    """The report is to come, or came on the same association."""
    NOT_OFFERED = "not offered"
    """The destination has no storage commitment, or none for us."""
    UNREACHABLE = "unreachable"


@dataclass(frozen=True)
class Request:
    """The outcome of an N-ACTION."""

    reply: Reply
    reason: str = ""


class Comparison(enum.Enum):
    """What a destination has under the UID of an object of ours."""

    SAME = "same"
    DIFFERENT = "different"
    ABSENT = "absent"


_NETWORK = Timeouts(connect=10.0, association=10.0, answer=30.0)


@dataclass(frozen=True)
class CommitmentTimeouts:
    """For association and answers, and seconds to listen for a report on the same association."""

    network: Timeouts = _NETWORK
    same_association: float = 1.0


def parse_report(dataset: Dataset) -> Report:
    """Event information of an N-EVENT-REPORT (PS3.4 J.3.3). Raises ValueError for one without transaction UID."""
    transaction = str(dataset.get("TransactionUID") or "")
    if not transaction:
        raise ValueError("an event report without Transaction UID")
    committed = tuple(str(i.ReferencedSOPInstanceUID) for i in dataset.get("ReferencedSOPSequence") or ())
    failed = {}
    for item in dataset.get("FailedSOPSequence") or ():
        code = int(item.get("FailureReason") or 0x0110)
        failed[str(item.ReferencedSOPInstanceUID)] = (
            f"0x{code:04X} ({FAILURE_REASONS.get(code, 'not said why')})"
        )
    return Report(transaction, committed, failed)


class _Listening:
    """Takes the reports that come on the association of a request, and knows when that of the request is answered."""

    def __init__(self, transaction_uid: str, take: Callable[[Report], None]) -> None:
        self._transaction_uid = transaction_uid
        self._take = take
        self._came, self._taken, self._answered = threading.Event(), threading.Event(), threading.Event()

    @property
    def handlers(self) -> list[tuple[Any, Callable[[evt.Event], Any]]]:
        """For the association of the request."""
        return [(evt.EVT_N_EVENT_REPORT, self._on_report), (evt.EVT_PDU_SENT, self._on_sent)]

    def wait(self, timeouts: CommitmentTimeouts) -> None:
        """Return when the report was answered, or none has come: a release before the answer would cut it off."""
        if self._came.wait(timeouts.same_association):
            self._answered.wait(timeouts.network.answer)

    def _on_report(self, event: evt.Event) -> tuple[int, None]:
        try:
            report = parse_report(event.event_information)
        except MALFORMED:
            return 0x0115, None  # invalid argument value (PS3.7 C.5)
        awaited = report.transaction_uid == self._transaction_uid
        if awaited:
            self._came.set()
        try:
            self._take(report)
        finally:
            if awaited:
                self._taken.set()
        return 0x0000, None

    def _on_sent(self, event: evt.Event) -> None:
        if self._taken.is_set():  # what leaves now is the answer: nothing else is sent before the release
            self._answered.set()


def request_commitment(
    peer: Peer,
    calling_ae_title: str,
    transaction_uid: str,
    references: Sequence[tuple[str, str]],
    take: Callable[[Report], None],
    timeouts: CommitmentTimeouts = CommitmentTimeouts(),
) -> Request:
    """N-ACTION for `references`, pairs of SOP Class UID and SOP Instance UID; waits a moment for the report.

    take: records each report that comes on this association, of this transaction or an earlier one. The destination
    gets its answer afterwards and does not report again; what `take` raises is answered as processing failure.
    """
    listening = _Listening(transaction_uid, take)
    contexts = [build_context(STORAGE_COMMITMENT)]
    try:
        with released(
            associate(peer, calling_ae_title, contexts, timeouts.network, handlers=listening.handlers)
        ) as association:
            status, _ = association.send_n_action(
                action_information(transaction_uid, references),
                REQUEST_COMMITMENT,
                STORAGE_COMMITMENT,
                STORAGE_COMMITMENT_INSTANCE,
            )
            if (refusal := _refusal(status)) is not None:
                return Request(Reply.NOT_OFFERED, refusal)
            listening.wait(timeouts)
            return Request(Reply.ACCEPTED)
    except (NothingAccepted, AssociationRejected):
        return Request(Reply.NOT_OFFERED, "storage commitment is not accepted")
    except NoAssociation as error:
        return Request(Reply.UNREACHABLE, f"no storage commitment: {error}")
    except (RuntimeError, ValueError) as error:
        return Request(Reply.UNREACHABLE, f"{peer}: {error}")


def _refusal(status: Dataset) -> str | None:
    """Why an N-ACTION was not taken; None where it was."""
    if status.get("Status") is None:
        # Orthanc aborts for peers that it has no address of
        return "the request for commitment was aborted or not answered"
    if status.Status != 0x0000:
        return f"the request for commitment got 0x{status.Status:04X}"
    return None


def compare_kept(
    peer: Peer, calling_ae_title: str, path: Path, *, study_instance_uid: str, series_instance_uid: str
) -> Comparison:
    """Retrieve the object at `path` from its destination by C-GET and compare.

    Raises scp.pacs_query.source.QueryFailed where the destination does not let it be retrieved.
    """
    ours = pydicom.dcmread(path)
    keys = Dataset()
    keys.QueryRetrieveLevel = "IMAGE"
    keys.StudyInstanceUID = study_instance_uid
    keys.SeriesInstanceUID = series_instance_uid
    keys.SOPInstanceUID = ours.SOPInstanceUID
    came: list[FetchedInstance] = []

    def keep(instance: FetchedInstance) -> int:
        came.append(instance)
        return 0x0000

    source(peer, calling_ae_title).get(keys, [str(ours.SOPClassUID)], keep)
    theirs = next((i for i in came if i.sop_instance_uid == ours.SOPInstanceUID), None)
    if theirs is None:
        return Comparison.ABSENT
    syntax = UID(theirs.transfer_syntax_uid)
    with legible(str(peer)):
        dataset = decode(
            BytesIO(theirs.data_set), syntax.is_implicit_VR, syntax.is_little_endian, syntax.is_deflated
        )
        recompressed = differently_compressed(ours.file_meta.TransferSyntaxUID, syntax)
        other = altered(ours, dataset, recompressed=recompressed)
        return Comparison.DIFFERENT if other else Comparison.SAME


def source(peer: Peer, calling_ae_title: str) -> DimseSource:
    """The destination as something to ask."""
    return DimseSource(peer, calling_ae_title, timeouts=Timeouts(connect=10.0, association=10.0, answer=60.0))


_COERCIBLE = {0x0008: {0x0005, 0x0050, 0x0090, 0x1030}, 0x0020: {0x0010}}
"""Study attributes that an archive may coerce when it reconciles a study (PS3.4 B.4.1.3), beside group 0010."""


_COMPRESSIBLE = {0x0028: {0x0004, 0x0006}, 0x7FE0: {0x0010}}
"""What compression changes: Pixel Data, its Photometric Interpretation and Planar Configuration (PS3.5 8.2)."""


def altered(ours: Dataset, theirs: Dataset, *, recompressed: bool = False) -> str | None:
    """The first attribute of ours that theirs lacks or has with another value; None where all are there.

    What an archive may coerce (patient and study attributes) and what it adds does not count. recompressed: see
    `differently_compressed`; then the pixels are not compared.
    """
    passed_over = (_COERCIBLE, _COMPRESSIBLE) if recompressed else (_COERCIBLE,)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for element in ours:
            tag = element.tag
            if tag.group == 0x0010 or any(tag.element in m.get(tag.group, ()) for m in passed_over):
                continue
            if tag not in theirs or theirs[tag].value != element.value:
                return str(element.keyword or tag)
    return None


def differently_compressed(ours: UID, theirs: UID) -> bool:
    """Whether an archive keeps an object compressed that was not, or the reverse, as many do to save space."""
    return ours != theirs and (ours.is_compressed or theirs.is_compressed)
