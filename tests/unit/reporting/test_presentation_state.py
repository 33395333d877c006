"""The presentation state shows the contours, the verdicts and the lung window on the right images."""

from __future__ import annotations

import dataclasses
import re
from copy import deepcopy

import numpy as np
import pytest

from engine.findings import PneumoniaClass
from reporting import ReportContext, build
from reporting.contours import POINT_LIMIT
from reporting.phantom_case import PhantomCase, make_case


def annotations(dataset, layer: str) -> list:
    return [a for a in dataset.GraphicAnnotationSequence if a.GraphicLayer == layer]


def text_of(dataset) -> str:
    return annotations(dataset, "VERDICT")[0].TextObjectSequence[0].UnformattedTextValue


def test_contours_enclose_the_lesions_of_their_slice(case, context: ReportContext, reread) -> None:
    findings, volume = case
    (gsps,) = build(findings, volume, context, ("gsps",))
    seen = set()
    for annotation in annotations(reread(gsps), "JCS_ACTIVATION"):
        reference = annotation.ReferencedImageSequence[0]
        (z,) = (
            z
            for z, s in enumerate(volume.sources)
            if s.sop_instance_uid == reference.ReferencedSOPInstanceUID
            and s.frame_number == reference.get("ReferencedFrameNumber")
        )
        seen.add(z)
        rows, columns = np.nonzero(findings.lesion_labels[z])
        points = np.concatenate(
            [np.reshape(g.GraphicData, (-1, 2)) for g in annotation.GraphicObjectSequence]
        )
        for line in annotation.GraphicObjectSequence:
            assert (line.GraphicType, line.GraphicAnnotationUnits, line.GraphicFilled) == (
                "POLYLINE",
                "PIXEL",
                "N",
            )
            assert line.GraphicData[:2] == line.GraphicData[-2:]
        assert points[:, 0].min() < columns.mean() + 0.5 < points[:, 0].max()
        assert points[:, 1].min() < rows.mean() + 0.5 < points[:, 1].max()
    assert seen == set(np.flatnonzero(findings.lesion_labels.any(axis=(1, 2))))


def test_layers_have_colours_of_their_own(context: ReportContext, reread) -> None:
    findings, volume = make_case(PhantomCase())
    (gsps,) = build(findings, volume, context, ("gsps",))
    layers = {layer.GraphicLayer: layer for layer in reread(gsps).GraphicLayerSequence}
    assert set(layers) == {"JCS_ACTIVATION", "M3LUNG_LOCATION", "VERDICT"}
    colours = {tuple(layer.GraphicLayerRecommendedDisplayCIELabValue) for layer in layers.values()}
    assert len(colours) == 3


def test_lung_window_and_modality_lut(case, context: ReportContext, reread) -> None:
    findings, volume = case
    (gsps,) = build(findings, volume, context, ("gsps",))
    dataset = reread(gsps)
    window = dataset.SoftcopyVOILUTSequence[0]
    assert (window.WindowCenter, window.WindowWidth, window.WindowCenterWidthExplanation) == (
        -600,
        1500,
        "LUNG",
    )
    assert (dataset.RescaleIntercept, dataset.RescaleSlope) == (-1024, 1)


def test_text_names_both_verdicts_and_the_disagreement(context: ReportContext, reread) -> None:
    findings, volume = make_case(PhantomCase(m3lung_label=PneumoniaClass.CAP))
    (gsps,) = build(findings, volume, context, ("gsps",))
    text = text_of(reread(gsps))
    assert "JCS: CT pattern compatible with COVID-19 pneumonia" in text
    assert "M3Lung-Sys: CT pattern most compatible with community-acquired pneumonia" in text
    assert "The two systems disagree" in text
    assert "NOT VERIFIED" in text


def test_zero_heatmaps_leave_the_text(context: ReportContext, reread) -> None:
    findings, volume = make_case(PhantomCase(lesion_slices=0))
    (gsps,) = build(findings, volume, context, ("gsps",))
    dataset = reread(gsps)
    assert [layer.GraphicLayer for layer in dataset.GraphicLayerSequence] == ["VERDICT"]
    assert "no CT pattern of COVID-19" in text_of(dataset)
    referenced = annotations(dataset, "VERDICT")[0].ReferencedImageSequence
    assert len(referenced) == len(volume.sources)


def test_too_many_points_are_simplified_and_the_text_says_so(context: ReportContext, reread) -> None:
    findings, volume = make_case(PhantomCase(slices=120, lesion_slices=118))
    y, x = np.mgrid[:64, :64]
    speckle = (np.sin(0.8 * x) * np.sin(0.8 * y)).clip(0).astype(np.float32)
    maps = np.repeat(speckle[None], 120, axis=0)
    busy = dataclasses.replace(findings, jcs=dataclasses.replace(findings.jcs, activation_maps=maps))
    (gsps,) = build(busy, volume, context, ("gsps",))
    dataset = reread(gsps)
    points = sum(
        g.NumberOfGraphicPoints
        for a in dataset.GraphicAnnotationSequence
        for g in a.get("GraphicObjectSequence", ())
    )
    assert 0 < points <= POINT_LIMIT
    assert re.search(r"Contours simplified to [\d.]+ pixels", text_of(dataset))


@pytest.mark.parametrize("multi_frame", [False, True])
def test_slices_of_different_rescale_have_the_same_window_in_their_own_values(
    multi_frame: bool, context: ReportContext, reread
) -> None:
    findings, volume = make_case(PhantomCase(multi_frame=multi_frame))
    if multi_frame:
        header = volume.headers[0]
        shared = header.SharedFunctionalGroupsSequence[0].pop("PixelValueTransformationSequence")
        for number, frame in enumerate(header.PerFrameFunctionalGroupsSequence, 1):
            transformation = deepcopy(shared.value[0])
            if number == volume.sources[2].frame_number:
                transformation.RescaleIntercept, transformation.RescaleSlope = -1000, 2
            frame.PixelValueTransformationSequence = [transformation]
    else:
        volume.headers[2].RescaleIntercept, volume.headers[2].RescaleSlope = -1000, 2
    (gsps,) = build(findings, volume, context, ("gsps",))
    dataset = reread(gsps)
    assert "RescaleSlope" not in dataset, "a state has room for one line only"
    windows = {}
    for item in dataset.SoftcopyVOILUTSequence:
        for reference in item.ReferencedImageSequence:
            frames = reference.get("ReferencedFrameNumber")
            for frame in [frames] if frames is None or isinstance(frames, int) else frames:
                windows[reference.ReferencedSOPInstanceUID, frame] = (item.WindowCenter, item.WindowWidth)
    assert [windows[s.sop_instance_uid, s.frame_number] for s in volume.sources] == [
        (200, 750) if z == 2 else (424, 1500) for z in range(len(volume.sources))
    ]
