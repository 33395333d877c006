"""The node as storage commitment SCP: it commits to what lies on its disk, and reports whichever way it can."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pynetdicom import AE, evt
from pynetdicom.presentation import build_context

from scp.commitment import SAME_ASSOCIATION, CommitmentService
from scp.commitment_content import STORAGE_COMMITMENT, RequestRefused, judge, parse_request
from scp.listener import Listener
from scp.peer import Peer, Timeouts
from scp.policy import ListenerPolicy
from scp.requesting import associate
from store import commitment
from store.commitment import HeldInstance, OpenRequest
from store.database import Database
from store.models import CommitmentRequest

CT = "1.2.840.10008.5.1.4.1.1.2"
INSTANCE = "1.2.840.10008.1.20.1.1"


def information(*pairs: tuple[str, str], transaction: str = "2.25.1") -> Dataset:
    dataset = Dataset()
    dataset.TransactionUID = transaction
    items = []
    for sop_class, uid in pairs:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, uid
        items.append(item)
    dataset.ReferencedSOPSequence = Sequence(items)
    return dataset


def test_judgement_is_by_store_class_and_disk() -> None:
    held = {uid: HeldInstance(CT, f"{uid}.dcm", 100) for uid in ("1.1", "1.2", "1.3")}
    sizes = {"1.1.dcm": 500, "1.2.dcm": 50}
    references = [(CT, "1.1"), (CT, "1.2"), (CT, "1.3"), ("1.2.3", "1.1"), (CT, "1.9")]
    judgement = judge(references, held, lambda i: sizes.get(i.path))
    assert judgement.committed == ((CT, "1.1"),)
    assert [reason for _, _, reason in judgement.failed] == [0x0110, 0x0110, 0x0119, 0x0112]
    assert judgement.event_type == 2
    assert judge(references[:1], held, lambda i: 100).event_type == 1


@pytest.mark.parametrize(
    ("action", "content", "status"),
    [
        (2, information((CT, "1.1")), 0x0123),
        (1, information((CT, "1.1"), transaction="../etc"), 0x0115),
        (1, information(), 0x0120),
        (1, information((CT, "<b>")), 0x0115),
        (1, Dataset(), 0x0115),
    ],
)
def test_requests_that_cannot_be_taken(action: int, content: Dataset, status: int) -> None:
    with pytest.raises(RequestRefused) as refused:
        parse_request(action, content)
    assert refused.value.status == status


@pytest.fixture
def service_with(
    database: Database, tmp_path: Path, clock: Any
) -> Iterator[Callable[..., tuple[CommitmentService, int]]]:
    listeners = []

    def start(**addresses: Peer) -> tuple[CommitmentService, int]:
        service = CommitmentService(
            database, tmp_path, "LUNGNODE", addresses, clock, timeouts=Timeouts(5.0, 5.0, 5.0)
        )
        listener = Listener(
            ListenerPolicy("LUNGNODE", port=0, reserve_bytes=0, grace_seconds=0.2),
            database,
            tmp_path,
            clock,
            services=[service.as_service()],
        )
        listener.start()
        listeners.append(listener)
        return service, listener.port

    yield start
    for listener in listeners:
        listener.stop()


class Sender:
    """A modality: asks, and hears reports on the same association or on its own port."""

    def __init__(self) -> None:
        self.heard: list[Dataset] = []
        self.came = threading.Event()

    def on_report(self, event: evt.Event) -> tuple[int, None]:
        self.heard.append(event.event_information)
        self.came.set()
        return 0x0000, None

    def ask(
        self, port: int, content: Dataset, *, stay: float, until: Callable[[], bool] = lambda: True
    ) -> int:
        ae = AE(ae_title="CT1")
        association = ae.associate(
            "127.0.0.1",
            port,
            [build_context(STORAGE_COMMITMENT)],
            ae_title="LUNGNODE",
            evt_handlers=[(evt.EVT_N_EVENT_REPORT, self.on_report)],
        )
        assert association.is_established
        status, _ = association.send_n_action(content, 1, STORAGE_COMMITMENT, INSTANCE)
        self.came.wait(stay)
        _until(until)  # the answer to a report leaves after its handler
        association.release()
        return int(status.Status)


@contextmanager
def left_without_report(port: int, uid: str) -> Iterator[pytest.MonkeyPatch]:
    """A sender that asked and is gone before its report; inside, no association is held for one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scp.commitment._hold", lambda association: False)
        Sender().ask(port, information((CT, uid)), stay=0.0)
        yield patch


def requests(database: Database) -> list[CommitmentRequest]:
    with database.read() as session:
        rows = list(session.query(CommitmentRequest))
        session.expunge_all()
    return rows


def test_a_report_on_the_same_association(
    service_with: Any, record: Callable[..., str], database: Database
) -> None:
    uid = record(1)
    _, port = service_with()
    sender = Sender()
    references = information((CT, uid), (CT, "1.9.9"))
    reported = lambda: requests(database)[0].reported_at is not None  # noqa: E731
    assert sender.ask(port, references, stay=20.0, until=reported) == 0x0000
    (report,) = sender.heard
    assert [i.ReferencedSOPInstanceUID for i in report.ReferencedSOPSequence] == [uid]
    assert [(i.ReferencedSOPInstanceUID, i.FailureReason) for i in report.FailedSOPSequence] == [
        ("1.9.9", 0x0112)
    ]
    assert requests(database)[0].next_attempt_at is None


def test_a_sender_that_left_is_called(
    service_with: Any, record: Callable[..., str], database: Database, start_server: Any, clock: Any
) -> None:
    uid = record(1)
    sender = Sender()
    context = build_context(STORAGE_COMMITMENT)
    context.scu_role = context.scp_role = True
    own = start_server([context], [(evt.EVT_N_EVENT_REPORT, sender.on_report)], ae_title="CT1")
    service, port = service_with(CT1=Peer("CT1", "127.0.0.1", own.peer.port))
    silent = Sender()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scp.commitment._hold", lambda association: False)
        assert silent.ask(port, information((CT, uid)), stay=0.0) == 0x0000
        _until(lambda: service.report_due() > 0)
    assert sender.came.wait(20.0)
    assert sender.heard[0].TransactionUID == "2.25.1"
    assert "FailedSOPSequence" not in sender.heard[0]
    assert requests(database)[0].reported_at is not None


def test_a_sender_without_address_is_tried_until_given_up(
    service_with: Any, record: Callable[..., str], database: Database, clock: Any
) -> None:
    service, port = service_with()
    with left_without_report(port, record(1)):
        _until(lambda: service.report_due() > 0)
    for _ in range(200):
        clock.forward(3600)
        service.report_due()
    (kept,) = requests(database)
    assert kept.reported_at is None and kept.next_attempt_at is None
    assert kept.attempts == 100
    assert "no address of CT1" in kept.last_error


def test_a_sender_that_is_away_is_tried_once_however_much_waits_for_it(
    service_with: Any, record: Callable[..., str], database: Database, clock: Any
) -> None:
    service, port = service_with(CT1=Peer("CT1", "127.0.0.1", 1))
    uid, tried = record(1), []

    def counting(peer: Peer, *given: Any, **more: Any) -> Any:
        tried.append(peer)
        return associate(peer, *given, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scp.commitment.CommitmentService._report_here", lambda *_: None)
        for transaction in ("2.25.1", "2.25.2", "2.25.3"):
            Sender().ask(port, information((CT, uid), transaction=transaction), stay=0.0)
        patch.setattr("scp.commitment.associate", counting)
        clock.forward(SAME_ASSOCIATION.total_seconds())
        assert service.report_due() == 3
    assert len(tried) == 1
    assert all("no association" in one.last_error for one in requests(database))


def test_a_request_survives_the_end_of_the_process(
    service_with: Any,
    record: Callable[..., str],
    database: Database,
    tmp_path: Path,
    start_server: Any,
    clock: Any,
) -> None:
    _, port = service_with()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scp.commitment.CommitmentService._report_here", lambda *_: None)
        Sender().ask(port, information((CT, record(1))), stay=0.0)
    sender = Sender()
    context = build_context(STORAGE_COMMITMENT)
    context.scu_role = context.scp_role = True
    own = start_server([context], [(evt.EVT_N_EVENT_REPORT, sender.on_report)], ae_title="CT1")
    address = Peer("CT1", "127.0.0.1", own.peer.port)
    clock.forward(SAME_ASSOCIATION.total_seconds())
    after_restart = CommitmentService(
        database, tmp_path, "LUNGNODE", {"CT1": address}, clock, timeouts=Timeouts(5.0, 5.0, 5.0)
    )
    assert after_restart.report_due() == 1
    assert sender.came.wait(5.0)


def test_a_report_that_arrived_by_another_way_is_not_made_again(
    service_with: Any, record: Callable[..., str], database: Database, clock: Any
) -> None:
    """Its association answers late, while a second one was tried in vain."""
    service, port = service_with()
    with left_without_report(port, record(1)) as patch:

        def in_vain(_: CommitmentService, request: OpenRequest) -> str:
            with database.write() as session:
                commitment.record_reported(session, request.request_id, clock())
            return "answered 0x0112"

        patch.setattr(CommitmentService, "_report_anew", in_vain)
        _until(lambda: service.report_due() > 0)
    (kept,) = requests(database)
    assert kept.reported_at is not None
    assert (kept.next_attempt_at, kept.last_error) == (None, "")


def _until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        threading.Event().wait(0.02)
    raise AssertionError("did not happen in 20 s")
