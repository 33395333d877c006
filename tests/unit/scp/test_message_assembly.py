"""Messages of one association: what goes to disk, what goes to pynetdicom, what ends the association."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from scp.command_set import Command
from scp.message_assembly import MAX_PASSED_BYTES, MessageAssembly
from scp.pdata import ProtocolViolation
from scp.receipt import Answer

COMMAND, DATA, LAST = 1, 0, 2
N_CREATE_RQ = 0x0140


class Kept:
    """Stands for a data set on its way to disk."""

    def __init__(self) -> None:
        self.content = b""
        self.abandoned = False

    def write(self, data: memoryview) -> None:
        self.content += data

    def finish(self) -> Answer:
        return Answer(0x0000)

    def abandon(self) -> None:
        self.abandoned = True


class Association:
    """What the assembly asks of pynetdicom's; collects what it gets."""

    def __init__(self, *context_ids: int) -> None:
        self.accepted_contexts = [
            SimpleNamespace(
                context_id=number, abstract_syntax=CTImageStorage, transfer_syntax=[ExplicitVRLittleEndian]
            )
            for number in context_ids
        ]
        self.sent: list[bytes] = []
        self.passed: list[Any] = []
        self.dul = SimpleNamespace(socket=SimpleNamespace(send=self.sent.append))
        self.dimse = SimpleNamespace(receive_primitive=self.passed.append)
        self.kept = Kept()

    def begin(self, association: object, command: Command, abstract: str, transfer: str) -> Kept:
        return self.kept

    def assembly(self) -> MessageAssembly:
        return MessageAssembly(self, self.begin)


def command(field: int) -> memoryview:
    """A request with a data set, as far as the assembly reads it."""
    elements = ((0x0100, field), (0x0110, 1), (0x0800, 1))
    return memoryview(
        b"".join(
            b"\0\0" + element.to_bytes(2, "little") + b"\2\0\0\0" + value.to_bytes(2, "little")
            for element, value in elements
        )
    )


def test_a_data_set_is_kept_and_answered() -> None:
    association = Association(1)
    assembly = association.assembly()
    assembly.take(1, COMMAND | LAST, command(0x0001))
    assembly.take(1, DATA, memoryview(b"image"))
    assert association.sent == []
    assembly.take(1, DATA | LAST, memoryview(b"s end"))
    assert association.kept.content == b"images end"
    assert len(association.sent) == 1


def test_the_data_set_of_another_context_than_its_command_is_a_violation() -> None:
    """PS3.7 6.3: the two are one message; answered in the other context the sender would take it for another's."""
    assembly = Association(1, 3).assembly()
    assembly.take(1, COMMAND | LAST, command(0x0001))
    with pytest.raises(ProtocolViolation, match="another presentation context"):
        assembly.take(3, DATA | LAST, memoryview(b"image"))


def test_what_goes_to_pynetdicom_has_an_end() -> None:
    """It is held in memory there, until its last fragment comes."""
    association = Association(1)
    assembly = association.assembly()
    piece = memoryview(bytes(2**20))
    for _ in range(2):  # each message counts for itself
        assembly.take(1, COMMAND | LAST, command(N_CREATE_RQ))
        for _ in range(MAX_PASSED_BYTES // len(piece) - 1):
            assembly.take(1, DATA, piece)
        assembly.take(1, DATA | LAST, piece)
        association.passed.clear()
    assembly.take(1, COMMAND | LAST, command(N_CREATE_RQ))
    with pytest.raises(ProtocolViolation, match="longer than"):
        for _ in range(MAX_PASSED_BYTES // len(piece) + 1):
            assembly.take(1, DATA, piece)
            association.passed.clear()
