"""Several processes at one store: everything is claimed once, counted once, and nobody waits for ever."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

from sqlalchemy import insert

from store import claims, receipts, revisions
from store.database import Database
from store.models import Revision, Study
from store.receipts import Outcome, ReceivedInstance
from store.states import StudyState

LEASE = timedelta(minutes=1)


def in_parallel(count: int, work: Callable[[int], None]) -> None:
    """Run `work` in threads; the first error is raised."""
    with ThreadPoolExecutor(count) as pool:
        for done in [pool.submit(work, number) for number in range(count)]:
            done.result()


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


def test_every_study_is_claimed_once(database: Database, now: datetime) -> None:
    waiting_studies(database, 60, now)
    claimed: Counter[int] = Counter()

    def work(number: int) -> None:
        while True:
            with database.write() as session:
                claim = claims.claim_next(session, worker=f"w{number}", lease=LEASE, max_attempts=3, now=now)
            if claim is None:
                return
            claimed[claim.study_id] += 1

    in_parallel(4, work)
    assert claimed == Counter(dict.fromkeys(range(1, 61), 1))


def test_the_same_instance_over_four_associations_is_new_once(database: Database, now: datetime) -> None:
    outcomes: Counter[Outcome] = Counter()

    def work(_: int) -> None:
        for number in range(20):
            instance = ReceivedInstance(
                study_instance_uid="1.2.3",
                series_instance_uid="1.2.3.1",
                sop_instance_uid=f"1.2.3.1.{number}",
                sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
                transfer_syntax_uid="1.2.840.10008.1.2.1",
                modality="CT",
                patient_digest="0" * 64,
                sha256=f"{number:064d}",
                size=1,
                path=f"spool/{number}",
            )
            with database.write() as session:
                receipt = receipts.record_instance(session, instance, association_id=None, now=now)
            outcomes[receipt.outcome] += 1

    in_parallel(4, work)
    assert outcomes == Counter({Outcome.NEW: 20, Outcome.IDENTICAL: 60})
    with database.read() as session:
        (study,) = revisions.receiving_studies(session)
    assert study.instance_count == 20
