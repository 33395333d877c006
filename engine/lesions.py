"""From a lesion mask to labelled lesions with their measures, and the slices that show most."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from engine.findings import Lesion
from engine.lungs import Mask
from engine.volume import Geometry, Volume

SMALLEST_LESION_MM3 = 30.0
"""Parts below this (a ball of 3.9 mm) are taken for vessels in cross-section or noise, and removed."""

MOST_LESIONS = int(np.iinfo(np.uint16).max)

MOST_KEY_SLICES = 5

Labels = npt.NDArray[np.uint16]


def label_lesions(mask: Mask, volume: Volume) -> tuple[Labels, tuple[Lesion, ...]]:
    """Connected lesions (26-neighbourhood) of a mask bool [Z, Y, X], the largest by volume is 1.

    Lesions below SMALLEST_LESION_MM3 are removed. Labels are uint16 [Z, Y, X].
    """
    labels = np.zeros(mask.shape, dtype=np.uint16)
    region = _extent(mask)
    if region is None:
        return labels, ()
    parts, count = ndimage.label(mask[region], structure=np.ones((3, 3, 3), dtype=bool))
    volumes = _volumes_mm3(parts, count, volume.geometry, region[0].start)
    order = [k for k in np.argsort(-volumes, kind="stable") if volumes[k] >= SMALLEST_LESION_MM3][
        :MOST_LESIONS
    ]
    rank = np.zeros(count + 1, dtype=np.uint16)
    rank[np.asarray(order, dtype=int) + 1] = np.arange(1, len(order) + 1)
    labels[region] = rank[parts]
    boxes = ndimage.find_objects(labels[region])
    origin = (region[0].start, region[1].start, region[2].start)
    return labels, tuple(
        _measured(k + 1, labels[region][box], _shifted(box, origin), volume) for k, box in enumerate(boxes)
    )


def _extent(mask: Mask) -> tuple[slice, slice, slice] | None:
    spans = []
    for axes in ((1, 2), (0, 2), (0, 1)):
        hit = np.flatnonzero(mask.any(axis=axes))
        if not len(hit):
            return None
        spans.append(slice(int(hit[0]), int(hit[-1]) + 1))
    return spans[0], spans[1], spans[2]


def _volumes_mm3(
    parts: npt.NDArray[np.int32], count: int, geometry: Geometry, first_slice: int
) -> npt.NDArray[np.float64]:
    totals = np.zeros(count + 1)
    for z, plane in enumerate(parts):
        counts = np.bincount(plane.ravel(), minlength=count + 1) if plane.any() else 0
        totals += counts * geometry.pixel_area * geometry.slice_extents[first_slice + z]
    return totals[1:]


def _shifted(box: tuple[slice, ...], origin: tuple[int, int, int]) -> tuple[slice, slice, slice]:
    z, y, x = (slice(s.start + o, s.stop + o) for s, o in zip(box, origin, strict=True))
    return z, y, x


def _measured(label: int, labels: Labels, box: tuple[slice, slice, slice], volume: Volume) -> Lesion:
    """Measures of one lesion; `labels` is the part of the label volume inside `box`."""
    geometry = volume.geometry
    voxels = np.argwhere(labels == label).astype(np.float64) + [s.start for s in box]
    z = voxels[:, 0].astype(int)
    weights = geometry.slice_extents[z]
    centroid = np.average(geometry.to_patient(voxels), axis=0, weights=weights)
    return Lesion(
        label=label,
        volume_ml=float(weights.sum() * geometry.pixel_area / 1000),
        centroid=(float(centroid[0]), float(centroid[1]), float(centroid[2])),
        slices=(int(z[0]), int(z[-1])),
        largest_slice=int(np.argmax(np.bincount(z))),
        mean_hu=float(np.average(volume.hu[box][labels == label], weights=weights)),
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
