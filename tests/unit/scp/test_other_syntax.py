"""One instance in two encodings, and what only looks like it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    EnhancedSRStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from scp import other_syntax
from scp.other_syntax import is_same_in_other_syntax

Save = Callable[..., Path]


def image(syntax: str = ExplicitVRLittleEndian) -> Dataset:
    """A CT slice of 16 x 16, with values below zero and an attribute whose VR depends on the pixels' sign."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, "1.2.3.1.1"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.3", "1.2.3.1"
    dataset.Modality, dataset.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.ImagePositionPatient, dataset.ImageOrientationPatient = [0, 0, 1], [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing = [0.7, 0.7]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows = dataset.Columns = 16
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 1
    dataset.RescaleIntercept, dataset.RescaleSlope = 0, 1
    dataset.add_new("SmallestImagePixelValue", "SS", -900)
    pixels = np.random.default_rng(1).integers(-900, 900, (16, 16), dtype=np.int16)
    dataset.PixelData = pixels.tobytes()
    if syntax in (ImplicitVRLittleEndian, ExplicitVRBigEndian):
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.PixelData = pixels.byteswap().tobytes() if syntax == ExplicitVRBigEndian else pixels.tobytes()
    elif syntax != ExplicitVRLittleEndian:
        dataset.compress(syntax, generate_instance_uid=False)
    return dataset


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def save(dataset: Dataset) -> Path:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        return path

    return save


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless, JPEGLSLossless])
def test_nothing_but_the_encoding_differs(save: Save, syntax: str) -> None:
    native, other = save(image()), save(image(syntax))
    assert is_same_in_other_syntax(native, other)
    assert is_same_in_other_syntax(other, native)


def test_what_an_encoder_writes_of_itself_is_no_difference(save: Save) -> None:
    described = image(RLELossless)
    described.DerivationDescription = "Lossless compression, ratio 2.3"
    described.DataSetTrailingPadding = bytes(10)
    assert is_same_in_other_syntax(save(image()), save(described))


def test_an_object_without_pixels_is_compared_by_its_attributes(save: Save) -> None:
    report = Dataset()
    report.file_meta = FileMetaDataset()
    report.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    report.SOPClassUID, report.SOPInstanceUID = EnhancedSRStorage, "1.2.3.9"
    first = save(report)
    report.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    second = save(report)
    report.PatientID = "other"
    assert is_same_in_other_syntax(first, second)
    assert not is_same_in_other_syntax(first, save(report))


def test_one_pixel_makes_another_image(save: Save) -> None:
    changed = image()
    changed.PixelData = bytes([changed.PixelData[0] ^ 1]) + changed.PixelData[1:]
    changed.compress(RLELossless, generate_instance_uid=False)
    assert not is_same_in_other_syntax(save(image()), save(changed))


def test_what_lost_something_is_another_image(save: Save) -> None:
    lossy = image()
    lossy.compress(JPEGLSNearLossless, jls_error=40, generate_instance_uid=False)
    assert not is_same_in_other_syntax(save(image()), save(lossy))


def test_the_same_encoding_with_other_bytes_is_another_image(save: Save) -> None:
    with_padding = image()
    with_padding.DataSetTrailingPadding = bytes(10)
    assert not is_same_in_other_syntax(save(image()), save(with_padding))


def test_what_cannot_be_decoded_is_not_the_same(save: Save, tmp_path: Path) -> None:
    damaged = save(image(JPEGLSLossless))
    damaged.write_bytes(damaged.read_bytes()[:-150])
    assert not is_same_in_other_syntax(save(image()), damaged)
    assert not is_same_in_other_syntax(save(image()), tmp_path / "gone.dcm")


def test_what_is_large_is_not_compared(save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(other_syntax, "MAX_BYTES", 100)
    assert not is_same_in_other_syntax(save(image()), save(image(RLELossless)))
