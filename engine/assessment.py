"""From slices to the patient: the count rule of JCS and the non-parametric assessment of M3Lung-Sys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

PAPER_SLICES = 250
"""JCS was built on series of 250 to 400 slices; below, its printed threshold does not apply as it is (A.3)."""

REFERENCE_SLICES = 300
"""The threshold is meant for a series of about this many slices; the proportional rule scales with it (A.3)."""


@dataclass(frozen=True)
class JCSPatientVerdict:
    """Outcome of the count rule: `positive` when `count` > `threshold`; `rule` says which threshold it was."""

    positive: bool
    count: int
    threshold: float
    rule: Literal["absolute", "proportional"]
    outside_paper_protocol: bool


def jcs_patient_rule(
    slice_probabilities: npt.ArrayLike,
    threshold: float = 25,
    mode: Literal["auto", "absolute", "proportional"] = "auto",
    slice_threshold: float = 0.5,
) -> JCSPatientVerdict:
    """JCS from slices to the patient (specification A.3; paper Table IV).

    slice_probabilities: [n] of COVID-19 in [0, 1], one per slice of the series; a slice is positive above
    `slice_threshold`. The patient is positive when more than the threshold are positive (a tie is negative).
    absolute: the threshold as given. proportional: threshold * n / 300. auto: absolute from 250 slices on, else
    proportional. Raises ValueError for values that are no probabilities and for an unknown mode.
    """
    if mode not in ("auto", "absolute", "proportional"):
        raise ValueError(f"mode must be auto, absolute or proportional, not {mode!r}")
    p = np.asarray(slice_probabilities, dtype=np.float64)
    if p.ndim != 1 or not np.all((p >= 0) & (p <= 1)):
        raise ValueError("slice_probabilities must be [n] values in [0, 1]")
    n = len(p)
    proportional = mode == "proportional" or (mode == "auto" and n < PAPER_SLICES)
    limit = threshold * n / REFERENCE_SLICES if proportional else float(threshold)
    count = int(np.count_nonzero(p > slice_threshold))
    return JCSPatientVerdict(
        positive=count > limit,
        count=count,
        threshold=limit,
        rule="proportional" if proportional else "absolute",
        outside_paper_protocol=n < PAPER_SLICES,
    )


@dataclass(frozen=True, eq=False)
class M3NonparametricVerdict:
    """Outcome of eq. 4 and 5: `label` 0 healthy, 1 COVID-19, 2 H1N1, 3 CAP.

    probabilities: float64 [n, 4] per slice (eq. 4), rows sum to 1. counts: int [4], slices whose largest entry is k;
    a slice with an exact tie counts for each of the tied classes.
    """

    label: int
    probabilities: npt.NDArray[np.float64]
    counts: npt.NDArray[np.int64]


def fused_slice_probabilities(p_lesion: npt.ArrayLike, p_class: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """M3Lung-Sys eq. 4: p0 = L0 + L1 * M0, pk = L1 * Mk; L [n, 2] (index 0: no lesion), M [n, 4]; float64 [n, 4]."""
    lesion, classes = np.asarray(p_lesion, dtype=np.float64), np.asarray(p_class, dtype=np.float64)
    if lesion.ndim != 2 or lesion.shape[1] != 2 or classes.shape != (len(lesion), 4):
        raise ValueError(f"need p_lesion [n, 2] and p_class [n, 4], not {lesion.shape} and {classes.shape}")
    fused = lesion[:, 1:] * classes
    fused[:, 0] += lesion[:, 0]
    return fused


WindowFusion = Literal["scores", "features"]
"""What is averaged over the windows of M3Lung-Sys for a patient: the patient network's scores, or its input."""


def patient_inputs(features: npt.NDArray[np.float32], fusion: WindowFusion) -> npt.NDArray[np.float32]:
    """What the patient network is run on: features float32 [passes, n, D] of features [windows, n, D].

    "scores" is a pass per window, whose probabilities are averaged after it; "features" one on their mean.
    """
    return features if fusion == "scores" else features.mean(axis=0, keepdims=True, dtype=np.float32)


def m3_nonparametric(
    p_lesion: npt.ArrayLike, p_class: npt.ArrayLike, threshold: float = 0.99
) -> M3NonparametricVerdict:
    """The non-parametric patient assessment of M3Lung-Sys (eq. 4, 5; specification D.4).

    p_lesion: [n, 2], softmax of the lesion classifier, index 0 = no lesion. p_class: [n, 4], softmax of the classes.
    Healthy when N^0 / n > threshold (strict), else the disease with the largest count; on a tie the first of
    COVID-19, H1N1, CAP. Raises ValueError for other shapes and for n = 0.
    """
    p = fused_slice_probabilities(p_lesion, p_class)
    n = len(p)
    if n == 0:
        raise ValueError("m3_nonparametric needs at least one slice")
    counts = np.asarray((p == p.max(axis=1, keepdims=True)).sum(axis=0), dtype=np.int64)
    label = 0 if counts[0] / n > threshold else 1 + int(np.argmax(counts[1:]))
    return M3NonparametricVerdict(label, p, counts)
