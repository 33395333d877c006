"""The C-STORE command set: reading a request, writing a response (PS3.7 6.3, 9.3.1; always implicit little endian)."""

from __future__ import annotations

import struct
from dataclasses import dataclass

C_STORE_RQ = 0x0001
C_STORE_RSP = 0x8001
NO_DATA_SET = 0x0101
MAX_COMMAND_BYTES = 16 * 1024
"""A command set has at most some 20 short elements."""

_AFFECTED_SOP_CLASS_UID = 0x0002
_COMMAND_FIELD = 0x0100
_MESSAGE_ID = 0x0110
_MESSAGE_ID_RESPONDED_TO = 0x0120
_DATA_SET_TYPE = 0x0800
_STATUS = 0x0900
_ERROR_COMMENT = 0x0902
_AFFECTED_SOP_INSTANCE_UID = 0x1000

_HEAD = struct.Struct("<HHL")
_US_ELEMENT = struct.Struct("<HHLH")
_UL_ELEMENT = struct.Struct("<HHLL")


class UnreadableCommand(Exception):
    """The bytes are no command set."""


@dataclass(frozen=True)
class Command:
    """What a command set says. UIDs are as received, unchecked."""

    field: int
    message_id: int
    sop_class_uid: str
    sop_instance_uid: str
    has_data_set: bool

    @property
    def is_store_request(self) -> bool:
        """Whether a data set to store follows."""
        return self.field == C_STORE_RQ and self.has_data_set


def read_command(encoded: bytes) -> Command:
    """Read a command set. Raises UnreadableCommand."""
    values: dict[int, bytes] = {}
    at = 0
    while at < len(encoded):
        if at + 8 > len(encoded):
            raise UnreadableCommand("command set ends inside an element")
        group, element, length = _HEAD.unpack_from(encoded, at)
        at += 8
        if group != 0 or at + length > len(encoded):
            raise UnreadableCommand("command set has an element that does not belong or does not end")
        values[element] = encoded[at : at + length]
        at += length
    return Command(
        field=_number(values, _COMMAND_FIELD),
        message_id=_number(values, _MESSAGE_ID, default=0),
        sop_class_uid=_uid(values, _AFFECTED_SOP_CLASS_UID),
        sop_instance_uid=_uid(values, _AFFECTED_SOP_INSTANCE_UID),
        has_data_set=_number(values, _DATA_SET_TYPE, default=NO_DATA_SET) != NO_DATA_SET,
    )


def store_response(request: Command, status: int, comment: str = "") -> bytes:
    """The command set that answers a C-STORE request; `comment` goes into Error Comment (at most 64 characters)."""
    numbers = (
        (_COMMAND_FIELD, C_STORE_RSP),
        (_MESSAGE_ID_RESPONDED_TO, request.message_id),
        (_DATA_SET_TYPE, NO_DATA_SET),
        (_STATUS, status),
    )
    body = b"".join(
        (
            _element(_AFFECTED_SOP_CLASS_UID, request.sop_class_uid, b"\0"),
            *(_US_ELEMENT.pack(0, element, 2, number) for element, number in numbers),
            _element(_ERROR_COMMENT, comment[:64], b" ") if comment else b"",
            _element(_AFFECTED_SOP_INSTANCE_UID, request.sop_instance_uid, b"\0"),
        )
    )
    return _UL_ELEMENT.pack(0, 0, 4, len(body)) + body


def command_pdu(context_id: int, command: bytes) -> bytes:
    """A P-DATA-TF PDU with one PDV, the last fragment of a command set (PS3.8 9.3.5, annex E.2)."""
    pdv = struct.pack(">LBB", len(command) + 2, context_id, 0x03) + command
    return struct.pack(">BBL", 0x04, 0, len(pdv)) + pdv


def _number(values: dict[int, bytes], element: int, default: int | None = None) -> int:
    value = values.get(element)
    if value is None and default is not None:
        return default
    if value is None or len(value) != 2:
        raise UnreadableCommand(f"(0000,{element:04X}) is missing or has the wrong length")
    return int.from_bytes(value, "little")


def _uid(values: dict[int, bytes], element: int) -> str:
    value = values.get(element, b"")
    if len(value) > 65:
        raise UnreadableCommand(f"(0000,{element:04X}) is too long for a UID")
    return value.decode("ascii", errors="replace").strip(" \0")


def _element(element: int, value: str, filler: bytes) -> bytes:
    encoded = value.encode("ascii", errors="replace")
    encoded += filler * (len(encoded) % 2)
    return _HEAD.pack(0, element, len(encoded)) + encoded
