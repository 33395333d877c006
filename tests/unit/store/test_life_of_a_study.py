"""A study from its first instance to its end, and every way back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from made_up_studies import received_instance

from store import (
    admin,
    claims,
    commitment,
    deliveries,
    ledger,
    priors,
    queries,
    receipts,
    recovery,
    results,
    retention,
    revisions,
)
from store.database import Database
from store.deliveries import Backoff
from store.priorities import Priority
from store.receipts import Outcome, Peer, ReceivedInstance
from store.repeated_receipts import RepeatedReceipts
from store.results import ResultObject
from store.retention import Expiry
from store.states import IllegalTransition, StudyState

STUDY = "1.2.3"
LEASE = timedelta(seconds=60)
BACKOFF = Backoff(timedelta(seconds=5), timedelta(minutes=15))
PACS = {"pacs": ("sr", "seg")}
SETTINGS = "a" * 64


def an_instance(
    number: int, *, content: str = "x", kept_out: str | None = None, study: str = STUDY
) -> ReceivedInstance:
    sha256 = f"{content}{number}".encode().hex().ljust(64, "0")
    path = f"spool/{study}/{sha256}.dcm"
    return replace(received_instance(number, study), sha256=sha256, size=1000, path=path, kept_out=kept_out)


def objects(revision: int = 1) -> list[ResultObject]:
    return [
        ResultObject(
            kind, f"1.2.{n}", f"2.25.{revision}{n}", f"2.25.{revision}{n}9", f"outbox/{revision}/{kind}.dcm"
        )
        for n, kind in enumerate(("seg", "gsps", "pm", "sr"), start=1)
    ]


@dataclass(frozen=True)
class Life:
    """A store with one study, and what happens to it; times are `now` where none is given."""

    database: Database
    now: datetime

    def receive(
        self, number: int = 1, at: datetime | None = None, association: int | None = None, **kind: Any
    ) -> receipts.Receipt:
        """An instance comes."""
        with self.database.write() as session:
            return receipts.record_instance(
                session, an_instance(number, **kind), association_id=association, now=at or self.now
            )

    def complete(self, at: datetime | None = None) -> StudyState:
        """Reception ends."""
        with self.database.write() as session:
            (study,) = revisions.receiving_studies(session)
            return revisions.complete_study(
                session, study.study_id, who="test", why="quiet", now=at or self.now
            )

    def offer(self, at: datetime | None = None, worker: str = "worker-1") -> claims.Claim | None:
        """A worker asks for work."""
        with self.database.write() as session:
            return claims.claim_next(session, worker=worker, lease=LEASE, max_attempts=3, now=at or self.now)

    def claim(self, at: datetime | None = None, worker: str = "worker-1") -> claims.Claim:
        """A worker asks for work, and there is some."""
        found = self.offer(at, worker)
        assert found is not None
        return found

    def finish(
        self,
        held: claims.Claim,
        at: datetime | None = None,
        routes: dict[str, tuple[str, ...]] = PACS,
        settings_digest: str = SETTINGS,
    ) -> None:
        """A worker has results."""
        with self.database.write() as session:
            results.record_results(
                session,
                held,
                objects(held.revision),
                destinations=routes,
                settings_digest=settings_digest,
                summary={"jcs": {"positive": True}},
                now=at or self.now,
            )

    def due(self, at: datetime | None = None, who: str = "sender") -> list[deliveries.DueDelivery]:
        """A sender asks what it may send."""
        with self.database.write() as session:
            return deliveries.claim_due(
                session, who=who, lease=LEASE, now=at or self.now, destinations=["pacs"]
            )

    def deliver(self, item: deliveries.DueDelivery, at: datetime | None = None, **remark: Any) -> None:
        """An object has arrived."""
        with self.database.write() as session:
            deliveries.record_delivered(
                session, item, who="sender", now=at or self.now, **({"status": 0} | remark)
            )

    def deliver_all(self, at: datetime | None = None) -> None:
        """Everything that is due has arrived."""
        for item in self.due(at):
            self.deliver(item, at)

    def associate(self, listener: str = "L", at: datetime | None = None) -> int:
        """A sender opens an association; its number."""
        with self.database.write() as session:
            return receipts.open_association(
                session,
                listener=listener,
                peer=Peer("SCANNER", "127.0.0.1"),
                called_ae="LUNGNODE",
                now=at or self.now,
            )

    @property
    def account(self) -> queries.StudyAccount:
        """What is known of the study."""
        with self.database.read() as session:
            return queries.why(session, STUDY)

    @property
    def state(self) -> StudyState:
        return self.account.study.state

    @property
    def changes(self) -> list[str]:
        """Its states so far."""
        return [entry.what.partition(":")[0] for entry in self.account.history]


@pytest.fixture
def life(database: Database, now: datetime) -> Life:
    """A store without a study yet."""
    return Life(database, now)


@pytest.fixture
def received_study(life: Life) -> Life:
    """A study with one instance."""
    life.receive(1)
    return life


@pytest.fixture
def complete_study(received_study: Life) -> Life:
    """A study that may be claimed."""
    received_study.complete()
    return received_study


@pytest.fixture
def screened_study(complete_study: Life) -> Life:
    """A study whose results wait for the PACS."""
    complete_study.finish(complete_study.claim())
    return complete_study


@pytest.fixture
def delivered_study(screened_study: Life) -> Life:
    """A study whose results have arrived."""
    screened_study.deliver_all()
    return screened_study


def test_the_whole_way(life: Life) -> None:
    assert life.receive(1).outcome is Outcome.NEW
    life.receive(2)
    assert life.complete() is StudyState.COMPLETE
    held = life.claim()
    assert [i.sop_instance_uid for i in held.instances] == ["1.2.3.1.1", "1.2.3.1.2"]
    assert (held.revision, held.attempt, held.predecessors) == (1, 1, ())
    life.finish(held)
    sent = life.due()
    assert [(d.kind, d.destination) for d in sent] == [("seg", "pacs"), ("sr", "pacs")]
    deliver_one, deliver_other = sent
    life.deliver(deliver_one)
    assert life.state is StudyState.DELIVERING
    life.deliver(deliver_other, status=0xB000, remark="coercion")
    assert life.state is StudyState.DELIVERED
    assert life.changes == [
        "receiving",
        "receiving -> complete (revision 1)",
        "complete -> screening (revision 1)",
        "screening -> delivering (revision 1)",
        "delivering -> delivered (revision 1)",
    ]


def test_the_same_instance_again_makes_no_work(life: Life) -> None:
    first = life.receive(1)
    life.complete()
    again = life.receive(1)
    assert again.outcome is Outcome.IDENTICAL
    assert again.path == first.path
    assert life.state is StudyState.COMPLETE


def test_the_same_uid_with_other_content_changes_nothing(complete_study: Life) -> None:
    other = complete_study.receive(1, content="y")
    assert other.outcome is Outcome.CONFLICTING
    assert complete_study.state is StudyState.COMPLETE
    assert complete_study.claim().paths == (an_instance(1).path,)


def test_late_instances_make_the_next_revision_with_its_predecessor(delivered_study: Life) -> None:
    later = delivered_study.now + timedelta(hours=1)
    delivered_study.receive(2, at=later)
    assert delivered_study.state is StudyState.RECEIVING
    delivered_study.complete(later)
    held = delivered_study.claim(later)
    assert held.revision == 2
    assert len(held.instances) == 2
    assert held.predecessors == (("1.2.4", "2.25.14", "2.25.149"),)
    assert held.revision_created_at == later


def test_a_late_instance_makes_the_running_claim_void(complete_study: Life) -> None:
    held = complete_study.claim()
    complete_study.receive(2)
    with complete_study.database.write() as session, pytest.raises(claims.LeaseLost):
        claims.renew(session, held, lease=LEASE, now=complete_study.now)
    with pytest.raises(claims.LeaseLost):
        complete_study.finish(held)
    assert complete_study.account.screenings == ()
    complete_study.complete()
    assert complete_study.claim().revision == 2


def test_a_revision_once_frozen_keeps_its_set_and_its_time(complete_study: Life) -> None:
    first = complete_study.claim()
    with complete_study.database.write() as session:
        claims.release(session, first, why="worker stops", now=complete_study.now)
    again = complete_study.claim(complete_study.now + timedelta(hours=2))
    assert again.revision_created_at == first.revision_created_at == complete_study.now
    assert (again.revision_digest, again.attempt) == (first.revision_digest, 1)


def test_a_result_that_comes_home_is_recorded_and_takes_nothing_back(delivered_study: Life) -> None:
    delivered_study.receive(99, kept_out="own result")
    assert delivered_study.state is StudyState.DELIVERED
    (series,) = delivered_study.account.series
    assert series.instance_count == 2
    assert series.kept_out == ("own result",)


def test_a_study_without_images_is_skipped_with_its_reasons(life: Life) -> None:
    life.receive(1, kept_out="Basic Text SR Storage is not screened")
    assert life.complete() is StudyState.SKIPPED
    assert "Basic Text SR" in life.account.study.reason
    life.receive(2)
    assert life.complete() is StudyState.COMPLETE


def test_a_dead_workers_study_is_taken_over_and_its_late_result_refused(complete_study: Life) -> None:
    dead = complete_study.claim()
    assert complete_study.offer(worker="w2") is None
    after = complete_study.now + LEASE + timedelta(seconds=1)
    heir = complete_study.claim(after, worker="w2")
    assert heir.attempt == 2
    with pytest.raises(claims.LeaseLost):
        complete_study.finish(dead, after)
    complete_study.finish(heir, after)
    account = complete_study.account
    assert [s.worker for s in account.screenings] == ["w2"]
    assert len(account.deliveries) == 2


def test_a_heartbeat_keeps_the_lease(complete_study: Life) -> None:
    held = complete_study.claim()
    with complete_study.database.write() as session:
        held = claims.renew(session, held, lease=LEASE, now=complete_study.now + timedelta(seconds=50))
    assert complete_study.offer(complete_study.now + timedelta(seconds=100), "w2") is None
    complete_study.finish(held, complete_study.now + timedelta(seconds=101))


def test_a_study_that_kills_its_workers_ends_as_failed(complete_study: Life) -> None:
    at = complete_study.now
    for attempt in (1, 2, 3):
        assert complete_study.claim(at).attempt == attempt
        at += LEASE * 2
    assert complete_study.offer(at, "w") is None
    assert complete_study.state is StudyState.FAILED
    with complete_study.database.write() as session:
        assert admin.retry(session, STUDY, who="admin", now=at) is StudyState.COMPLETE
    assert complete_study.claim(at).attempt == 1


def test_an_error_that_may_pass_waits(complete_study: Life) -> None:
    soon = complete_study.now + timedelta(minutes=1)
    held = complete_study.claim()
    with complete_study.database.write() as session:
        claims.retry_later(session, held, why="out of memory", not_before=soon, now=complete_study.now)
    assert complete_study.offer(worker="w") is None
    assert complete_study.claim(soon).attempt == 2


@pytest.mark.parametrize(
    ("end", "after"), [(claims.fail, StudyState.FAILED), (claims.skip, StudyState.SKIPPED)]
)
def test_a_worker_ends_a_study_with_its_reason(
    complete_study: Life,
    end: Callable[..., None],
    after: StudyState,
) -> None:
    held = complete_study.claim()
    with complete_study.database.write() as session:
        end(session, held, why="2 slices", now=complete_study.now)
    line = complete_study.account.study
    assert (line.state, line.reason) == (after, "2 slices")


def test_a_study_that_nobody_wants_is_delivered(complete_study: Life) -> None:
    complete_study.finish(complete_study.claim(), routes={"archive": ("sc",)})
    assert complete_study.state is StudyState.DELIVERED


def test_a_pacs_that_is_away_is_tried_with_growing_pauses(complete_study: Life) -> None:
    complete_study.finish(complete_study.claim(), routes={"pacs": ("sr",)})
    at = complete_study.now
    pauses = []
    for _ in range(10):
        (item,) = complete_study.due(at)
        with complete_study.database.write() as session:
            again = deliveries.record_failed(
                session, item, who="sender", why="no connection", backoff=BACKOFF, now=at
            )
        assert complete_study.due(again - timedelta(milliseconds=1)) == []
        pauses.append((again - at).total_seconds())
        at = again
    assert pauses == [5, 10, 20, 40, 80, 160, 320, 640, 900, 900]
    complete_study.deliver_all(at)
    assert complete_study.state is StudyState.DELIVERED


def test_a_refused_object_fails_the_study_when_the_others_are_through(screened_study: Life) -> None:
    seg, sr = screened_study.due()
    with screened_study.database.write() as session:
        deliveries.record_refused(
            session, seg, who="sender", why="no presentation context", now=screened_study.now
        )
    assert screened_study.state is StudyState.DELIVERING
    screened_study.deliver(sr)
    line = screened_study.account.study
    assert (line.state, line.reason) == (StudyState.FAILED, "pacs refused seg: no presentation context")
    with screened_study.database.write() as session:
        assert admin.retry(session, STUDY, who="admin", now=screened_study.now) is StudyState.DELIVERING
    assert [d.kind for d in screened_study.due()] == ["seg"]


def refuse(life: Life, item: deliveries.DueDelivery) -> None:
    with life.database.write() as session:
        deliveries.record_refused(session, item, who="sender", why="no room", now=life.now)


def test_what_was_refused_of_an_earlier_revision_does_not_fail_the_newest(screened_study: Life) -> None:
    refuse(screened_study, screened_study.due()[0])
    screened_study.deliver(screened_study.due(screened_study.now + LEASE * 2)[0])
    assert screened_study.state is StudyState.FAILED
    screened_study.receive(2)
    screened_study.complete()
    screened_study.finish(screened_study.claim())
    screened_study.deliver_all()
    line = screened_study.account.study
    assert line.state is StudyState.DELIVERED
    assert line.reason == "2 deliveries done; of an earlier screening: pacs refused seg: no room"


def test_a_refusal_of_the_newest_revision_fails_the_study_though_an_earlier_one_arrived(
    delivered_study: Life,
) -> None:
    delivered_study.receive(2)
    delivered_study.complete()
    delivered_study.finish(delivered_study.claim())
    first, other = delivered_study.due()
    refuse(delivered_study, first)
    delivered_study.deliver(other)
    assert delivered_study.state is StudyState.FAILED


def test_the_screening_that_was_finished_last_decides(screened_study: Life) -> None:
    """Settings are changed because of a refusal, and changed back: each time the newest outcome counts."""
    seg, sr = screened_study.due()
    refuse(screened_study, seg)
    screened_study.deliver(sr)
    later = screened_study.now + timedelta(hours=1)
    ask(screened_study, "rescreen")
    screened_study.finish(screened_study.claim(), later, settings_digest="e" * 64)
    screened_study.deliver_all(later)
    assert screened_study.state is StudyState.DELIVERED
    ask(screened_study, "rescreen")
    screened_study.finish(screened_study.claim(later), later + timedelta(hours=1))
    (again,) = screened_study.due(later + timedelta(hours=1))
    refuse(screened_study, again)
    assert screened_study.state is StudyState.FAILED


def test_an_unchanged_set_stays_failed_where_its_delivery_was_refused(screened_study: Life) -> None:
    seg, sr = screened_study.due()
    refuse(screened_study, seg)
    screened_study.deliver(sr)
    with screened_study.database.write() as session:
        study = ledger.locked_study_by_uid(session, STUDY)
        ledger.change_state(session, study, StudyState.RECEIVING, who="test", why="", now=screened_study.now)
    assert screened_study.complete() is StudyState.FAILED


def test_a_delivery_of_a_dead_sender_is_taken_over(screened_study: Life) -> None:
    first = screened_study.due()
    assert screened_study.due() == []
    later = screened_study.now + LEASE + timedelta(seconds=1)
    again = screened_study.due(later, who="other")
    assert [d.delivery_id for d in again] == [d.delivery_id for d in first]
    with pytest.raises(deliveries.DeliveryTaken):
        screened_study.deliver(first[0], later)


def test_what_a_process_held_that_is_known_dead_is_free_at_once(complete_study: Life) -> None:
    complete_study.claim(worker="dead")
    with complete_study.database.write() as session:
        assert recovery.end_leases_of(session, "other", complete_study.now) == 0
        assert recovery.end_leases_of(session, "dead", complete_study.now) == 1
    heir = complete_study.claim(worker="heir")
    assert heir.attempt == 2
    complete_study.finish(heir)
    assert len(complete_study.due()) == 2
    assert complete_study.due() == []
    with complete_study.database.write() as session:
        assert recovery.end_leases_of(session, "sender", complete_study.now) == 2
    assert len(complete_study.due()) == 2


def test_screening_again_with_the_same_settings_adds_nothing(delivered_study: Life) -> None:
    with delivered_study.database.write() as session:
        admin.rescreen(session, STUDY, who="admin", now=delivered_study.now)
    delivered_study.finish(delivered_study.claim())
    assert delivered_study.state is StudyState.DELIVERED
    assert len(delivered_study.account.deliveries) == 2


def test_screening_again_tries_again_what_was_refused(screened_study: Life) -> None:
    seg, sr = screened_study.due()
    refuse(screened_study, seg)
    screened_study.deliver(sr)
    with screened_study.database.write() as session:
        admin.rescreen(session, STUDY, who="admin", now=screened_study.now)
    screened_study.finish(screened_study.claim())
    assert [d.kind for d in screened_study.due()] == ["seg"]
    assert screened_study.state is StudyState.DELIVERING


def test_everything_can_be_sent_again(delivered_study: Life) -> None:
    with delivered_study.database.write() as session:
        assert admin.resend(session, STUDY, who="admin", now=delivered_study.now) is StudyState.DELIVERING
    assert len(delivered_study.due()) == 2


def test_skipping_ends_what_is_pending(screened_study: Life) -> None:
    with screened_study.database.write() as session:
        admin.skip(session, STUDY, who="admin", why="wrong patient", now=screened_study.now)
    assert screened_study.due() == []
    assert screened_study.state is StudyState.SKIPPED


@pytest.mark.parametrize("request_name", ["retry", "resend", "rescreen"])
def test_requests_that_make_no_sense_are_refused(received_study: Life, request_name: str) -> None:
    with received_study.database.write() as session, pytest.raises(admin.NothingToDo, match="is receiving"):
        getattr(admin, request_name)(session, STUDY, who="admin", now=received_study.now)


def test_an_illegal_change_is_refused_and_leaves_no_trace(received_study: Life) -> None:
    with (
        pytest.raises(IllegalTransition, match="receiving to delivered"),
        received_study.database.write() as session,
    ):
        study = ledger.locked_study_by_uid(session, STUDY)
        ledger.change_state(session, study, StudyState.DELIVERED, who="test", why="", now=received_study.now)
    assert received_study.changes == ["receiving"]


def test_an_open_association_is_seen_until_it_closes(life: Life) -> None:
    number = life.associate()
    life.receive(1, association=number)
    with life.database.read() as session:
        assert revisions.receiving_studies(session)[0].open_associations == 1
    with life.database.write() as session:
        receipts.close_association(session, number, end="released", now=life.now)
        assert revisions.receiving_studies(session)[0].open_associations == 0
        assert receipts.close_left_over(session, listener="L", now=life.now) == 0


def test_what_a_killed_listener_left_open_is_closed(life: Life) -> None:
    for listener in ("L", "other"):
        life.receive(1, association=life.associate(listener))
    with life.database.write() as session:
        assert receipts.close_left_over(session, listener="L", now=life.now) == 1
        assert revisions.receiving_studies(session)[0].open_associations == 1


def test_an_unchanged_set_makes_no_second_revision(delivered_study: Life) -> None:
    with delivered_study.database.write() as session:
        study = ledger.locked_study_by_uid(session, STUDY)
        ledger.change_state(session, study, StudyState.RECEIVING, who="test", why="", now=delivered_study.now)
    assert delivered_study.complete() is StudyState.DELIVERED
    assert delivered_study.account.study.revision == 1


def repeat(life: Life, number: int, at: datetime, first: receipts.Receipt) -> bool:
    short_way = RepeatedReceipts(life.database)
    try:
        return short_way.record(
            an_instance(number),
            study_id=first.study_id,
            series_id=first.series_id,
            association_id=life.associate(at=at),
            now=at,
        )
    finally:
        short_way.close()


def test_the_short_way_records_what_the_long_one_would(life: Life) -> None:
    first = life.receive(1)
    later = life.now + timedelta(seconds=9)
    assert repeat(life, 2, later, first)
    with life.database.read() as session:
        (study,) = revisions.receiving_studies(session)
        assert (study.instance_count, study.last_received_at) == (2, later)
    life.complete(later)
    assert len(life.claim(later).instances) == 2


def test_the_short_way_is_closed_where_there_is_something_to_decide(life: Life) -> None:
    first = life.receive(1)
    assert not repeat(life, 1, life.now, first)
    with life.database.read() as session:
        assert revisions.receiving_studies(session)[0].instance_count == 1
    life.complete()
    assert not repeat(life, 2, life.now, first)
    assert life.state is StudyState.COMPLETE


def test_only_delivered_studies_of_enough_age_lose_their_images(received_study: Life) -> None:
    later = received_study.now + timedelta(days=8)
    with received_study.database.read() as session:
        assert retention.expired_studies(session, Expiry(later)) == []
    received_study.complete()
    received_study.finish(received_study.claim())
    with received_study.database.read() as session:
        assert retention.expired_studies(session, Expiry(later)) == []
    received_study.deliver_all()
    with received_study.database.write() as session:
        assert retention.expired_studies(session, Expiry(received_study.now)) == []
        (study_id,) = retention.expired_studies(session, Expiry(later))
        assert retention.begin_purge(session, study_id, Expiry(received_study.now), later) is None
        expired = retention.begin_purge(session, study_id, Expiry(later), later)
        assert expired is not None
        assert expired.paths == (an_instance(1).path,)
        assert expired.results, "result objects stay, and are named so that nothing else does"
        assert retention.purged_among(session, [*expired.paths, "other"]) == set(expired.paths)
        assert retention.begin_purge(session, study_id, Expiry(later), later) is None
    with (
        received_study.database.write() as session,
        pytest.raises(admin.NothingToDo, match="its images were deleted; send it again"),
    ):
        admin.rescreen(session, STUDY, who="admin", now=later)
    with received_study.database.write() as session:
        assert retention.is_still_purged(session, study_id, later)
    assert received_study.receive(1).outcome is Outcome.IDENTICAL
    with received_study.database.write() as session:
        assert not retention.is_still_purged(session, study_id, later)
        assert admin.rescreen(session, STUDY, who="admin", now=later) is StudyState.COMPLETE


def test_counts_and_lists(received_study: Life) -> None:
    received_study.receive(1, study="1.2.4", at=received_study.now + timedelta(hours=1))
    with received_study.database.read() as session:
        assert queries.counts_by_state(session)[StudyState.RECEIVING] == 2
        assert queries.counts_by_state(session)[StudyState.FAILED] == 0
        newest_first = [s.study_instance_uid for s in queries.list_studies(session)]
        assert newest_first == ["1.2.4", "1.2.3"]
        recent = queries.list_studies(
            session, since=received_study.now + timedelta(minutes=1), states=[StudyState.RECEIVING]
        )
        assert [s.study_instance_uid for s in recent] == ["1.2.4"]
        assert queries.list_studies(session, uid_prefix="1.2.%") == []


def ask(life: Life, request: str, **more: Any) -> StudyState:
    """An administrator asks for something."""
    with life.database.write() as session:
        state: StudyState = getattr(admin, request)(session, STUDY, who="admin", now=life.now, **more)
        return state


def test_what_was_skipped_while_it_was_delivered_is_delivered_at_a_retry(screened_study: Life) -> None:
    ask(screened_study, "skip", why="wrong patient")
    assert ask(screened_study, "retry") is StudyState.DELIVERING
    screened_study.deliver_all()
    assert screened_study.state is StudyState.DELIVERED


def test_a_failed_screening_is_retried_though_an_earlier_revision_was_not_accepted(
    screened_study: Life,
) -> None:
    seg, sr = screened_study.due()
    with screened_study.database.write() as session:
        deliveries.record_not_accepted(session, seg, who="sender", why="no SEG", now=screened_study.now)
    screened_study.deliver(sr)
    screened_study.receive(2)
    screened_study.complete()
    held = screened_study.claim()
    with screened_study.database.write() as session:
        claims.fail(session, held, why="cannot be decoded", now=screened_study.now)
    assert ask(screened_study, "retry") is StudyState.COMPLETE
    assert screened_study.claim().revision == 2


def test_what_was_skipped_while_it_was_received_is_received_in_full(received_study: Life) -> None:
    ask(received_study, "skip", why="by mistake")
    assert ask(received_study, "retry") is StudyState.RECEIVING
    assert received_study.complete() is StudyState.COMPLETE
    assert len(received_study.claim().instances) == 1


def test_other_content_under_another_studys_uid_begins_no_study(life: Life) -> None:
    life.receive(1)
    held = an_instance(1)
    stranger = replace(held, study_instance_uid="1.2.99", sha256="f" * 64)
    with life.database.write() as session:
        receipt = receipts.record_instance(session, stranger, association_id=None, now=life.now)
        assert receipt.outcome is Outcome.CONFLICTING
        assert [s.study_instance_uid for s in revisions.receiving_studies(session)] == [STUDY]


@pytest.fixture
def purged_study(life: Life) -> Life:
    """A delivered study whose three images are deleted."""
    for number in (1, 2, 3):
        life.receive(number)
    life.complete()
    life.finish(life.claim())
    life.deliver_all()
    later = life.now + timedelta(days=8)
    with life.database.write() as session:
        (study_id,) = retention.expired_studies(session, Expiry(later))
        assert retention.begin_purge(session, study_id, Expiry(later), later) is not None
    return life


def test_what_comes_after_a_deletion_is_screened_without_the_images_that_are_gone(purged_study: Life) -> None:
    purged_study.receive(4)
    assert purged_study.complete() is StudyState.COMPLETE
    held = purged_study.claim()
    assert (held.revision, held.paths) == (2, (an_instance(4).path,))
    purged_study.finish(held)
    purged_study.deliver_all()
    assert purged_study.receive(1).outcome is Outcome.IDENTICAL
    assert ask(purged_study, "rescreen") is StudyState.COMPLETE
    assert purged_study.claim().paths == held.paths, "a revision keeps its images"


def test_a_deleted_study_is_screened_again_when_all_of_it_has_come_again(purged_study: Life) -> None:
    for number in (1, 2):
        assert purged_study.receive(number).outcome is Outcome.IDENTICAL
        with pytest.raises(admin.NothingToDo, match=f"{3 - number} of its images were deleted"):
            ask(purged_study, "rescreen")
    purged_study.receive(3)
    assert ask(purged_study, "rescreen") is StudyState.COMPLETE
    assert len(purged_study.claim().instances) == 3


def test_what_was_skipped_before_it_was_complete_is_screened_when_it_has_come_again(life: Life) -> None:
    life.receive(1)
    ask(life, "skip", why="by mistake")
    later = life.now + timedelta(days=8)
    with life.database.write() as session:
        (study_id,) = retention.expired_studies(session, Expiry(later))
        assert retention.begin_purge(session, study_id, Expiry(later), later) is not None
    with pytest.raises(admin.NothingToDo, match="its images were deleted"):
        ask(life, "retry")
    assert life.receive(1, at=later).outcome is Outcome.IDENTICAL
    assert ask(life, "retry") is StudyState.RECEIVING
    assert life.complete() is StudyState.COMPLETE
    assert len(life.claim(later).instances) == 1


def test_images_of_a_failed_study_stay_while_an_earlier_result_is_on_its_way(screened_study: Life) -> None:
    screened_study.receive(2)
    screened_study.complete()
    later = screened_study.now + timedelta(days=8)
    held = screened_study.claim()
    with screened_study.database.write() as session:
        claims.fail(session, held, why="damaged", now=screened_study.now)
        assert retention.expired_studies(session, Expiry(later, (StudyState.FAILED,))) == []
    screened_study.deliver_all()
    with screened_study.database.read() as session:
        assert len(retention.expired_studies(session, Expiry(later, (StudyState.FAILED,)))) == 1


def test_other_content_takes_the_place_of_what_is_gone_in_its_own_study_alone(purged_study: Life) -> None:
    held = an_instance(1)
    other = replace(held, sha256="f" * 64, path="spool/other.dcm")

    def record(instance: ReceivedInstance, gone: str | None) -> Outcome:
        with purged_study.database.write() as session:
            now = purged_study.now
            return receipts.record_instance(
                session, instance, association_id=None, now=now, gone=gone
            ).outcome

    assert record(other, None) is Outcome.CONFLICTING
    assert record(other, "spool/another.dcm") is Outcome.CONFLICTING
    assert record(replace(other, study_instance_uid="1.2.99"), held.path) is Outcome.CONFLICTING
    assert record(other, held.path) is Outcome.NEW
    assert purged_study.complete() is StudyState.COMPLETE
    claim = purged_study.claim()
    assert (claim.revision, claim.paths) == (2, (other.path,))


def test_nobody_commits_to_what_was_deleted(purged_study: Life) -> None:
    uids = [an_instance(number).sop_instance_uid for number in (1, 2, 3)]

    def held() -> list[str]:
        with purged_study.database.read() as session:
            return sorted(commitment.held_instances(session, uids))

    assert held() == []
    purged_study.receive(2)
    assert held() == [uids[1]], "only what came again"


def test_a_deleted_study_is_still_the_prior_of_a_later_one(purged_study: Life) -> None:
    purged_study.receive(9, kept_out="own result")
    with purged_study.database.read() as session:
        (earlier,) = priors.earlier_screenings(session, study_id=99, patient_digest="0" * 64)
    assert earlier.image == an_instance(1).path


def test_a_study_that_no_worker_can_take_does_not_keep_others_from_idle_times(life: Life) -> None:
    life.receive(1)
    life.complete()
    with life.database.write() as session:
        study = ledger.locked_study_by_uid(session, STUDY)
        study.priority = Priority.IDLE
        receipts.record_instance(
            session,
            replace(an_instance(1, study="1.2.4"), held_by="a node that is gone"),
            association_id=None,
            now=life.now,
        )
    life.complete()
    assert life.claim().study_instance_uid == STUDY
