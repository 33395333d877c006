"""Storage commitment as SCP (PS3.4 J): senders ask, the durable store answers.

A request is a row before it is answered with success, and stays one until its report has arrived: on the association
that it came on while that is open, else on a new one to the sender's address.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import structlog
from pydicom.dataset import Dataset
from pynetdicom import build_role, evt
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext, build_context
from sqlalchemy.exc import SQLAlchemyError

from engine.headers import MALFORMED
from scp.commitment_content import (
    STORAGE_COMMITMENT,
    STORAGE_COMMITMENT_INSTANCE,
    Judgement,
    RequestRefused,
    event_information,
    judge,
    parse_request,
)
from scp.contexts import TRANSFER_SYNTAXES
from scp.peer import Peer, Timeouts
from scp.requesting import NoAssociation, associate, released
from scp.services import FurtherService, Handler
from store import commitment
from store.commitment import HeldInstance, OpenRequest
from store.database import Database
from store.deliveries import Backoff
from store.object_folder import ObjectFolder, ObjectStoreAway
from store.receipts import Peer as Sender

LOGGER = structlog.get_logger(__name__)

SAME_ASSOCIATION = timedelta(seconds=90)
"""How long the report of a request is left to its own association before a new one is made: longer than the answer to
it may take there, else the sender would get two reports. Where that association ends a new one is made at once."""


def commitment_context() -> PresentationContext:
    """Both roles: senders ask us, and destinations report to us what we asked them."""
    context = build_context(STORAGE_COMMITMENT, list(TRANSFER_SYNTAXES[-3:]))
    context.scu_role = True
    context.scp_role = True
    return context


class CommitmentService:
    """Takes requests in a listener and reports on them.

    addresses: where senders listen, by AE title, for reports on an association of our own. objects: the object store
    that images go to. Call `report_due` now and then.
    """

    def __init__(
        self,
        database: Database,
        storage: Path,
        ae_title: str,
        addresses: Mapping[str, Peer],
        now: Callable[[], datetime],
        *,
        backoff: Backoff = Backoff(timedelta(seconds=5), timedelta(minutes=15)),  # noqa: B008 (frozen)
        max_attempts: int = 100,
        timeouts: Timeouts = Timeouts(30.0, 30.0, 30.0),  # noqa: B008 (frozen)
        objects: ObjectFolder | None = None,
    ) -> None:
        self._database = database
        self._objects = objects
        self._storage = storage
        self._ae_title = ae_title
        self._addresses = dict(addresses)
        self._now = now
        self._backoff = backoff
        self._max_attempts = max_attempts
        self._timeouts = timeouts

    def as_service(self, on_report: Handler | None = None) -> FurtherService:
        """What a listener offers. on_report: handler of N-EVENT-REPORT, for what we asked of others."""
        handlers: list[tuple[Any, Handler]] = [(evt.EVT_N_ACTION, self.on_action)]
        if on_report is not None:
            handlers.append((evt.EVT_N_EVENT_REPORT, on_report))
        return FurtherService(lambda: (commitment_context(),), tuple(handlers))

    def on_action(self, event: evt.Event, peer: Sender) -> tuple[int, Dataset | None]:
        """The EVT_N_ACTION handler: keep the request, answer, report from a thread of its own."""
        try:
            action: Any = event.action_type
            transaction, references = parse_request(int(action or 0), event.action_information)
        except RequestRefused as refusal:
            LOGGER.warning("request for commitment refused", calling_ae=peer.calling_ae, why=str(refusal))
            return refusal.status, None
        except MALFORMED as error:
            LOGGER.warning("request for commitment refused", calling_ae=peer.calling_ae, why=str(error))
            return 0x0110, None
        try:
            number = self._keep(transaction, peer, references)
        except SQLAlchemyError as error:
            LOGGER.error("store does not answer", why=type(error).__name__)
            return 0x0213, None  # resource limitation
        association = weakref.ref(event.assoc)
        threading.Thread(
            target=self._report_here, args=(number, association), name="commitment", daemon=True
        ).start()
        return 0x0000, None

    def report_due(self) -> int:
        """Report on new associations what did not arrive yet; returns how many were due.

        A sender that cannot be reached is tried once, however many requests of it wait: those of others wait behind it.
        """
        with self._database.read() as session:
            due = commitment.open_requests(session, self._now())
        away: dict[str, str] = {}
        for request in due:
            sender = request.peer.calling_ae
            why = away.get(sender)
            if why is None:
                try:
                    why = self._report_anew(request)
                except NoAssociation as error:
                    why = away[sender] = str(error)
            with self._database.write() as session:
                if why is None:
                    commitment.record_reported(session, request.request_id, self._now())
                    continue
                again = self._now() + self._backoff.delay(request.attempts + 1)
                last = request.attempts + 1 >= self._max_attempts
                commitment.record_unreported(
                    session, request.request_id, why=why, again_at=None if last else again
                )
            LOGGER.warning("commitment not reported", calling_ae=request.peer.calling_ae, why=why)
        return len(due)

    def next_report_seconds(self) -> float | None:
        """How long until the next report falls due, negative where it is late; None where nobody waits for one."""
        with self._database.read() as session:
            due_at = commitment.next_report_at(session)
        return None if due_at is None else (due_at - self._now()).total_seconds()

    def _keep(self, transaction: str, peer: Sender, references: Sequence[tuple[str, str]]) -> int:
        now = self._now()
        with self._database.write() as session:
            return commitment.record_request(
                session,
                transaction_uid=transaction,
                peer=peer,
                references=references,
                report_at=now + SAME_ASSOCIATION,
                now=now,
            )

    def _judged(self, request: OpenRequest) -> Judgement:
        with self._database.read() as session:
            held = commitment.held_instances(session, [uid for _, uid in request.references])
        sizes = self._sizes_elsewhere(held.values())
        return judge(request.references, held, lambda one: self._size_on_disk(one) or sizes.get(one.path))

    def _size_on_disk(self, instance: HeldInstance) -> int | None:
        try:
            return (self._storage / instance.path).stat().st_size
        except OSError:
            return None

    def _sizes_elsewhere(self, held: Collection[HeldInstance]) -> dict[str, int]:
        """Bytes by path of what is not on this disk: on that of the node that received it, or in the object store.

        A node that holds an image answers for it. So does, while it is away, the object store that confirmed it.
        """
        if self._objects is None:
            return {}
        missing = [one for one in held if self._size_on_disk(one) is None]
        sizes = {one.path: one.size for one in missing if one.held_by is not None}
        uploaded = [one for one in missing if one.held_by is None]
        try:
            for folder in {one.path.rpartition("/")[0] for one in uploaded}:
                sizes |= self._objects.sizes(folder)
        except ObjectStoreAway as error:
            LOGGER.warning("the object store is not asked for commitment", why=str(error))
            sizes |= {one.path: one.size for one in uploaded}
        return sizes

    def _report_here(self, number: int, association: weakref.ref[Association]) -> None:
        """Report on the association of the request; where that fails, `report_due` finds the request due."""
        sent = self._sent_here(number, association())
        with self._database.write() as session:
            if sent:
                commitment.record_reported(session, number, self._now())
            else:
                commitment.bring_forward(session, number, self._now())

    def _sent_here(self, number: int, association: Association | None) -> bool:
        with self._database.read() as session:
            request = commitment.open_request(session, number)
        if request is None or association is None:
            return False
        judgement = self._judged(request)
        return _hold(association) and _send(association, request.transaction_uid, judgement) is None

    def _report_anew(self, request: OpenRequest) -> str | None:
        """Report on an association of our own; None, or why it did not arrive. Raises NoAssociation."""
        address = self._addresses.get(request.peer.calling_ae)
        if address is None:
            return f"no address of {request.peer.calling_ae} is configured to report to"
        contexts = [build_context(STORAGE_COMMITMENT)]
        roles = [build_role(STORAGE_COMMITMENT, scp_role=True)]
        with released(
            associate(address, self._ae_title, contexts, self._timeouts, roles=roles)
        ) as association:
            return _send(association, request.transaction_uid, self._judged(request))


def _hold(association: Association, patience_s: float = 2.0) -> bool:
    """Halt the association's reactor, so that it cannot end while a report is sent; False where it has ended.

    pynetdicom's send_n_event_report waits for the reactor's halt without end: on an association that was released in
    that moment it would wait for ever.
    """
    time.sleep(0.01)  # lets the answer to the request leave first
    deadline = time.monotonic() + patience_s
    association._reactor_checkpoint.clear()
    while not association._is_paused:
        if not association.is_alive() or time.monotonic() > deadline:
            association._reactor_checkpoint.set()
            return False
        time.sleep(0.001)
    if not association.is_established:
        association._reactor_checkpoint.set()
        return False
    return True


def _send(association: Association, transaction_uid: str, judgement: Judgement) -> str | None:
    """N-EVENT-REPORT; None, or why it did not arrive."""
    try:
        status, _ = association.send_n_event_report(
            event_information(transaction_uid, judgement),
            judgement.event_type,
            STORAGE_COMMITMENT,
            STORAGE_COMMITMENT_INSTANCE,
        )
    except (RuntimeError, ValueError) as error:
        return str(error)
    finally:
        association._reactor_checkpoint.set()
    if status.get("Status") != 0x0000:
        return f"answered 0x{status.Status:04X}" if "Status" in status else "no answer"
    return None
