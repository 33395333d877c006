"""Where in the lungs a lesion lies: side and third of the height. Lobes are not told apart, as no fissure is found."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np

from engine.findings import Findings, Lesion
from engine.volume import Volume

Side = Literal["right", "left"]
Third = Literal["upper", "middle", "lower"]

MIDLINE_MM = 10.0
"""A centre nearer to the midline of the lungs than this is on neither side: the midline itself is an estimate."""

_STEP = 4


@dataclass(frozen=True)
class LungExtent:
    """The box around both lungs in patient coordinates (LPS, mm): lowest and highest x and z."""

    x: tuple[float, float]
    z: tuple[float, float]


@dataclass(frozen=True)
class Place:
    """Where the centre of a lesion lies. side: of the patient; None at the midline."""

    side: Side | None
    third: Third

    @property
    def words(self) -> str:
        """`right, upper third of the lungs`."""
        return f"{self.side or 'midline'}, {self.third} third of the lungs"


def lung_extent(findings: Findings, volume: Volume) -> LungExtent | None:
    """The extent of the lungs; None where none were found."""
    # Every fourth row and column is enough to tell sides and thirds.
    inside = np.stack([plane[::_STEP, ::_STEP] for plane in findings.lung_mask])
    ranges = [np.flatnonzero(inside.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1))]
    if len(ranges[0]) == 0:
        return None
    ends = [
        (float(r[0]) * step, float(r[-1]) * step) for r, step in zip(ranges, (1, _STEP, _STEP), strict=True)
    ]
    points = volume.geometry.to_patient(np.array(list(product(*ends))))
    low, high = points.min(axis=0), points.max(axis=0)
    return LungExtent((float(low[0]), float(high[0])), (float(low[2]), float(high[2])))


def place_of(lesions: tuple[Lesion, ...], lungs: LungExtent | None) -> Place | None:
    """Where the lesions of a segment lie; None where that is not one place, or where no lungs are known."""
    if lungs is None:
        return None
    places = {_place(lesion, lungs) for lesion in lesions}
    return places.pop() if len(places) == 1 else None


def _place(lesion: Lesion, lungs: LungExtent) -> Place:
    x, _, z = lesion.centroid
    across = x - sum(lungs.x) / 2
    height = (z - lungs.z[0]) / max(lungs.z[1] - lungs.z[0], 1e-6)
    # Left of the patient is +x, the head +z (PS3.3 C.7.6.2.1.1).
    side: Side | None = None if abs(across) < MIDLINE_MM else "left" if across > 0 else "right"
    return Place(side, "lower" if height < 1 / 3 else "middle" if height < 2 / 3 else "upper")
