"""P-DATA-TF from a stream of bytes: in whatever pieces it comes, the messages are the same."""

from __future__ import annotations

import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scp.pdata import LAST, FragmentStream, ProtocolViolation

MAX_PDU_BYTES = 2**16
A_RELEASE_RQ = struct.pack(">BBLL", 5, 0, 4, 0)

pdvs = st.lists(
    st.tuples(st.integers(1, 255), st.integers(0, 3), st.binary(max_size=40)), min_size=1, max_size=4
)
streams = st.lists(pdvs, max_size=4)


def pdu(fragments: list[tuple[int, int, bytes]]) -> bytes:
    body = b"".join(
        struct.pack(">LBB", len(data) + 2, context, control) + data for context, control, data in fragments
    )
    return struct.pack(">BBL", 4, 0, len(body)) + body


def received(stream: FragmentStream, pieces: list[bytes]) -> list[tuple[int, int, bytes]]:
    """What the pieces hold, with the parts of each fragment put together."""
    whole: list[tuple[int, int, bytes]] = []
    for piece in pieces:
        for context, control, data in stream.fragments(memoryview(piece)):
            whole.append((context, control, bytes(data)))
    return whole


def joined(fragments: list[tuple[int, int, bytes]]) -> list[tuple[int, int, bytes]]:
    """Neighbours of one context and kind as one, up to the last fragment of a message."""
    messages: list[tuple[int, int, bytes]] = []
    for context, control, data in fragments:
        if messages and messages[-1][0] == context and messages[-1][1] == control & ~LAST:
            messages[-1] = (context, control, messages[-1][2] + data)
        else:
            messages.append((context, control, data))
    return messages


@given(streams, st.lists(st.integers(0, 400), max_size=12))
def test_the_pieces_do_not_matter(pdus: list[list[tuple[int, int, bytes]]], cuts: list[int]) -> None:
    data = b"".join(map(pdu, pdus))
    bounds = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    pieces = [data[start:end] for start, end in pairwise(bounds)]
    found = received(FragmentStream(MAX_PDU_BYTES), pieces)
    assert joined(found) == joined([fragment for fragments in pdus for fragment in fragments])


@given(streams, st.integers(1, 7))
def test_it_ends_at_another_pdu(pdus: list[list[tuple[int, int, bytes]]], size: int) -> None:
    data = b"".join(map(pdu, pdus)) + A_RELEASE_RQ + b"and more"
    stream = FragmentStream(MAX_PDU_BYTES)
    at = 0
    while not stream.rest:
        received(stream, [data[at : at + size]])
        at += size
    assert A_RELEASE_RQ.startswith(stream.rest[:1])
    assert (stream.rest + data[at:]) == A_RELEASE_RQ + b"and more"


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (struct.pack(">BBLLBB", 4, 0, MAX_PDU_BYTES + 1, 2, 1, 0), "longer than 65536"),
        (struct.pack(">BBLLBB", 4, 0, 0, 2, 1, 0), "longer than its PDU"),
        (struct.pack(">BBLLBB", 4, 0, 6, 3, 1, 0), "longer than its PDU"),
        (struct.pack(">BBLLBB", 4, 0, 6, 1, 1, 0), "longer than its PDU"),
        (struct.pack(">BBLLBB", 4, 0, 9, 2, 1, 0), "ends inside a PDV"),
    ],
)
def test_what_is_no_p_data_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(ProtocolViolation, match=why):
        received(FragmentStream(MAX_PDU_BYTES), [data])
