"""The quick encoder writes what pydicom writes."""

from __future__ import annotations

import io
from dataclasses import replace

import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from engine.findings import Findings
from engine.volume import Volume
from reporting import OBJECT_KINDS, ReportContext, ReportOptions, build
from reporting.encoding import encoded
from reporting.phantom_case import PhantomCase, make_case


def by_pydicom(dataset: Dataset) -> bytes:
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def test_every_object_is_encoded_as_pydicom_does(
    case: tuple[Findings, Volume], context: ReportContext
) -> None:
    results = build(*case, context, OBJECT_KINDS)
    assert {result.kind for result in results} == set(OBJECT_KINDS)
    for result in results:
        assert result.encoded == by_pydicom(result.dataset), result.name


@pytest.mark.parametrize(
    ("charset", "name"),
    [
        ("ISO_IR 192", "山田^太郎"),
        ("ISO_IR 144", "Люкceмбypг"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎"),
        (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞"),
        ("GB18030", "Wang^XiaoDong=王^小东"),
    ],
)
def test_text_of_every_character_set(charset: str | list[str], name: str) -> None:
    dataset = _dataset()
    dataset.SpecificCharacterSet = charset
    dataset.PatientName = name
    item = Dataset()
    item.CodeMeaning = name.split("^")[-1]
    item.RequestedProcedureDescription = "plain"
    dataset.ProcedureCodeSequence = [item]
    assert encoded(dataset) == by_pydicom(dataset)


def test_what_is_not_plain_is_left_to_pydicom() -> None:
    dataset = _dataset()
    dataset.PixelRepresentation = 1
    dataset.SmallestImagePixelValue = -3  # US or SS, by the representation
    dataset.ImageType = ["DERIVED", "PRIMARY"]
    dataset.ImagePositionPatient = ["1.5", "-2.25", "0"]
    dataset.AccessionNumber = ""
    dataset.StudyID = None
    dataset.ReferencedFrameNumber = [1, 2]
    item = Dataset()
    item.ReferencedSOPInstanceUID = "1.2.3"
    item.is_undefined_length_sequence_item = True
    dataset.SourceImageSequence = [item]
    dataset.OtherPatientIDsSequence = []
    dataset.add_new(0x00090010, "LO", "A VENDOR")
    dataset.add_new(0x00091001, "UN", b"abc")
    assert encoded(dataset) == by_pydicom(dataset)


def test_elements_as_they_were_read() -> None:
    """Elements that nobody has looked at since they were read are written as they are."""
    written = DicomBytesIO()
    written.is_little_endian, written.is_implicit_VR = True, False
    write_dataset(written, make_case(PhantomCase())[1].headers[0])
    read = pydicom.dcmread(io.BytesIO(written.getvalue()), force=True)
    dataset = _dataset()
    for tag in (0x00100010, 0x00200032, 0x00280030):
        dataset._dict[pydicom.tag.Tag(tag)] = read.get_item(tag)
    assert encoded(dataset) == by_pydicom(dataset)


def test_deflated_files(context: ReportContext) -> None:
    deflated = replace(context, options=ReportOptions(deflated=True))
    (seg,) = build(*make_case(PhantomCase()), deflated, ("seg",))
    assert seg.dataset.file_meta.TransferSyntaxUID == DeflatedExplicitVRLittleEndian
    assert seg.encoded == by_pydicom(seg.dataset)


def _dataset() -> Dataset:
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.88.34", "2.25.1"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.ImplementationClassUID = "2.25.2"
    return dataset
