"""C-STORE command sets, against pynetdicom's own."""

from __future__ import annotations

from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pynetdicom.dimse_messages import C_STORE_RQ, C_STORE_RSP
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import decode, encode

from scp.command_set import (
    MAX_COMMAND_BYTES,
    Command,
    UnreadableCommand,
    command_pdu,
    read_command,
    store_response,
)

uids = st.from_regex(r"1(\.[1-9][0-9]{0,7}){1,6}", fullmatch=True)


@given(uids, uids, st.integers(0, 65535))
def test_it_reads_what_pynetdicom_asks(sop_class: str, instance: str, message: int) -> None:
    primitive = C_STORE()
    primitive.MessageID = message
    primitive.AffectedSOPClassUID = sop_class
    primitive.AffectedSOPInstanceUID = instance
    primitive.Priority = 2
    primitive.DataSet = BytesIO(b"\0\0")
    request = C_STORE_RQ()
    request.primitive_to_message(primitive)
    command = read_command(encode(request.command_set, True, True) or b"")
    assert command == Command(1, message, sop_class, instance, has_data_set=True)
    assert command.is_store_request


@given(uids, uids, st.integers(0, 65535), st.sampled_from([0, 0xA700, 0xC000]), st.text(max_size=90))
def test_pynetdicom_reads_what_it_answers(
    sop_class: str, instance: str, message: int, status: int, comment: str
) -> None:
    request = Command(1, message, sop_class, instance, has_data_set=True)
    encoded = store_response(request, status, comment)
    command_set = decode(BytesIO(encoded), True, True)
    response = C_STORE_RSP()
    response.command_set = command_set
    assert command_set.CommandGroupLength == len(encoded) - 12
    assert command_set.CommandField == 0x8001
    assert command_set.MessageIDBeingRespondedTo == message
    assert command_set.Status == status
    assert command_set.AffectedSOPInstanceUID == instance
    assert ("ErrorComment" in command_set) == bool(comment)
    assert len(encoded) % 2 == 0


def test_a_pdu_around_it() -> None:
    pdu = command_pdu(5, b"abcd")
    assert pdu == bytes.fromhex("0400 0000000a 00000006 05 03") + b"abcd"


@given(st.binary(max_size=MAX_COMMAND_BYTES // 16))
def test_anything_is_read_or_refused(data: bytes) -> None:
    try:
        read_command(data)
    except UnreadableCommand as error:
        assert str(error)


@pytest.mark.parametrize(
    "data", [b"", b"\0" * 7, bytes.fromhex("0800 1600 00000000"), bytes.fromhex("00000001 ffffffff")]
)
def test_what_is_no_command(data: bytes) -> None:
    with pytest.raises(UnreadableCommand):
        read_command(data)
