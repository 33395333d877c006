"""The masks arrive at the right voxels, whatever the geometry and the encoding."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from engine.findings import Findings
from engine.label_volume import LabelVolume
from engine.volume import Volume
from reporting import ReportContext, ReportOptions, ResultObject, VerificationError, build
from reporting.phantom_case import PhantomCase, make_case
from reporting.segments import LesionSegment
from reporting.verification import verify_segmentation


def stored_labels(dataset: Dataset, volume: Volume) -> np.ndarray:
    """The label map that highdicom reads, frame by frame from the references of the file."""
    segmentation = hd.seg.Segmentation.from_dataset(dataset)
    how = {
        "combine_segments": True,
        "ignore_spatial_locations": True,
        "assert_missing_frames_are_empty": True,
    }
    if volume.sources[0].frame_number is None:
        return segmentation.get_pixels_by_source_instance([s.sop_instance_uid for s in volume.sources], **how)
    frames = [s.frame_number for s in volume.sources]
    return segmentation.get_pixels_by_source_frame(volume.sources[0].sop_instance_uid, frames, **how)


def test_mask_round_trip_on_every_geometry(case, context: ReportContext, reread) -> None:
    findings, volume = case
    (seg,) = build(findings, volume, context, ("seg",))
    assert np.array_equal(stored_labels(reread(seg), volume), findings.lesion_labels)


def test_every_voxel_lies_where_the_volume_says(case, context: ReportContext, reread) -> None:
    findings, volume = case
    (seg,) = build(findings, volume, context, ("seg",))
    dataset = reread(seg)
    shared = dataset.SharedFunctionalGroupsSequence[0]
    iop = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float)
    rows, columns = (float(v) for v in shared.PixelMeasuresSequence[0].PixelSpacing)
    points: dict[int, list[np.ndarray]] = {}
    for groups, frame in zip(dataset.PerFrameFunctionalGroupsSequence, dataset.pixel_array, strict=True):
        origin = np.array(groups.PlanePositionSequence[0].ImagePositionPatient, float)
        y, x = np.nonzero(frame)
        placed = origin + y[:, None] * rows * iop[3:] + x[:, None] * columns * iop[:3]
        points.setdefault(groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber, []).append(placed)
    for lesion in findings.lesions:
        centroid = np.concatenate(points[lesion.label]).mean(axis=0)
        assert np.allclose(centroid, lesion.centroid, atol=0.01)


@pytest.mark.parametrize(
    "options",
    [
        ReportOptions(segmentation="labelmap"),
        ReportOptions(deflated=True),
        ReportOptions(omit_empty_frames=False),
        ReportOptions(individual_lesions=1),
    ],
    ids=["labelmap", "deflated", "all frames", "one segment for the rest"],
)
def test_encodings_hold_the_same_mask(options: ReportOptions, context: ReportContext, reread) -> None:
    findings, volume = make_case(PhantomCase(lesions=3))
    (seg,) = build(findings, volume, dataclasses.replace(context, options=options), ("seg",))
    dataset = reread(seg)
    expected = np.minimum(findings.lesion_labels, options.individual_lesions + 1)
    assert np.array_equal(stored_labels(dataset, volume), expected)
    if options.deflated:
        assert dataset.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1.99"
    if not options.omit_empty_frames:
        assert dataset.NumberOfFrames == 3 * volume.shape[0]
    if options.segmentation == "labelmap":
        assert dataset.SOPClassUID == "1.2.840.10008.5.1.4.1.1.66.7"


def test_more_than_twenty_lesions_share_the_last_segment(context: ReportContext, reread) -> None:
    findings, volume = make_case(PhantomCase(matrix=256, lesions=24))
    (seg,) = build(findings, volume, context, ("seg",))
    dataset = reread(seg)
    assert len(dataset.SegmentSequence) == 21
    assert dataset.SegmentSequence[20].SegmentLabel == "Lesions 21 to 24"
    assert np.array_equal(stored_labels(dataset, volume) > 0, findings.lesion_labels > 0)


def test_no_lesion_makes_no_segmentation(context: ReportContext) -> None:
    findings, volume = make_case(PhantomCase(lesion_slices=0))
    assert [r.kind for r in build(findings, volume, context, ("seg", "sr"))] == ["sr"]


def test_no_lung_makes_no_lung_segmentation(context: ReportContext) -> None:
    findings, volume = make_case(PhantomCase(lesion_slices=0))
    lungless = dataclasses.replace(findings, lung_mask=np.zeros_like(findings.lung_mask))
    assert build(lungless, volume, context, ("lung_seg",)) == ()


def test_lungs_are_an_object_of_their_own(case, context: ReportContext, reread) -> None:
    findings, volume = case
    (lungs,) = build(findings, volume, context, ("lung_seg",))
    assert np.array_equal(stored_labels(reread(lungs), volume) > 0, findings.lung_mask)


def test_volume_over_two_multi_frame_instances(context: ReportContext, reread) -> None:
    findings, volume = split_in_two(*make_case(PhantomCase(slices=8, lesion_slices=6, multi_frame=True)))
    (seg, *_) = build(findings, volume, context, ("seg", "gsps", "pm", "sr", "kos"))
    segmentation = hd.seg.Segmentation.from_dataset(reread(seg))
    how = {
        "combine_segments": True,
        "ignore_spatial_locations": True,
        "assert_missing_frames_are_empty": True,
    }
    for part in (0, 1):
        own = [z for z, s in enumerate(volume.sources) if s.header == part]
        frames = [volume.sources[z].frame_number for z in own]
        uid = volume.headers[part].SOPInstanceUID
        stored = segmentation.get_pixels_by_source_frame(uid, frames, **how)
        assert np.array_equal(stored, findings.lesion_labels[own])


def split_in_two(findings: Findings, volume: Volume) -> tuple[Findings, Volume]:
    """The same study with its frames in two Enhanced CT instances."""
    first = volume.headers[0]
    second = pydicom.Dataset()
    second.update(first)
    frames = list(first.PerFrameFunctionalGroupsSequence)
    half = len(frames) // 2
    headers = []
    for k, part in enumerate((frames[:half], frames[half:])):
        header = pydicom.Dataset()
        header.update({e.tag: e for e in first})
        header.add_new("SOPInstanceUID", "UI", f"{first.SOPInstanceUID[:-2]}{k}")
        header.add_new("NumberOfFrames", "IS", len(part))
        header.add_new("PerFrameFunctionalGroupsSequence", "SQ", part)
        headers.append(header)
    sources = []
    for source in volume.sources:
        part, frame = divmod(source.frame_number - 1, half)
        uid = headers[part].SOPInstanceUID
        sources.append(dataclasses.replace(source, sop_instance_uid=uid, frame_number=frame + 1, header=part))
    return findings, dataclasses.replace(volume, headers=tuple(headers), sources=tuple(sources))


@pytest.mark.parametrize("spoil", ["mirrored", "one slice off", "one voxel"])
def test_verification_finds_a_wrong_mask(spoil: str, context: ReportContext) -> None:
    findings, volume = make_case(PhantomCase())
    (seg,) = build(findings, volume, context, ("seg",))
    wrong = np.asarray(findings.lesion_labels, dtype=np.uint8)
    if spoil == "mirrored":
        wrong = wrong[:, :, ::-1]
    elif spoil == "one slice off":
        wrong = np.roll(wrong, 1, axis=0)
    else:
        wrong[0, 0, 0] = 1
    with pytest.raises(VerificationError, match="differs from the mask"):
        verify_segmentation(seg.encoded, LabelVolume.of(wrong), volume)


def bytes_of(findings: Findings) -> LabelVolume:
    """The lesions by their numbers."""
    return findings.lesion_labels.relabelled(np.arange(256, dtype=np.uint8))


def test_verification_finds_a_wrong_place(context: ReportContext) -> None:
    findings, volume = make_case(PhantomCase())
    (seg,) = build(findings, volume, context, ("seg",))
    moved = dataclasses.replace(volume.geometry, positions=volume.geometry.positions + np.array([0, 0, 2]))
    with pytest.raises(VerificationError, match=r"2\.0 mm from its place"):
        verify_segmentation(seg.encoded, bytes_of(findings), dataclasses.replace(volume, geometry=moved))


def test_verification_finds_an_unreadable_segmentation(context: ReportContext) -> None:
    findings, volume = make_case(PhantomCase())
    (sr,) = build(findings, volume, context, ("sr",))
    with pytest.raises(VerificationError, match="cannot be read back"):
        verify_segmentation(sr.encoded, bytes_of(findings), volume)


def test_viewers_find_source_series_and_images(case, context: ReportContext, reread) -> None:
    """OHIF shows nothing without the referenced series; frames without source image land on wrong slices."""
    findings, volume = case
    (seg,) = build(findings, volume, context, ("seg",))
    dataset = reread(seg)
    assert dataset.ReferencedSeriesSequence[0].SeriesInstanceUID == volume.series_instance_uid
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        (source,) = frame.DerivationImageSequence[0].SourceImageSequence
        assert source.SpatialLocationsPreserved == "YES"
    assert (dataset.Rows, dataset.Columns) == volume.shape[1:]


def test_segments_say_what_they_are_and_who_made_them(context: ReportContext, reread) -> None:
    findings, volume = make_case(PhantomCase())
    (seg,) = build(findings, volume, context, ("seg",))
    for number, segment in enumerate(reread(seg).SegmentSequence, 1):
        assert segment.SegmentNumber == number
        assert segment.SegmentAlgorithmType == "AUTOMATIC"
        assert segment.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Lesion"
        algorithm = segment.SegmentationAlgorithmIdentificationSequence[0]
        assert findings.jcs.package.sha256[:12] in algorithm.AlgorithmVersion
        assert findings.jcs.package.sha256 in algorithm.AlgorithmParameters


def test_mean_of_a_shared_segment_is_weighted_by_volume() -> None:
    findings, _ = make_case(PhantomCase(lesions=3))
    a, b, _ = findings.lesions
    heavy = dataclasses.replace(a, volume_ml=3.0, mean_hu=-400.0)
    light = dataclasses.replace(b, volume_ml=1.0, mean_hu=-800.0)
    segment = LesionSegment(1, "Lesions 1 to 2", "LESIONS", "2.25.1", (heavy, light))
    assert segment.volume_ml == 4.0
    assert segment.mean_hu == -500.0


def test_file_is_what_was_verified(context: ReportContext, reread: Callable[[ResultObject], Dataset]) -> None:
    findings, volume = make_case(PhantomCase())
    (seg,) = build(findings, volume, context, ("seg",))
    buffer = io.BytesIO()
    seg.dataset.save_as(buffer, enforce_file_format=True)
    assert buffer.getvalue() == seg.encoded
