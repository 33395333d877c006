"""What a destination stored counts as delivered once it committed to it, and every way in which it does not."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, RLELossless, SecondaryCaptureImageStorage
from pynetdicom import evt
from pynetdicom.dsutils import encode
from pynetdicom.presentation import build_context
from sqlalchemy.exc import OperationalError

from reporting.delivery.commitment import MAX_REQUESTS, CommitmentPolicy, Committer, take_report
from reporting.delivery.confirmation import (
    CommitmentTimeouts,
    Comparison,
    Reply,
    Report,
    Request,
    compare_kept,
    parse_report,
)
from reporting.delivery.loop import Destination
from scp.commitment_content import STORAGE_COMMITMENT
from scp.pacs_query.dimse import FIND, GET, DimseSource
from scp.pacs_query.source import FetchedInstance
from scp.peer import Peer, Timeouts
from store import commitment, deliveries, queries
from store.database import Database
from store.deliveries import Backoff
from store.states import DeliveryState, StudyState

ANSWER = timedelta(seconds=60)
BACKOFF = Backoff(timedelta(seconds=5), timedelta(minutes=15))
COMMITMENT_INSTANCE = "1.2.840.10008.1.20.1.1"
QUICK = CommitmentTimeouts(Timeouts(10.0, 10.0, 10.0), same_association=0.3)
SEG, SR = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.88.34"


@pytest.fixture
def stored(database: Database, outbox: Any, clock: Any) -> Any:
    """Both results answered 0x0000."""
    with database.write() as session:
        due = deliveries.claim_due(session, who="d", lease=ANSWER, now=clock(), destinations=["pacs"])
        for item in due:
            deliveries.record_stored(session, item, who="d", status=0, now=clock())
    clock.forward(deliveries.TOGETHER.total_seconds())
    return outbox


@pytest.fixture
def committer(database: Database, tmp_path: Path, clock: Any) -> Callable[..., Committer]:
    def make(peer: Any, **policy: Any) -> Committer:
        settings = {"compare": False, "answer": ANSWER} | policy
        return Committer(
            database=database,
            storage=tmp_path,
            destination=Destination("pacs", peer),
            who="d",
            calling_ae_title="LUNGNODE",
            policy=CommitmentPolicy(**settings),
            backoff=BACKOFF,
            clock=clock,
            timeouts=QUICK,
        )

    return make


def commitment_pacs(start: Any, on_action: Callable[[evt.Event], int], **more: Any) -> Any:
    """A PACS that answers N-ACTION as told. found: UIDs that a query finds; None offers no query."""
    found = more.get("found")
    contexts = [build_context(STORAGE_COMMITMENT)]
    seen: list[Dataset] = []

    def action(event: evt.Event) -> tuple[int, None]:
        seen.append(event.action_information)
        return on_action(event), None

    def find(event: evt.Event) -> Any:
        uid = event.identifier.get("SOPInstanceUID")
        if uid in found:
            yield 0xFF00, event.identifier
        yield 0x0000, None

    handlers: list[Any] = [(evt.EVT_N_ACTION, action)]
    if found is not None:
        contexts.append(build_context(FIND))
        handlers.append((evt.EVT_C_FIND, find))
    server = start(contexts, handlers)
    server.seen = seen
    return server


def states(database: Database, study: str) -> tuple[StudyState, list[DeliveryState], list[str]]:
    with database.read() as session:
        account = queries.why(session, study)
    lines = account.deliveries
    return account.study.state, [d.state for d in lines], [d.last_error for d in lines]


def answer(database: Database, transaction: str, now: Any, **content: Any) -> int:
    return take_report(
        database,
        Report(transaction, content.get("committed", ()), content.get("failed", {})),
        destinations=["pacs"],
        who="listener",
        backoff=BACKOFF,
        now=now,
    )


def test_a_stored_study_is_not_delivered_yet(database: Database, stored: Any) -> None:
    state, each, _ = states(database, stored.study_instance_uid)
    assert state is StudyState.DELIVERING
    assert each == [DeliveryState.STORED] * 2


def test_all_committed_by_a_report_on_another_association(
    database: Database, stored: Any, start_server: Any, committer: Any, clock: Any
) -> None:
    pacs = commitment_pacs(start_server, lambda event: 0x0000)
    assert committer(pacs.peer).commit_due() == 2
    (asked,) = pacs.seen
    assert {i.ReferencedSOPInstanceUID for i in asked.ReferencedSOPSequence} == set(stored.uids)
    assert states(database, stored.study_instance_uid)[0] is StudyState.DELIVERING
    assert answer(database, asked.TransactionUID, clock.forward(3), committed=stored.uids) == 2
    state, each, _ = states(database, stored.study_instance_uid)
    assert state is StudyState.DELIVERED
    assert each == [DeliveryState.DELIVERED] * 2


def test_what_the_pacs_failed_is_sent_again(
    database: Database, stored: Any, start_server: Any, committer: Any, clock: Any
) -> None:
    pacs = commitment_pacs(start_server, lambda event: 0x0000)
    committer(pacs.peer).commit_due()
    kept, lost = stored.uids
    answer(
        database,
        pacs.seen[0].TransactionUID,
        clock.forward(1),
        committed=[kept],
        failed={lost: "0x0112 (no such object instance)"},
    )
    state, each, errors = states(database, stored.study_instance_uid)
    assert state is StudyState.DELIVERING
    assert each == [DeliveryState.DELIVERED, DeliveryState.PENDING]
    assert "no such object instance" in errors[1]
    with database.read() as session:
        assert deliveries.next_due_at(session, ["pacs"]) == clock() + timedelta(seconds=5)


def test_a_report_of_another_transaction_or_another_peer_settles_nothing(
    database: Database, stored: Any, start_server: Any, committer: Any, clock: Any
) -> None:
    pacs = commitment_pacs(start_server, lambda event: 0x0000)
    committer(pacs.peer).commit_due()
    assert answer(database, "2.25.1", clock(), committed=stored.uids) == 0
    with database.write() as session:
        settled = commitment.record_answer(
            session,
            transaction_uid=pacs.seen[0].TransactionUID,
            destinations=["elsewhere"],
            failed={},
            committed=stored.uids,
            who="x",
            backoff=BACKOFF,
            now=clock(),
        )
    assert settled == 0
    assert states(database, stored.study_instance_uid)[0] is StudyState.DELIVERING


@pytest.mark.parametrize("found", [(), ("2.25.11", "2.25.12")], ids=["gone", "there"])
def test_never_answered_is_settled_by_query(
    database: Database, stored: Any, start_server: Any, committer: Any, clock: Any, found: tuple[str, ...]
) -> None:
    pacs = commitment_pacs(start_server, lambda event: 0x0000, found=found)
    asking = committer(pacs.peer)
    asking.commit_due()
    assert asking.commit_due() == 0, "the answer has time"
    clock.forward(61)
    assert asking.commit_due() == 2
    state, each, errors = states(database, stored.study_instance_uid)
    if found:
        assert state is StudyState.DELIVERED
        assert all("not answered; found by query" in e for e in errors)
    else:
        assert each == [DeliveryState.PENDING] * 2
        assert all("a query does not find it" in e for e in errors)


@pytest.mark.parametrize(("ask", "end"), [("auto", StudyState.DELIVERED), ("required", StudyState.FAILED)])
def test_never_answered_and_no_query_has_an_end(
    database: Database, stored: Any, start_server: Any, committer: Any, clock: Any, ask: str, end: StudyState
) -> None:
    pacs = commitment_pacs(start_server, lambda event: 0x0000)
    asking = committer(pacs.peer, ask=ask)
    for _ in range(20):
        asking.commit_due()
        clock.forward(61)
    state, _, errors = states(database, stored.study_instance_uid)
    assert state is end
    assert len(pacs.seen) == MAX_REQUESTS
    assert all("was not answered" in e for e in errors)


@pytest.mark.parametrize("status", [0x0110, 0x0122, 0x0213])
def test_a_refused_request_is_settled_by_query(
    database: Database, stored: Any, start_server: Any, committer: Any, status: int
) -> None:
    pacs = commitment_pacs(start_server, lambda event: status, found=stored.uids)
    committer(pacs.peer).commit_due()
    state, _, errors = states(database, stored.study_instance_uid)
    assert state is StudyState.DELIVERED
    assert all(f"0x{status:04X}" in e and "found by query" in e for e in errors)


def test_no_commitment_and_no_query_offered_counts_the_status(
    database: Database, stored: Any, start_server: Any, committer: Any
) -> None:
    pacs = start_server([build_context("1.2.840.10008.1.1")], [])
    committer(pacs.peer).commit_due()
    state, _, errors = states(database, stored.study_instance_uid)
    assert state is StudyState.DELIVERED
    assert all("status alone" in e for e in errors)


def test_a_pacs_that_is_away_is_asked_later_for_ever(
    database: Database, stored: Any, start_server: Any, committer: Any, clock: Any
) -> None:
    pacs = start_server([build_context("1.2.840.10008.1.1")], [])
    away = type(pacs.peer)("PACS", "127.0.0.1", 1)
    asking = committer(away)
    for _ in range(5):
        asking.commit_due()
        clock.forward(3600)
    state, each, errors = states(database, stored.study_instance_uid)
    assert (state, each) == (StudyState.DELIVERING, [DeliveryState.STORED] * 2)
    assert all("no association" in e for e in errors)


def reporting_pacs(start: Any, answers: list[int]) -> tuple[Any, threading.Event]:
    """A PACS that commits on the association of the request; what its reports are answered, and that they are."""
    came = threading.Event()

    def send_report(association: Any, asked: Dataset) -> None:
        information = Dataset()
        information.TransactionUID = asked.TransactionUID
        information.ReferencedSOPSequence = asked.ReferencedSOPSequence
        status, _ = association.send_n_event_report(information, 1, STORAGE_COMMITMENT, COMMITMENT_INSTANCE)
        answers.append(status.get("Status"))
        came.set()

    def on_action(event: evt.Event) -> int:
        threading.Timer(0.05, send_report, (event.assoc, event.action_information)).start()
        return 0x0000

    return commitment_pacs(start, on_action), came


def test_a_report_on_the_same_association(
    database: Database, stored: Any, start_server: Any, committer: Any
) -> None:
    answers: list[int] = []
    pacs, came = reporting_pacs(start_server, answers)
    committer(pacs.peer).commit_due()
    assert states(database, stored.study_instance_uid)[0] is StudyState.DELIVERED
    assert came.wait(10.0)
    assert answers == [0x0000], "the association was released before the answer had left"


def test_a_report_is_answered_with_success_once_it_is_recorded(
    database: Database, stored: Any, start_server: Any, committer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A destination that was told success never reports again."""

    def away(*_: Any, **__: Any) -> None:
        raise OperationalError("", {}, Exception("the store is away"))

    answers: list[int] = []
    pacs, came = reporting_pacs(start_server, answers)
    with monkeypatch.context() as patched:
        patched.setattr(commitment, "record_answer", away)
        committer(pacs.peer).commit_due()
        assert came.wait(10.0)
    assert answers == [0x0110]
    assert states(database, stored.study_instance_uid)[1] == [DeliveryState.STORED] * 2


def test_an_object_that_was_settled_meanwhile_keeps_no_other_from_being_asked_for_later(
    database: Database, stored: Any, committer: Any, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = stored.uids[0]

    def reported_elsewhere(*given: Any, **_: Any) -> Request:
        answer(database, given[2], clock(), committed=[kept])
        return Request(Reply.UNREACHABLE, "the association ended")

    monkeypatch.setattr("reporting.delivery.commitment.request_commitment", reported_elsewhere)
    assert committer(Peer("PACS", "127.0.0.1", 1)).commit_due() == 2
    _, each, errors = states(database, stored.study_instance_uid)
    assert each == [DeliveryState.DELIVERED, DeliveryState.STORED]
    assert errors[1] == "the association ended"


def test_who_sends_an_object_again_keeps_it_when_its_request_ends(
    database: Database, stored: Any, committer: Any, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sending: list[Any] = []

    def failed_and_sent_again(*given: Any, **_: Any) -> Request:
        answer(database, given[2], clock(), failed=dict.fromkeys(stored.uids, "0x0112"))
        now = clock.forward(60)
        with database.write() as session:
            sending.extend(
                deliveries.claim_due(session, who="courier", lease=ANSWER, now=now, destinations=["pacs"])
            )
        return Request(Reply.ACCEPTED)

    monkeypatch.setattr("reporting.delivery.commitment.request_commitment", failed_and_sent_again)
    committer(Peer("PACS", "127.0.0.1", 1)).commit_due()
    assert len(sending) == 2
    with database.write() as session:
        for due in sending:
            deliveries.record_delivered(session, due, who="courier", status=0, now=clock())
    assert states(database, stored.study_instance_uid)[0] is StudyState.DELIVERED


def get_pacs(start: Any, content: dict[str, Dataset]) -> Any:
    """A PACS that gives what it has by C-GET and commits to nothing."""

    def get(event: evt.Event) -> Any:
        found = content.get(event.identifier.SOPInstanceUID)
        yield int(found is not None)
        if found is not None:
            yield 0xFF00, found

    contexts = [build_context(GET), build_context(FIND)]
    for sop_class in (SEG, SR):
        context = build_context(sop_class)
        context.scu_role = context.scp_role = True
        contexts.append(context)

    def find(event: evt.Event) -> Any:
        yield 0xFF00, event.identifier
        yield 0x0000, None

    return start(contexts, [(evt.EVT_C_GET, get), (evt.EVT_C_FIND, find)])


def test_other_content_under_the_same_uid_is_noticed(
    database: Database, stored: Any, start_server: Any, committer: Any
) -> None:
    content = {uid: pydicom.dcmread(path) for uid, path in zip(stored.uids, stored.paths, strict=True)}
    content[stored.uids[0]].SeriesDescription = "an older result"
    content[stored.uids[1]].PatientName = "Reconciled^Name"
    pacs = get_pacs(start_server, content)
    committer(pacs.peer, compare=True).commit_due()
    state, each, errors = states(database, stored.study_instance_uid)
    assert each == [DeliveryState.REFUSED, DeliveryState.DELIVERED]
    assert "another object under this SOP Instance UID" in errors[0]
    assert state is StudyState.FAILED


def test_a_result_that_is_damaged_on_our_disk_ends_nothing(
    database: Database, stored: Any, start_server: Any, committer: Any
) -> None:
    """The destination has it in full, and says so."""
    pacs = commitment_pacs(start_server, lambda event: 0x0000)
    stored.paths[0].write_bytes(b"\0" * 10)
    assert committer(pacs.peer, compare=True).commit_due() == 2
    assert len(pacs.seen[0].ReferencedSOPSequence) == 2


@pytest.mark.parametrize(
    ("change", "found"),
    [({}, Comparison.SAME), ({"SeriesDescription": "an older result"}, Comparison.DIFFERENT)],
)
def test_an_archive_may_keep_pixels_compressed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, str], found: Comparison
) -> None:
    ours = secondary_capture()
    path = tmp_path / "sc.dcm"
    ours.save_as(path, enforce_file_format=True)
    theirs = pydicom.dcmread(path)
    theirs.compress(RLELossless, generate_instance_uid=False)
    for keyword, value in change.items():
        setattr(theirs, keyword, value)

    def get(_: Any, keys: Dataset, sop_classes: Any, receive: Callable[[FetchedInstance], int]) -> None:
        content = encode(theirs, is_implicit_vr=False, is_little_endian=True)
        assert content is not None
        receive(FetchedInstance(theirs.SOPClassUID, theirs.SOPInstanceUID, RLELossless, content))

    monkeypatch.setattr(DimseSource, "get", get)
    about = {"study_instance_uid": "1.2", "series_instance_uid": "1.3"}
    assert compare_kept(Peer("PACS", "127.0.0.1", 1), "NODE", path, **about) is found


def secondary_capture() -> Dataset:
    """A small colour picture, uncompressed."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = SecondaryCaptureImageStorage, "2.25.1"
    dataset.SeriesDescription = "AI summary"
    dataset.Rows = dataset.Columns = 16
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    dataset.PixelRepresentation = 0
    dataset.PixelData = bytes(range(256)) * 3
    return dataset


def test_event_reports_are_read() -> None:
    information = Dataset()
    information.TransactionUID = "2.25.7"
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID, item.FailureReason = SEG, "2.25.8", 0x0213
    information.FailedSOPSequence = Sequence([item])
    report = parse_report(information)
    assert report.failed == {"2.25.8": "0x0213 (resource limitation)"}
    with pytest.raises(ValueError, match="Transaction UID"):
        parse_report(Dataset())


def test_a_pacs_that_aborts_our_requests_counts_by_its_status(
    database: Database, stored: Any, start_server: Any, committer: Any
) -> None:
    """As Orthanc does to peers that it has no address of."""

    def abort(event: evt.Event) -> Any:
        event.assoc.abort()
        return 0x0110, None

    def abort_find(event: evt.Event) -> Any:
        event.assoc.abort()
        yield 0xC000, None

    contexts = [build_context(STORAGE_COMMITMENT), build_context(FIND)]
    pacs = start_server(contexts, [(evt.EVT_N_ACTION, abort), (evt.EVT_C_FIND, abort_find)])
    committer(pacs.peer).commit_due()
    state, _, errors = states(database, stored.study_instance_uid)
    assert state is StudyState.DELIVERED
    assert all("status alone" in e and "aborted" in e for e in errors)
