"""Streaming C-STORE: data sets go to disk as they arrive, and threads wait for events instead of polling.

pynetdicom 3.0 wakes three times a millisecond for each association, holds each data set whole in memory and copies it
several times. This file replaces the parts that do so, for associations that the listener accepted; everything but
C-STORE stays on pynetdicom's own path, and so do A-ASSOCIATE, A-RELEASE and A-ABORT.

With `scp.waiting` it leans on names which pynetdicom does not promise. `missing_names` checks them when the listener
starts; where one is missing the listener runs the ordinary EVT_C_STORE handler instead.

    name                                       used for
    RequestHandler._create_association         one call: pynetdicom builds the association, its socket is exchanged
    AssociationSocket._is_connected            read only
    DULServiceProvider._run_loop_delay         0: `ready` waits instead
    DULServiceProvider._read_pdu_data          replaced for P-DATA in state Sta6, called for everything else
"""

from __future__ import annotations

import inspect
import socket
import time
from collections.abc import Callable
from typing import Any

import structlog
from pynetdicom import evt
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dul import DULServiceProvider
from pynetdicom.transport import AssociationSocket, RequestHandler

from scp.message_assembly import BeginStoring, MessageAssembly
from scp.pdata import FragmentStream, ProtocolViolation
from scp.waiting import WaitingSocket, Wake, WakingQueue, waiting_get_msg

LOGGER = structlog.get_logger(__name__)

STRETCH_S = 1.0
"""So long at most the reactor waits while data come; only then does it note that the peer is not idle."""
READ_BYTES = 256 * 1024
"""At most so much is read at once."""
LENIENCE_BYTES = 2**20
"""A PDU may be so long whatever was announced: some peers do not keep to it."""
DATA_TRANSFER = "Sta6"


def missing_names() -> list[str]:
    """The names that this file needs and pynetdicom does not have; empty for the releases it was written for."""
    needed: list[tuple[object, str]] = [
        (RequestHandler, "_create_association"),
        (DULServiceProvider, "_read_pdu_data"),
        (DULServiceProvider, "run_reactor"),
        (DIMSEServiceProvider, "get_msg"),
        (DIMSEServiceProvider, "receive_primitive"),
    ]
    missing = [
        f"{getattr(owner, '__name__', owner)}.{name}" for owner, name in needed if not hasattr(owner, name)
    ]
    dul = inspect.getsource(DULServiceProvider)
    missing += [
        f"DULServiceProvider.{name}" for name in ("_run_loop_delay", "event_queue") if name not in dul
    ]
    if "_is_connected" not in inspect.getsource(AssociationSocket):
        missing.append("AssociationSocket._is_connected")
    return missing


def streaming_handler(begin: BeginStoring, max_pdu_bytes: int) -> type[RequestHandler]:
    """A request handler class for `AE.make_server` whose associations stream."""

    class StreamingRequestHandler(RequestHandler):
        def _create_association(self) -> Any:
            association = super()._create_association()
            _stream(association, self.request, begin, max_pdu_bytes)
            return association

    return StreamingRequestHandler


def _stream(association: Any, connection: socket.socket, begin: BeginStoring, max_pdu_bytes: int) -> None:
    """Exchange the parts of an association that has not started yet."""
    dul = association.dul
    wake = Wake()
    longest = max(max_pdu_bytes, LENIENCE_BYTES)
    dul.socket = WaitingSocket(association, connection, wake, longest)
    dul.event_queue.get_nowait()  # both sockets announced the connection; once is right
    dul.to_provider_queue = WakingQueue(wake.set)
    dul.to_user_queue = WakingQueue(lambda: association.dimse.msg_queue.put((None, None)))
    dul._run_loop_delay = 0
    messages = MessageAssembly(association, begin)
    dul._read_pdu_data = _PDUReader(association, dul._read_pdu_data, messages, longest).read
    for end in (evt.EVT_ABORTED, evt.EVT_CONN_CLOSE):
        association.bind(end, lambda _event: messages.abandon())
    association.dimse.get_msg = waiting_get_msg(association.dimse.msg_queue, association.dimse.get_msg)


class _PDUReader:
    """Reads P-DATA of one association; anything else goes to `original`."""

    def __init__(
        self, association: Any, original: Callable[[], None], messages: MessageAssembly, longest_pdu: int
    ) -> None:
        self._association = association
        self._original = original
        self._messages = messages
        self._stream = FragmentStream(longest_pdu)
        self._buffer = memoryview(bytearray(READ_BYTES))
        self._stretch = min(STRETCH_S, (association.network_timeout or STRETCH_S) / 4)

    def read(self) -> None:
        """Read what comes while it is P-DATA; what goes wrong becomes an event, as in pynetdicom.

        Between P-DATA only the peer has anything to say, and a round of the reactor for each PDU costs more than the
        PDU does.
        """
        dul = self._association.dul
        if dul.state_machine.current_state != DATA_TRANSFER:
            self._original()
            return
        try:
            self._read(dul.socket)
        except ProtocolViolation as violation:
            LOGGER.warning("association aborted", why=str(violation))
            self._messages.abandon()
            dul.event_queue.put("Evt19")
        except OSError:
            self._messages.abandon()
            dul.event_queue.put("Evt17")

    def _read(self, connection: WaitingSocket) -> None:
        until = time.monotonic() + self._stretch
        while time.monotonic() < until:
            count = connection.receive(self._buffer)
            if count is None:
                if not connection.more_comes():
                    return
                continue
            if not count:
                raise OSError("the connection ended")
            for context_id, control, data in self._stream.fragments(self._buffer[:count]):
                self._messages.take(context_id, control, data)
            if self._stream.rest:
                self._messages.abandon()  # nothing but P-DATA belongs between the fragments of a message
                connection.push_back(self._stream.rest)
                self._stream.rest = b""
                self._original()
                return
