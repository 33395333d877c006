"""The messages of a C-STORE and a C-ECHO, and command sets as the listener reads them."""

from __future__ import annotations

import struct

from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from hostile_input.samples import UIDS, encoded, image
from hostile_input.target import stateless
from scp.command_set import (
    UnreadableCommand,
    command_pdu,
    read_command,
    store_response,
)

CONTEXT = 1
MAX_PDU_BYTES = 2**20


def store_request() -> bytes:
    """The command set of a C-STORE request for the image (PS3.7 9.3.1.1)."""
    return _command_set(
        (0x0002, CTImageStorage.encode("ascii").ljust(26, b"\0")),
        (0x0100, b"\1\0"),
        (0x0110, b"\7\0"),
        (0x0700, b"\0\0"),
        (0x0800, b"\0\0"),
        (0x1000, UIDS[0].encode("ascii").ljust(10, b"\0")),
    )


def echo_request() -> bytes:
    """The command set of a C-ECHO request (PS3.7 9.3.5.1)."""
    return _command_set(
        (0x0002, b"1.2.840.10008.1.1\0"), (0x0100, b"\x30\0"), (0x0110, b"\1\0"), (0x0800, b"\1\1")
    )


def _command_set(*elements: tuple[int, bytes]) -> bytes:
    return b"".join(struct.pack("<HHL", 0, element, len(value)) + value for element, value in elements)


def data_pdu(data: bytes, control: int, context: int = CONTEXT) -> bytes:
    """One P-DATA-TF with one PDV (PS3.8 9.3.5)."""
    pdv = struct.pack(">LBB", len(data) + 2, context, control) + data
    return struct.pack(">BBL", 4, 0, len(pdv)) + pdv


def sending() -> bytes:
    """The PDUs of one C-STORE, the data set in two fragments."""
    data = encoded(image(), ExplicitVRLittleEndian)
    half = len(data) // 2
    return command_pdu(CONTEXT, store_request()) + data_pdu(data[:half], 0) + data_pdu(data[half:], 2)


def take_command(data: bytes) -> None:
    """Read a command set; the answer to it must be one too."""
    try:
        command = read_command(data)
    except UnreadableCommand as error:
        assert str(error)
        return
    answer = read_command(store_response(command, 0xC000, "why"))
    assert answer.field == 0x8001


COMMAND_SET = stateless(lambda: [store_request(), echo_request()], take_command)
