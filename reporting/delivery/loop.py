"""The delivery loop of one destination: what is due is sent, every answer is recorded, a failure waits longer.

Each destination has a loop of its own, so that one that is slow or away does not hold up the others.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

import structlog
from sqlalchemy.orm import Session

from reporting.delivery.scu import (
    NotSendableError,
    Outcome,
    Parcel,
    PeerUnreachableError,
    Verdict,
    parcel,
    store,
)
from reporting.profiles import FALLBACKS
from scp.peer import DEFAULT_TIMEOUTS, Peer, Timeouts
from store import deliveries
from store.database import Database
from store.deliveries import Backoff, DeliveryTaken, DueDelivery
from store.shared_storage import Storage
from store.wakeups import Topic, open_bell

LEASE = timedelta(minutes=10)
"""Longer than a batch can take; a delivery process that was killed is taken over after it."""
BATCH = 32
JITTER = 0.2
"""Waiting times vary by this share, so that many objects do not come back to a struggling PACS at one moment."""

log: structlog.stdlib.BoundLogger = structlog.get_logger("delivery")


class Stop(Protocol):
    """What tells the loop to end: threading.Event is one."""

    def is_set(self) -> bool:
        """Whether to end now."""
        ...

    def wait(self, timeout: float) -> bool:
        """Wait until told to end, at most `timeout` seconds; whether told."""
        ...


Transport = Callable[[Sequence[Parcel]], Generator[Outcome, None, None]]
"""Sends parcels; raises PeerUnreachableError, and parcels without an outcome were not sent."""


def seconds_until(moment: datetime | None, now: datetime) -> float | None:
    """How long until something falls due, negative where it is late; None where nothing does."""
    return None if moment is None else (moment - now).total_seconds()


def is_due(seconds: float | None) -> bool:
    """Whether something `seconds` away is to be done now."""
    return seconds is not None and seconds <= 0


@dataclass(frozen=True)
class Destination:
    """A PACS by the name that the store and the configuration give it.

    peer: reached by DIMSE. transport: sends by other means, one outcome a parcel; None for C-STORE to `peer`.
    """

    name: str
    peer: Peer
    transport: Transport | None = None


@dataclass(frozen=True)
class Courier:
    """Delivers to one destination.

    storage: the folder that paths in the store are relative to. who: name of this process in the store.
    chance: random numbers in [0, 1), for the jitter. confirmed_later: success is not the end, what is stored waits
    for `reporting.delivery.commitment`.
    """

    database: Database
    storage: Storage
    destination: Destination
    who: str
    calling_ae_title: str
    backoff: Backoff
    clock: Callable[[], datetime]
    chance: Callable[[], float]
    timeouts: Timeouts = DEFAULT_TIMEOUTS
    confirmed_later: bool = False

    def run(self, stop: Stop, poll_seconds: float) -> None:
        """Deliver until told to stop."""
        with open_bell(self.database, Topic.OUTBOX) as bell:
            while not stop.is_set():
                if not self.deliver_due(stop):
                    bell.wait(stop, poll_seconds, self._due_seconds())

    def deliver_due(self, stop: Stop) -> int:
        """Send what is due now, in one batch; returns how many objects were tried."""
        return self._deliver_batch(stop) if is_due(self._due_seconds()) else 0

    def _due_seconds(self) -> float | None:
        with self.database.read() as session:
            return seconds_until(deliveries.next_due_at(session, [self.destination.name]), self.clock())

    def _deliver_batch(self, stop: Stop) -> int:
        name = self.destination.name
        with self.database.write() as session:
            batch = deliveries.claim_due(
                session, who=self.who, lease=LEASE, now=self.clock(), destinations=[name], limit=BATCH
            )
        waiting = {self.storage / due.path: due for due in batch}
        try:
            for outcome in self._outcomes(waiting, stop):
                self._record(waiting.pop(outcome.path), outcome)
        except PeerUnreachableError as error:
            log.warning("destination away", destination=name, why=str(error))
            for path in list(waiting):
                self._record(waiting.pop(path), Outcome(path, Verdict.FAILED, None, str(error)))
        for due in waiting.values():
            self._hand_back(due)
        return len(batch)

    def _outcomes(self, waiting: dict[Path, DueDelivery], stop: Stop) -> Iterator[Outcome]:
        """One outcome each, until told to stop."""
        parcels: list[Parcel] = []
        for path in list(waiting):
            try:
                parcels.append(parcel(path))
            except NotSendableError as error:
                yield Outcome(path, Verdict.FAILED, None, f"result file: {error}")
        if stop.is_set():
            return
        sending = self._transport()(parcels)
        with closing(sending) as outcomes:
            for outcome in outcomes:
                yield outcome
                if stop.is_set():
                    return

    def _transport(self) -> Transport:
        if self.destination.transport is not None:
            return self.destination.transport
        return lambda parcels: store(self.destination.peer, parcels, self.calling_ae_title, self.timeouts)

    def _record(self, due: DueDelivery, outcome: Outcome) -> None:
        event = log.bind(
            destination=due.destination, kind=due.kind, study=due.study_id, status=outcome.status
        )
        record = {
            Verdict.STORED: self._record_stored,
            Verdict.NOT_ACCEPTED: self._record_not_accepted,
            Verdict.FAILED: self._record_failed,
        }[outcome.verdict]
        try:
            with self.database.write() as session:
                record(session, due, outcome, event)
        except DeliveryTaken:
            event.warning("delivery was taken over")

    def _record_stored(
        self, session: Session, due: DueDelivery, outcome: Outcome, event: structlog.stdlib.BoundLogger
    ) -> None:
        record = deliveries.record_stored if self.confirmed_later else deliveries.record_delivered
        status = outcome.status or 0
        record(session, due, who=self.who, status=status, now=self.clock(), remark=outcome.reason)
        event.info("stored" if self.confirmed_later else "delivered", remark=outcome.reason or None)

    def _record_not_accepted(
        self, session: Session, due: DueDelivery, outcome: Outcome, event: structlog.stdlib.BoundLogger
    ) -> None:
        stand_in = FALLBACKS.get(due.kind)
        queued = deliveries.record_not_accepted(
            session,
            due,
            who=self.who,
            why=outcome.reason,
            now=self.clock(),
            status=outcome.status,
            stand_in=stand_in,
        )
        event.warning("not accepted", why=outcome.reason, instead=stand_in if queued else None)

    def _record_failed(
        self, session: Session, due: DueDelivery, outcome: Outcome, event: structlog.stdlib.BoundLogger
    ) -> None:
        again = deliveries.record_failed(
            session,
            due,
            who=self.who,
            why=outcome.reason,
            backoff=self._varied(),
            now=self.clock(),
            status=outcome.status,
        )
        event.warning("not delivered", why=outcome.reason, again_at=again.isoformat())

    def _hand_back(self, due: DueDelivery) -> None:
        try:
            with self.database.write() as session:
                deliveries.hand_back(session, due, who=self.who)
        except DeliveryTaken:
            log.warning("delivery was taken over", destination=due.destination, study=due.study_id)

    def _varied(self) -> Backoff:
        factor = 1 + JITTER * (2 * self.chance() - 1)
        return replace(self.backoff, first=self.backoff.first * factor, longest=self.backoff.longest * factor)
