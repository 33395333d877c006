"""The commitment loop of one destination: what it stored counts as delivered once it has committed to keep it.

Where the destination offers no commitment, or never answers, it is asked by query; what it does not have is sent again,
and an object that it keeps with other content under our UID is told from ours by retrieving it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from itertools import groupby
from typing import Literal

import structlog
from pydicom.uid import generate_uid

from engine.headers import MALFORMED
from reporting.delivery.confirmation import (
    CommitmentTimeouts,
    Comparison,
    Reply,
    Report,
    compare_kept,
    request_commitment,
    source,
)
from reporting.delivery.loop import Destination, Stop, is_due, seconds_until
from scp.pacs_query.source import QueryFailed, SourceUnreachable
from store import commitment
from store.commitment import StoredDelivery
from store.database import Database
from store.deliveries import Backoff, DeliveryTaken
from store.shared_storage import Storage
from store.wakeups import Topic, open_bell

LEASE = timedelta(minutes=10)
MAX_REQUESTS = 3
"""Requests for commitment that may go unanswered before the destination is taken not to answer at all."""

DEFAULT_TIMEOUTS = CommitmentTimeouts()

log: structlog.stdlib.BoundLogger = structlog.get_logger("commitment")


@dataclass(frozen=True)
class CommitmentPolicy:
    """What a destination must confirm before a study counts as delivered.

    ask: `auto` is content where a destination offers neither commitment nor query, `required` is not,
    `off` asks nothing (and settles what waited when it was turned off). compare: retrieve
    each object and compare it with ours. answer: how long a report may take.
    """

    ask: Literal["auto", "required", "off"] = "auto"
    compare: bool = True
    answer: timedelta = timedelta(seconds=60)


@dataclass(frozen=True)
class Committer:
    """Sees to it that one destination keeps what it stored. storage: the folder that paths in the store start from."""

    database: Database
    storage: Storage
    destination: Destination
    who: str
    calling_ae_title: str
    policy: CommitmentPolicy
    backoff: Backoff
    clock: Callable[[], datetime]
    timeouts: CommitmentTimeouts = DEFAULT_TIMEOUTS

    def run(self, stop: Stop, poll_seconds: float) -> None:
        """Ask until told to stop."""
        with open_bell(self.database, Topic.OUTBOX) as bell:
            while not stop.is_set():
                if not self.commit_due():
                    bell.wait(stop, poll_seconds, self._due_seconds())

    def commit_due(self) -> int:
        """Deal with what is due now; returns how many objects that was."""
        return self._commit_batch() if is_due(self._due_seconds()) else 0

    def _due_seconds(self) -> float | None:
        with self.database.read() as session:
            return seconds_until(commitment.next_stored_at(session, self.destination.name), self.clock())

    def _commit_batch(self) -> int:
        with self.database.write() as session:
            items = commitment.claim_stored(
                session, who=self.who, lease=LEASE, destination=self.destination.name, now=self.clock()
            )
        if self.policy.ask == "off":
            for item in items:
                self._settled(item, partial(self._keep, item, "commitment is no longer asked for"))
            return len(items)
        overdue = [item for item in items if item.transaction_uid is not None]
        for item in overdue:
            self._settled(item, partial(self._look_up, item, "the request for commitment was not answered"))
        fresh = [item for item in items if item.transaction_uid is None]
        for _, of_study in groupby(fresh, key=lambda item: item.study_id):
            self._ask(list(of_study))
        return len(items)

    def _ask(self, items: Sequence[StoredDelivery]) -> None:
        """Compare what can be retrieved, then request commitment for the objects of one study."""
        items = [item for item in items if not self._is_other_content(item)]
        if not items:
            return
        transaction = str(generate_uid(prefix=None))  # a random UUID: nobody else can answer it
        try:
            with self.database.write() as session:
                answer_by = self.clock() + self.policy.answer
                commitment.record_asked(session, items, transaction_uid=transaction, answer_by=answer_by)
        except DeliveryTaken:
            return
        references = [(item.sop_class_uid, item.sop_instance_uid) for item in items]
        request = request_commitment(
            self.destination.peer, self.calling_ae_title, transaction, references, self._take, self.timeouts
        )
        log.info(
            "commitment asked for",
            destination=self.destination.name,
            objects=len(items),
            reply=request.reply.value,
            why=request.reason or None,
        )
        if request.reply is Reply.NOT_OFFERED:
            for item in items:
                self._settled(item, partial(self._look_up, item, request.reason))
        elif request.reply is Reply.UNREACHABLE:
            for item in items:
                self._settled(item, partial(self._later, item, request.reason))
        with self.database.write() as session:
            commitment.let_go(session, items)

    def _take(self, report: Report) -> None:
        settled = take_report(
            self.database,
            report,
            destinations=[self.destination.name],
            who=self.who,
            backoff=self.backoff,
            now=self.clock(),
        )
        log.info("commitment reported", destination=self.destination.name, objects=settled)

    def _look_up(self, item: StoredDelivery, why: str) -> None:
        """The follow-up: does the destination list the object? Raises DeliveryTaken."""
        asked = source(self.destination.peer, self.calling_ae_title)
        try:
            there = asked.holds(item.study_instance_uid, item.series_instance_uid, item.sop_instance_uid)
        except SourceUnreachable as error:
            self._later(item, f"{why}; {error}")
            return
        except QueryFailed as error:
            self._cannot_tell(item, f"{why}; {error}")
            return
        now = self.clock()
        with self.database.write() as session:
            if there:
                remark = f"{why}; found by query"
                commitment.record_kept(session, item, who=self.who, remark=remark, now=now)
            else:
                lost = f"{why}; answered success, but a query does not find it"
                commitment.record_lost(session, item, why=lost, backoff=self.backoff, now=now)

    def _cannot_tell(self, item: StoredDelivery, why: str) -> None:
        now = self.clock()
        with self.database.write() as session:
            if item.transaction_uid is not None and item.requests < MAX_REQUESTS:
                commitment.ask_later(session, [item], why=why, backoff=self.backoff, now=now)
            elif self.policy.ask == "required":
                refusal = f"stored, but neither committed to nor found by query: {why}"
                commitment.record_other_content(session, item, who=self.who, why=refusal, now=now)
            else:
                remark = f"on the word of its status alone: {why}"
                commitment.record_kept(session, item, who=self.who, remark=remark, now=now)

    def _is_other_content(self, item: StoredDelivery) -> bool:
        """Whether the delivery ended since the destination keeps something else, or nothing, under its UID."""
        if not self.policy.compare:
            return False
        try:
            found = compare_kept(
                self.destination.peer,
                self.calling_ae_title,
                self.storage / item.path,
                study_instance_uid=item.study_instance_uid,
                series_instance_uid=item.series_instance_uid,
            )
        except (QueryFailed, *MALFORMED) as error:  # theirs cannot be had, or ours is damaged on our disk
            log.info("not compared", destination=self.destination.name, kind=item.kind, why=str(error))
            return False
        if found is not Comparison.DIFFERENT:
            return False
        why = "answered success, but keeps another object under this SOP Instance UID; delete that one and resend"
        log.warning("other content", destination=self.destination.name, kind=item.kind)
        self._settled(item, partial(self._refuse, item, why))
        return True

    def _keep(self, item: StoredDelivery, remark: str) -> None:
        with self.database.write() as session:
            commitment.record_kept(session, item, who=self.who, remark=remark, now=self.clock())

    def _refuse(self, item: StoredDelivery, why: str) -> None:
        with self.database.write() as session:
            commitment.record_other_content(session, item, who=self.who, why=why, now=self.clock())

    def _later(self, item: StoredDelivery, why: str) -> None:
        with self.database.write() as session:
            commitment.ask_later(session, [item], why=why, backoff=self.backoff, now=self.clock())

    def _settled(self, item: StoredDelivery, settle: Callable[[], None]) -> None:
        try:
            settle()
        except DeliveryTaken:  # the report came after all, or an admin stepped in
            log.info("settled meanwhile", destination=self.destination.name, kind=item.kind)


def take_report(
    database: Database,
    report: Report,
    *,
    destinations: Sequence[str],
    who: str,
    backoff: Backoff,
    now: datetime,
) -> int:
    """Record a report that one of `destinations` sent; returns how many deliveries it settled.

    A report of a transaction that nobody waits for settles nothing.
    """
    with database.write() as session:
        return commitment.record_answer(
            session,
            transaction_uid=report.transaction_uid,
            destinations=destinations,
            failed=report.failed,
            committed=report.committed,
            who=who,
            backoff=backoff,
            now=now,
        )
