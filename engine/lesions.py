"""From a lesion mask to labelled lesions with their measures, and the slices that show most."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from engine.findings import Lesion
from engine.label_volume import LabelVolume
from engine.runs import Runs, connected, labelled, runs_of
from engine.volume import Geometry, Volume

SMALLEST_LESION_MM3 = 30.0
"""Parts below this (a ball of 3.9 mm) are taken for vessels in cross-section or noise, and removed."""

MOST_LESIONS = int(np.iinfo(np.uint16).max)

MOST_KEY_SLICES = 5


def label_lesions(
    mask: LabelVolume[np.bool_], volume: Volume
) -> tuple[LabelVolume[np.uint16], tuple[Lesion, ...]]:
    """Connected lesions (26-neighbourhood) of a mask [Z, Y, X], the largest by volume is 1.

    Lesions below SMALLEST_LESION_MM3 are removed.
    """
    if not mask.any():
        return LabelVolume(mask.shape, np.uint16), ()
    runs = runs_of(mask)
    part, count = connected(runs)
    weights = runs.lengths * volume.geometry.slice_extents[runs.z]
    mm3 = np.bincount(part, weights, minlength=count) * volume.geometry.pixel_area
    order = [k for k in np.argsort(-mm3, kind="stable") if mm3[k] >= SMALLEST_LESION_MM3][:MOST_LESIONS]
    rank = np.zeros(count, dtype=np.uint16)
    rank[order] = np.arange(1, len(order) + 1)
    of_run = rank[part]
    hu_sums = runs.sums(np.concatenate([volume.hu[z][mask[z]] for z in mask.occupied()]))
    return labelled(runs, of_run, mask.shape), tuple(
        _measured(k + 1, runs.taken(group), hu_sums[group], volume.geometry)
        for k, group in enumerate(_groups(of_run, len(order)))
    )


def _groups(of_run: npt.NDArray[np.uint16], count: int) -> list[npt.NDArray[np.intp]]:
    """The runs of each of the labels 1 .. count, in their order."""
    order = np.argsort(of_run, kind="stable")
    ends = np.searchsorted(of_run[order], np.arange(count + 1), side="right")
    return [order[first:last] for first, last in pairwise(ends)]


def _measured(label: int, runs: Runs, hu_sums: npt.NDArray[np.int64], geometry: Geometry) -> Lesion:
    """Measures of one lesion from its runs and the sum of HU over each of them."""
    weights = runs.lengths * geometry.slice_extents[runs.z]
    centroid = np.average(geometry.to_patient(runs.centres), axis=0, weights=weights)
    return Lesion(
        label=label,
        volume_ml=float(weights.sum() * geometry.pixel_area / 1000),
        centroid=(float(centroid[0]), float(centroid[1]), float(centroid[2])),
        slices=(int(runs.z[0]), int(runs.z[-1])),
        largest_slice=int(np.argmax(np.bincount(runs.z, runs.lengths))),
        mean_hu=float(hu_sums @ geometry.slice_extents[runs.z] / weights.sum()),
    )


def key_slices(*scores: npt.NDArray[np.floating]) -> tuple[int, ...]:
    """At most five slices that show most, in slice order, at least a twelfth of the series apart.

    scores: each [Z] and not negative; the first that is not all 0 decides. All 0: the middle slice.
    """
    count = len(scores[0])
    score = next((s for s in scores if s.any()), None)
    if score is None:
        return (count // 2,)
    apart = max(1, count // 12)
    chosen: list[int] = []
    for z in np.argsort(-score, kind="stable"):
        if score[z] > 0 and len(chosen) < MOST_KEY_SLICES and all(abs(int(z) - c) >= apart for c in chosen):
            chosen.append(int(z))
    return tuple(sorted(chosen))
