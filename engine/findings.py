"""The Findings: what both systems found in one Volume, as numbers only.

All heatmaps share one grid: a map of shape [Z, h, w] covers the whole slice, so that map pixel (i, j) stands for
the source rows i*Y/h .. (i+1)*Y/h and columns j*X/w .. (j+1)*X/w. Outside of what a network saw it is 0.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

MAP_GRID = (64, 64)
"""Rows and columns of every heatmap in Findings."""


class PneumoniaClass(enum.IntEnum):
    """Classes of M3Lung-Sys in the order of its outputs (specification D.2)."""

    HEALTHY = 0
    COVID19 = 1
    H1N1 = 2
    CAP = 3

    @property
    def key(self) -> str:
        """The word used in findings.json and in the store: healthy, covid19, h1n1, cap."""
        return self.name.lower()


@dataclass(frozen=True)
class PackageReference:
    """Which model package spoke: `sha256` is the package hash (all of its files), hex."""

    name: str
    version: str
    system: Literal["jcs", "m3lung"]
    sha256: str


@dataclass(frozen=True)
class Lesion:
    """One connected lesion (26-neighbourhood) of the mask.

    label: its value in `Findings.lesion_labels`, 1 is the largest.
    centroid: patient coordinates (x, y, z), LPS, mm.
    slices: first and last slice index (inclusive) that it touches; `largest_slice` has most of its area.
    """

    label: int
    volume_ml: float
    centroid: tuple[float, float, float]
    slices: tuple[int, int]
    largest_slice: int
    mean_hu: float


@dataclass(frozen=True, eq=False)
class JCSFindings:
    """Output of JCS (specification A, C).

    slice_probabilities: float32 [Z], probability of COVID-19 per slice; 0 for slices without lung.
    positive_count, threshold, rule: the patient rule (A.3): positive when positive_count > threshold.
    outside_paper_protocol: fewer than 250 slices, so the printed threshold of 25 does not apply as it is.
    activation_maps: float32 [Z, h, w] in [0, 1], eq. 1-2 with min-max per slice; all 0 for negative slices.
    """

    package: PackageReference
    positive: bool
    positive_count: int
    threshold: float
    rule: Literal["absolute", "proportional"]
    outside_paper_protocol: bool
    slice_probabilities: npt.NDArray[np.float32]
    activation_maps: npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class M3LungFindings:
    """Output of M3Lung-Sys (specification D).

    probabilities: the four patient probabilities in the order of PneumoniaClass, sum 1.
    slice_probabilities: float32 [Z, 4] per slice (eq. 4); [1, 0, 0, 0] for slices without lung.
    lesion_probabilities: float32 [Z], second output of the lesion classifier.
    location_maps: float32 [Z, h, w] in [0, 1] (D.2); all 0 for slices that the lesion classifier calls free.
    """

    package: PackageReference
    label: PneumoniaClass
    probabilities: tuple[float, float, float, float]
    slice_probabilities: npt.NDArray[np.float32]
    lesion_probabilities: npt.NDArray[np.float32]
    location_maps: npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Findings:
    """What both systems found.

    lesion_labels: uint16 [Z, Y, X]: 0 background, k the k-th lesion of `lesions`; all 0 where JCS is negative,
        since JCS segments only positive cases.
    lung_mask: bool [Z, Y, X].
    lung_involvement_percent: lesion volume inside the lungs / lung volume (lesion included) * 100.
    key_slices: slice indices that show most, at most 5, in slice order; at least one.
    timings_s: seconds per stage, for people; never part of a result object, which must not depend on it.
    """

    jcs: JCSFindings
    m3lung: M3LungFindings
    lesion_labels: npt.NDArray[np.uint16]
    lesions: tuple[Lesion, ...]
    lung_mask: npt.NDArray[np.bool_]
    lesion_volume_ml: float
    lung_volume_ml: float
    lung_involvement_percent: float
    key_slices: tuple[int, ...]
    timings_s: dict[str, float]

    @property
    def discordant(self) -> bool:
        """The systems disagree: JCS screens for COVID-19 against all else, so it agrees with label COVID-19 only."""
        return self.jcs.positive != (self.m3lung.label is PneumoniaClass.COVID19)
