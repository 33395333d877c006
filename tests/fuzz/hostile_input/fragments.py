"""The P-DATA of one association, without threads and sockets: many of them a second."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from hostile_input.messages import CONTEXT, echo_request, sending
from hostile_input.target import stateless
from scp.command_set import MAX_COMMAND_BYTES, Command, command_pdu
from scp.message_assembly import MessageAssembly
from scp.pdata import LAST, FragmentStream, ProtocolViolation
from scp.receipt import Answer

LONGEST_PDU = 2**20


@dataclass
class _Receipts:
    """Stands for spool and store: counts what was begun, finished and given up."""

    begun: int = 0
    ended: int = 0
    written: int = 0

    def begin(self, association: Any, command: Command, abstract: str, transfer: str) -> _Receipt:
        assert command.is_store_request
        self.begun += 1
        return _Receipt(self)


@dataclass
class _Receipt:
    receipts: _Receipts
    open: bool = True

    def write(self, data: memoryview) -> None:
        assert self.open, "bytes came for a data set that had ended"
        self.receipts.written += len(data)

    def finish(self) -> Answer:
        assert self.open, "a data set was finished twice"
        self.abandon()
        return Answer(0)

    def abandon(self) -> None:
        self.receipts.ended += self.open
        self.open = False


@dataclass
class _Peer:
    """What pynetdicom's association is asked for; collects what is sent."""

    sent: list[bytes] = field(default_factory=list)
    passed_on: int = 0

    def association(self) -> Any:
        context = SimpleNamespace(
            context_id=CONTEXT, abstract_syntax=CTImageStorage, transfer_syntax=[ExplicitVRLittleEndian]
        )
        return SimpleNamespace(
            accepted_contexts=[context],
            dul=SimpleNamespace(socket=SimpleNamespace(send=self.sent.append)),
            dimse=SimpleNamespace(receive_primitive=self._pass_on),
        )

    def _pass_on(self, primitive: Any) -> None:
        self.passed_on += 1


Fragments = list[tuple[int, int, bytes]]


def fragments(data: bytes, piece: int) -> tuple[Fragments, bytes, str]:
    """The fragments of a stream that comes in such pieces, put together; what is no P-DATA; what was wrong."""
    stream = FragmentStream(LONGEST_PDU)
    found: Fragments = []
    whole = True
    try:
        for start in range(0, len(data), piece):
            for context_id, control, part in stream.fragments(memoryview(data)[start : start + piece]):
                if not whole and found[-1][:2] == (context_id, control & ~LAST):
                    found[-1] = (context_id, control, found[-1][2] + bytes(part))
                else:
                    found.append((context_id, control, bytes(part)))
                whole = bool(control & LAST) or not stream._pdv_left
            if stream.rest:
                return found, stream.rest + data[start + piece :], ""
    except ProtocolViolation as violation:
        return found, b"", str(violation)
    return found, b"", ""


def take(data: bytes) -> None:
    """Find the fragments in whatever pieces, and give them to the receiver until the association ends."""
    piece, stream = (data[0] or 1, data[1:]) if data else (1, b"")
    found, _, violation = fragments(stream, len(stream) or 1)
    in_pieces, _, same_violation = fragments(stream, piece)
    assert violation == same_violation, "pieces decide what is a violation"
    assert b"".join(part for *_, part in found) == b"".join(part for *_, part in in_pieces)
    receipts, peer = _Receipts(), _Peer()
    assembly = MessageAssembly(peer.association(), receipts.begin)
    try:
        for context_id, control, part in in_pieces:
            assembly.take(context_id, control, memoryview(part))
            assert len(assembly._command) <= MAX_COMMAND_BYTES
    except ProtocolViolation as error:
        assert str(error)
    assembly.abandon()
    assert receipts.ended == receipts.begun, "a data set was neither finished nor given up"
    assert receipts.written <= len(data)
    assert len(peer.sent) <= receipts.begun, "more answers than requests"


def seeds() -> Sequence[bytes]:
    """The first byte is the length of the pieces."""
    echo = command_pdu(CONTEXT, echo_request())
    return [
        bytes([piece]) + stream for piece in (3, 200) for stream in (sending(), echo, echo + sending() * 2)
    ]


PDUS = stateless(seeds, take)
