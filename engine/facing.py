"""Which way a series faces: its slices, rows and columns may lead the other way than a network has learned.

Networks are trained on slices as radiologists see them: columns to the patient's left, rows to the back, slices from
feet to head (LPS, PS3.3 C.7.6.2.1.1). A patient who lies prone, or a scanner's own way to store, gives others, and
what is told of them is brought back to the voxels as they are stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from engine.volume import Geometry

Value = TypeVar("Value", bound=np.generic)

TRAINED_ON = "LPS"
"""Where columns, rows and slices lead in what the networks of JCS and M3Lung-Sys were trained on."""

_STRAIGHT = 0.7
"""Cosine (45 degrees) from which on rows, columns and slices count as leading along an axis of the patient."""


@dataclass(frozen=True)
class Facing:
    """Whether slices, rows and columns of a series lead the other way than wanted."""

    slices: bool = False
    rows: bool = False
    columns: bool = False

    def turned(self, planes: npt.NDArray[Value]) -> npt.NDArray[Value]:
        """Planes [..., H, W], or maps over them, with rows and columns as wanted; turned once more they are as stored.

        A view.
        """
        return planes[..., :: -1 if self.rows else 1, :: -1 if self.columns else 1]

    def ordered(self, slices: npt.NDArray[Value], axis: int = 0) -> npt.NDArray[Value]:
        """An item for each slice along `axis` in the order wanted; ordered once more as stored. A view."""
        return np.flip(slices, axis) if self.slices else slices


def facing_of(geometry: Geometry, wanted: str = TRAINED_ON) -> Facing | None:
    """How a series faces, where columns, rows and slices should lead to `wanted`, such as LPS or RAS.

    None where they lead along no axis of the patient: an oblique series has no side that faces wrongly.
    """
    directions = (geometry.row_direction[0], geometry.column_direction[1], geometry.normal[2])
    along = tuple(float(value) for value in directions)
    if min(abs(value) for value in along) < _STRAIGHT:
        return None
    columns, rows, slices = (
        (letter == positive) != (value > 0)
        for letter, positive, value in zip(wanted, "LPS", along, strict=True)
    )
    return Facing(slices, rows, columns)


def facing_as_trained(geometry: Geometry) -> Facing:
    """How a series faces for JCS and M3Lung-Sys; an oblique one is taken as it is."""
    return facing_of(geometry) or Facing()
