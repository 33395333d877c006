"""A whole listener on loopback, with spool and store: whatever is sent, it answers or closes, and serves the next."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom.fsm import InvalidEventError
from sqlalchemy import select

from hostile_input.messages import CONTEXT, data_pdu, echo_request, sending, store_request
from hostile_input.samples import encoded, image
from hostile_input.target import Take, Target
from scp.command_set import command_pdu
from scp.listener import Listener
from scp.policy import ListenerPolicy
from store.database import Database, open_database
from store.migrations import upgrade
from store.models import Instance

SECONDS = 30.0
"""The listener closes a connection whose peer has nothing more to say at once; on a busy machine that is seconds."""

BARE, ASSOCIATED, STORING = range(3)
"""First byte of an input: what follows is all that is sent; follows A-ASSOCIATE-RQ; is a data set to be stored."""
RELEASE = struct.pack(">BBLL", 5, 0, 4, 0)


def associate_request(called: bytes = b"LUNGNODE", calling: bytes = b"SENDER") -> bytes:
    """A-ASSOCIATE-RQ for CT Image Storage in explicit little endian (PS3.8 9.3.2)."""

    def item(kind: int, body: bytes) -> bytes:
        return struct.pack(">BBH", kind, 0, len(body)) + body

    syntaxes = item(0x30, CTImageStorage.encode()) + item(0x40, ExplicitVRLittleEndian.encode())
    user = item(0x50, item(0x51, struct.pack(">L", 16384)) + item(0x52, b"1.2.3.4"))
    body = (
        struct.pack(">HH", 1, 0)
        + called.ljust(16)
        + calling.ljust(16)
        + bytes(32)
        + item(0x10, b"1.2.840.10008.3.1.1.1")
        + item(0x20, bytes([CONTEXT, 0, 0, 0]) + syntaxes)
        + user
    )
    return struct.pack(">BBL", 1, 0, len(body)) + body


def seeds() -> Sequence[bytes]:
    """A right association, its parts, and an image."""
    whole = sending() + command_pdu(CONTEXT, echo_request()) + RELEASE
    return [
        bytes([BARE]) + associate_request(),
        bytes([BARE]) + associate_request(called=b"SOMEONE"),
        bytes([ASSOCIATED]) + whole,
        bytes([ASSOCIATED]) + RELEASE,
        bytes([STORING]) + encoded(image(), ExplicitVRLittleEndian),
    ]


def said(data: bytes) -> tuple[bytes, ...]:
    """What a peer sends for an input; it waits for an answer before each further message."""
    kind, rest = (data[0] % 3, data[1:]) if data else (BARE, b"")
    if kind == BARE:
        return (rest,)
    if kind == ASSOCIATED:
        return associate_request(), rest
    return associate_request(), command_pdu(CONTEXT, store_request()) + data_pdu(rest, 2) + RELEASE


@contextmanager
def opened(folder: Path) -> Iterator[Take]:
    """A listener with a store in the folder."""
    url = f"sqlite:///{folder / 'lungnode.db'}"
    upgrade(url)
    database = open_database(url)
    policy = ListenerPolicy("LUNGNODE", port=0, reserve_bytes=0, grace_seconds=1.0, max_instance_bytes=2**20)
    listener = Listener(policy, database, folder / "storage", lambda: datetime.now(UTC))
    died: list[BaseException] = []
    threading.excepthook = lambda arguments: _note(arguments, died)
    listener.start()

    def take(data: bytes) -> None:
        answer = _talk(listener.port, said(data))
        assert answer[:1] in (b"", b"\2", b"\3", b"\7"), (
            "the first answer is no A-ASSOCIATE-AC, -RJ or A-ABORT"
        )
        if died:
            raise died.pop()
        assert listener.accepts
        _wait_until(lambda: listener.open_associations == 0)
        _compare(database, folder / "storage")

    try:
        yield take
    finally:
        listener.stop()
        database.close()
        threading.excepthook = threading.__excepthook__


def _note(arguments: threading.ExceptHookArgs, died: list[BaseException]) -> None:
    """Keep what a thread died of. pynetdicom's state machine ends its thread so where a peer was too fast."""
    error = arguments.exc_value or arguments.exc_type()
    if not isinstance(error, InvalidEventError):
        died.append(error)


def _talk(port: int, messages: Sequence[bytes]) -> bytes:
    """Send the messages, end the own side, and read until the listener closes; TimeoutError where it does not."""
    received = b""
    with socket.create_connection(("127.0.0.1", port), SECONDS) as connection:
        try:
            for message in messages[:-1]:
                connection.sendall(message)
                received += connection.recv(65536)
            connection.sendall(messages[-1])
            connection.shutdown(socket.SHUT_WR)
            while piece := connection.recv(65536):
                received += piece
        except TimeoutError:
            raise
        except OSError:
            pass  # it closed while we were sending: its right
    return received


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "an association stays open whose peer has gone"
        time.sleep(0.001)


def _compare(database: Database, storage: Path) -> None:
    """Nothing is half there, and every row has its file."""
    assert not any((storage / "incoming").iterdir()), "an unfinished file is left"
    with database.read() as session:
        rows = set(session.scalars(select(Instance.path)))
    files = {str(path.relative_to(storage)) for path in (storage / "spool").rglob("*.dcm")}
    assert rows == files, "spool and store do not hold the same"


ASSOCIATION = Target(seeds, opened)
