"""The Findings: what both systems, and a department's own models, found in one Volume, as numbers only.

All heatmaps share one grid: a map of shape [Z, h, w] covers the whole slice, so that map pixel (i, j) stands for
the source rows i*Y/h .. (i+1)*Y/h and columns j*X/w .. (j+1)*X/w. Outside of what a network saw it is 0.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from engine.label_volume import LabelVolume

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
    system: Literal["jcs", "m3lung", "onnx"]
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
    slice_threshold: a slice is positive when its probability is above this, which the package says.
    """

    package: PackageReference
    positive: bool
    positive_count: int
    threshold: float
    rule: Literal["absolute", "proportional"]
    outside_paper_protocol: bool
    slice_probabilities: npt.NDArray[np.float32]
    activation_maps: npt.NDArray[np.float32]
    slice_threshold: float = 0.5


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


@dataclass(frozen=True)
class Code:
    """A coded concept (PS3.3 8.8): value, coding scheme designator, meaning."""

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True)
class ModelClass:
    """One class of an own model. key: its word in findings.json. category: of its segment. color: RGB, 0 to 255."""

    key: str
    code: Code
    category: Code
    color: tuple[int, int, int]


@dataclass(frozen=True)
class ClassFinding:
    """What an own model says of one class.

    score: of the patient, in [0, 1]; None where slices are counted, and for a segmentation.
    positive_slices, slice_limit: of a rule that counts slices; found means more than the limit.
    volume_ml, lung_percent (of the lungs' volume that the class takes up), mean_hu (None where nothing is marked):
        of a segmentation; found means more than the least volume.
    """

    which: ModelClass
    found: bool
    score: float | None = None
    positive_slices: int | None = None
    slice_limit: int | None = None
    volume_ml: float | None = None
    lung_percent: float | None = None
    mean_hu: float | None = None


@dataclass(frozen=True, eq=False)
class OwnModelFindings:
    """What a model that the department added says (a package of type `onnx`).

    title: what people call it. site: the anatomic region that it is about. rule: how it decides, in a few words.
    slice_scores: float32 [Z, K] per slice and class, 0 for slices that it did not see; None where it looks at the
        volume as a whole.
    labels: uint8 [Z, Y, X]: 0, or k for the k-th of `classes`; None for a classifier. An array may be given, too.
    key_slices: slice indices that show most, as in Findings.
    """

    package: PackageReference
    title: str
    site: Code
    rule: str
    classes: tuple[ClassFinding, ...]
    slice_scores: npt.NDArray[np.float32] | None
    labels: LabelVolume[np.uint8] | None
    key_slices: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.labels is not None:
            object.__setattr__(self, "labels", LabelVolume.of(self.labels))

    @property
    def found(self) -> tuple[ClassFinding, ...]:
        """The classes that it found."""
        return tuple(c for c in self.classes if c.found)


@dataclass(frozen=True)
class OwnModelFailure:
    """An own model that gave no result. name: of the package, or its folder where that could not be read."""

    name: str
    why: str


@dataclass(frozen=True, eq=False)
class Findings:
    """What both systems found.

    lesion_labels: uint16 [Z, Y, X]: 0 background, k the k-th lesion of `lesions`; all 0 where JCS is negative,
        since JCS segments only positive cases.
    lung_mask: bool [Z, Y, X]. Both are read slice by slice; whoever makes findings may give arrays instead.
    lung_involvement_percent: lesion volume inside the lungs / lung volume (lesion included) * 100.
    key_slices: slice indices that show most, at most 5, in slice order; at least one.
    timings_s: seconds per stage, for people; never part of a result object, which must not depend on it.
    own_models, own_model_failures: what the models say that the department added, and which of them could not.
    """

    jcs: JCSFindings
    m3lung: M3LungFindings
    lesion_labels: LabelVolume[np.uint16]
    lesions: tuple[Lesion, ...]
    lung_mask: LabelVolume[np.bool_]
    lesion_volume_ml: float
    lung_volume_ml: float
    lung_involvement_percent: float
    key_slices: tuple[int, ...]
    timings_s: dict[str, float]
    own_models: tuple[OwnModelFindings, ...] = ()
    own_model_failures: tuple[OwnModelFailure, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "lesion_labels", LabelVolume.of(self.lesion_labels))
        object.__setattr__(self, "lung_mask", LabelVolume.of(self.lung_mask))

    @property
    def packages(self) -> tuple[PackageReference, ...]:
        """Every package that spoke: JCS, M3Lung-Sys, own models in the order of the configuration."""
        return (self.jcs.package, self.m3lung.package, *(own.package for own in self.own_models))

    @property
    def discordant(self) -> bool:
        """The systems disagree: JCS screens for COVID-19 against all else, so it agrees with label COVID-19 only."""
        return self.jcs.positive != (self.m3lung.label is PneumoniaClass.COVID19)
