"""Volumes from files: order, Hounsfield units, padding, doubles, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    SecondaryCaptureImageStorage,
)

from engine.decoding import stream_size, to_hu
from engine.errors import EngineError, NotScreenable, Undecodable
from engine.loading import load_series
from engine.series_choice import SeriesRules


def rotation(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """Rotation about z, x and y, angles in degrees."""
    a, b, c = np.radians([yaw, pitch, roll])
    rz = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    rx = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    ry = np.array([[np.cos(c), 0, np.sin(c)], [0, 1, 0], [-np.sin(c), 0, np.cos(c)]])
    return rz @ rx @ ry


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(
    yaw=st.floats(-180, 180),
    pitch=st.floats(-15, 15),
    roll=st.floats(-15, 15),
    upside_down=st.booleans(),
    shear=st.floats(-0.4, 0.4),
    gaps=st.lists(st.floats(0.5, 12), min_size=3, max_size=7),
    seed=st.integers(0, 1000),
)
def test_order_and_geometry_come_from_position_and_orientation(
    write_slice, yaw, pitch, roll, upside_down, shear, gaps, seed
) -> None:
    """Oblique, tilted (sheared), feet first, uneven: slices are ordered along the normal whatever else is said."""
    turn = rotation(yaw, pitch, roll)
    if upside_down:
        turn = turn @ np.diag([1.0, -1.0, -1.0])
    row, column, normal = turn[:, 0], turn[:, 1], turn[:, 2]
    offsets = np.concatenate([[0], np.cumsum(gaps)])
    positions = [50 * row + o * (normal + shear * column) for o in offsets]
    shuffled = np.random.default_rng(seed).permutation(len(offsets))
    orientation = [f"{v:.9f}" for v in (*row, *column)]
    paths = [
        write_slice(
            instance=int(100 - k),
            position=positions[k],
            stored=np.full((4, 4), 1024 + k, np.uint16),
            ImageOrientationPatient=orientation,
            SliceLocation=str(int(-k)),
        )
        for k in shuffled
    ]
    volume = load_series(paths)
    assert volume.hu[:, 0, 0].tolist() == list(range(len(offsets)))
    np.testing.assert_allclose(volume.geometry.offsets - volume.geometry.offsets[0], offsets, atol=1e-3)
    np.testing.assert_allclose(volume.geometry.positions, positions, atol=1e-3)
    np.testing.assert_allclose(volume.geometry.normal, normal, atol=1e-6)
    assert [int(volume.header_of(z).InstanceNumber) for z in range(len(offsets))] == [
        100 - k for k in range(len(offsets))
    ]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    slope=st.sampled_from([1.0, 0.5, 2.0, 1.25]),
    intercept=st.sampled_from([-1024.0, 0.0, -1000.5, -8192.0]),
    values=st.lists(st.integers(-32768, 32767), min_size=4, max_size=4),
)
def test_rescale_rounds_and_clips(slope: float, intercept: float, values: list[int]) -> None:
    stored = np.array(values, dtype=np.int16)
    expected = np.clip(np.rint(stored.astype(float) * slope + intercept), -1024, 32767)
    np.testing.assert_array_equal(to_hu(stored, slope, intercept, None), expected)


def test_padding_and_what_is_below_air_become_air(write_slice) -> None:
    stored = np.array([[-2000, -1025, -1024, 0], [3000, 3001, 500, -32768]], dtype=np.int16)
    path = write_slice(
        1, (0, 0, 0), stored, RescaleIntercept=0, PixelPaddingValue=3000, PixelPaddingRangeLimit=3001
    )
    assert load_series([path]).hu[0].tolist() == [[-1024, -1024, -1024, 0], [-1024, -1024, 500, -1024]]


@pytest.mark.parametrize("padding", [63536, -2000])
def test_padding_is_taken_with_the_sign_of_the_pixels(write_slice, padding: int) -> None:
    stored = np.array([[-2000, 40]], dtype=np.int16).repeat(2, axis=0)
    path = write_slice(1, (0, 0, 0), stored, RescaleIntercept=1100)
    dataset = pydicom.dcmread(path)
    dataset.add_new("PixelPaddingValue", "US" if padding > 0 else "SS", padding)
    dataset.save_as(path)
    assert load_series([path]).hu[0, 0].tolist() == [-1024, 1140]


def test_doubled_positions_keep_the_lowest_instance_number(write_slice) -> None:
    paths = [write_slice(n, (0, 0, 2.0 * (n // 2))) for n in range(6)]
    volume = load_series(paths)
    assert [int(h.InstanceNumber) for h in volume.headers] == [0, 2, 4]
    assert "3 of its images left out" in volume.series_choice


def test_two_acquisitions_of_one_series_are_not_mixed(write_slice) -> None:
    first = [write_slice(n, (0, 0, 2.0 * n), AcquisitionNumber=1) for n in range(4)]
    second = [write_slice(10 + n, (0, 0, 2.0 * n), AcquisitionNumber=2) for n in range(5)]
    assert [int(h.AcquisitionNumber) for h in load_series(first + second).headers] == [2] * 5


def test_images_of_other_geometry_are_left_out(write_slice) -> None:
    paths = [write_slice(n, (0, 0, 2.0 * n)) for n in range(5)]
    paths.append(write_slice(20, (0, 0, 3), np.zeros((6, 6), np.uint16)))
    paths.append(write_slice(21, (0, 0, 5), PixelSpacing=[0.9, 0.9]))
    paths.append(write_slice(22, (0, 0, 7), FrameOfReferenceUID="1.2.9"))
    volume = load_series(paths)
    assert volume.shape == (5, 8, 8)
    assert "3 of its images left out" in volume.series_choice


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"ImagePositionPatient": None}, "no ImagePositionPatient"),
        ({"ImageOrientationPatient": None}, "no ImageOrientationPatient"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "not orthogonal"),
        ({"ImageOrientationPatient": [0, 0, 0, 0, 1, 0]}, "unit length"),
        ({"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}, "not axial"),
        ({"PixelSpacing": None}, "no PixelSpacing"),
        ({"PixelSpacing": [0, 0]}, "PixelSpacing of 0"),
        ({"FrameOfReferenceUID": None}, "no FrameOfReferenceUID"),
        ({"RescaleSlope": None}, "no Hounsfield units"),
        ({"RescaleSlope": 0}, "rescale slope"),
        ({"RescaleType": "MGML"}, "RescaleType is MGML"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localizer"),
        ({"ImageType": ["DERIVED", "SECONDARY", "AXIAL"]}, "localizer or secondary"),
        ({"ImageType": ["DERIVED", "PRIMARY", "MPR"]}, "reformatted"),
        ({"SOPClassUID": SecondaryCaptureImageStorage}, "not a CT image"),
        ({"Modality": "MR"}, "Modality is MR"),
        ({"SamplesPerPixel": 3}, "colour"),
        ({"Rows": 60000}, "60000 x 8"),
        ({"SeriesInstanceUID": "../../etc/<b>"}, "SeriesInstanceUID is not a UID"),
        ({"NumberOfFrames": 9}, "several frames"),
    ],
)
def test_unfit_images_are_refused_with_the_reason(write_slice, attributes: dict, reason: str) -> None:
    paths = [write_slice(n, (0, 0, 2.0 * n), **attributes) for n in range(2)]
    with pytest.raises(NotScreenable, match=reason) as caught:
        load_series(paths)
    assert "\n" not in str(caught.value)
    assert "<" not in str(caught.value)


def test_damaged_pixels_fail_with_the_name_of_the_file(write_slice) -> None:
    paths = [write_slice(n, (0, 0, 2.0 * n)) for n in range(3)]
    paths[1].write_bytes(paths[1].read_bytes()[:-40])
    with pytest.raises(Undecodable, match=paths[1].name):
        load_series(paths)


def test_nothing_readable_is_undecodable(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    (tmp_path / "b").write_bytes(b"PK\x03\x04" * 99)
    with pytest.raises(Undecodable, match="no file is readable as DICOM"):
        load_series([tmp_path / "a", tmp_path / "b", tmp_path / "absent"])
    with pytest.raises(NotScreenable, match="no files"):
        load_series([])


def test_every_prefix_of_a_file_is_survived(write_slice) -> None:
    path = write_slice(1, (0, 0, 0))
    content = path.read_bytes()
    for length in range(0, len(content), 37):
        path.write_bytes(content[:length])
        with pytest.raises(EngineError):
            load_series([path])


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(data=st.data())
def test_flipped_bytes_are_survived(write_slice, data: st.DataObject) -> None:
    path = write_slice(1, (0, 0, 0))
    content = bytearray(path.read_bytes())
    for _ in range(4):
        content[data.draw(st.integers(132, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        volume = load_series([path])
    except EngineError as error:
        assert "\n" not in str(error)
    else:
        assert volume.hu.min() >= -1024


def test_a_series_beyond_the_limit_is_refused_before_decoding(write_slice) -> None:
    paths = [write_slice(n, (0, 0, 2.0 * n)) for n in range(3)]
    with pytest.raises(NotScreenable, match="million voxels"):
        load_series(paths, SeriesRules(max_voxels=150))


def test_a_deflated_file_that_swells_beyond_measure_is_refused(write_slice, monkeypatch) -> None:
    monkeypatch.setattr("engine.headers.MAX_INFLATED_BYTES", 1 << 20)
    path = write_slice(1, (0, 0, 0))
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.add_new("TextValue", "UT", "x" * (1 << 21))
    dataset.save_as(path)
    assert path.stat().st_size < 1 << 16
    with pytest.raises(Undecodable, match="inflates to more than 1 MiB"):
        load_series([path])


@pytest.mark.parametrize(
    ("syntax", "side"),
    [(RLELossless, 128), (JPEGLSLossless, 16), (JPEG2000Lossless, 16), (JPEG2000Lossless, 128)],
)
def test_a_code_stream_of_another_size_is_refused(write_slice, syntax, side: int) -> None:
    stored = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
    path = write_slice(1, (0, 0, 0), stored)
    dataset = pydicom.dcmread(path)
    dataset.compress(syntax)
    dataset.save_as(path)
    np.testing.assert_array_equal(load_series([path]).hu[0], stored.astype(int) - 1024)
    dataset.Rows = dataset.Columns = side
    dataset.save_as(path)
    with pytest.raises(Undecodable, match=path.name):
        load_series([path])


def test_stream_size_of_streams_without_a_size() -> None:
    assert stream_size(b"") is None
    assert stream_size(b"\xff\xd8\xff\xe0\x00\x04ab\xff\xd9") is None
    assert stream_size(b"\xff\xd8\xff\xc3\x00\x0b\x10\x02\x00\x01\x00\x01") == (512, 256)


def enhanced(write_slice, frames: int) -> Path:
    """An Enhanced CT of frames 3 mm apart, stored head to feet, position and rescale per frame."""
    stored = np.arange(frames, dtype=np.uint16)[:, None, None].repeat(8, 1).repeat(8, 2)
    path = write_slice(1, (0, 0, 0), stored[0])
    ds = pydicom.dcmread(path)
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        del ds[keyword]
    del ds.RescaleSlope, ds.RescaleIntercept
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    ds.NumberOfFrames, ds.PixelData = frames, stored.tobytes()
    measures, plane, shared = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [0.7, 0.8], 3
    plane.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    shared.PixelMeasuresSequence = Sequence([measures])
    shared.PlaneOrientationSequence = Sequence([plane])
    ds.SharedFunctionalGroupsSequence = Sequence([shared])
    items = []
    for n in range(frames):
        position, values, item = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = [0, 0, -3 * n]
        values.RescaleSlope, values.RescaleIntercept, values.RescaleType = 1, -1000, "HU"
        item.PlanePositionSequence = Sequence([position])
        item.PixelValueTransformationSequence = Sequence([values])
        items.append(item)
    ds.PerFrameFunctionalGroupsSequence = Sequence(items)
    ds.save_as(path)
    return path


def test_frames_of_enhanced_ct_are_slices(write_slice) -> None:
    volume = load_series([enhanced(write_slice, 5)])
    assert volume.hu[:, 0, 0].tolist() == [-996, -997, -998, -999, -1000]
    assert [s.frame_number for s in volume.sources] == [5, 4, 3, 2, 1]
    assert {s.header for s in volume.sources} == {0}
    assert volume.geometry.pixel_spacing == (0.7, 0.8)
    assert volume.geometry.slice_thickness == 3


def test_enhanced_ct_with_missing_items_is_refused(write_slice) -> None:
    path = enhanced(write_slice, 3)
    dataset = pydicom.dcmread(path)
    dataset.PerFrameFunctionalGroupsSequence = dataset.PerFrameFunctionalGroupsSequence[:2]
    dataset.save_as(path)
    with pytest.raises(NotScreenable, match="3 frames, but 2 items"):
        load_series([path])


SHAPES = {
    "covid-1": (74, 512, 512),
    "cap-1": (34, 512, 512),
    "normal-1": (26, 512, 512),
    "nlst-1": (20, 512, 512),
}


@pytest.mark.real_data
@pytest.mark.parametrize("case", SHAPES)
def test_real_series_load_in_order_and_in_hu(real_data: Path, case: str) -> None:
    volume = load_series((real_data / "ct" / case).iterdir())
    assert volume.shape == SHAPES[case]
    assert (np.diff(volume.geometry.positions[:, 2]) > 0).all()
    assert volume.hu.min() == -1024
    assert 1000 < volume.hu.max() < 3100
    table_free = volume.hu[:, 128:384, 128:384]
    assert -1000 < np.median(table_free[table_free < -500]) < -750


@pytest.mark.real_data
def test_one_image_is_the_same_in_every_transfer_syntax(real_data: Path) -> None:
    names = (
        "explicit_le",
        "explicit_be",
        "implicit_le",
        "deflated",
        "jpeg_lossless_sv1",
        "jpegls",
        "rle",
        "j2k_lossless",
    )
    images = [load_series([real_data / "odd" / f"ct_{name}.dcm"]).hu for name in names]
    for image in images[1:]:
        np.testing.assert_array_equal(image, images[0])


@pytest.mark.real_data
def test_odd_files_alone_give_a_volume_or_a_reason_of_one_line(real_data: Path) -> None:
    for path in sorted((real_data / "odd").iterdir()):
        try:
            assert load_series([path]).shape[0] == 1
        except EngineError as error:
            assert str(error), path
            assert "\n" not in str(error)


@pytest.mark.real_data
def test_odd_files_do_not_disturb_a_good_series(real_data: Path, tmp_path: Path) -> None:
    series = [shutil.copy(p, tmp_path) for p in sorted((real_data / "ct" / "normal-1").iterdir())]
    alone = load_series(series)
    together = load_series([*(real_data / "odd").iterdir(), *series])
    assert together.series_instance_uid == alone.series_instance_uid
    np.testing.assert_array_equal(together.hu, alone.hu)
    assert "not considered" in together.series_choice
