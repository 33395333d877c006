"""The associations that are open now: admission, their rows in the store, and their ends."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Protocol

import structlog
from sqlalchemy.exc import SQLAlchemyError

from scp.policy import ListenerPolicy, Rejection, admit
from scp.receipt import Clock, KnownSeries
from store import receipts
from store.database import Database
from store.receipts import Peer

LOGGER = structlog.get_logger(__name__)


class Alive(Protocol):
    """What the register asks of an association: pynetdicom's is a thread."""

    def is_alive(self) -> bool: ...


@dataclass
class OpenAssociation:
    """One admitted association. `number` is its row in the store, None until it brings its first instance.

    An association that brings nothing (C-ECHO, a health check) never touches the store.
    """

    peer: Peer
    called_ae: str
    number: int | None = None
    known_series: KnownSeries = field(default_factory=dict)


class AssociationEnds:
    """Records how associations ended. What the store does not take at once waits: else their studies would."""

    def __init__(self, database: Database, now: Clock) -> None:
        self._database = database
        self._now = now
        self._lock = threading.Lock()
        self._waiting: list[tuple[int, str]] = []

    def add(self, number: int, end: str) -> None:
        """The association with this row ended: released, aborted, connection lost. Call `settle` next."""
        with self._lock:
            self._waiting.append((number, end))

    def settle(self) -> None:
        """Write the ends that the store has not taken yet; what it does not take now waits for the next call."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
        for position, (number, end) in enumerate(waiting):
            try:
                with self._database.write() as session:
                    receipts.close_association(session, number, end=end, now=self._now())
            except SQLAlchemyError as error:
                LOGGER.error("end of association not recorded yet", why=type(error).__name__)
                with self._lock:
                    self._waiting[:0] = waiting[position:]
                return


class AssociationRegister:
    """All open associations of one listener."""

    def __init__(self, policy: ListenerPolicy, database: Database, listener: str, now: Clock) -> None:
        self._policy = policy
        self._database = database
        self._listener = listener
        self._now = now
        self._lock = threading.Lock()
        self._open: dict[Alive, OpenAssociation] = {}
        self._ends = AssociationEnds(database, now)

    def request(self, association: Alive, peer: Peer, called_ae: str) -> Rejection | None:
        """Admit an association, which then is open, or say why not."""
        with self._lock:
            rejection = admit(
                self._policy,
                calling_ae=peer.calling_ae,
                called_ae=called_ae,
                host=peer.host,
                open_hosts=[other.peer.host for other in self._open.values()],
            )
            if rejection is None:
                self._open[association] = OpenAssociation(peer, called_ae)
        if rejection is not None:
            LOGGER.warning("association rejected", host=peer.host, why=rejection.why)
            self._record_rejection(peer, rejection)
        return rejection

    def of(self, association: Alive) -> OpenAssociation:
        """The open association, with its row in the store. Raises KeyError, sqlalchemy.exc.SQLAlchemyError."""
        with self._lock:
            found = self._open[association]
        if found.number is None:  # only the association's own thread comes here
            with self._database.write() as session:
                found.number = receipts.open_association(
                    session,
                    listener=self._listener,
                    peer=found.peer,
                    called_ae=found.called_ae,
                    now=self._now(),
                )
        return found

    def peer_of(self, association: Alive) -> Peer:
        """Who is at the other end. Raises KeyError for an association that is not open."""
        with self._lock:
            return self._open[association].peer

    def end(self, association: Alive, end: str) -> None:
        """An association ended: released, aborted, connection lost. The first word counts."""
        with self._lock:
            found = self._open.pop(association, None)
            if found is not None and found.number is not None:
                self._ends.add(found.number, end)
        self._ends.settle()

    def end_dead(self) -> None:
        """Find associations that ended without a word, and settle what the store did not take at once."""
        with self._lock:
            dead = [association for association in self._open if not association.is_alive()]
        for association in dead:
            self.end(association, "connection lost")
        self._ends.settle()

    def open_now(self) -> list[Alive]:
        """The associations that are open."""
        with self._lock:
            return list(self._open)

    def _record_rejection(self, peer: Peer, rejection: Rejection) -> None:
        try:
            with self._database.write() as session:
                receipts.record_refusal(session, peer=peer, why=rejection.why, now=self._now())
        except SQLAlchemyError as error:
            LOGGER.error("rejection not recorded", why=type(error).__name__)
