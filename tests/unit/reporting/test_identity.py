"""Names, numbers and dates of patient and study arrive as they were sent."""

from __future__ import annotations

import dataclasses

import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from reporting import OBJECT_KINDS, ReportContext, ReportOptions, build
from reporting.identity import identity_of
from reporting.phantom_case import PhantomCase, make_case
from reporting.uids import derived_uid

NAMES = {
    "ISO_IR 100": "Müller^Jörg",
    "ISO_IR 144": "Иванов^Иван",
    "ISO_IR 126": "Παπαδόπουλος^Γιώργος",
    "ISO_IR 127": "محمد^علي",
    "\\ISO 2022 IR 87": "Yamada^Tarou=山田^太郎=やまだ^たろう",
    "\\ISO 2022 IR 149": "Hong^Gildong=洪^吉洞=홍^길동",
    "GB18030": "Wang^XiaoDong=王^小东",
    "ISO_IR 192": "Wang^XiaoDong=王^小东=",
}
IR_58_NAME = "Zhang^XiaoDong=张^小东"


def identity_with(charset: str, name: str) -> Dataset:
    identity = Dataset()
    identity.SpecificCharacterSet = charset.split("\\")
    identity.PatientName = name
    identity.PatientID = "P-1"
    identity.PatientBirthDate = "19700101"
    identity.PatientSex = "F"
    identity.StudyInstanceUID = derived_uid("study", charset)
    identity.StudyDate = "20260102"
    identity.StudyTime = "101500"
    identity.StudyID = "1"
    identity.AccessionNumber = "A-1"
    return identity


def ir_58_header(through_file) -> Dataset:
    """ISO 2022 IR 58 as other software writes it; pydicom leaves out the escape sequences of PS3.5 6.1.2.5."""
    placeholder = "Zhang^XiaoDong=" + "#" * 14
    header = identity_with("\\ISO 2022 IR 58", placeholder)
    read = through_file(header)
    chinese = b"Zhang^XiaoDong=\x1b$)A" + "张".encode("gb2312") + b"^\x1b$)A" + "小东".encode("gb2312")
    element = read.get_item("PatientName")
    read._dict[element.tag] = element._replace(value=chinese, length=len(chinese))
    return read


@pytest.mark.parametrize("charset", NAMES)
@pytest.mark.parametrize("mode", ["utf8", "keep"])
def test_names_survive(charset: str, mode: str, context: ReportContext, reread, through_file) -> None:
    header = through_file(identity_with(charset, NAMES[charset]))
    findings, volume = make_case(PhantomCase(), header)
    options = ReportOptions(charset=mode)
    for result in build(
        findings, volume, dataclasses.replace(context, options=options), ("seg", "gsps", "sr")
    ):
        dataset = reread(result)
        assert (
            str(dataset.PatientName) == NAMES[charset].rstrip("=")
            or str(dataset.PatientName) == NAMES[charset]
        )
        stored = dataset.SpecificCharacterSet
        stored = stored if isinstance(stored, str) else "\\".join(stored)
        assert stored == ("ISO_IR 192" if mode == "utf8" else charset)


@pytest.mark.parametrize("mode", ["utf8", "keep"])
def test_simplified_chinese_with_escapes(mode: str, context: ReportContext, reread, through_file) -> None:
    findings, volume = make_case(PhantomCase(), ir_58_header(through_file))
    (sr,) = build(
        findings, volume, dataclasses.replace(context, options=ReportOptions(charset=mode)), ("sr",)
    )
    name = str(reread(sr).PatientName).replace("\x1b$)A", "")
    assert name == IR_58_NAME


def test_names_inside_sequences_are_converted_too(through_file) -> None:
    header = identity_with("ISO_IR 144", "Иванов^Иван")
    request = Dataset()
    request.RequestedProcedureDescription = "КТ грудной клетки"
    request.RequestedProcedureID = "R-1"
    header.RequestAttributesSequence = Sequence([request])
    identity = identity_of(through_file(header))
    assert identity.requests[0].RequestedProcedureDescription == "КТ грудной клетки"


@pytest.mark.parametrize("kind", OBJECT_KINDS)
def test_absent_type_2_attributes_are_added_empty(kind: str, context: ReportContext, reread) -> None:
    bare = Dataset()
    bare.StudyInstanceUID = derived_uid("bare")
    findings, volume = make_case(PhantomCase(), bare)
    for result in build(findings, volume, context, (kind,)):
        dataset = reread(result)
        for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime",
                        "ReferringPhysicianName", "StudyID", "AccessionNumber"):  # fmt: skip
            assert keyword in dataset, keyword
            assert not dataset[keyword].value


@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_odd_values_are_neither_corrected_nor_fatal(context: ReportContext, reread, through_file) -> None:
    odd = identity_with("ISO_IR 100", "A" * 90)
    odd.add_new("PatientID", "LO", "X" * 70)
    odd.add_new("StudyDate", "DA", "2020.03.01")
    odd.add_new("PatientBirthDate", "DA", "unknown")
    odd.add_new("PatientSex", "CS", "female")
    findings, volume = make_case(PhantomCase(), through_file(odd))
    for result in build(findings, volume, context, ("seg", "gsps", "pm", "sr", "kos", "sc", "pdf")):
        dataset = reread(result)
        assert dataset.PatientID == "X" * 70
        assert dataset.get_item("StudyDate").value.strip() == b"2020.03.01"
        assert dataset.get_item("PatientBirthDate").value.strip() == b"unknown"
        assert dataset.PatientSex == "female"


def request_item() -> Dataset:
    request = Dataset()
    request.RequestedProcedureID = "RP-7"
    request.AccessionNumber = "A-1"
    request.ScheduledProcedureStepID = "SPS-9"
    return request


def test_requests_are_carried_over(context: ReportContext, reread) -> None:
    header = identity_with("ISO_IR 100", "Requested^One")
    header.RequestAttributesSequence = Sequence([request_item()])
    findings, volume = make_case(PhantomCase(), header)
    for result in build(
        findings, volume, context, ("seg", "gsps", "pm", "sr", "sr_enhanced", "kos", "sc", "pdf")
    ):
        dataset = reread(result)
        if dataset.Modality in ("SR", "KO"):
            (item,) = dataset.ReferencedRequestSequence
            assert item.StudyInstanceUID == header.StudyInstanceUID
            assert "ScheduledProcedureStepID" not in item
        else:
            (item,) = dataset.RequestAttributesSequence
            assert item.ScheduledProcedureStepID == "SPS-9"
        assert item.RequestedProcedureID == "RP-7"


def test_study_description_and_age_are_copied(context: ReportContext, reread) -> None:
    header = identity_with("ISO_IR 100", "Copied^All")
    header.StudyDescription, header.PatientAge, header.IssuerOfPatientID = (
        "CT Thorax nativ",
        "056Y",
        "HOSPITAL",
    )
    findings, volume = make_case(PhantomCase(), header)
    for result in build(findings, volume, context, ("seg", "gsps", "pm", "sr", "kos", "sc", "pdf")):
        dataset = reread(result)
        copied = (dataset.StudyDescription, dataset.PatientAge, dataset.IssuerOfPatientID)
        assert copied == ("CT Thorax nativ", "056Y", "HOSPITAL")
