"""A series stored another way round than usual."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from engine.facing import Facing
from engine.volume import Geometry, Volume


def stored_as(volume: Volume, facing: Facing) -> Volume:
    """The same patient in the same place, with slices, rows and columns stored the other way round."""
    was = volume.geometry
    corner = np.array([[z, 0.0, 0.0] for z in range(len(volume.hu))])
    corner[:, 1] = (volume.shape[1] - 1) * facing.rows
    corner[:, 2] = (volume.shape[2] - 1) * facing.columns
    geometry = Geometry(
        facing.ordered(was.to_patient(corner)),
        was.row_direction * (-1 if facing.columns else 1),
        was.column_direction * (-1 if facing.rows else 1),
        was.pixel_spacing,
        was.slice_thickness,
    )
    assert (np.diff(geometry.offsets) > 0).all()
    return replace(volume, hu=facing.ordered(facing.turned(volume.hu)), geometry=geometry)
