"""The worker: what becomes of a claim, whatever the study is."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pydicom
import pytest
from clocks import Clock
from sqlalchemy import update
from tiny_packages import SYSTEMS, write_package

from engine.errors import DeviceLost, NotScreenable, RunnerFailed, Undecodable
from node.casework import Case, Casework, open_casework
from node.caseworks import Caseworks
from node.configuration import Configuration, WorkerConfiguration
from node.phantom import phantom_study, phantom_volume
from node.worker import RETRY_AFTER, Worker
from scp.policy import RetentionPolicy
from scp.retention import Retention
from scp.spool import Spool
from store import admin, claims, ledger, queries, receipts, revisions
from store.database import Database
from store.models import Delivery
from store.states import DeliveryState, StudyState

LEASE = timedelta(seconds=WorkerConfiguration().lease_seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def casework(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Casework]:
    """The tiny packages, open."""
    folder = tmp_path_factory.mktemp("models")
    models = tuple(write_package(folder / system, system) for system in SYSTEMS)
    opened = open_casework(Configuration(models=models), ("seg", "gsps", "pm", "sr"))
    with opened.executor:
        yield opened


@pytest.fixture(scope="module")
def study_files(tmp_path_factory: pytest.TempPathFactory) -> list[pydicom.Dataset]:
    return list(phantom_study(phantom_volume(64, 96), datetime(2026, 1, 2, 3, 4, 5)))


@pytest.fixture
def received(
    database: Database, tmp_path: Path, clock: Clock, study_files: list[pydicom.Dataset]
) -> Callable[[], str]:
    """Put the phantom into spool and store as a complete study; returns its UID."""

    def put() -> str:
        with database.write() as session:
            for number, dataset in enumerate(study_files):
                path = tmp_path / f"{number}.dcm"
                dataset.save_as(path, enforce_file_format=True)
                receipt = receipts.record_instance(
                    session,
                    receipts.ReceivedInstance(
                        dataset.StudyInstanceUID,
                        dataset.SeriesInstanceUID,
                        dataset.SOPInstanceUID,
                        dataset.SOPClassUID,
                        dataset.file_meta.TransferSyntaxUID,
                        "CT",
                        "0" * 64,
                        f"{number:064x}",
                        1,
                        path.name,
                    ),
                    association_id=None,
                    now=clock(),
                )
            revisions.complete_study(session, receipt.study_id, who="t", why="quiet", now=clock())
        return str(study_files[0].StudyInstanceUID)

    return put


@dataclass(frozen=True)
class Bench:
    """A store, a storage folder and a clock, with a worker for whatever casework."""

    database: Database
    storage: Path
    clock: Clock

    def worker(self, casework: Any, on_processor: Any = None, **changes: Any) -> Worker:
        settings: dict[str, Any] = {
            "database": self.database,
            "storage": self.storage,
            "caseworks": lambda: Caseworks(casework, on_processor=on_processor),
            "destinations": {"pacs": ("seg", "sr")},
            "name": "worker-1",
            "lease": LEASE,
            "max_attempts": 2,
            "clock": self.clock,
        }
        return Worker(**(settings | changes))

    def work_one(self, casework: Any) -> bool:
        return self.worker(casework).work_one(threading.Event())

    def account(self, uid: str) -> queries.StudyAccount:
        with self.database.read() as session:
            return queries.why(session, uid)


@pytest.fixture
def bench(database: Database, tmp_path: Path, clock: Clock) -> Bench:
    return Bench(database, tmp_path, clock)


class Failing:
    """Casework that raises."""

    settings_digest = "0" * 64

    def __init__(self, error: Exception) -> None:
        self.error = error

    def work(self, *_: Any, **__: Any) -> Case:
        raise self.error


def test_results_lie_in_the_outbox_and_wait_for_those_who_want_them(
    bench: Bench, casework: Casework, received: Callable[[], str]
) -> None:
    uid = received()
    assert bench.work_one(casework)
    now = bench.account(uid)
    assert now.study.state is StudyState.DELIVERING
    assert sorted(d.kind for d in now.deliveries) == ["seg", "sr"], "gsps and pm are wanted by nobody"
    kinds = {pydicom.dcmread(path).Modality for path in (bench.storage / "outbox").rglob("*.dcm")}
    assert kinds == {"SEG", "PR", "OT", "SR"}
    assert not list((bench.storage / "outbox").rglob("*.part"))
    assert list((bench.storage / "outbox").rglob("overview.png"))
    assert not bench.work_one(casework)


def test_a_picture_that_cannot_be_drawn_holds_up_nothing(
    bench: Bench, casework: Casework, received: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("no such colour")

    monkeypatch.setattr("node.worker.write_pictures", fail)
    uid = received()
    assert bench.work_one(casework)
    assert bench.account(uid).study.state is StudyState.DELIVERING
    assert list((bench.storage / "outbox").rglob("overview.png"))


def test_pictures_go_with_the_images_and_results_stay(
    bench: Bench, casework: Casework, received: Callable[[], str]
) -> None:
    uid = received()
    bench.work_one(casework)
    with bench.database.write() as session:
        study = ledger.locked_study_by_uid(session, uid)
        session.execute(update(Delivery).values(state=DeliveryState.DELIVERED))
        ledger.change_state(session, study, StudyState.DELIVERED, who="t", why="t", now=bench.clock())
    written = {path.suffix for path in (bench.storage / "outbox").rglob("*.*")}
    assert written == {".dcm", ".png", ".zip"}
    week = timedelta(days=7)
    retention = Retention(RetentionPolicy(keep_done=week), bench.database, Spool(bench.storage))
    done = retention.purge(bench.clock() + 2 * week)
    assert (done.studies, done.files) == (1, 64 + 2)
    assert {path.suffix for path in (bench.storage / "outbox").rglob("*.*")} == {".dcm"}
    assert not list(bench.storage.glob("*.dcm"))


def test_screening_again_writes_the_same_bytes(
    bench: Bench, casework: Casework, received: Callable[[], str]
) -> None:
    uid = received()
    bench.work_one(casework)
    first = {p.name: p.read_bytes() for p in (bench.storage / "outbox").rglob("*.dcm")}
    with bench.database.write() as session:
        admin.rescreen(session, uid, who="admin", now=bench.clock())
    bench.clock.now += timedelta(hours=5)
    bench.work_one(casework)
    assert {p.name: p.read_bytes() for p in (bench.storage / "outbox").rglob("*.dcm")} == first
    assert len(bench.account(uid).screenings) == 1


def test_a_destination_that_is_new_gets_its_objects_at_the_next_screening_and_the_others_nothing_twice(
    bench: Bench, casework: Casework, received: Callable[[], str]
) -> None:
    uid = received()
    bench.work_one(casework)
    with bench.database.write() as session:
        admin.rescreen(session, uid, who="admin", now=bench.clock())
    further = {"pacs": ("seg", "sr"), "ward": ("sr", "gsps")}
    bench.worker(casework, destinations=further).work_one(threading.Event())
    account = bench.account(uid)
    sent = sorted((d.destination, d.kind) for d in account.deliveries)
    assert sent == [("pacs", "seg"), ("pacs", "sr"), ("ward", "gsps"), ("ward", "sr")]
    assert len(account.screenings) == 1
    assert any("screened as before, 2 further deliveries" in entry.what for entry in account.history)


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (NotScreenable("no lungs"), StudyState.SKIPPED),
        (Undecodable("no lungs"), StudyState.FAILED),
        (ValueError("no lungs"), StudyState.FAILED),
    ],
)
def test_an_error_ends_the_study_with_its_reason(
    bench: Bench, received: Callable[[], str], error: Exception, state: StudyState
) -> None:
    uid = received()
    bench.work_one(Failing(error))
    study = bench.account(uid).study
    assert study.state is state and "no lungs" in study.reason


@pytest.mark.parametrize("error", [RunnerFailed("no memory"), MemoryError(), OSError(28, "No space left")])
def test_an_error_that_may_pass_is_tried_again_and_then_fails(
    bench: Bench, received: Callable[[], str], error: Exception
) -> None:
    uid = received()
    failing = bench.worker(Failing(error))
    assert failing.work_one(threading.Event())
    account = bench.account(uid)
    assert account.study.state is StudyState.COMPLETE
    assert f"{type(error).__name__}: {error}" in account.history[-1].what
    assert not failing.work_one(threading.Event()), "tried again before its time"
    bench.clock.now += RETRY_AFTER
    assert failing.work_one(threading.Event())
    study = bench.account(uid).study
    assert study.state is StudyState.FAILED and f"{error} (attempt 2 of 2)" in study.reason


def test_a_lost_gpu_ends_the_worker_and_the_study_goes_to_the_processor_in_the_end(
    bench: Bench, casework: Casework, received: Callable[[], str]
) -> None:
    uid = received()
    lost = Failing(DeviceLost("context lost"))
    for attempt in (1, 2):
        with pytest.raises(DeviceLost):
            bench.worker(lost, max_attempts=3, on_processor=lambda: casework).work_one(threading.Event())
        assert bench.account(uid).study.state is StudyState.COMPLETE
        bench.clock.now += attempt * RETRY_AFTER
    bench.worker(lost, max_attempts=3, on_processor=lambda: casework).work_one(threading.Event())
    assert bench.account(uid).study.state is StudyState.DELIVERING


def test_without_leave_to_use_the_processor_a_lost_gpu_fails_the_study(
    bench: Bench, received: Callable[[], str]
) -> None:
    uid = received()
    for attempt in (1, 2):
        with pytest.raises(DeviceLost):
            bench.worker(Failing(DeviceLost("context lost"))).work_one(threading.Event())
        bench.clock.now += attempt * RETRY_AFTER
    study = bench.account(uid).study
    assert study.state is StudyState.FAILED and "context lost (attempt 2 of 2)" in study.reason


def test_stopping_gives_the_study_back(bench: Bench, casework: Casework, received: Callable[[], str]) -> None:
    uid = received()
    stop = threading.Event()
    stop.set()
    bench.worker(casework).work_one(stop)
    study = bench.account(uid).study
    assert study.state is StudyState.COMPLETE and study.attempts == 0
    assert not (bench.storage / "outbox").exists()


def test_a_lost_lease_drops_the_results(
    bench: Bench, casework: Casework, received: Callable[[], str]
) -> None:
    uid = received()

    class Slow:
        """Casework during which another worker takes the study over."""

        settings_digest = casework.settings_digest

        def work(self, *arguments: Any, **options: Any) -> Case:
            bench.clock.now += 2 * LEASE
            with bench.database.write() as session:
                taken = claims.claim_next(
                    session, worker="other", lease=LEASE, max_attempts=9, now=bench.clock()
                )
                assert taken is not None
            return casework.work(*arguments, **options)

    bench.work_one(Slow())
    now = bench.account(uid)
    assert now.study.state is StudyState.SCREENING and not now.screenings


def test_a_study_above_the_limit_of_attempts_is_not_tried_for_ever(
    bench: Bench, received: Callable[[], str]
) -> None:
    uid = received()
    for _ in range(2):
        with bench.database.write() as session:
            claims.claim_next(session, worker="dies", lease=LEASE, max_attempts=2, now=bench.clock())
        bench.clock.now += 2 * LEASE
    assert not bench.work_one(Failing(ValueError()))
    study = bench.account(uid).study
    assert study.state is StudyState.FAILED and "lease" in study.reason
