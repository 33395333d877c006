"""Data sets as the listener reads them, before any worker sees them."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from hostile_input.samples import encoded, image
from hostile_input.target import stateless
from scp import instances
from scp.header import MAX_VALUE, UnreadableDataset, read_header

SYNTAXES: tuple[UID, ...] = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
)


def seeds() -> Sequence[bytes]:
    """An image in each transfer syntax; the first byte says in which."""
    plain = [encoded(image(), syntax) for syntax in SYNTAXES[:3]]
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    plain.append(deflater.compress(plain[1]) + deflater.flush())
    return [bytes([number]) + data for number, data in enumerate(plain)]


def take(data: bytes) -> None:
    """Read the header, and judge it as a receipt does."""
    syntax = SYNTAXES[data[0] % len(SYNTAXES)] if data else SYNTAXES[0]
    try:
        header = read_header(data[1:], syntax)
        instances.check(header, header.sop_class_uid, header.sop_instance_uid)
    except (UnreadableDataset, instances.InstanceRefused) as refusal:
        assert str(refusal)
        return
    assert len(header.patient_id) <= MAX_VALUE
    assert len(instances.patient_digest(header)) == 64
    assert len(instances.modality_code(header)) <= 16
    instances.kept_out(header, "lungnode")


DATA_SET = stateless(seeds, take)
