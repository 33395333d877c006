"""The delivery loop against a scripted PACS, with a clock that the test moves."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from reporting.delivery.loop import Courier, Destination
from scp.peer import Peer, Timeouts
from store import claims, migrations, queries, receipts, results, revisions
from store.database import Database, open_database
from store.deliveries import Backoff
from store.states import DeliveryState, StudyState

CT = "1.2.840.10008.5.1.4.1.1.2"
SEG = "1.2.840.10008.5.1.4.1.1.66.4"
SR = "1.2.840.10008.5.1.4.1.1.88.34"
ENHANCED_SR = "1.2.840.10008.5.1.4.1.1.88.22"
BOTH = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
STUDY = "1.2.3.4"
FIRST, LONGEST = timedelta(seconds=10), timedelta(seconds=60)


@dataclass
class Clock:
    """A clock that stands still until it is moved."""

    now: datetime = field(default_factory=lambda: datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))

    def __call__(self) -> datetime:
        return self.now

    def pass_(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@dataclass
class Desk:
    """A store with one screened study, and what delivers its results."""

    database: Database
    clock: Clock
    storage: Path

    def screen(self, files: dict[str, Path], wanted: tuple[str, ...] | None = None) -> None:
        """Put a study in the store whose results are `files` by kind; `pacs` wants them, or `wanted`."""
        now = self.clock()
        instance = receipts.ReceivedInstance(
            STUDY, "1.2.3.5", "1.2.3.6", CT, ExplicitVRLittleEndian, "CT", "0" * 64, "1" * 64, 1, "in.dcm"
        )
        with self.database.write() as session:
            receipt = receipts.record_instance(session, instance, association_id=None, now=now)
            revisions.complete_study(session, receipt.study_id, who="t", why="quiet", now=now)
            claim = claims.claim_next(session, worker="w", lease=FIRST, max_attempts=3, now=now)
            assert claim is not None
            results.record_results(
                session,
                claim,
                [self._result(kind, path) for kind, path in files.items()],
                destinations={"pacs": list(wanted or files)},
                settings_digest="2" * 64,
                summary={},
                now=now,
            )

    def _result(self, kind: str, path: Path) -> results.ResultObject:
        header = pydicom.dcmread(path)
        return results.ResultObject(
            kind, header.SOPClassUID, header.SOPInstanceUID, "1.9", str(path.relative_to(self.storage))
        )

    def courier(self, peer: Peer, **changes: Any) -> Courier:
        settings: dict[str, Any] = {
            "database": self.database,
            "storage": self.storage,
            "destination": Destination("pacs", peer),
            "who": "delivery-1",
            "calling_ae_title": "LUNGNODE",
            "backoff": Backoff(FIRST, LONGEST),
            "clock": self.clock,
            "chance": lambda: 0.5,
            "timeouts": Timeouts(connect=10, association=10, answer=10),
        }
        return Courier(**(settings | changes))

    @property
    def study(self) -> queries.StudyLine:
        return self._account().study

    @property
    def deliveries(self) -> tuple[queries.DeliveryLine, ...]:
        return self._account().deliveries

    @property
    def by_kind(self) -> dict[str, queries.DeliveryLine]:
        return {line.kind: line for line in self.deliveries}

    def _account(self) -> queries.StudyAccount:
        with self.database.read() as session:
            return queries.why(session, STUDY)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    url = f"sqlite:///{tmp_path}/state.db"
    migrations.upgrade(url)
    database = open_database(url)
    yield Desk(database, Clock(), tmp_path)
    database.close()


def test_a_study_is_delivered_with_its_last_object(
    desk: Desk,
    pacs_with: Callable[..., Any],
    write_object: Callable[..., Path],
) -> None:
    pacs = pacs_with({SEG: BOTH, SR: BOTH})
    desk.screen({"seg": write_object(SEG), "sr": write_object(SR)})
    assert desk.study.state is StudyState.DELIVERING
    assert desk.courier(pacs.peer).deliver_due(threading.Event()) == 2
    assert desk.study.state is StudyState.DELIVERED
    assert len(pacs.stored) == 2 and pacs.associations == 1
    assert desk.courier(pacs.peer).deliver_due(threading.Event()) == 0


def test_a_pacs_that_is_away_is_tried_again_ever_later_and_then_gets_everything(
    desk: Desk,
    pacs_with: Callable[..., Any],
    write_object: Callable[..., Path],
) -> None:
    desk.screen({"sr": write_object(SR)})
    away = desk.courier(Peer("PACS", "127.0.0.1", 1))
    waits = []
    for _ in range(5):
        assert away.deliver_due(threading.Event()) == 1
        (line,) = desk.deliveries
        assert line.state is DeliveryState.PENDING and "no association" in line.last_error
        waits.append((line.next_attempt_at - desk.clock()).total_seconds())
        assert away.deliver_due(threading.Event()) == 0, "tried before it was due"
        desk.clock.pass_(waits[-1])
    assert waits == [10, 20, 40, 60, 60]
    pacs = pacs_with({SR: BOTH})
    assert desk.courier(pacs.peer).deliver_due(threading.Event()) == 1
    assert desk.study.state is StudyState.DELIVERED


def test_waiting_times_vary_by_chance(desk: Desk, write_object: Callable[..., Path]) -> None:
    desk.screen({"sr": write_object(SR)})
    away = desk.courier(Peer("PACS", "127.0.0.1", 1), chance=lambda: 1.0)
    away.deliver_due(threading.Event())
    (line,) = desk.deliveries
    assert line.next_attempt_at - desk.clock() == timedelta(seconds=12)


def test_only_the_object_that_failed_is_sent_again(
    desk: Desk,
    pacs_with: Callable[..., Any],
    write_object: Callable[..., Path],
) -> None:
    pacs = pacs_with({SEG: BOTH, SR: BOTH})
    seg, sr = write_object(SEG), write_object(SR)
    desk.screen({"seg": seg, "sr": sr})
    pacs.status = lambda uid: 0xA700 if uid == seg.stem else 0xB000
    sender = desk.courier(pacs.peer)
    sender.deliver_due(threading.Event())
    by_kind = desk.by_kind
    assert (by_kind["seg"].state, by_kind["seg"].last_status) == (DeliveryState.PENDING, 0xA700)
    assert by_kind["sr"].state is DeliveryState.DELIVERED
    assert "coerced" in by_kind["sr"].last_error
    pacs.status = lambda uid: 0x0000
    desk.clock.pass_(10)
    assert sender.deliver_due(threading.Event()) == 1
    assert desk.study.state is StudyState.DELIVERED


def test_a_class_that_is_not_accepted_is_recorded_and_not_tried_again(
    desk: Desk,
    pacs_with: Callable[..., Any],
    write_object: Callable[..., Path],
) -> None:
    pacs = pacs_with({SR: BOTH})
    desk.screen({"seg": write_object(SEG), "sr": write_object(SR)})
    sender = desk.courier(pacs.peer)
    sender.deliver_due(threading.Event())
    desk.clock.pass_(3600)
    assert sender.deliver_due(threading.Event()) == 0
    by_kind = desk.by_kind
    assert by_kind["seg"].state is DeliveryState.NOT_ACCEPTED
    assert by_kind["sr"].state is DeliveryState.DELIVERED
    study = desk.study
    assert study.state is StudyState.DELIVERED and "does not accept seg" in study.reason


def test_a_destination_that_accepts_nothing_fails_the_study(
    desk: Desk,
    pacs_with: Callable[..., Any],
    write_object: Callable[..., Path],
) -> None:
    pacs = pacs_with({SR: BOTH})
    desk.screen({"seg": write_object(SEG)})
    desk.courier(pacs.peer).deliver_due(threading.Event())
    study = desk.study
    assert study.state is StudyState.FAILED and "does not accept seg" in study.reason


def test_the_enhanced_report_stands_in_where_the_other_is_not_accepted(
    desk: Desk,
    pacs_with: Callable[..., Any],
    write_object: Callable[..., Path],
) -> None:
    pacs = pacs_with({SEG: BOTH, ENHANCED_SR: BOTH})
    objects = {"seg": write_object(SEG), "sr": write_object(SR), "sr_enhanced": write_object(ENHANCED_SR)}
    desk.screen(objects, wanted=("seg", "sr"))
    sender = desk.courier(pacs.peer)
    while sender.deliver_due(threading.Event()):
        pass
    by_kind = desk.by_kind
    assert by_kind["sr"].state is DeliveryState.NOT_ACCEPTED
    assert by_kind["sr_enhanced"].state is DeliveryState.DELIVERED
    study = desk.study
    assert study.state is StudyState.DELIVERED and "does not accept sr:" in study.reason


def test_a_result_file_that_is_gone_is_said_and_the_others_are_sent(
    desk: Desk,
    pacs_with: Callable[..., Any],
    write_object: Callable[..., Path],
) -> None:
    pacs = pacs_with({SEG: BOTH, SR: BOTH})
    seg, sr = write_object(SEG), write_object(SR)
    desk.screen({"seg": seg, "sr": sr})
    seg.unlink()
    desk.courier(pacs.peer).deliver_due(threading.Event())
    by_kind = desk.by_kind
    assert "result file" in by_kind["seg"].last_error
    assert by_kind["sr"].state is DeliveryState.DELIVERED


def test_stopping_hands_back_what_was_not_sent(
    desk: Desk,
    pacs_with: Callable[..., Any],
    write_object: Callable[..., Path],
) -> None:
    pacs = pacs_with({SEG: BOTH, SR: BOTH})
    desk.screen({"seg": write_object(SEG), "sr": write_object(SR)})
    stop = threading.Event()

    def stop_after_first(uid: str) -> int:
        stop.set()
        return 0x0000

    pacs.status = stop_after_first
    desk.courier(pacs.peer).deliver_due(stop)
    states = [line.state for line in desk.deliveries]
    assert states == [DeliveryState.DELIVERED, DeliveryState.PENDING]
    successor = desk.courier(pacs.peer, who="delivery-2")
    assert successor.deliver_due(threading.Event()) == 1, "the successor need not wait for a lease to run out"


def test_the_loop_delivers_what_comes_and_ends_when_told(
    desk: Desk,
    pacs_with: Callable[..., Any],
    write_object: Callable[..., Path],
) -> None:
    """It is woken: by itself it would look again after a minute only."""
    pacs = pacs_with({SR: BOTH})
    stop = threading.Event()
    loop = threading.Thread(target=desk.courier(pacs.peer).run, args=(stop, 60.0), daemon=True)
    loop.start()
    desk.screen({"sr": write_object(SR)})
    deadline = time.monotonic() + 30
    while desk.study.state is not StudyState.DELIVERED and time.monotonic() < deadline:
        time.sleep(0.02)
    assert desk.study.state is StudyState.DELIVERED
    stop.set()
    loop.join(10)
    assert not loop.is_alive()
