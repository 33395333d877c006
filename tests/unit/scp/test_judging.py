"""UIDs, screening or not, patients: what the listener makes of a header."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scp.contexts import (
    ACCEPTED_CLASSES,
    CT_IMAGE_STORAGE,
    SCREENED_CLASSES,
    TRANSFER_SYNTAXES,
    supported_contexts,
)
from scp.header import Header
from scp.instances import InstanceRefused, check, kept_out, patient_digest, valid_uid
from scp.spool import file_meta

CT = Header(
    sop_class_uid=CT_IMAGE_STORAGE,
    sop_instance_uid="1.2.3.4",
    study_instance_uid="1.2.3",
    series_instance_uid="1.2.3.1",
    modality="CT",
    manufacturer="Maker",
    image_type=("ORIGINAL", "PRIMARY", "AXIAL"),
    patient_id=b"17",
    issuer_of_patient_id=b"",
)


@given(st.text(max_size=80))
def test_a_valid_uid_names_nothing_but_digits_and_dots(text: str) -> None:
    if valid_uid(text):
        assert set(text) <= set("0123456789.")
        assert len(text) <= 64
        assert ".." not in text
        assert not text.startswith(".")


@pytest.mark.parametrize(
    "uid",
    [
        "",
        ".",
        "..",
        "1",
        "1.",
        ".1",
        "1..2",
        "1.2/../../etc",
        "1.2\n",
        "1.2\0",
        "1.2 ",
        "1.٢",
        "1." + "2" * 63,
    ],
)
def test_what_is_no_uid(uid: str) -> None:
    assert not valid_uid(uid)


@pytest.mark.parametrize("uid", ["1.2", "2.25." + "1" * 39, "1.03.4"])
def test_what_is_a_uid(uid: str) -> None:
    assert valid_uid(uid)


def test_an_instance_that_is_what_it_says_passes() -> None:
    check(CT, CT_IMAGE_STORAGE, "1.2.3.4")


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (replace(CT, sop_instance_uid="1.2.3.5"), 0xA900),
        (replace(CT, sop_class_uid="1.2.840.10008.5.1.4.1.1.4"), 0xA900),
        (replace(CT, study_instance_uid=""), 0xC000),
        (replace(CT, series_instance_uid="../../etc/passwd"), 0xC000),
        (replace(CT, study_instance_uid="<script>alert(1)</script>"), 0xC000),
    ],
)
def test_an_instance_that_is_not_is_refused_with_its_status(header: Header, status: int) -> None:
    with pytest.raises(InstanceRefused) as refused:
        check(header, CT_IMAGE_STORAGE, "1.2.3.4")
    assert refused.value.status == status


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (CT, None),
        (replace(CT, image_type=("DERIVED", "SECONDARY", "AXIAL")), None),
        (replace(CT, image_type=("ORIGINAL", "PRIMARY", "LOCALIZER")), "localizer"),
        (replace(CT, modality="PT"), "modality is not CT"),
        (replace(CT, manufacturer="lungnode"), "own result"),
        (
            replace(CT, sop_class_uid="1.2.840.10008.5.1.4.1.1.88.11", modality="SR"),
            "Basic Text SR Storage is not screened",
        ),
        (
            replace(CT, sop_class_uid="1.2.840.10008.5.1.4.1.1.7", modality="CT"),
            "Secondary Capture Image Storage is not screened",
        ),
    ],
)
def test_what_is_kept_out_says_why(header: Header, reason: str | None) -> None:
    assert kept_out(header, "lungnode") == reason


def test_patients_are_told_apart_without_their_names() -> None:
    other_issuer = replace(CT, issuer_of_patient_id=b"A")
    nobody = replace(CT, patient_id=b"")
    nobody_else = replace(nobody, study_instance_uid="1.2.9")
    digests = {patient_digest(h) for h in (CT, other_issuer, nobody, nobody_else)}
    assert len(digests) == 4
    assert patient_digest(replace(CT, study_instance_uid="1.2.9")) == patient_digest(CT)


def test_contexts_are_only_those_that_are_asked_for() -> None:
    contexts = supported_contexts([CT_IMAGE_STORAGE, "1.2.3.4.5"])
    assert [str(c.abstract_syntax) for c in contexts] == ["1.2.840.10008.1.1", CT_IMAGE_STORAGE]
    assert [str(t) for t in contexts[1].transfer_syntax] == list(TRANSFER_SYNTAXES)
    assert SCREENED_CLASSES < ACCEPTED_CLASSES


def test_uncompressed_syntaxes_come_last_in_the_order_that_keeps_bytes() -> None:
    last = ["1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"]
    assert list(TRANSFER_SYNTAXES[-4:]) == last


@given(st.from_regex(r"1(\.[1-9][0-9]{0,7}){1,6}", fullmatch=True))
def test_file_meta_reads_back(uid: str) -> None:
    from io import BytesIO

    import pydicom

    meta = pydicom.dcmread(BytesIO(file_meta(CT_IMAGE_STORAGE, uid, "1.2.840.10008.1.2.1"))).file_meta
    assert (meta.MediaStorageSOPInstanceUID, meta.TransferSyntaxUID) == (uid, "1.2.840.10008.1.2.1")
    assert meta.MediaStorageSOPClassUID == CT_IMAGE_STORAGE
    assert meta.FileMetaInformationVersion == b"\0\1"
