"""The server that takes connections: pynetdicom's, with handshakes off the accept loop and connections counted.

pynetdicom 3.0 does the TLS handshake in its accept loop, on a socket without timeout: one silent client stops every
later one. Here each connection shakes hands in its own thread with a deadline, and silent connections are limited in
number and in time.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
import weakref
from collections import Counter
from socketserver import BaseServer
from typing import Any, cast

import structlog
from pynetdicom.transport import ThreadedAssociationServer

LOGGER = structlog.get_logger(__name__)


class Connections:
    """The sockets that are open now, with their peers' addresses, whether or not they became associations.

    Sockets are held weakly and counted while they have a descriptor: pynetdicom closes them in several places.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: list[tuple[str, weakref.ref[socket.socket]]] = []

    def add(self, host: str, connection: socket.socket) -> None:
        """Count a connection from now until it closes."""
        with self._lock:
            self._open.append((host, weakref.ref(connection)))

    def counts(self) -> Counter[str]:
        """How many connections each address has open."""
        with self._lock:
            self._open = [(host, ref) for host, ref in self._open if _is_open(ref())]
            return Counter(host for host, _ in self._open)


class LimitedAssociationServer(ThreadedAssociationServer):
    """An association server that silent, slow or many clients cannot block.

    Set the four limits before `serve_forever`; `make_server` of pynetdicom offers no way to pass them.
    """

    daemon_threads = True
    request_queue_size = 128
    max_connections = 128
    max_connections_per_host = 64
    handshake_seconds = 5.0
    idle_seconds = 60.0
    share_port = False
    came_since_collection = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.connections = Connections()
        super().__init__(*args, **kwargs)

    def server_bind(self) -> None:
        """Bind; where the port is shared, the kernel spreads connections over all that listen at it."""
        if self.share_port:
            cast(socket.socket, self.socket).setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        super().server_bind()

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        """Accept, and nothing else: this runs in the accept loop."""
        connection, address = cast(socket.socket, self.socket).accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._limit_waiting(connection, self.idle_seconds)
        return connection, address

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Refuse a connection beyond the limits by closing it: there is no association yet to reject."""
        host = client_address[0]
        counts = self.connections.counts()
        if counts.total() >= self.max_connections or counts[host] >= self.max_connections_per_host:
            LOGGER.warning("connection refused", host=host, why="too many open connections")
            return False
        self.connections.add(host, request)
        self.came_since_collection = True
        return True

    def service_actions(self) -> None:
        """Let pynetdicom collect dead associations, at every 60th poll or connection, but only where one came since.

        It would collect while nobody comes too, and an idle listener would do little else.
        """
        if not self.came_since_collection:
            return
        super().service_actions()
        self.came_since_collection = self._gc[0] != 0

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Shake hands where TLS is on, then begin the association; runs in a thread of its own."""
        if self.ssl_context is not None:
            wrapped = self._shake_hands(request, client_address[0])
            if wrapped is None:
                return
            request = wrapped
        super().process_request_thread(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that broke before its association began is a line in the log."""
        LOGGER.warning("connection failed before its association", host=client_address[0])

    def shutdown(self) -> None:
        """End the accept loop and close its socket; associations go on."""
        # Wakes the loop, which waits for connections
        with contextlib.suppress(OSError):
            cast(socket.socket, self.socket).shutdown(socket.SHUT_RDWR)
        BaseServer.shutdown(self)
        self.server_close()

    def _shake_hands(self, request: socket.socket, host: str) -> ssl.SSLSocket | None:
        context = cast(ssl.SSLContext, self.ssl_context)
        try:
            request.settimeout(self.handshake_seconds)
            wrapped = context.wrap_socket(request, server_side=True)
        except (OSError, ValueError) as error:
            LOGGER.warning("TLS handshake failed", host=host, why=str(error))
            self.shutdown_request(request)
            return None
        # A blocking TLS socket ignores SO_RCVTIMEO inside a record, so it keeps a timeout of its own
        wrapped.settimeout(self.idle_seconds)
        self.connections.add(host, wrapped)
        return wrapped

    @staticmethod
    def _limit_waiting(connection: socket.socket, seconds: float) -> None:
        """Let no read or write wait longer: pynetdicom reads a PDU to its end without a timeout."""
        limit = struct.pack("@ll", int(seconds), int(seconds % 1 * 1_000_000))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)


class SharedPortServer(LimitedAssociationServer):
    """One of several servers at the same address and port of this machine."""

    share_port = True


def _is_open(connection: socket.socket | None) -> bool:
    return connection is not None and connection.fileno() >= 0
