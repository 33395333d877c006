"""JCS on a volume: slice classifier with activation maps, count rule, segmentation (specification A, C)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.assessment import jcs_patient_rule
from engine.errors import OutOfDeviceMemory
from engine.facing import facing_as_trained
from engine.findings import MAP_GRID, JCSFindings
from engine.heatmaps import normalised, placed
from engine.label_volume import LabelVolume
from engine.lungs import Box, Mask, may_hold_lung, volume_box
from engine.morphology import grown_by_rectangle
from engine.packages import JCSMetadata, JCSPreprocessing, ModelPackage
from engine.runners.batches import Output, run_batches, run_slices
from engine.runners.interface import Runner
from engine.volume import Series, Volume


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


@dataclass(frozen=True, eq=False)
class SliceScores:
    """What the classifier says of slices; it grows.

    probabilities: float32 [Z]. maps: float32 [Z, 64, 64], all 0 for negative slices. seen: bool [Z], slices that were
    given to the network.
    """

    probabilities: npt.NDArray[np.float32]
    maps: npt.NDArray[np.float32]
    seen: Mask

    @classmethod
    def none_of(cls, slices: int) -> SliceScores:
        """Of as many slices, none seen."""
        maps = np.zeros((slices, *MAP_GRID), dtype=np.float32)
        return cls(np.zeros(slices, dtype=np.float32), maps, np.zeros(slices, dtype=bool))


def classify_ahead(series: Series, lungs_known: Callable[[], bool], system: JCSSystem) -> SliceScores:
    """Scores of slices that may have lung, as they arrive, until `lungs_known` says that this need not be guessed.

    Raises Undecodable, RunnerFailed.
    """
    scores = SliceScores.none_of(series.shape[0])
    box = _classified_box(series.shape, system)
    facing = facing_as_trained(series.geometry)
    batches = _likely_slices(series, lungs_known, system.batch)
    with suppress(OutOfDeviceMemory):  # what is too much at once comes later, in smaller batches
        for slices, output in run_batches(system.runner, "classify", series.wait(()), batches, box, facing):
            _note(scores, slices, output, box, series, system)
    return scores


def _likely_slices(
    series: Series, lungs_known: Callable[[], bool], batch: int
) -> Iterator[npt.NDArray[np.intp]]:
    likely: list[int] = []
    for z in range(series.shape[0]):
        hu = series.wait((z,))
        if lungs_known():
            return
        if may_hold_lung(hu[z], series.geometry):
            likely.append(z)
        if len(likely) == batch:
            yield np.array(likely)
            likely = []
    if likely:
        yield np.array(likely)


def classify(volume: Volume, with_lung: Mask, scores: SliceScores, system: JCSSystem) -> JCSFindings:
    """The classifier's findings on a volume.

    with_lung: bool [Z]; other slices are not given to the network and count as negative. scores: of slices that were
    classified ahead; the rest are now, and what slices without lung got is dropped.
    """
    box, facing = _classified_box(volume.shape, system), facing_as_trained(volume.geometry)
    rest = np.flatnonzero(with_lung & ~scores.seen)
    for slices, output in run_slices(system.runner, "classify", volume.hu, rest, box, system.batch, facing):
        _note(scores, slices, output, box, volume, system)
    probabilities = np.where(with_lung, scores.probabilities, np.float32(0))
    maps = scores.maps
    maps[~with_lung] = 0
    thresholds = system.metadata.thresholds
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
        slice_threshold=thresholds.slice,
    )


def _classified_box(shape: tuple[int, ...], system: JCSSystem) -> Box:
    return centre_crop((shape[1], shape[2]), system.metadata.preprocessing.crop_fraction)


def _note(
    scores: SliceScores,
    slices: npt.NDArray[np.intp],
    output: Output,
    box: Box,
    series: Series,
    system: JCSSystem,
) -> None:
    """Write into `scores` what the network gave for `slices`."""
    _, rows, columns = series.shape
    found = output.floats("probability", (len(slices),))
    positive = found > system.metadata.thresholds.slice
    raw = facing_as_trained(series.geometry).turned(
        output.floats("activation_map", (len(slices), None, None))
    )
    scores.probabilities[slices] = found
    scores.maps[slices[positive]] = placed(normalised(raw[positive]), box, (rows, columns))
    scores.seen[slices] = True


def segment_box(lungs: LabelVolume[np.bool_], preprocessing: JCSPreprocessing) -> Box:
    """What of each slice the segmenter is given: the whole of it, or the lungs' box of the series."""
    whole = (0, 0, lungs.shape[1], lungs.shape[2])
    if preprocessing.segment_crop == "slice":
        return whole
    return volume_box(lungs, preprocessing.segment_margin) or whole


def segment(
    volume: Volume,
    lungs: LabelVolume[np.bool_],
    with_lung: Mask,
    rim: tuple[int, int],
    system: JCSSystem,
) -> LabelVolume[np.bool_]:
    """Lesion mask [Z, Y, X]: lesion probability above the package's threshold, within the lungs and their rim.

    lungs: [Z, Y, X]; `rim` (rows, columns) beyond them may be lesion. They decide the crop, too, where the
    package works on the lungs' box. with_lung: bool [Z]; other slices are not given to the network.
    """
    least = int(np.ceil(system.metadata.thresholds.lesion * 255))
    mask = LabelVolume(lungs.shape, np.bool_)
    plane = np.zeros(lungs.shape[1:], dtype=bool)
    facing = facing_as_trained(volume.geometry)
    box = segment_box(lungs, system.metadata.preprocessing)
    top, left, bottom, right = box
    for slices, output in run_slices(
        system.runner, "segment", volume.hu, np.flatnonzero(with_lung), box, system.batch, facing
    ):
        given = output.bytes("lesion_probability", (len(slices), bottom - top, right - left))
        probability = facing.turned(given)
        near = grown_by_rectangle(np.stack([lungs[z][top:bottom, left:right] for z in slices]), *rim)
        for z, found in zip(slices, (probability >= least) & near, strict=True):
            plane[top:bottom, left:right] = found
            mask[z] = plane
    return mask
