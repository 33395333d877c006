"""JCS on a volume: slice classifier with activation maps, count rule, segmentation (specification A, C)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.assessment import jcs_patient_rule
from engine.findings import MAP_GRID, JCSFindings
from engine.heatmaps import normalised, placed
from engine.lungs import Box, Mask, volume_box
from engine.morphology import grown_by_rectangle
from engine.packages import JCSMetadata, ModelPackage
from engine.runners.batches import run_slices
from engine.runners.interface import Runner


@dataclass(frozen=True, eq=False)
class JCSSystem:
    """A JCS package with the runner of its graphs."""

    package: ModelPackage
    metadata: JCSMetadata
    runner: Runner
    batch: int


def centre_crop(shape: tuple[int, int], fraction: float) -> Box:
    """The centred square of `fraction` times the shorter side of (rows, columns)."""
    side = max(1, round(fraction * min(shape)))
    top, left = (shape[0] - side) // 2, (shape[1] - side) // 2
    return top, left, top + side, left + side


def classify(hu: npt.NDArray[np.int16], with_lung: Mask, system: JCSSystem) -> JCSFindings:
    """The classifier's findings on int16 [Z, Y, X] HU.

    with_lung: bool [Z]; other slices are not given to the network and count as negative.
    """
    box = centre_crop((hu.shape[1], hu.shape[2]), system.metadata.preprocessing.crop_fraction)
    thresholds = system.metadata.thresholds
    probabilities = np.zeros(len(hu), dtype=np.float32)
    maps = np.zeros((len(hu), *MAP_GRID), dtype=np.float32)
    for slices, output in run_slices(
        system.runner, "classify", hu, np.flatnonzero(with_lung), box, system.batch
    ):
        probabilities[slices] = output.floats("probability", (len(slices),))
        positive = probabilities[slices] > thresholds.slice
        raw = output.floats("activation_map", (len(slices), None, None))
        maps[slices[positive]] = placed(normalised(raw[positive]), box, (hu.shape[1], hu.shape[2]))
    verdict = jcs_patient_rule(
        probabilities, thresholds.patient_count, thresholds.patient_mode, thresholds.slice
    )
    return JCSFindings(
        package=system.package.reference,
        positive=verdict.positive,
        positive_count=verdict.count,
        threshold=verdict.threshold,
        rule=verdict.rule,
        outside_paper_protocol=verdict.outside_paper_protocol,
        slice_probabilities=probabilities,
        activation_maps=maps,
    )


def segment_box(lungs: Mask, system: JCSSystem) -> Box:
    """What of each slice the segmenter is given: the whole of it, or the lungs' box of the series."""
    whole = (0, 0, lungs.shape[1], lungs.shape[2])
    preprocessing = system.metadata.preprocessing
    if preprocessing.segment_crop == "slice":
        return whole
    return volume_box(lungs, preprocessing.segment_margin) or whole


def segment(
    hu: npt.NDArray[np.int16], lungs: Mask, with_lung: Mask, rim: tuple[int, int], system: JCSSystem
) -> Mask:
    """Lesion mask bool [Z, Y, X]: lesion probability above the package's threshold, within the lungs and their rim.

    lungs: bool [Z, Y, X]; `rim` (rows, columns) beyond them may be lesion. They decide the crop, too, where the
    package works on the lungs' box. with_lung: bool [Z]; other slices are not given to the network.
    """
    least = int(np.ceil(system.metadata.thresholds.lesion * 255))
    mask = np.zeros(hu.shape, dtype=bool)
    box = segment_box(lungs, system)
    top, left, bottom, right = box
    for slices, output in run_slices(
        system.runner, "segment", hu, np.flatnonzero(with_lung), box, system.batch
    ):
        probability = output.bytes("lesion_probability", (len(slices), bottom - top, right - left))
        inside = np.s_[slices, top:bottom, left:right]
        mask[inside] = (probability >= least) & grown_by_rectangle(lungs[inside], *rim)
    return mask
