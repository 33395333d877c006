"""Grayscale Softcopy Presentation State: heatmap contours, verdict and lung window over the CT (PS3.3 A.33.1).

The one result object that hospital workstations without AI support have shown for twenty years. It cannot blend
colours into the image; layers of contours in two colours say where each system looked.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from highdicom.color import CIELabColor
from highdicom.pr import (
    AnnotationUnitsValues,
    GraphicAnnotation,
    GraphicLayer,
    GrayscaleSoftcopyPresentationState,
    TextJustificationValues,
    TextObject,
)
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from engine.findings import Findings
from engine.volume import Volume
from reporting.context import ReportContext
from reporting.contours import Contour, SimplifiedContours, iso_contours, within_point_limit
from reporting.equipment import common_arguments
from reporting.lung_window import lung_windows, modality_lut
from reporting.source_images import SourceImages
from reporting.uids import ResultUids
from reporting.wording import (
    NOT_VERIFIED,
    agreement,
    few_own_model_lines,
    jcs_verdict,
    lesion_summary,
    m3lung_verdict,
)

DESCRIPTION = "AI heatmap contours - NOT VERIFIED"

LEVELS = (0.5, 0.75)
"""The contours stand for half and three quarters of a map's maximum."""

JCS_COLOR = (255, 120, 0)
M3LUNG_COLOR = (0, 200, 255)
TEXT_COLOR = (255, 255, 0)
_TEXT_BOX = (0.02, 0.80, 0.98, 0.98)

_NUMBER_OF_POINTS = Tag("NumberOfGraphicPoints")
_GRAPHIC_DATA = Tag("GraphicData")
_CLOSED_POLYLINE = {
    Tag(keyword): DataElement(Tag(keyword), vr, value)
    for keyword, vr, value in (
        ("GraphicAnnotationUnits", "CS", "PIXEL"),
        ("GraphicDimensions", "US", 2),
        ("GraphicType", "CS", "POLYLINE"),
        ("GraphicFilled", "CS", "N"),
    )
}


@dataclass(frozen=True, eq=False)
class _ContourLayer:
    layer: GraphicLayer
    contours: tuple[Contour, ...]


def presentation_state(
    findings: Findings, volume: Volume, sources: SourceImages, uids: ResultUids, context: ReportContext
) -> Dataset:
    """The GSPS of a study. Maps that are 0 everywhere give no contours; the text is always there."""
    text_layer = GraphicLayer("VERDICT", 3, "Verdicts of both systems", CIELabColor.from_rgb(*TEXT_COLOR))
    layers, simplification = _contour_layers(findings, volume)
    text = _text(findings, simplification)
    texts = [_text_annotation(text, text_layer, group) for group in _text_groups(sources)]
    contours = [annotation for layer in layers for annotation in _contour_annotations(layer, sources)]
    dataset = GrayscaleSoftcopyPresentationState(
        referenced_images=sources.images,
        content_label="AI_HEATMAP",
        content_description=DESCRIPTION,
        graphic_annotations=texts,
        graphic_layers=[text_layer, *(layer.layer for layer in layers if layer.contours)],
        modality_lut_transformation=modality_lut(volume),
        voi_lut_transformations=lung_windows(volume, sources),
        **common_arguments("gsps", DESCRIPTION, findings, uids, context),
    )
    dataset.GraphicAnnotationSequence.extend(contours)
    dataset.BodyPartExamined = "CHEST"
    return dataset


def _contour_layers(findings: Findings, volume: Volume) -> tuple[list[_ContourLayer], SimplifiedContours]:
    """One layer for each system, both within one limit of points."""
    shape = (volume.shape[1], volume.shape[2])
    jcs = iso_contours(findings.jcs.activation_maps, LEVELS, shape, volume.geometry.pixel_area)
    m3lung = iso_contours(findings.m3lung.location_maps, LEVELS, shape, volume.geometry.pixel_area)
    limited = within_point_limit([*jcs, *m3lung])
    numbered = list(zip(limited.sources, limited.contours, strict=True))
    of_jcs = tuple(c for i, c in numbered if i < len(jcs))
    of_m3lung = tuple(c for i, c in numbered if i >= len(jcs))
    layers = [
        _ContourLayer(
            GraphicLayer("JCS_ACTIVATION", 1, "JCS activation map", CIELabColor.from_rgb(*JCS_COLOR)), of_jcs
        ),
        _ContourLayer(
            GraphicLayer(
                "M3LUNG_LOCATION", 2, "M3Lung-Sys location map", CIELabColor.from_rgb(*M3LUNG_COLOR)
            ),
            of_m3lung,
        ),
    ]
    return layers, limited


def _text(findings: Findings, simplification: SimplifiedContours) -> str:
    lines = [jcs_verdict(findings.jcs), m3lung_verdict(findings.m3lung)]
    if findings.discordant:
        lines.append(agreement(findings))
    lines += [lesion_summary(findings), *few_own_model_lines(findings), NOT_VERIFIED]
    if simplification.tolerance:
        lines.append(f"Contours simplified to {simplification.tolerance:.2g} pixels")
    if simplification.left_out:
        lines.append(f"{simplification.left_out} small contours left out; see the parametric maps")
    return "\r\n".join(lines)


def _text_groups(sources: SourceImages) -> list[tuple[Dataset, ...]]:
    """The images that one text annotation may refer to: a whole series, or one multi-frame image."""
    return [(image,) for image in sources.images] if sources.is_multi_frame else [sources.images]


def _text_annotation(text: str, layer: GraphicLayer, images: tuple[Dataset, ...]) -> GraphicAnnotation:
    item = TextObject(
        text,
        AnnotationUnitsValues.DISPLAY,
        bounding_box=_TEXT_BOX,
        text_justification=TextJustificationValues.LEFT,
    )
    return GraphicAnnotation(images, layer, text_objects=[item])


def _contour_annotations(layer: _ContourLayer, sources: SourceImages) -> list[Dataset]:
    """One annotation per slice with contours (PS3.3 C.10.5)."""
    by_slice: dict[int, list[Dataset]] = {}
    for contour in layer.contours:
        by_slice.setdefault(contour.z, []).append(_polyline(contour))
    return [_annotation(z, layer, lines, sources) for z, lines in sorted(by_slice.items())]


def _annotation(z: int, layer: _ContourLayer, lines: list[Dataset], sources: SourceImages) -> Dataset:
    annotation = Dataset()
    annotation.ReferencedImageSequence = [sources.reference_of(z)]
    annotation.GraphicLayer = layer.layer.GraphicLayer
    annotation.GraphicObjectSequence = lines
    return annotation


def _polyline(contour: Contour) -> Dataset:
    """A graphic object (PS3.3 C.10.5.1.2).

    A study has a thousand of them with tens of thousands of coordinates, and highdicom's own class looks at each
    coordinate several times; so the elements that are always the same are made once, and the coordinates go in as they
    are.
    """
    points = contour.points.astype(np.float32).ravel().tolist()
    count = DataElement(_NUMBER_OF_POINTS, "US", len(contour.points))
    data = DataElement(_GRAPHIC_DATA, "FL", points, already_converted=True)
    return Dataset({**_CLOSED_POLYLINE, _NUMBER_OF_POINTS: count, _GRAPHIC_DATA: data})
