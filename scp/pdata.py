"""P-DATA-TF from a stream of bytes, in whatever pieces it comes (PS3.8 9.3.5, annex E).

A receiver that reads PDU by PDU asks the kernel for each header and each body, and waits for a whole PDU before it
uses the first byte of it. This one takes what there is.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

P_DATA_TF = 0x04
LAST = 0x02
"""The bit of a message control header that marks the last fragment."""

_PDU_HEADER = 6
_PDV_HEADER = 6


class ProtocolViolation(Exception):
    """The peer sent what PS3.7 or PS3.8 do not allow; the association is aborted."""


class FragmentStream:
    """Finds the fragments of messages in the bytes of an association.

    `rest` is what came from the first PDU on that is no P-DATA-TF: `fragments` ends there.
    """

    def __init__(self, max_pdu_bytes: int) -> None:
        self._max_pdu_bytes = max_pdu_bytes
        self._header = bytearray()
        self._pdu_left = 0
        self._pdv_left = 0
        self._context_id = self._control = 0
        self.rest = b""

    def fragments(self, data: memoryview) -> Iterator[tuple[int, int, memoryview]]:
        """Context id, message control header and bytes of each fragment, or of the part of it that is there.

        A part that is not the end of its fragment is not marked as the last one. Raises ProtocolViolation.
        """
        at = 0
        while at < len(data):
            if self._pdv_left:
                part = data[at : at + self._pdv_left]
                at += len(part)
                self._pdv_left -= len(part)
                control = self._control & ~LAST if self._pdv_left else self._control
                yield self._context_id, control, part
                continue
            missing = (0 if self._pdu_left else _PDU_HEADER) + _PDV_HEADER - len(self._header)
            start, at = at, at + missing
            self._header += data[start:at]
            if not self._pdu_left and self._header[0] != P_DATA_TF:
                self.rest = bytes(self._header) + bytes(data[at:])
                self._header.clear()
                return
            if at <= len(data) and self._take_header():
                yield self._context_id, self._control, data[:0]

    def _take_header(self) -> bool:
        """Take the header of a PDV, behind that of its PDU where it is the first; True: it has no bytes."""
        header = bytes(self._header)
        self._header.clear()
        if not self._pdu_left:
            self._pdu_left = int.from_bytes(header[2:_PDU_HEADER], "big")
            header = header[_PDU_HEADER:]
            if self._pdu_left > self._max_pdu_bytes:
                raise ProtocolViolation(
                    f"a PDU of {self._pdu_left} bytes is longer than {self._max_pdu_bytes}"
                )
        length, self._context_id, self._control = struct.unpack(">LBB", header)
        self._pdu_left -= length + 4
        if length < 2 or self._pdu_left < 0:
            raise ProtocolViolation("a PDV is longer than its PDU")
        if 0 < self._pdu_left < _PDV_HEADER:
            raise ProtocolViolation("a PDU ends inside a PDV")
        self._pdv_left = length - 2
        return not self._pdv_left
