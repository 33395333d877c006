"""Several processes at one store: everything is claimed once, counted once, and nobody waits for ever."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

from made_up_studies import received_instance
from sqlalchemy import func, insert, select, text

from store import claims, queries, receipts, revisions
from store.database import Database, open_database
from store.migrations import upgrade
from store.models import Instance, Revision, Study
from store.receipts import Outcome, Peer
from store.repeated_receipts import RepeatedReceipts
from store.states import StudyState

LEASE = timedelta(minutes=1)


def in_parallel(count: int, work: Callable[[int], None]) -> None:
    """Run `work` in threads; the first error is raised."""
    with ThreadPoolExecutor(count) as pool:
        for done in [pool.submit(work, number) for number in range(count)]:
            done.result()


def another(database: Database) -> Database:
    """The same store as another process opens it: it takes no turns with this one."""
    return open_database(database.url.render_as_string(hide_password=False))


def waiting_studies(database: Database, count: int, now: datetime) -> None:
    with database.write() as session:
        for number in range(1, count + 1):
            session.execute(
                insert(Study).values(
                    id=number,
                    study_instance_uid=f"1.2.{number}",
                    patient_digest="0" * 64,
                    state=StudyState.COMPLETE,
                    revision=1,
                    created_at=now,
                    receiving_since=now,
                    last_received_at=now,
                    changed_at=now,
                    not_before=now,
                )
            )
            session.execute(
                insert(Revision).values(
                    study_id=number, number=1, digest="0" * 64, instance_count=1, created_at=now
                )
            )


def test_a_thousand_studies_that_wait_are_claimed_in_the_order_in_which_they_came(
    database: Database, now: datetime
) -> None:
    waiting_studies(database, 1000, now)
    with database.write() as session:
        for study in session.scalars(select(Study).where(Study.id <= 10)):
            study.not_before = now - timedelta(seconds=study.id)
    claimed = []
    for _ in range(12):
        with database.write() as session:
            claim = claims.claim_next(session, worker="w", lease=LEASE, max_attempts=3, now=now)
            assert claim is not None
            claimed.append(claim.study_id)
    assert claimed == [10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 11, 12]
    with database.read() as session:
        counts = queries.counts_by_state(session)
    assert (counts[StudyState.COMPLETE], counts[StudyState.SCREENING]) == (988, 12)


def test_every_study_is_claimed_once(database: Database, now: datetime) -> None:
    waiting_studies(database, 60, now)
    claimed: Counter[int] = Counter()

    def work(number: int) -> None:
        own = another(database)
        while True:
            with own.write() as session:
                claim = claims.claim_next(session, worker=f"w{number}", lease=LEASE, max_attempts=3, now=now)
            if claim is None:
                own.close()
                return
            claimed[claim.study_id] += 1

    in_parallel(4, work)
    assert claimed == Counter(dict.fromkeys(range(1, 61), 1))


def test_the_same_instance_over_four_associations_is_new_once(database: Database, now: datetime) -> None:
    outcomes: Counter[Outcome] = Counter()

    def work(_: int) -> None:
        own = another(database)
        for number in range(20):
            with own.write() as session:
                receipt = receipts.record_instance(
                    session, received_instance(number), association_id=None, now=now
                )
            outcomes[receipt.outcome] += 1
        own.close()

    in_parallel(4, work)
    assert outcomes == Counter({Outcome.NEW: 20, Outcome.IDENTICAL: 60})
    with database.read() as session:
        (study,) = revisions.receiving_studies(session)
    assert study.instance_count == 20


class Short:
    """The short way into a store that has instance 0 of a study and an association."""

    def __init__(self, database: Database, now: datetime) -> None:
        self.way = RepeatedReceipts(database)
        self._now = now
        with database.write() as session:
            peer = Peer("SCANNER", "127.0.0.1")
            self._association = receipts.open_association(
                session, listener="L", peer=peer, called_ae="A", now=now
            )
            self._first = receipts.record_instance(
                session, received_instance(0), association_id=None, now=now
            )

    def record(self, number: int) -> bool:
        return self.way.record(
            received_instance(number),
            study_id=self._first.study_id,
            series_id=self._first.series_id,
            association_id=self._association,
            now=self._now,
        )


def test_instances_of_many_associations_share_commits_and_are_told_apart(
    database: Database, now: datetime
) -> None:
    short = Short(database, now)
    recorded: dict[int, bool] = {}

    def work(number: int) -> None:
        recorded[number] = short.record(number // 2)  # each twice: one of the two is a duplicate

    with database.turn():  # all of them come while the store is busy
        pool = ThreadPoolExecutor(20)
        done = [pool.submit(work, number) for number in range(2, 22)]
    for one in done:
        one.result()
    pool.shutdown()
    short.way.close()
    assert Counter(n // 2 for n, was in recorded.items() if was) == Counter(range(1, 11))
    with database.read() as session:
        (study,) = revisions.receiving_studies(session)
        assert study.instance_count == session.scalar(select(func.count()).select_from(Instance)) == 11


def test_the_short_way_survives_the_end_of_its_connection(postgresql_server: Any, now: datetime) -> None:
    with postgresql_server.database() as url:
        upgrade(url)
        database = open_database(url)
        short = Short(database, now)
        assert short.record(1)
        with database.write() as session:
            session.execute(
                text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
            )
        assert not short.record(2)  # the long way decides, and the next one has a connection again
        assert short.record(2)
        short.way.close()
        database.close()
