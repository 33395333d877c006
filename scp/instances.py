"""Judging a received instance: is it what the sender said, may it name anything, is it to be screened?"""

from __future__ import annotations

import hashlib
import re

from pydicom.uid import UID

from scp.contexts import SCREENED_CLASSES
from scp.header import Header

_UID = re.compile(r"[0-9]+(\.[0-9]+)+\Z")


class InstanceRefused(Exception):
    """An instance that is not stored; `status` goes to the sender, the message is one line for people."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status
        self.why = why


OUT_OF_RESOURCES = 0xA700
"""PS3.4 B.2.3: Refused, out of resources."""
MISMATCH = 0xA900
"""PS3.4 B.2.3: Error, data set does not match SOP class."""
CANNOT_UNDERSTAND = 0xC000
"""PS3.4 B.2.3: Error, cannot understand."""
CLASS_NOT_SUPPORTED = 0x0122
"""PS3.7 C.4.2: refused, SOP class not supported."""
DUPLICATE = 0x0111
"""PS3.7 C.4.2: duplicate SOP instance; here: the same UID with other content."""
PROCESSING_FAILURE = 0x0110
"""PS3.7 C.4.2: processing failure, a fault of the node."""
SUCCESS = 0x0000


def valid_uid(value: str) -> bool:
    """Whether `value` has the form of a UID: digits and single dots, at most 64 (PS3.5 9.1).

    Leading zeros of a component are let pass: they are wrong, common, and name nothing.
    """
    return len(value) <= 64 and _UID.match(value) is not None


def check(header: Header, sop_class_uid: str, sop_instance_uid: str) -> None:
    """Compare the data set with what the C-STORE request said of it. Raises InstanceRefused."""
    for name, value in (
        ("SOP Class UID", header.sop_class_uid),
        ("SOP Instance UID", header.sop_instance_uid),
        ("Study Instance UID", header.study_instance_uid),
        ("Series Instance UID", header.series_instance_uid),
    ):
        if not value:
            raise InstanceRefused(CANNOT_UNDERSTAND, f"{name} is missing")
        if not valid_uid(value):
            raise InstanceRefused(CANNOT_UNDERSTAND, f"{name} is no valid UID")
    if header.sop_class_uid != sop_class_uid:
        raise InstanceRefused(MISMATCH, "SOP Class UID differs between request and data set")
    if header.sop_instance_uid != sop_instance_uid:
        raise InstanceRefused(MISMATCH, "SOP Instance UID differs between request and data set")


def kept_out(header: Header, own_manufacturer: str) -> str | None:
    """Why an instance is not screened; None where it may be.

    The node's own results come first: it never screens what it made, whoever sends it.
    """
    if own_manufacturer and header.manufacturer == own_manufacturer:
        return "own result"
    if header.sop_class_uid not in SCREENED_CLASSES:
        return f"{UID(header.sop_class_uid).name} is not screened"
    if header.modality != "CT":
        return "modality is not CT"
    if "LOCALIZER" in header.image_type:
        return "localizer"
    return None


def patient_digest(header: Header) -> str:
    """SHA-256 hex over patient id and its issuer: tells patients apart without naming them.

    A study without patient id gets a digest of its own, so that two unknown patients never look like one.
    """
    if not header.patient_id:
        return hashlib.sha256(b"study\0" + header.study_instance_uid.encode("ascii")).hexdigest()
    return hashlib.sha256(header.patient_id + b"\0" + header.issuer_of_patient_id).hexdigest()


def modality_code(header: Header) -> str:
    """The modality as a code string, empty where it is none (PS3.5 6.2: VR CS, at most 16 characters)."""
    return header.modality if re.fullmatch(r"[A-Z0-9_ ]{1,16}", header.modality) else ""
