"""The listener: C-ECHO and C-STORE as SCP.

listener = Listener(policy, database, storage, now)
listener.start()
...
listener.stop()
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import structlog
from pydicom.dataset import Dataset
from pynetdicom import AE, _config, evt
from pynetdicom.transport import RequestHandler
from sqlalchemy.exc import SQLAlchemyError

from scp import instances, tls
from scp.association_server import LimitedAssociationServer, SharedPortServer
from scp.associations import AssociationRegister
from scp.command_set import C_STORE_RQ, Command
from scp.contexts import VERIFICATION, supported_contexts
from scp.message_assembly import Storing
from scp.policy import ListenerPolicy
from scp.receipt import Answer, Clock, Receiver, Reception, StoreRequest, Unstored
from scp.retention import Retention
from scp.services import FurtherService, Handler
from scp.spool import Spool
from scp.streaming import missing_names, streaming_handler
from scp.sweep import SpoolLock, sweep
from scp.uploading import node_of
from store import receipts
from store.database import Database
from store.object_folder import ObjectFolder
from store.receipts import Peer
from store.repeated_receipts import RepeatedReceipts

LOGGER = structlog.get_logger(__name__)

WRITE_PIECE = 64 * 1024
HOUSEKEEPING_S = 1.0
PURGE_EVERY_S = 600.0
ROOM_EVERY_S = 10.0
"""How often it is looked whether the disk has room."""
ACCEPT_POLL_S = 1.0
"""How often the accept loop comes round while nobody connects."""


class ListenerCannotStart(Exception):
    """The address or the spool cannot be used; the message is one line that says what to do."""


class Listener:
    """A C-STORE SCP in threads of this process.

    name: tells the listeners of one store apart; the associations that a killed listener of this name left open are
    closed at start. objects: where what is received goes, see `scp.uploading`; None keeps it in the storage folder.
    """

    def __init__(
        self,
        policy: ListenerPolicy,
        database: Database,
        storage: Path,
        now: Clock,
        name: str | None = None,
        services: Sequence[FurtherService] = (),
        objects: ObjectFolder | None = None,
    ) -> None:
        self.policy = policy
        self._services = tuple(services)
        self.name = name or f"{policy.ae_title}@{policy.host}:{policy.port}"
        self._database = database
        self._now = now
        self._spool = Spool(storage)
        self._retention = Retention(policy.retention, database, self._spool, objects)
        self._register = AssociationRegister(policy, database, self.name, now)
        self._receiver = Receiver(
            spool=self._spool,
            database=database,
            short_way=RepeatedReceipts(database),
            now=now,
            own_manufacturer=policy.own_manufacturer,
            max_instance_bytes=policy.max_instance_bytes,
            max_inflated_bytes=policy.max_inflated_bytes,
            max_study_bytes=policy.max_study_bytes,
            reserve_bytes=policy.reserve_bytes,
            held_by=None if objects is None else node_of(storage),
        )
        self._server: LimitedAssociationServer | None = None
        self._accepting: threading.Thread | None = None
        self._lock: SpoolLock | None = None
        self._stopping = threading.Event()
        self._housekeeper = threading.Thread(target=self._keep_house, name="listener-house", daemon=True)

    @property
    def port(self) -> int:
        """The port that is listened on, also where the policy says 0."""
        return self.policy.port if self._server is None else int(self._server.server_address[1])

    @property
    def receiver(self) -> Receiver:
        """Takes instances in that come by another way than an association of this listener."""
        return self._receiver

    @property
    def open_associations(self) -> int:
        """How many associations are open."""
        return len(self._register.open_now())

    @property
    def accepts(self) -> bool:
        """Whether connections are taken; not before `start`, and not once the thread that takes them has died."""
        return self._accepting is not None and self._accepting.is_alive()

    def start(self) -> None:
        """Clear away what a killed listener left, then listen. Raises ListenerCannotStart, tls.TLSUnusable."""
        self._prepare_spool()
        try:
            self._server = self._make_server()
        except OSError as error:
            raise ListenerCannotStart(
                f"cannot listen on {self.policy.host}:{self.policy.port}: {error.strerror or error}; "
                "choose another listener.port or end the program that uses it"
            ) from error
        self._accepting = threading.Thread(
            target=self._server.serve_forever, args=[ACCEPT_POLL_S], name="listener-accept", daemon=True
        )
        gc.freeze()  # what is there now stays: a collection that looks through it stops receipt for 40 ms
        self._accepting.start()
        self._housekeeper.start()
        LOGGER.info("listening", ae_title=self.policy.ae_title, host=self.policy.host, port=self.port)

    def stop(self) -> None:
        """Take no more associations, let the running ones end within the grace time, abort the rest."""
        if self._server is None:
            return
        self._server.shutdown()
        deadline = time.monotonic() + self.policy.grace_seconds
        while self._register.open_now() and time.monotonic() < deadline:
            time.sleep(0.02)
            self._register.end_dead()
        self._abort_open()
        self._stopping.set()
        self._housekeeper.join()
        self._register.end_dead()
        self._receiver.short_way.close()
        if self._lock is not None:
            self._lock.release()
        self._server = None
        gc.unfreeze()
        LOGGER.info("listener stopped")

    def _prepare_spool(self) -> None:
        try:
            self._spool.prepare()
            self._lock = SpoolLock(self._spool)
            swept = sweep(self._spool, self._database, alone=self._lock.alone)
            self._lock.share()
        except OSError as error:
            raise ListenerCannotStart(
                f"the spool {self._spool.storage} cannot be used: {error.strerror}; check storage.path and its rights"
            ) from error
        with self._database.write() as session:
            left = receipts.close_left_over(session, listener=self.name, now=self._now())
        LOGGER.info("swept", unfinished=swept.unfinished, unrecorded=swept.unrecorded, associations=left)

    def _make_server(self) -> LimitedAssociationServer:
        policy = self.policy
        _config.LOG_HANDLER_LEVEL = "none"  # formatting every PDU for a log that nobody reads costs a tenth
        ae = AE(ae_title=policy.ae_title)
        ae.maximum_associations = 10**6  # `admit` decides
        ae.maximum_pdu_size = policy.max_pdu_bytes
        ae.acse_timeout = policy.acse_seconds
        ae.dimse_timeout = policy.idle_seconds
        ae.network_timeout = policy.idle_seconds
        server = ae.make_server(
            (policy.host, policy.port),
            contexts=supported_contexts([VERIFICATION]),
            ssl_context=None if policy.tls is None else tls.server_context(policy.tls),
            evt_handlers=[
                (evt.EVT_REQUESTED, self._on_requested),
                (evt.EVT_RELEASED, self._on_end, ["released"]),
                (evt.EVT_ABORTED, self._on_end, ["aborted"]),
                (evt.EVT_C_STORE, self._on_store),
                *self._further_handlers(),
            ],
            server_class=SharedPortServer if policy.share_port else LimitedAssociationServer,
            request_handler=self._request_handler(),
        )
        assert isinstance(server, LimitedAssociationServer)
        server.max_connections = policy.max_connections
        server.max_connections_per_host = policy.max_connections_per_host
        server.handshake_seconds = policy.acse_seconds
        server.idle_seconds = policy.idle_seconds
        return server

    def _request_handler(self) -> type[RequestHandler]:
        """The streaming one; pynetdicom's own, with the handler for EVT_C_STORE, where that cannot be."""
        if not self.policy.streaming:
            return RequestHandler
        missing = missing_names()
        if missing:
            LOGGER.warning("receiving without streaming", missing=missing)
            return RequestHandler
        return streaming_handler(self._begin, self.policy.max_pdu_bytes)

    def _on_requested(self, event: evt.Event) -> None:
        """Admit or reject, and offer the contexts that this peer asks for."""
        association = event.assoc
        request: Any = association.requestor.primitive
        peer = Peer(
            calling_ae=str(request.calling_ae_title).strip(),
            host=association.requestor.address,
        )
        rejection = self._register.request(association, peer, str(request.called_ae_title).strip())
        if rejection is None:
            requested = {str(context.abstract_syntax) for context in association.requestor.requested_contexts}
            association.acceptor.supported_contexts = [
                *supported_contexts(requested),
                *(c for s in self._services for c in s.contexts() if c.abstract_syntax in requested),
            ]
            return
        association.acse.send_reject(rejection.result, rejection.source, rejection.diagnostic)
        association.kill()  # returns when the rejection is on its way

    def _further_handlers(self) -> list[tuple[Any, Callable[[evt.Event], Any]]]:
        """The handlers of further services, each told who asks."""

        def told(handler: Handler) -> Callable[[evt.Event], Any]:
            return lambda event: handler(event, self._register.peer_of(event.assoc))

        return [(kind, told(handler)) for service in self._services for kind, handler in service.handlers]

    def _on_end(self, event: evt.Event, end: str) -> None:
        self._register.end(event.assoc, end)

    def _on_store(self, event: evt.Event) -> Dataset:
        """The ordinary handler: the data set is in memory, pynetdicom has put it together."""
        request: Any = event.request  # a C_STORE: the event is EVT_C_STORE
        reception = self._begin(
            event.assoc,
            Command(
                field=C_STORE_RQ,
                message_id=int(request.MessageID),
                sop_class_uid=str(request.AffectedSOPClassUID),
                sop_instance_uid=str(request.AffectedSOPInstanceUID),
                has_data_set=True,
            ),
            str(event.context.abstract_syntax),
            str(event.context.transfer_syntax),
        )
        with request.DataSet.getbuffer() as data_set:
            for start in range(0, len(data_set), WRITE_PIECE):
                reception.write(data_set[start : start + WRITE_PIECE])
        answer = reception.finish()
        status = Dataset()
        status.Status = answer.status
        if answer.comment:
            status.ErrorComment = answer.comment
        return status

    def _begin(
        self, association: Any, command: Command, abstract_syntax: str, transfer_syntax: str
    ) -> Storing:
        """Begin one instance; both ways of receiving come here."""
        try:
            opened = self._register.of(association)
        except SQLAlchemyError as error:
            LOGGER.error("store does not answer", why=type(error).__name__)
            return Unstored(Answer(instances.OUT_OF_RESOURCES, "the store does not answer"))
        except KeyError:
            return Unstored(Answer(instances.PROCESSING_FAILURE, "the association has ended"))
        request = StoreRequest(
            sop_class_uid=command.sop_class_uid,
            sop_instance_uid=command.sop_instance_uid,
            abstract_syntax_uid=abstract_syntax,
            transfer_syntax_uid=transfer_syntax,
            peer=opened.peer,
            association_id=opened.number,
            known_series=opened.known_series,
        )
        return Reception(self._receiver, request)

    def _keep_house(self) -> None:
        purge_at = room_at = time.monotonic()
        while not self._stopping.wait(HOUSEKEEPING_S):
            self._register.end_dead()
            if time.monotonic() >= room_at:
                self._delete(self._retention.make_room)
                room_at = time.monotonic() + ROOM_EVERY_S
            if time.monotonic() >= purge_at:
                self._delete(self._retention.purge)
                self._delete(self._retention.prune)
                purge_at = time.monotonic() + PURGE_EVERY_S

    def _delete(self, what: Callable[[datetime], object]) -> None:
        try:
            what(self._now())
        except (OSError, SQLAlchemyError) as error:
            LOGGER.error("not deleted", why=type(error).__name__)

    def _abort_open(self) -> None:
        aborts = [
            threading.Thread(target=association.abort, daemon=True)  # type: ignore[attr-defined]
            for association in self._register.open_now()
        ]
        for abort in aborts:
            abort.start()
        for abort in aborts:
            abort.join(timeout=2.0)
