"""Several nodes at one store: they are woken, and count time by one clock."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from made_up_studies import receiving_study
from sqlalchemy import text

from store import claims, ledger, processes
from store.clock import NOTABLE_SKEW, REFRESH_SECONDS, DatabaseClock, store_clock
from store.database import Database
from store.states import StudyState
from store.wakeups import LISTENING_SECONDS, Topic, open_bell


@pytest.fixture
def receiving(database: Database, now: datetime) -> int:
    """Number of a study that is being received."""
    with database.write() as session:
        session.add(receiving_study("1.2.1", now, id=1))
    return 1


def complete(database: Database, study: int, now: datetime) -> None:
    with database.write() as session:
        ledger.change_state(
            session, ledger.locked_study(session, study), StudyState.COMPLETE, who="t", why="quiet", now=now
        )


def test_a_complete_study_wakes_who_waits(database: Database, receiving: int, now: datetime) -> None:
    if database.engine.dialect.name != "postgresql":
        pytest.skip("SQLite's bells are tested in test_wakeups")
    stop = threading.Event()
    with open_bell(database, Topic.COMPLETE) as bell:
        bell.wait(stop, 0.0)  # begins to listen
        timer = threading.Timer(0.3, complete, (database, receiving, now))
        timer.start()
        began = time.monotonic()
        bell.wait(stop, 0.0)
        waited = time.monotonic() - began
        timer.join()
    assert 0.2 < waited < LISTENING_SECONDS - 1


def test_a_lost_connection_is_opened_again(database: Database, receiving: int, now: datetime) -> None:
    if database.engine.dialect.name != "postgresql":
        pytest.skip("SQLite has no connection to lose")
    stop = threading.Event()
    with open_bell(database, Topic.COMPLETE) as bell:
        bell.wait(stop, 0.0)
        with database.engine.connect() as connection:
            connection.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND query LIKE 'LISTEN%'"
                )
            )
        bell.wait(stop, 0.0)  # notices that it is lost
        bell.wait(stop, 0.0)  # listens again
        complete(database, receiving, now)
        began = time.monotonic()
        bell.wait(stop, 0.0)
        assert time.monotonic() - began < LISTENING_SECONDS - 1


def test_whoever_waits_can_be_stopped(database: Database) -> None:
    stop = threading.Event()
    with open_bell(database, Topic.COMPLETE) as bell:
        bell.wait(stop, 0.0)
        threading.Timer(0.2, stop.set).start()
        began = time.monotonic()
        bell.wait(stop, 5.0)
        assert time.monotonic() - began < 4


def test_two_workers_never_wait_for_each_other(database: Database, now: datetime) -> None:
    """SKIP LOCKED: while one worker's claim is not committed, another gets the next study at once."""
    if database.engine.dialect.name != "postgresql":
        pytest.skip("SQLite serialises writers")
    with database.write() as session:
        for number in (1, 2):
            session.execute(
                text(
                    "INSERT INTO studies (id, study_instance_uid, patient_digest, state, reason, revision, "
                    "instance_count, byte_count, created_at, receiving_since, last_received_at, changed_at, "
                    "priority, not_before, fence, attempts) VALUES (:id, :uid, '', 'complete', '', 1, 0, 0, "
                    ":now, :now, :now, :now, 0, :now, 0, 0)"
                ),
                {"id": number, "uid": f"1.2.{number}", "now": now},
            )
            session.execute(
                text(
                    "INSERT INTO revisions (study_id, number, digest, instance_count, created_at) "
                    "VALUES (:id, 1, '', 0, :now)"
                ),
                {"id": number, "now": now},
            )
    held = {"lease": timedelta(minutes=1), "max_attempts": 3, "now": now}
    with database.write() as first, database.write() as second:
        second.execute(text("SET LOCAL lock_timeout = '2s'"))
        one = claims.claim_next(first, worker="a", **held)  # type: ignore[arg-type]
        other = claims.claim_next(second, worker="b", **held)  # type: ignore[arg-type]
        assert one is not None and other is not None
        assert {one.study_id, other.study_id} == {1, 2}


class Drifting:
    """A machine's clock that is minutes off."""

    def __init__(self, off: timedelta) -> None:
        self.off = off

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.off


@pytest.mark.parametrize("minutes", [-7, 0, 7])
def test_the_databases_clock_counts(database: Database, minutes: int) -> None:
    if database.engine.dialect.name != "postgresql":
        local = Drifting(timedelta(minutes=minutes))
        assert store_clock(database, local) is local
        return
    clock = store_clock(database, Drifting(timedelta(minutes=minutes)))
    assert abs(clock() - datetime.now(UTC)) < NOTABLE_SKEW


def test_a_database_that_is_away_leaves_the_last_difference(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    if database.engine.dialect.name != "postgresql":
        pytest.skip("SQLite has the machine's clock")
    passed = [0.0]
    monotonic: Callable[[], float] = lambda: passed[0]  # noqa: E731
    clock = DatabaseClock(database, Drifting(timedelta(minutes=9)), monotonic)
    first = clock()
    monkeypatch.setattr(clock, "_database", broken(database))
    passed[0] = 2 * REFRESH_SECONDS
    assert clock() - first == timedelta(seconds=2 * REFRESH_SECONDS)


def broken(database: Database) -> Database:
    """The same server, another database, which is not there."""
    from dataclasses import replace

    from sqlalchemy import create_engine

    return replace(database, engine=create_engine(database.url.set(database="nowhere")))


def test_a_worker_with_other_packages_is_refused_while_the_others_live(
    database: Database, now: datetime
) -> None:
    def begin(name: str, equipment: str, at: datetime, *, mixed: bool = False) -> None:
        with database.write() as session:
            processes.join(session, name=name, kind="worker", equipment=equipment, mixed=mixed, now=at)

    begin("a@one", "jcs 1.0.0", now)
    begin("b@two", "jcs 1.0.0", now)
    with pytest.raises(processes.OtherEquipment, match=r"a@one screens with jcs 1\.0\.0.*mixed_packages"):
        begin("c@three", "jcs 2.0.0", now)
    with database.read() as session:
        assert [p.name for p in processes.living(session)] == ["a@one", "b@two"]
    begin("c@three", "jcs 2.0.0", now, mixed=True)
    begin("d@four", "jcs 3.0.0", now + 2 * processes.LIVING)
