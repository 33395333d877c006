"""Parts of an association whose threads wait for events, where pynetdicom's wake a thousand times a second to look."""

from __future__ import annotations

import os
import queue
import select
import socket
import ssl
import time
import weakref
from collections.abc import Callable
from typing import Any, cast

from pynetdicom.transport import AssociationSocket

WAIT_MS = 500
CLOSING = "Sta13"


class Wake:
    """An eventfd that ends a wait; closed with its owner."""

    def __init__(self) -> None:
        self.descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        weakref.finalize(self, os.close, self.descriptor)

    def set(self) -> None:
        os.eventfd_write(self.descriptor, 1)

    def clear(self) -> None:
        os.eventfd_read(self.descriptor)


class WakingQueue(queue.Queue[Any]):
    """A queue that tells a waiting thread of every item."""

    def __init__(self, wake: Callable[[], None]) -> None:
        super().__init__()
        self._wake = wake

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        super().put(item, block, timeout)
        self._wake()


def waiting_get_msg(messages: queue.Queue[Any], original: Callable[[bool], Any]) -> Callable[..., Any]:
    """`DIMSEServiceProvider.get_msg` that waits where pynetdicom's reactor only looks."""

    def get_msg(block: bool = False) -> Any:
        if block:
            return original(True)
        try:
            return messages.get(timeout=WAIT_MS / 1000)
        except queue.Empty:
            return None, None

    return get_msg


class WaitingSocket(AssociationSocket):
    """A socket whose `ready` waits for data or for something to send, and which reads no PDU above its limit."""

    def __init__(self, association: Any, connection: socket.socket, wake: Wake, longest_pdu: int) -> None:
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
