"""Small right inputs, from which a fuzzer makes wrong ones."""

from __future__ import annotations

from io import BytesIO

from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    CTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from pynetdicom.dsutils import encode

UIDS = ("1.2.3.1.1", "1.2.3", "1.2.3.1")
"""SOP Instance, Study Instance and Series Instance UID of the image."""


def image() -> Dataset:
    """A CT image of 4 x 4 pixels with sequences in it, of undefined and of defined length."""
    dataset = Dataset()
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID, dataset.StudyInstanceUID, dataset.SeriesInstanceUID = UIDS
    dataset.FrameOfReferenceUID = "1.2.3.9"
    dataset.Modality, dataset.Manufacturer, dataset.PatientID = "CT", "maker", "patient"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.ReferencedStudySequence = Sequence([Dataset(), Dataset()])
    dataset["ReferencedStudySequence"].is_undefined_length = True
    requested = Dataset()
    requested.RequestedProcedurePriority = "HIGH"
    dataset.RequestAttributesSequence = Sequence([requested])
    dataset.InstanceNumber = 1
    dataset.ImagePositionPatient = [0, 0, 1]
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing, dataset.SliceThickness = [0.7, 0.7], 1
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows = dataset.Columns = 4
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 1
    dataset.RescaleIntercept, dataset.RescaleSlope = -1024, 1
    dataset.add_new("PixelData", "OW", bytes(32))
    return dataset


def encoded(dataset: Dataset, syntax: UID) -> bytes:
    """A data set in an uncompressed transfer syntax."""
    implicit, little = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
    return encode(dataset, implicit, little) or b""


def file_of(dataset: Dataset, syntax: UID = ExplicitVRLittleEndian) -> bytes:
    """A data set as a DICOM file."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    whole = FileDataset(None, dataset, file_meta=meta)
    buffer = BytesIO()
    dcmwrite(buffer, whole, enforce_file_format=True)
    return buffer.getvalue()
