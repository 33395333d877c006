"""Reading the few attributes that the listener needs from an encoded data set, in bounded time and memory.

The listener takes bytes from anybody. So this reader walks elements without recursion, keeps nothing but eight short
values, limits nesting, value lengths and the bytes that a deflated data set may unfold to, and leaves pixels alone.
Everything else about the data set is the worker's to judge.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

EncodedBytes = bytes | memoryview
"""A memoryview may be one of a mapped file: only what is looked at is read."""

MAX_DEPTH = 32
"""Nesting that is followed; DICOM's deepest templates stay below ten."""
MAX_ELEMENTS = 1_000_000
MAX_VALUE = 1024
"""Longest value that is kept, in bytes."""
MAX_INFLATED_HEADER = 4 * 2**20

IMAGE_TYPE = 0x0008_0008
SOP_CLASS_UID = 0x0008_0016
SOP_INSTANCE_UID = 0x0008_0018
MODALITY = 0x0008_0060
MANUFACTURER = 0x0008_0070
PATIENT_ID = 0x0010_0020
ISSUER_OF_PATIENT_ID = 0x0010_0021
STUDY_INSTANCE_UID = 0x0020_000D
SERIES_INSTANCE_UID = 0x0020_000E

WANTED = frozenset(
    {
        IMAGE_TYPE,
        SOP_CLASS_UID,
        SOP_INSTANCE_UID,
        MODALITY,
        MANUFACTURER,
        PATIENT_ID,
        ISSUER_OF_PATIENT_ID,
        STUDY_INSTANCE_UID,
        SERIES_INSTANCE_UID,
    }
)

_ITEM = 0xFFFE_E000
_ITEM_END = 0xFFFE_E00D
_SEQUENCE_END = 0xFFFE_E0DD
_UNDEFINED = 0xFFFF_FFFF
_LONG_VRS = frozenset(
    {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
)
_LITTLE = (struct.Struct("<HH2sH"), struct.Struct("<HHL"), struct.Struct("<L"))
"""Head of an element with explicit VR, of one with implicit VR, and the long length; in little endian."""
_BIG = (struct.Struct(">HH2sH"), struct.Struct(">HHL"), struct.Struct(">L"))


class UnreadableDataset(Exception):
    """The bytes are no data set of the transfer syntax, or one that breaks a limit; the message says what is wrong."""


@dataclass(frozen=True)
class Header:
    """The attributes of one instance that the listener looks at; empty where absent. Text is as encoded (bytes).

    The character set of patient_id does not matter: it is only hashed.
    """

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    modality: str
    manufacturer: str
    image_type: tuple[str, ...]
    patient_id: bytes
    issuer_of_patient_id: bytes


def read_header(encoded: EncodedBytes, transfer_syntax_uid: str) -> Header:
    """Read the header attributes of a data set (PS3.5 7). Raises UnreadableDataset.

    `encoded` is the whole data set, or enough of it to hold everything up to Series Instance UID (0020,000E).
    """
    if transfer_syntax_uid == DeflatedExplicitVRLittleEndian:
        encoded = _inflated(encoded)
    explicit = transfer_syntax_uid != ImplicitVRLittleEndian
    order = "big" if transfer_syntax_uid == ExplicitVRBigEndian else "little"
    values = dict(_wanted_values(_Reader(encoded, explicit, order)))

    def text(tag: int) -> str:
        return values.get(tag, b"").decode("ascii", errors="replace").strip(" \0")

    return Header(
        sop_class_uid=text(SOP_CLASS_UID),
        sop_instance_uid=text(SOP_INSTANCE_UID),
        study_instance_uid=text(STUDY_INSTANCE_UID),
        series_instance_uid=text(SERIES_INSTANCE_UID),
        modality=text(MODALITY),
        manufacturer=text(MANUFACTURER),
        image_type=tuple(part.strip() for part in text(IMAGE_TYPE).split("\\")),
        patient_id=values.get(PATIENT_ID, b"").strip(b" \0"),
        issuer_of_patient_id=values.get(ISSUER_OF_PATIENT_ID, b"").strip(b" \0"),
    )


class _Reader:
    """A position in an encoded data set."""

    def __init__(self, encoded: EncodedBytes, explicit: bool, order: str) -> None:
        self.encoded = encoded
        self.explicit = explicit
        self.at = 0
        self.end = len(encoded)
        self._explicit_head, self._implicit_head, self._length = _BIG if order == "big" else _LITTLE

    def take(self, count: int) -> bytes:
        """The next `count` bytes. Raises UnreadableDataset where there are fewer."""
        start = self._advance(count)
        return bytes(self.encoded[start : self.at])

    def element(self, explicit: bool) -> tuple[int, bytes, int]:
        """Tag, VR (empty where implicit) and value length of the next element (PS3.5 7.1.2, 7.1.3)."""
        start = self._advance(8)
        if explicit:
            group, element, vr, length = self._explicit_head.unpack_from(self.encoded, start)
            if group != 0xFFFE:
                if vr in _LONG_VRS:
                    length = self._length.unpack_from(self.encoded, self._advance(4))[0]
                    return group << 16 | element, vr, length
                # Some writers put implicit elements among explicit ones; every reader copes by the missing VR
                if vr.isalpha() and vr.isupper():
                    return group << 16 | element, vr, length
        group, element, length = self._implicit_head.unpack_from(self.encoded, start)
        return group << 16 | element, b"", length

    def _advance(self, count: int) -> int:
        """Go on by `count` bytes; returns where they begin. Raises UnreadableDataset where there are fewer."""
        start, self.at = self.at, self.at + count
        if self.at > self.end:
            raise UnreadableDataset(f"data set ends inside an element (byte {self.end})")
        return start


def _wanted_values(reader: _Reader) -> Iterator[tuple[int, bytes]]:
    """The wanted top-level elements, in the order of the data set; stops behind the last one."""
    previous = -1
    for _ in range(MAX_ELEMENTS):
        if reader.at >= reader.end:
            return
        tag, vr, length = reader.element(reader.explicit)
        if tag <= previous:
            raise UnreadableDataset(f"elements are out of order at ({tag >> 16:04X},{tag & 0xFFFF:04X})")
        previous = tag
        if tag > SERIES_INSTANCE_UID:
            return
        if length == _UNDEFINED:
            _skip_undefined(reader, explicit=reader.explicit and vr != b"UN")
        elif tag not in WANTED:
            reader.at += length
        elif length > MAX_VALUE:
            raise UnreadableDataset(f"({tag >> 16:04X},{tag & 0xFFFF:04X}) is {length} bytes long")
        else:
            yield tag, reader.take(length)
        if reader.at > reader.end:
            raise UnreadableDataset(f"data set ends inside an element (byte {reader.end})")
    raise UnreadableDataset(f"more than {MAX_ELEMENTS} elements")


def _skip_undefined(reader: _Reader, explicit: bool) -> None:
    """Skip a sequence of undefined length, without recursion (PS3.5 7.5.2).

    UN of undefined length is encoded as implicit little endian (PS3.5 6.2.2 note 2). The stack holds the
    explicitness of the sequence, and of each element of undefined length inside its items.
    """
    stack = [explicit]
    for _ in range(MAX_ELEMENTS):
        tag, vr, length = reader.element(stack[-1])
        if tag == _SEQUENCE_END:
            stack.pop()
            if not stack:
                return
        elif tag not in (_ITEM, _ITEM_END):
            if length == _UNDEFINED:
                stack.append(stack[-1] and vr != b"UN")
            else:
                reader.at += length
        elif tag == _ITEM and length != _UNDEFINED:
            reader.at += length
        if len(stack) > MAX_DEPTH:
            raise UnreadableDataset(f"sequences nested deeper than {MAX_DEPTH}")
        if reader.at > reader.end:
            raise UnreadableDataset(f"data set ends inside a sequence (byte {reader.end})")
    raise UnreadableDataset(f"more than {MAX_ELEMENTS} elements in a sequence")


def _inflated(encoded: EncodedBytes) -> bytes:
    """The beginning of a deflated data set (PS3.5 A.5), as much as a header may take."""
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(
            encoded[: MAX_INFLATED_HEADER // 4], MAX_INFLATED_HEADER
        )
    except zlib.error as error:
        raise UnreadableDataset(f"not a deflated data set ({error})") from None
