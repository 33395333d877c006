"""The clock is set back: whatever waits goes on as if it had not been."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from made_up_studies import receiving_study

from scp.completeness import CompletenessPolicy, complete_due
from store import claims, ledger, processes, set_back
from store.database import Database
from store.models import Revision
from store.states import StudyState

LEASE = timedelta(seconds=60)
POLICY = CompletenessPolicy(quiet=timedelta(seconds=30), max_wait=timedelta(minutes=30))
BACK = timedelta(hours=5)


@pytest.fixture
def waiting(database: Database, now: datetime) -> None:
    """A study that is complete, and a worker that was heard of just now."""
    with database.write() as session:
        study = receiving_study("1.2.1", now, revision=1)
        session.add(study)
        session.flush()
        session.add(Revision(study_id=study.id, number=1, digest="0" * 64, instance_count=1, created_at=now))
        ledger.change_state(session, study, StudyState.COMPLETE, who="t", why="quiet", now=now)
        processes.beat(session, name="worker-1", kind="worker", doing="running", now=now)


def follow(database: Database, now: datetime) -> timedelta:
    with database.write() as session:
        return set_back.follow(session, now)


def claimed(database: Database, now: datetime, worker: str = "w") -> bool:
    with database.write() as session:
        return claims.claim_next(session, worker=worker, lease=LEASE, max_attempts=3, now=now) is not None


@pytest.mark.usefixtures("waiting")
def test_a_study_that_waits_is_claimed_at_once(database: Database, now: datetime) -> None:
    assert not claimed(database, now - BACK), "the clock reaches its time in five hours"
    assert follow(database, now - BACK) == BACK
    assert claimed(database, now - BACK)


@pytest.mark.usefixtures("waiting")
def test_it_is_followed_once(database: Database, now: datetime) -> None:
    assert follow(database, now - BACK) == BACK
    assert follow(database, now - BACK + LEASE) == timedelta(0)


@pytest.mark.usefixtures("waiting")
@pytest.mark.parametrize("seconds", [-4, 0, 86400])
def test_a_clock_that_goes_on_or_is_trimmed_moves_nothing(
    database: Database, now: datetime, seconds: int
) -> None:
    assert follow(database, now + timedelta(seconds=seconds)) == timedelta(0)
    assert claimed(database, now)


@pytest.mark.usefixtures("waiting")
def test_where_nothing_lives_the_newest_change_tells(database: Database, now: datetime) -> None:
    with database.write() as session:
        processes.sign_off(session, name="worker-1")
    assert follow(database, now - BACK) == BACK
    assert claimed(database, now - BACK)


@pytest.mark.usefixtures("waiting")
def test_a_lease_lasts_as_long_as_it_was_given_for(database: Database, now: datetime) -> None:
    assert claimed(database, now, "hangs")
    follow(database, now - BACK)
    assert not claimed(database, now - BACK + LEASE / 2, "other")
    assert claimed(database, now - BACK + LEASE * 1.1, "other")


def test_a_study_that_is_received_is_complete_after_its_quiet_time(database: Database, now: datetime) -> None:
    with database.write() as session:
        session.add(receiving_study("1.2.2", now, instance_count=3))
        processes.beat(session, name="listener-1", kind="listener", doing="running", now=now)
    follow(database, now - BACK)
    assert complete_due(database, POLICY, now - BACK + POLICY.quiet * 0.9) == []
    (done,) = complete_due(database, POLICY, now - BACK + POLICY.quiet * 1.1)
    assert done.study_instance_uid == "1.2.2"


def test_an_empty_store_has_nothing_to_follow(database: Database, now: datetime) -> None:
    assert follow(database, now) == timedelta(0)
