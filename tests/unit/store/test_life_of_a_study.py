"""A study from its first instance to its end, and every way back."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest

from store import (
    admin,
    claims,
    deliveries,
    ledger,
    queries,
    receipts,
    recovery,
    results,
    retention,
    revisions,
)
from store.database import Database
from store.deliveries import Backoff
from store.receipts import Outcome, Peer, ReceivedInstance
from store.repeated_receipts import RepeatedReceipts
from store.results import ResultObject
from store.states import IllegalTransition, StudyState

STUDY = "1.2.3"
LEASE = timedelta(seconds=60)
BACKOFF = Backoff(timedelta(seconds=5), timedelta(minutes=15))
PACS = {"pacs": ("sr", "seg")}
SETTINGS = "a" * 64

Receive = Callable[..., receipts.Receipt]


def an_instance(
    number: int, *, content: str = "x", kept_out: str | None = None, study: str = STUDY
) -> ReceivedInstance:
    sha256 = f"{content}{number}".encode().hex().ljust(64, "0")
    return ReceivedInstance(
        study_instance_uid=study,
        series_instance_uid=f"{study}.1",
        sop_instance_uid=f"{study}.1.{number}",
        sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        modality="CT",
        patient_digest="0" * 64,
        sha256=sha256,
        size=1000,
        path=f"spool/{study}/{sha256}.dcm",
        kept_out=kept_out,
    )


@pytest.fixture
def receive(database: Database, now: datetime) -> Receive:
    def receive(
        number: int, at: datetime = now, association: int | None = None, **kind: object
    ) -> receipts.Receipt:
        with database.write() as session:
            instance = an_instance(number, **kind)  # type: ignore[arg-type]
            return receipts.record_instance(session, instance, association_id=association, now=at)

    return receive


def complete(database: Database, at: datetime) -> StudyState:
    with database.write() as session:
        (study,) = revisions.receiving_studies(session)
        return revisions.complete_study(session, study.study_id, who="test", why="quiet", now=at)


def claim(database: Database, at: datetime, worker: str = "worker-1") -> claims.Claim:
    with database.write() as session:
        found = claims.claim_next(session, worker=worker, lease=LEASE, max_attempts=3, now=at)
    assert found is not None
    return found


def objects(revision: int = 1) -> list[ResultObject]:
    return [
        ResultObject(
            kind, f"1.2.{n}", f"2.25.{revision}{n}", f"2.25.{revision}{n}9", f"outbox/{revision}/{kind}.dcm"
        )
        for n, kind in enumerate(("seg", "gsps", "pm", "sr"), start=1)
    ]


def finish(
    database: Database, held: claims.Claim, at: datetime, routes: dict[str, tuple[str, ...]] = PACS
) -> None:
    with database.write() as session:
        results.record_results(
            session,
            held,
            objects(held.revision),
            destinations=routes,
            settings_digest=SETTINGS,
            summary={"jcs": {"positive": True}},
            now=at,
        )


def due(database: Database, at: datetime, limit: int = 32) -> list[deliveries.DueDelivery]:
    with database.write() as session:
        return deliveries.claim_due(
            session, who="sender", lease=LEASE, now=at, destinations=["pacs"], limit=limit
        )


def deliver_all(database: Database, at: datetime) -> None:
    for item in due(database, at):
        with database.write() as session:
            deliveries.record_delivered(session, item, who="sender", status=0, now=at)


def state(database: Database) -> StudyState:
    with database.read() as session:
        return queries.why(session, STUDY).study.state


def changes(database: Database) -> list[str]:
    with database.read() as session:
        return [entry.what.partition(":")[0] for entry in queries.why(session, STUDY).history]


def test_the_whole_way(database: Database, receive: Receive, now: datetime) -> None:
    assert receive(1).outcome is Outcome.NEW
    receive(2)
    assert complete(database, now) is StudyState.COMPLETE
    held = claim(database, now)
    assert [i.sop_instance_uid for i in held.instances] == ["1.2.3.1.1", "1.2.3.1.2"]
    assert (held.revision, held.attempt, held.predecessors) == (1, 1, ())
    finish(database, held, now)
    sent = due(database, now)
    assert [(d.kind, d.destination) for d in sent] == [("seg", "pacs"), ("sr", "pacs")]
    deliver_one, deliver_other = sent
    with database.write() as session:
        deliveries.record_delivered(session, deliver_one, who="sender", status=0, now=now)
    assert state(database) is StudyState.DELIVERING
    with database.write() as session:
        deliveries.record_delivered(
            session, deliver_other, who="sender", status=0xB000, now=now, remark="coercion"
        )
    assert state(database) is StudyState.DELIVERED
    assert changes(database) == [
        "receiving",
        "receiving -> complete (revision 1)",
        "complete -> screening (revision 1)",
        "screening -> delivering (revision 1)",
        "delivering -> delivered (revision 1)",
    ]


def test_the_same_instance_again_makes_no_work(database: Database, receive: Receive, now: datetime) -> None:
    first = receive(1)
    complete(database, now)
    again = receive(1)
    assert again.outcome is Outcome.IDENTICAL
    assert again.path == first.path
    assert state(database) is StudyState.COMPLETE


def test_the_same_uid_with_other_content_changes_nothing(
    database: Database, receive: Receive, now: datetime
) -> None:
    receive(1)
    complete(database, now)
    other = receive(1, content="y")
    assert other.outcome is Outcome.CONFLICTING
    assert state(database) is StudyState.COMPLETE
    assert claim(database, now).paths == (an_instance(1).path,)


def test_late_instances_make_the_next_revision_with_its_predecessor(
    database: Database, receive: Receive, now: datetime
) -> None:
    receive(1)
    complete(database, now)
    finish(database, claim(database, now), now)
    deliver_all(database, now)
    later = now + timedelta(hours=1)
    receive(2, at=later)
    assert state(database) is StudyState.RECEIVING
    complete(database, later)
    held = claim(database, later)
    assert held.revision == 2
    assert len(held.instances) == 2
    assert held.predecessors == (("1.2.4", "2.25.14", "2.25.149"),)
    assert held.revision_created_at == later


def test_a_late_instance_makes_the_running_claim_void(
    database: Database, receive: Receive, now: datetime
) -> None:
    receive(1)
    complete(database, now)
    held = claim(database, now)
    receive(2)
    with database.write() as session, pytest.raises(claims.LeaseLost):
        claims.renew(session, held, lease=LEASE, now=now)
    with pytest.raises(claims.LeaseLost):
        finish(database, held, now)
    with database.read() as session:
        assert queries.why(session, STUDY).screenings == ()
    complete(database, now)
    assert claim(database, now).revision == 2


def test_a_revision_once_frozen_keeps_its_set_and_its_time(
    database: Database, receive: Receive, now: datetime
) -> None:
    receive(1)
    complete(database, now)
    first = claim(database, now)
    with database.write() as session:
        claims.release(session, first, why="worker stops", now=now)
    again = claim(database, now + timedelta(hours=2))
    assert again.revision_created_at == first.revision_created_at == now
    assert (again.revision_digest, again.attempt) == (first.revision_digest, 1)


def test_a_result_that_comes_home_is_recorded_and_takes_nothing_back(
    database: Database, receive: Receive, now: datetime
) -> None:
    receive(1)
    complete(database, now)
    finish(database, claim(database, now), now)
    deliver_all(database, now)
    receive(99, kept_out="own result")
    assert state(database) is StudyState.DELIVERED
    with database.read() as session:
        (series,) = queries.why(session, STUDY).series
    assert series.instance_count == 2
    assert series.kept_out == ("own result",)


def test_a_study_without_images_is_skipped_with_its_reasons(
    database: Database, receive: Receive, now: datetime
) -> None:
    receive(1, kept_out="Basic Text SR Storage is not screened")
    assert complete(database, now) is StudyState.SKIPPED
    with database.read() as session:
        assert "Basic Text SR" in queries.why(session, STUDY).study.reason
    receive(2)
    assert complete(database, now) is StudyState.COMPLETE


def test_a_dead_workers_study_is_taken_over_and_its_late_result_refused(
    database: Database, receive: Receive, now: datetime
) -> None:
    receive(1)
    complete(database, now)
    dead = claim(database, now)
    with database.write() as session:
        assert claims.claim_next(session, worker="w2", lease=LEASE, max_attempts=3, now=now) is None
    after = now + LEASE + timedelta(seconds=1)
    heir = claim(database, after, worker="w2")
    assert heir.attempt == 2
    with pytest.raises(claims.LeaseLost):
        finish(database, dead, after)
    finish(database, heir, after)
    with database.read() as session:
        account = queries.why(session, STUDY)
    assert [s.worker for s in account.screenings] == ["w2"]
    assert len(account.deliveries) == 2


def test_a_heartbeat_keeps_the_lease(database: Database, receive: Receive, now: datetime) -> None:
    receive(1)
    complete(database, now)
    held = claim(database, now)
    with database.write() as session:
        held = claims.renew(session, held, lease=LEASE, now=now + timedelta(seconds=50))
    with database.write() as session:
        later = now + timedelta(seconds=100)
        assert claims.claim_next(session, worker="w2", lease=LEASE, max_attempts=3, now=later) is None
    finish(database, held, now + timedelta(seconds=101))


def test_a_study_that_kills_its_workers_ends_as_failed(
    database: Database, receive: Receive, now: datetime
) -> None:
    receive(1)
    complete(database, now)
    at = now
    for attempt in (1, 2, 3):
        assert claim(database, at).attempt == attempt
        at += LEASE * 2
    with database.write() as session:
        assert claims.claim_next(session, worker="w", lease=LEASE, max_attempts=3, now=at) is None
    assert state(database) is StudyState.FAILED
    with database.write() as session:
        assert admin.retry(session, STUDY, who="admin", now=at) is StudyState.COMPLETE
    assert claim(database, at).attempt == 1


def test_an_error_that_may_pass_waits(database: Database, receive: Receive, now: datetime) -> None:
    receive(1)
    complete(database, now)
    soon = now + timedelta(minutes=1)
    with database.write() as session:
        held = claims.claim_next(session, worker="w", lease=LEASE, max_attempts=3, now=now)
        assert held is not None
        claims.retry_later(session, held, why="out of memory", not_before=soon, now=now)
    with database.write() as session:
        assert claims.claim_next(session, worker="w", lease=LEASE, max_attempts=3, now=now) is None
    assert claim(database, soon).attempt == 2


@pytest.mark.parametrize(
    ("end", "after"), [(claims.fail, StudyState.FAILED), (claims.skip, StudyState.SKIPPED)]
)
def test_a_worker_ends_a_study_with_its_reason(
    database: Database,
    receive: Receive,
    now: datetime,
    end: Callable[..., None],
    after: StudyState,
) -> None:
    receive(1)
    complete(database, now)
    held = claim(database, now)
    with database.write() as session:
        end(session, held, why="2 slices", now=now)
    with database.read() as session:
        line = queries.why(session, STUDY).study
    assert (line.state, line.reason) == (after, "2 slices")


def test_a_study_that_nobody_wants_is_delivered(database: Database, receive: Receive, now: datetime) -> None:
    receive(1)
    complete(database, now)
    finish(database, claim(database, now), now, routes={"archive": ("sc",)})
    assert state(database) is StudyState.DELIVERED


def test_a_pacs_that_is_away_is_tried_with_growing_pauses(
    database: Database, receive: Receive, now: datetime
) -> None:
    receive(1)
    complete(database, now)
    finish(database, claim(database, now), now, routes={"pacs": ("sr",)})
    at = now
    pauses = []
    for _ in range(10):
        (item,) = due(database, at)
        with database.write() as session:
            again = deliveries.record_failed(
                session, item, who="sender", why="no connection", backoff=BACKOFF, now=at
            )
        assert due(database, again - timedelta(milliseconds=1)) == []
        pauses.append((again - at).total_seconds())
        at = again
    assert pauses == [5, 10, 20, 40, 80, 160, 320, 640, 900, 900]
    deliver_all(database, at)
    assert state(database) is StudyState.DELIVERED


def test_a_refused_object_fails_the_study_when_the_others_are_through(
    database: Database, receive: Receive, now: datetime
) -> None:
    receive(1)
    complete(database, now)
    finish(database, claim(database, now), now)
    seg, sr = due(database, now)
    with database.write() as session:
        deliveries.record_refused(session, seg, who="sender", why="no presentation context", now=now)
    assert state(database) is StudyState.DELIVERING
    with database.write() as session:
        deliveries.record_delivered(session, sr, who="sender", status=0, now=now)
    with database.read() as session:
        line = queries.why(session, STUDY).study
    assert (line.state, line.reason) == (StudyState.FAILED, "pacs refused seg: no presentation context")
    with database.write() as session:
        assert admin.retry(session, STUDY, who="admin", now=now) is StudyState.DELIVERING
    assert [d.kind for d in due(database, now)] == ["seg"]


def test_a_delivery_of_a_dead_sender_is_taken_over(
    database: Database, receive: Receive, now: datetime
) -> None:
    receive(1)
    complete(database, now)
    finish(database, claim(database, now), now)
    first = due(database, now)
    assert due(database, now) == []
    later = now + LEASE + timedelta(seconds=1)
    with database.write() as session:
        again = deliveries.claim_due(session, who="other", lease=LEASE, now=later, destinations=["pacs"])
    assert [d.delivery_id for d in again] == [d.delivery_id for d in first]
    with database.write() as session, pytest.raises(deliveries.DeliveryTaken):
        deliveries.record_delivered(session, first[0], who="sender", status=0, now=later)


def test_what_a_process_held_that_is_known_dead_is_free_at_once(
    database: Database, receive: Receive, now: datetime
) -> None:
    receive(1)
    complete(database, now)
    claim(database, now, worker="dead")
    with database.write() as session:
        assert recovery.end_leases_of(session, "other", now) == 0
        assert recovery.end_leases_of(session, "dead", now) == 1
    heir = claim(database, now, worker="heir")
    assert heir.attempt == 2
    finish(database, heir, now)
    assert len(due(database, now)) == 2
    assert due(database, now) == []
    with database.write() as session:
        assert recovery.end_leases_of(session, "sender", now) == 2
    assert len(due(database, now)) == 2


def test_screening_again_with_the_same_settings_adds_nothing(
    database: Database, receive: Receive, now: datetime
) -> None:
    receive(1)
    complete(database, now)
    finish(database, claim(database, now), now)
    deliver_all(database, now)
    with database.write() as session:
        admin.rescreen(session, STUDY, who="admin", now=now)
    finish(database, claim(database, now), now)
    assert state(database) is StudyState.DELIVERED
    with database.read() as session:
        assert len(queries.why(session, STUDY).deliveries) == 2


def test_everything_can_be_sent_again(database: Database, receive: Receive, now: datetime) -> None:
    receive(1)
    complete(database, now)
    finish(database, claim(database, now), now)
    deliver_all(database, now)
    with database.write() as session:
        assert admin.resend(session, STUDY, who="admin", now=now) is StudyState.DELIVERING
    assert len(due(database, now)) == 2


def test_skipping_ends_what_is_pending(database: Database, receive: Receive, now: datetime) -> None:
    receive(1)
    complete(database, now)
    finish(database, claim(database, now), now)
    with database.write() as session:
        admin.skip(session, STUDY, who="admin", why="wrong patient", now=now)
    assert due(database, now) == []
    assert state(database) is StudyState.SKIPPED


@pytest.mark.parametrize("request_name", ["retry", "resend", "rescreen"])
def test_requests_that_make_no_sense_are_refused(
    database: Database, receive: Receive, now: datetime, request_name: str
) -> None:
    receive(1)
    with database.write() as session, pytest.raises(admin.NothingToDo, match="is receiving"):
        getattr(admin, request_name)(session, STUDY, who="admin", now=now)


def test_an_illegal_change_is_refused_and_leaves_no_trace(
    database: Database, receive: Receive, now: datetime
) -> None:
    receive(1)
    with pytest.raises(IllegalTransition, match="receiving to delivered"), database.write() as session:
        study = ledger.locked_study_by_uid(session, STUDY)
        ledger.change_state(session, study, StudyState.DELIVERED, who="test", why="", now=now)
    assert changes(database) == ["receiving"]


def test_an_open_association_is_seen_until_it_closes(
    database: Database, receive: Receive, now: datetime
) -> None:
    with database.write() as session:
        peer = Peer("SCANNER", "127.0.0.1")
        number = receipts.open_association(session, listener="L", peer=peer, called_ae="LUNGNODE", now=now)
    receive(1, association=number)
    with database.read() as session:
        assert revisions.receiving_studies(session)[0].open_associations == 1
    with database.write() as session:
        receipts.close_association(session, number, end="released", now=now)
        assert revisions.receiving_studies(session)[0].open_associations == 0
        assert receipts.close_left_over(session, listener="L", now=now) == 0


def test_what_a_killed_listener_left_open_is_closed(
    database: Database, receive: Receive, now: datetime
) -> None:
    for listener in ("L", "other"):
        with database.write() as session:
            peer = Peer("SCANNER", "127.0.0.1")
            number = receipts.open_association(
                session, listener=listener, peer=peer, called_ae="LUNGNODE", now=now
            )
        receive(1, association=number)
    with database.write() as session:
        assert receipts.close_left_over(session, listener="L", now=now) == 1
        assert revisions.receiving_studies(session)[0].open_associations == 1


def test_an_unchanged_set_makes_no_second_revision(
    database: Database, receive: Receive, now: datetime
) -> None:
    receive(1)
    complete(database, now)
    finish(database, claim(database, now), now)
    deliver_all(database, now)
    with database.write() as session:
        study = ledger.locked_study_by_uid(session, STUDY)
        ledger.change_state(session, study, StudyState.RECEIVING, who="test", why="", now=now)
    assert complete(database, now) is StudyState.DELIVERED
    with database.read() as session:
        assert queries.why(session, STUDY).study.revision == 1


def repeat(database: Database, number: int, at: datetime, first: receipts.Receipt) -> bool:
    with database.write() as session:
        peer = Peer("SCANNER", "127.0.0.1")
        association = receipts.open_association(session, listener="L", peer=peer, called_ae="A", now=at)
    short_way = RepeatedReceipts(database)
    try:
        return short_way.record(
            an_instance(number),
            study_id=first.study_id,
            series_id=first.series_id,
            association_id=association,
            now=at,
        )
    finally:
        short_way.close()


def test_the_short_way_records_what_the_long_one_would(
    database: Database, receive: Receive, now: datetime
) -> None:
    first = receive(1)
    later = now + timedelta(seconds=9)
    assert repeat(database, 2, later, first)
    with database.read() as session:
        (study,) = revisions.receiving_studies(session)
        assert (study.instance_count, study.last_received_at) == (2, later)
    complete(database, later)
    assert len(claim(database, later).instances) == 2


def test_the_short_way_is_closed_where_there_is_something_to_decide(
    database: Database, receive: Receive, now: datetime
) -> None:
    first = receive(1)
    assert not repeat(database, 1, now, first)
    with database.read() as session:
        assert revisions.receiving_studies(session)[0].instance_count == 1
    complete(database, now)
    assert not repeat(database, 2, now, first)
    assert state(database) is StudyState.COMPLETE


def test_only_delivered_studies_of_enough_age_lose_their_images(
    database: Database, receive: Receive, now: datetime
) -> None:
    receive(1)
    later = now + timedelta(days=8)
    with database.read() as session:
        assert retention.expired_studies(session, later) == []
    complete(database, now)
    finish(database, claim(database, now), now)
    with database.read() as session:
        assert retention.expired_studies(session, later) == []
    deliver_all(database, now)
    with database.write() as session:
        assert retention.expired_studies(session, now) == []
        (study_id,) = retention.expired_studies(session, later)
        assert retention.begin_purge(session, study_id, now, later) is None
        expired = retention.begin_purge(session, study_id, later, later)
        assert expired is not None
        assert expired.paths == (an_instance(1).path,)
        assert expired.results, "result objects stay, and are named so that nothing else does"
        assert retention.purged_among(session, [*expired.paths, "other"]) == set(expired.paths)
        assert retention.begin_purge(session, study_id, later, later) is None
    with database.write() as session, pytest.raises(admin.NothingToDo, match="deleted after delivery"):
        admin.rescreen(session, STUDY, who="admin", now=later)
    assert receive(1).outcome is Outcome.IDENTICAL
    with database.write() as session:
        assert admin.rescreen(session, STUDY, who="admin", now=later) is StudyState.COMPLETE


def test_counts_and_lists(database: Database, receive: Receive, now: datetime) -> None:
    receive(1)
    receive(1, study="1.2.4", at=now + timedelta(hours=1))
    with database.read() as session:
        assert queries.counts_by_state(session)[StudyState.RECEIVING] == 2
        assert queries.counts_by_state(session)[StudyState.FAILED] == 0
        newest_first = [s.study_instance_uid for s in queries.list_studies(session)]
        assert newest_first == ["1.2.4", "1.2.3"]
        recent = queries.list_studies(
            session, since=now + timedelta(minutes=1), states=[StudyState.RECEIVING]
        )
        assert [s.study_instance_uid for s in recent] == ["1.2.4"]
        assert queries.list_studies(session, uid_prefix="1.2.%") == []
