"""Whether an engine computes what the FP32 reference computes: fixed HU slices through both, output by output."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.drawn_chests import FIXED, SLICES, Chest, draw
from engine.heatmaps import normalised
from engine.jcs import centre_crop, segment_box
from engine.label_volume import LabelVolume
from engine.m3lung import series_box
from engine.packages import JCSMetadata, M3Metadata
from engine.recipes import Measure, Tolerance
from engine.runners.interface import Runner

Array = npt.NDArray[Any]

HALF = 128
"""The lesion probability above which a pixel is in the mask, of 255."""


@dataclass(frozen=True)
class OutputCheck:
    """One output: its value over the slices, and the worst of them (None where the output is not per slice)."""

    graph: str
    output: str
    measure: Measure
    worst: float
    worst_slice: int | None
    limit: float

    @property
    def passed(self) -> bool:
        return self.worst >= self.limit if self.measure == "dice" else self.worst <= self.limit

    def __str__(self) -> str:
        sign = ">=" if self.measure == "dice" else "<="
        where = "" if self.worst_slice is None else f", worst in slice {self.worst_slice}"
        return f"{self.graph}.{self.output}: {self.measure} {self.worst:.4g}{where}, allowed {sign} {self.limit:g}"


def fixed_slices(size: int = 512) -> npt.NDArray[np.int16]:
    """Drawn chest slices int16 [6, size, size] HU, always the same; see `engine.drawn_chests.draw`."""
    return draw(FIXED, size)[0]


def crops(
    graph: str, metadata: JCSMetadata | M3Metadata, chest: Chest = FIXED, size: int = 512
) -> npt.NDArray[np.int16]:
    """Drawn slices as screening cuts them for a graph: to the centre, to the lungs' box, or not at all."""
    hu, drawn = draw(chest, size)
    lungs = LabelVolume.of(drawn)
    if isinstance(metadata, M3Metadata):
        box = series_box(lungs, metadata.preprocessing)
    elif graph == "classify":
        box = centre_crop((size, size), metadata.preprocessing.crop_fraction)
    else:
        box = segment_box(lungs, metadata.preprocessing)
    top, left, bottom, right = box
    return np.ascontiguousarray(hu[:, top:bottom, left:right])


def graph_inputs(
    graph: str, metadata: JCSMetadata | M3Metadata, reference: Callable[[], Runner]
) -> dict[str, Array]:
    """What a graph is verified on: what it sees of the fixed slices; for `patient` the reference's features of that.

    Cut as in practice, since a network may be at a loss with what it never saw: on whole slices the map of a healthy
    one is noise of a thousandth of a lesion's, and bfloat16 differs from float32 in nothing else.
    """
    if graph != "patient":
        return {"hu": crops(graph, metadata)}
    return {"features": reference().run("slices", {"hu": crops("slices", metadata)})["features"][1]}


def shown(
    graph: str, metadata: JCSMetadata | M3Metadata, expected: Mapping[str, Array], output: Mapping[str, Array]
) -> dict[str, Array]:
    """`output` with no activation map where screening shows none: on slices that the reference, `expected`, calls
    negative.

    Such a map, scaled to 1 by itself, is noise of a thousandth of a lesion's. That of the likeliest slice is kept.
    """
    kept = dict(output)
    name = "activation_map"
    if isinstance(metadata, JCSMetadata) and graph == "classify" and name in kept:
        probability = expected["probability"]
        positive = probability > min(metadata.thresholds.slice, float(probability.max()) - 1e-6)
        if len(kept[name]) == len(positive):
            kept[name] = np.where(positive[:, None, None], kept[name], 0)
    return kept


def compare(
    graph: str,
    expected: Mapping[str, Array],
    found: Mapping[str, Array],
    tolerances: Mapping[str, Tolerance],
) -> tuple[OutputCheck, ...]:
    """Check every output that `tolerances` names; an output that is missing, misshaped or not finite fails."""
    return tuple(
        _check(graph, name, tolerance, expected[name], found.get(name))
        for name, tolerance in tolerances.items()
    )


def _check(graph: str, name: str, tolerance: Tolerance, expected: Array, found: Array | None) -> OutputCheck:
    if found is None or found.shape != expected.shape or not np.isfinite(found.astype(np.float64)).all():
        worst = 0.0 if tolerance.measure == "dice" else float("inf")
        return OutputCheck(graph, name, tolerance.measure, worst, None, tolerance.limit)
    per_slice = _measured(tolerance.measure, expected.astype(np.float64), found.astype(np.float64), name)
    at = int(np.argmin(per_slice) if tolerance.measure == "dice" else np.argmax(per_slice))
    worst = float(per_slice[at])
    if (
        tolerance.measure == "dice"
    ):  # of all slices as one: in a mask of a few pixels one pixel is a tenth of it
        worst = float(_dice(expected.reshape(1, -1) >= HALF, found.reshape(1, -1) >= HALF)[0])
    return OutputCheck(
        graph, name, tolerance.measure, worst, at if len(per_slice) == SLICES else None, tolerance.limit
    )


def _measured(measure: Measure, expected: Array, found: Array, name: str) -> Array:
    """The measure for each slice, float64 [n]; [1] for an output that is not per slice."""
    if name == "features" and expected.ndim == 3:  # [windows, N, D]
        expected, found = expected.swapaxes(0, 1), found.swapaxes(0, 1)
    if expected.ndim == 1 and name == "probability" and len(expected) == 4:  # of the patient
        expected, found = expected[None], found[None]
    if measure == "map":
        expected, found = normalised(expected), normalised(found)
    expected, found = expected.reshape(len(expected), -1), found.reshape(len(found), -1)
    difference = np.abs(expected - found)
    if measure == "mean":
        return np.asarray(difference.mean(axis=1))
    if measure == "relative":
        return np.asarray(difference.max(axis=1) / max(float(np.abs(expected).max()), 1e-12))
    if measure == "dice":
        return _dice(expected >= HALF, found >= HALF)
    return np.asarray(difference.max(axis=1))


def _dice(a: Array, b: Array) -> Array:
    total = a.sum(axis=1) + b.sum(axis=1)
    return np.where(total == 0, 1.0, 2 * (a & b).sum(axis=1) / np.maximum(total, 1))
