"""M3Lung-Sys on a volume: lung crop, three windows, location maps, patient classes (specification D)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.assessment import fused_slice_probabilities, m3_nonparametric, patient_inputs
from engine.errors import RunnerFailed
from engine.facing import Facing, facing_as_trained
from engine.findings import MAP_GRID, M3LungFindings, PneumoniaClass
from engine.heatmaps import placed
from engine.label_volume import LabelVolume
from engine.lungs import Box, Mask, crop_box, volume_box
from engine.packages import M3Metadata, M3Preprocessing, ModelPackage
from engine.runners.batches import Output, run_slices
from engine.runners.interface import Runner
from engine.volume import Volume

WINDOWS = 3


@dataclass(frozen=True, eq=False)
class M3System:
    """A M3Lung-Sys package with the runner of its graphs."""

    package: ModelPackage
    metadata: M3Metadata
    runner: Runner
    batch: int


@dataclass(frozen=True, eq=False)
class SliceOutputs:
    """What the slice network gives for all slices; rows without lung: lesion [1, 0], class [1, 0, 0, 0], map 0.

    lesion: float32 [Z, 2]. classes: float32 [Z, 4]. location_maps: float32 [Z, 64, 64].
    features: float32 [3, n, D] of the n slices with lung, per window, from feet to head.
    """

    lesion: npt.NDArray[np.float32]
    classes: npt.NDArray[np.float32]
    location_maps: npt.NDArray[np.float32]
    features: npt.NDArray[np.float32]


def classify_slices(
    volume: Volume, lungs: LabelVolume[np.bool_], with_lung: Mask, system: M3System
) -> SliceOutputs:
    """The slice network on a volume with lungs [Z, Y, X], on the slices `with_lung` bool [Z]."""
    hu, facing = volume.hu, facing_as_trained(volume.geometry)
    lesion = np.zeros((len(hu), 2), dtype=np.float32)
    classes = np.zeros((len(hu), 4), dtype=np.float32)
    lesion[:, 0] = classes[:, 0] = 1
    maps = np.zeros((len(hu), *MAP_GRID), dtype=np.float32)
    features: list[npt.NDArray[np.float32]] = []
    for slices, box, output in _runs(hu, lungs, with_lung, facing, system):
        n = len(slices)
        lesion[slices] = output.floats("lesion_probability", (n, 2))
        classes[slices] = output.floats("class_probability", (n, 4))
        located = lesion[slices, 1] > lesion[slices, 0]
        raw = facing.turned(output.floats("location_map", (n, None, None)))
        maps[slices[located]] = placed(raw[located], box, (hu.shape[1], hu.shape[2]))
        features.append(output.floats("features", (WINDOWS, n, None)))
    feet_to_head = facing.ordered(np.concatenate(features, axis=1), axis=1)
    return SliceOutputs(lesion, classes, np.clip(maps, 0, 1), feet_to_head)


def series_box(lungs: LabelVolume[np.bool_], preprocessing: M3Preprocessing) -> Box:
    """The lungs' box of the series, which the slice network is given of each slice."""
    return volume_box(lungs, preprocessing.crop_margin) or (0, 0, lungs.shape[1], lungs.shape[2])


def _runs(
    hu: npt.NDArray[np.int16],
    lungs: LabelVolume[np.bool_],
    with_lung: Mask,
    facing: Facing,
    system: M3System,
) -> Iterator[tuple[npt.NDArray[np.intp], Box, Output]]:
    crop, indices = system.metadata.preprocessing, np.flatnonzero(with_lung)
    whole = (0, 0, hu.shape[1], hu.shape[2])
    if crop.crop_scope == "volume":
        box = series_box(lungs, crop)
        for slices, output in run_slices(system.runner, "slices", hu, indices, box, system.batch, facing):
            yield slices, box, output
        return
    for z in indices:
        box = crop_box(hu[z], crop.crop_margin) or whole
        for slices, output in run_slices(system.runner, "slices", hu, np.array([z]), box, 1, facing):
            yield slices, box, output


def assess(outputs: SliceOutputs, system: M3System) -> M3LungFindings:
    """The patient's class from the slices, by the rule that the package names."""
    per_slice = fused_slice_probabilities(outputs.lesion, outputs.classes)
    if system.metadata.thresholds.patient_rule == "network":
        inputs = patient_inputs(outputs.features, system.metadata.thresholds.window_fusion)
        patient = np.mean([_patient(f, system) for f in inputs], axis=0)
        label = int(np.argmax(patient))
    else:
        patient = per_slice.mean(axis=0)
        label = m3_nonparametric(
            outputs.lesion, outputs.classes, system.metadata.thresholds.nonparametric
        ).label
    healthy, covid19, h1n1, cap = (float(p) for p in patient / patient.sum())
    return M3LungFindings(
        package=system.package.reference,
        label=PneumoniaClass(label),
        probabilities=(healthy, covid19, h1n1, cap),
        slice_probabilities=per_slice.astype(np.float32),
        lesion_probabilities=outputs.lesion[:, 1].copy(),
        location_maps=outputs.location_maps,
    )


def _patient(features: npt.NDArray[np.float32], system: M3System) -> npt.NDArray[np.float64]:
    """Patient probabilities float64 [4] for the features float32 [n, D] of one window."""
    output = Output("patient", system.runner.run("patient", {"features": np.ascontiguousarray(features)}))
    probability = output.floats("probability", (4,)).astype(np.float64)
    if probability.sum() <= 0:
        raise RunnerFailed("graph patient gave probabilities that sum to 0")
    return probability
