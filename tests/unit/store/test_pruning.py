"""What is forgotten of old records, and what never is."""

from __future__ import annotations

from datetime import datetime, timedelta

from made_up_studies import received_instance
from sqlalchemy import func, select

from store import commitment, gauges, holdings, pruning, receipts
from store.database import Database
from store.models import (
    Announcement,
    AssociationRecord,
    Base,
    Carriage,
    CommitmentRequest,
    Instance,
    Refusal,
)
from store.receipts import Peer

DAY = timedelta(days=1)
SENDER = Peer("CT1", "127.0.0.1")


def count(database: Database, table: type[Base]) -> int:
    with database.read() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def refuse(database: Database, *times: datetime) -> None:
    with database.write() as session:
        for at in times:
            receipts.record_refusal(session, peer=SENDER, why="no", now=at)


def associate(database: Database, at: datetime, *, closed: bool = True) -> int:
    """An association that brought an instance of a study of its own; its number."""
    with database.write() as session:
        number = receipts.open_association(session, listener="L", peer=SENDER, called_ae="LUNGNODE", now=at)
        received = received_instance(number, study=f"1.2.{number}")
        receipts.record_instance(session, received, association_id=number, now=at)
        if closed:
            receipts.close_association(session, number, end="released", now=at)
    return number


def prune(database: Database, before: datetime, **limits: int) -> pruning.Pruned:
    with database.write() as session:
        return pruning.prune(session, before, **limits)


def test_old_records_go_and_young_ones_stay(database: Database, now: datetime) -> None:
    refuse(database, now - 2 * DAY, now)
    for at in (now - 2 * DAY, now):
        with database.write() as session:
            holdings.announce(
                session,
                kind="IAN",
                sop_instance_uid="",
                study_instance_uid="1.2",
                instances=("1.2.1",),
                who="CT1",
                now=at,
            )
    assert prune(database, now - DAY) == pruning.Pruned(2, more=False)
    assert (count(database, Refusal), count(database, Announcement)) == (1, 1)
    assert prune(database, now - DAY).rows == 0


def test_a_request_for_commitment_stays_until_it_is_reported(database: Database, now: datetime) -> None:
    with database.write() as session:
        numbers = [
            commitment.record_request(
                session,
                transaction_uid=f"1.{number}",
                peer=SENDER,
                references=[("1.1", "1.2")],
                report_at=now,
                now=now - 2 * DAY,
            )
            for number in range(3)
        ]
        commitment.record_reported(session, numbers[0], now)
        commitment.record_unreported(session, numbers[1], why="away", again_at=None)
    assert prune(database, now - DAY).rows == 2
    with database.read() as session:
        assert session.scalars(select(CommitmentRequest.id)).all() == [numbers[2]]


def test_what_an_old_association_brought_stays_without_it(database: Database, now: datetime) -> None:
    old = associate(database, now - 2 * DAY)
    young = associate(database, now)
    still_open = associate(database, now - 2 * DAY, closed=False)
    assert prune(database, now - DAY) == pruning.Pruned(1, more=False)
    with database.read() as session:
        assert set(session.scalars(select(AssociationRecord.id))) == {young, still_open}
        assert set(session.scalars(select(Carriage.association_id))) == {young, still_open}
        brought = session.execute(select(Instance.path, Instance.association_id).order_by(Instance.id))
        assert [tuple(row) for row in brought] == [
            (f"spool/{old}", None),
            (f"spool/{young}", young),
            (f"spool/{still_open}", still_open),
        ]


def test_a_sender_that_is_refused_again_and_again_does_not_fill_the_store(
    database: Database, now: datetime
) -> None:
    refuse(database, *(now for _ in range(9)))
    assert prune(database, now - DAY, max_refusals=4).rows == 5
    with database.read() as session:
        assert session.scalars(select(Refusal.id).order_by(Refusal.id)).all() == [6, 7, 8, 9]


def test_the_number_of_a_forgotten_record_is_not_given_again(database: Database, now: datetime) -> None:
    """Who counts what is new goes by the numbers of rows."""
    refuse(database, now - 3 * DAY, now - 2 * DAY)
    with database.read() as session:
        marks = gauges.newest_marks(session)
    assert prune(database, now - DAY).rows == 1
    refuse(database, now)
    with database.read() as session:
        assert sum(gauges.news_since(session, marks).refusals.values()) == 1


def test_ends_of_associations_are_counted_once_though_old_ones_are_forgotten(
    database: Database, now: datetime
) -> None:
    for _ in range(3):
        associate(database, now - 2 * DAY)
    with database.read() as session:
        marks = gauges.newest_marks(session)
    still_open = associate(database, now, closed=False)
    associate(database, now)
    assert prune(database, now - DAY).rows == 3
    with database.read() as session:
        news = gauges.news_since(session, marks)
    assert news.association_ends == {"released": 1}
    with database.write() as session:
        receipts.close_association(session, still_open, end="aborted", now=now)
    with database.read() as session:
        news = gauges.news_since(session, news.marks)
        assert news.association_ends == {"aborted": 1}
        assert gauges.news_since(session, news.marks).association_ends == {}


def test_many_go_in_batches(database: Database, now: datetime) -> None:
    refuse(database, *(now - 2 * DAY for _ in range(pruning.BATCH + 2)))
    assert prune(database, now - DAY) == pruning.Pruned(pruning.BATCH, more=True)
    assert prune(database, now - DAY) == pruning.Pruned(1, more=False)
