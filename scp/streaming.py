"""Streaming C-STORE: data sets go to disk as they arrive, and threads wait for events instead of polling.

pynetdicom 3.0 wakes three times a millisecond for each association, holds each data set whole in memory and copies it
several times. This file replaces the parts that do so, for associations that the listener accepted; everything but
C-STORE stays on pynetdicom's own path, and so do A-ASSOCIATE, A-RELEASE and A-ABORT.

It is the one file that leans on names which pynetdicom does not promise. `missing_names` checks them when the listener
starts; where one is missing the listener runs the ordinary EVT_C_STORE handler instead.

    name                                       used for
    RequestHandler._create_association         one call: pynetdicom builds the association, its socket is exchanged
    AssociationSocket._is_connected            read only
    DULServiceProvider._run_loop_delay         0: `ready` waits instead
    DULServiceProvider._read_pdu_data          replaced for P-DATA in state Sta6, called for everything else
"""

from __future__ import annotations

import inspect
import os
import queue
import select
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, Protocol, cast

import structlog
from pynetdicom import evt
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dul import DULServiceProvider
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.transport import AssociationSocket, RequestHandler

from scp.command_set import (
    MAX_COMMAND_BYTES,
    Command,
    UnreadableCommand,
    command_pdu,
    read_command,
    store_response,
)
from scp.pdata import FragmentStream, ProtocolViolation
from scp.receipt import Answer

LOGGER = structlog.get_logger(__name__)

WAIT_MS = 500
STRETCH_S = 1.0
"""So long at most the reactor waits while data come; only then does it note that the peer is not idle."""
READ_BYTES = 256 * 1024
"""At most so much is read at once."""
LENIENCE_BYTES = 2**20
"""A PDU may be so long whatever was announced: some peers do not keep to it."""
DATA_TRANSFER = "Sta6"
CLOSING = "Sta13"


class Storing(Protocol):
    """One data set on its way to disk."""

    def write(self, data: memoryview) -> None:
        """Take the next bytes."""

    def finish(self) -> Answer:
        """The data set is whole: keep it, and say what the sender is told."""

    def abandon(self) -> None:
        """The rest will never come. Calling it after `finish` does nothing."""


BeginStoring = Callable[[Any, Command, str, str], Storing]
"""Begins a data set: association, request, abstract and transfer syntax of its presentation context."""


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
    wake = _Wake()
    longest = max(max_pdu_bytes, LENIENCE_BYTES)
    dul.socket = _WaitingSocket(association, connection, wake, longest)
    dul.event_queue.get_nowait()  # both sockets announced the connection; once is right
    dul.to_provider_queue = _WakingQueue(wake.set)
    dul.to_user_queue = _WakingQueue(lambda: association.dimse.msg_queue.put((None, None)))
    dul._run_loop_delay = 0
    messages = _MessageAssembly(association, begin)
    dul._read_pdu_data = _PDUReader(association, dul._read_pdu_data, messages, longest).read
    for end in (evt.EVT_ABORTED, evt.EVT_CONN_CLOSE):
        association.bind(end, lambda _event: messages.abandon())
    association.dimse.get_msg = _waiting_get_msg(association.dimse.msg_queue, association.dimse.get_msg)


class _Wake:
    """An eventfd that ends a wait; closed with its owner."""

    def __init__(self) -> None:
        self.descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        weakref.finalize(self, os.close, self.descriptor)

    def set(self) -> None:
        os.eventfd_write(self.descriptor, 1)

    def clear(self) -> None:
        os.eventfd_read(self.descriptor)


class _WakingQueue(queue.Queue[Any]):
    """A queue that tells a waiting thread of every item."""

    def __init__(self, wake: Callable[[], None]) -> None:
        super().__init__()
        self._wake = wake

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        super().put(item, block, timeout)
        self._wake()


def _waiting_get_msg(messages: queue.Queue[Any], original: Callable[[bool], Any]) -> Callable[..., Any]:
    """`DIMSEServiceProvider.get_msg` that waits where pynetdicom's reactor only looks."""

    def get_msg(block: bool = False) -> Any:
        if block:
            return original(True)
        try:
            return messages.get(timeout=WAIT_MS / 1000)
        except queue.Empty:
            return None, None

    return get_msg


class _WaitingSocket(AssociationSocket):
    """A socket whose `ready` waits for data or for something to send, and which reads no PDU above its limit."""

    def __init__(self, association: Any, connection: socket.socket, wake: _Wake, longest_pdu: int) -> None:
        super().__init__(association, client_socket=connection)
        self._wake_up = wake
        self._pushed_back = b""
        self._limit = longest_pdu
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)
        self._poll.register(wake.descriptor, select.POLLIN)

    @property
    def ready(self) -> bool:
        """Whether there is something to read; waits up to WAIT_MS while nobody wants to send either."""
        connection = self.socket
        if connection is None or not self._is_connected:
            time.sleep(0.001)  # the DUL thread is about to be told to end
            return False
        if self._at_hand(connection):
            return True
        dul = self.assoc.dul
        # Events that wait are handled after this, and in the closing state nothing to read means: close now
        at_once = not dul.event_queue.empty() or dul.state_machine.current_state == CLOSING
        try:
            happened = self._poll.poll(0 if at_once else WAIT_MS)
        except (OSError, ValueError):
            self.event_queue.put("Evt17")
            return False
        if any(descriptor == self._wake_up.descriptor for descriptor, _ in happened):
            self._wake_up.clear()
        return any(descriptor != self._wake_up.descriptor for descriptor, _ in happened)

    def recv(self, nr_bytes: int) -> bytearray:
        """Read `nr_bytes`, fewer where the connection ends. Raises OSError, also for a PDU above the limit."""
        if nr_bytes > self._limit:
            raise OSError(f"a PDU of {nr_bytes} bytes is longer than {self._limit}")
        received = bytearray(nr_bytes)
        filled = self._take_pushed_back(memoryview(received))
        connection = cast(socket.socket, self.socket)
        while filled < nr_bytes:
            count = connection.recv_into(memoryview(received)[filled:])
            if not count:
                break
            filled += count
        return received[:filled]

    def receive(self, buffer: memoryview) -> int | None:
        """Read what is there; None where nothing is, 0 where the connection has ended. Raises OSError."""
        if self._pushed_back:
            return self._take_pushed_back(buffer)
        connection = cast(socket.socket, self.socket)
        if isinstance(connection, ssl.SSLSocket):
            return connection.recv_into(buffer) if self.more_comes(0) else None
        try:
            return connection.recv_into(buffer, 0, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None

    def more_comes(self, wait_ms: int = WAIT_MS) -> bool:
        """Wait for data; False where none came, or something else asks for the DUL thread's attention."""
        if self._at_hand(cast(socket.socket, self.socket)):
            return True
        happened = self._poll.poll(wait_ms)
        return len(happened) == 1 and happened[0][0] != self._wake_up.descriptor

    def push_back(self, data: bytes) -> None:
        """What is read next begins with these bytes."""
        self._pushed_back = data + self._pushed_back

    def _take_pushed_back(self, buffer: memoryview) -> int:
        taken = self._pushed_back[: len(buffer)]
        buffer[: len(taken)] = taken
        self._pushed_back = self._pushed_back[len(taken) :]
        return len(taken)

    def _at_hand(self, connection: socket.socket) -> bool:
        """Whether something is there that the kernel does not know of."""
        return bool(self._pushed_back) or (isinstance(connection, ssl.SSLSocket) and connection.pending() > 0)


class _PDUReader:
    """Reads P-DATA of one association; anything else goes to `original`."""

    def __init__(
        self, association: Any, original: Callable[[], None], messages: _MessageAssembly, longest_pdu: int
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

    def _read(self, connection: _WaitingSocket) -> None:
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


class _MessageAssembly:
    """Puts the PDVs of one association together: C-STORE data sets to disk, everything else to pynetdicom.

    Only the DUL thread calls `take`; `abandon` comes from others too when an association ends, hence the lock.
    """

    def __init__(self, association: Any, begin: BeginStoring) -> None:
        self._association = association
        self._begin = begin
        self._lock = threading.Lock()
        self._command = bytearray()
        self._request: Command | None = None
        self._storing: Storing | None = None
        self._passing = False

    def take(self, context_id: int, control: int, data: memoryview) -> None:
        """Take a fragment of a message, or a part of one. Raises ProtocolViolation, OSError."""
        with self._lock:
            self._fragment(context_id, control, data)

    def abandon(self) -> None:
        """Give up the data set that is not whole, if there is one."""
        with self._lock:
            if self._storing is not None:
                self._storing.abandon()
            self._storing = self._request = None
            self._command.clear()

    def _fragment(self, context_id: int, control: int, data: memoryview) -> None:
        is_command, is_last = bool(control & 1), bool(control & 2)
        if self._passing:
            self._pass_on(context_id, control, bytes(data))
            self._passing = not is_last
        elif self._storing is not None:
            self._data(context_id, is_command, is_last, data)
        elif is_command:
            self._command += data
            if len(self._command) > MAX_COMMAND_BYTES:
                raise ProtocolViolation(f"a command set is longer than {MAX_COMMAND_BYTES} bytes")
            if is_last:
                self._begin_message(context_id)
        else:
            raise ProtocolViolation("a data set came without a command")

    def _begin_message(self, context_id: int) -> None:
        encoded = bytes(self._command)
        self._command.clear()
        try:
            command = read_command(encoded)
        except UnreadableCommand as error:
            raise ProtocolViolation(str(error)) from error
        if not command.is_store_request:
            self._pass_on(context_id, 0x03, encoded)
            self._passing = command.has_data_set
            return
        for context in self._association.accepted_contexts:
            if context.context_id == context_id:
                self._request = command
                self._storing = self._begin(
                    self._association, command, str(context.abstract_syntax), str(context.transfer_syntax[0])
                )
                return
        raise ProtocolViolation(f"presentation context {context_id} was not accepted")

    def _data(self, context_id: int, is_command: bool, is_last: bool, data: memoryview) -> None:
        storing, request = cast(Storing, self._storing), cast(Command, self._request)
        if is_command:
            raise ProtocolViolation("a command came inside a data set")
        storing.write(data)
        if is_last:
            self._storing = self._request = None
            answer = storing.finish()
            response = store_response(request, answer.status, answer.comment)
            self._association.dul.socket.send(command_pdu(context_id, response))

    def _pass_on(self, context_id: int, control: int, data: bytes) -> None:
        primitive: Any = P_DATA()  # it insists on lists where its annotation says tuples
        primitive.presentation_data_value_list = [[context_id, bytes([control]) + data]]
        self._association.dimse.receive_primitive(primitive)
