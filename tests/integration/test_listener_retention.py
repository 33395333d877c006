"""Images of delivered studies are deleted after their time; everything else stays."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from pydicom.dataset import Dataset
from sqlalchemy import select

from scp.retention import purge_delivered
from store import ledger
from store.models import Study
from store.states import StudyState

MakeCT = Callable[..., Dataset]
KEEP = timedelta(days=7)


def end_as(listener, study_instance_uid: str, *states: StudyState) -> None:
    with listener.database.write() as session:
        study = ledger.locked_study_by_uid(session, study_instance_uid)
        for state in states:
            ledger.change_state(session, study, state, who="test", why="test", now=datetime.now(UTC))


def test_only_what_is_delivered_and_old_goes(start_listener, ct: MakeCT) -> None:
    listener = start_listener()
    for number, study in enumerate(("1.2.1", "1.2.2", "1.2.3")):
        assert listener.send(ct(number, study=study)) == [0]
    end_as(listener, "1.2.1", StudyState.DELIVERING, StudyState.DELIVERED)
    end_as(listener, "1.2.2", StudyState.FAILED)
    now = datetime.now(UTC)
    assert purge_delivered(listener.database, listener.storage, KEEP, now).studies == 0
    done = purge_delivered(listener.database, listener.storage, KEEP, now + timedelta(days=8))
    assert (done.studies, done.files) == (1, 1)
    assert len(listener.files()) == 2
    with listener.database.read() as session:
        purged = session.scalars(select(Study.study_instance_uid).where(Study.purged_at.is_not(None))).all()
    assert purged == ["1.2.1"]
    assert purge_delivered(listener.database, listener.storage, KEEP, now + timedelta(days=9)).studies == 0


def test_files_that_a_killed_purge_left_over_are_swept_at_start(start_listener, ct: MakeCT) -> None:
    first = start_listener()
    assert first.send(ct(1)) == [0]
    end_as(first, ct(1).StudyInstanceUID, StudyState.DELIVERING, StudyState.DELIVERED)
    first.listener.stop()
    with first.database.write() as session:
        study = ledger.locked_study_by_uid(session, ct(1).StudyInstanceUID)
        study.purged_at = datetime.now(UTC)
    assert len(first.files()) == 1
    second = start_listener()
    assert second.files() == []
    assert second.send(ct(1)) == [0]
    assert len(second.files()) == 1


def test_a_listener_that_takes_no_connections_any_more_says_so(start_listener, ct: MakeCT) -> None:
    running = start_listener()
    assert running.listener.accepts and running.send(ct(1)) == [0]
    running.listener._server.shutdown()
    running.listener._accepting.join(10)
    assert not running.listener.accepts


def test_the_listener_keeps_house(start_listener, ct: MakeCT) -> None:
    listener = start_listener(keep_delivered=timedelta(microseconds=1))
    assert listener.send(ct(1), ct(2, study="1.2.5")) == [0, 0]
    end_as(listener, ct(1).StudyInstanceUID, StudyState.DELIVERING, StudyState.DELIVERED)
    listener.listener._purge(timedelta(microseconds=1))
    (left,) = listener.files()
    assert listener.storage / listener.instances()[1].path == left
