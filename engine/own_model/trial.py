"""Made-up series to try a model on before a patient's is: when it is packaged, and when an engine is verified."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.uid import CTImageStorage

from engine.label_volume import LabelVolume
from engine.own_model.contract import OwnModelMetadata
from engine.own_model.grids import slice_grid, volume_grid
from engine.own_model.patches import patch_places
from engine.own_model.tensors import input_tensor
from engine.own_model.views import stacked, volume_sampled, with_channels
from engine.volume import Geometry, SourceSlice, Volume

_SPACING_MM, _GAP_MM = 0.8, 3.0


def series_of(hu: npt.NDArray[np.int16]) -> Volume:
    """An axial series of these slices int16 [Z, Y, X] HU, with pixels of 0.8 mm, 3 mm apart."""
    positions = np.array([[0.0, 0.0, _GAP_MM * z] for z in range(len(hu))])
    directions = np.array([1.0, 0, 0]), np.array([0.0, 1, 0])
    geometry = Geometry(positions, *directions, (_SPACING_MM, _SPACING_MM), _GAP_MM)
    sources = tuple(SourceSlice(CTImageStorage, f"2.25.{z}", None, z) for z in range(len(hu)))
    return Volume(hu, geometry, sources, "2.25.100", "2.25.101", "2.25.102")


def trial_tensor(hu: npt.NDArray[np.int16], metadata: OwnModelMetadata) -> dict[str, npt.NDArray[Any]]:
    """The input by name that a graph gets for slices int16 [Z, Y, X] HU: all of them, or the first patch.

    Raises RunnerFailed where these slices cannot be brought into the form that the model wants.
    """
    volume = series_of(hu)
    everywhere = LabelVolume.of(np.ones(volume.shape, dtype=bool))
    if metadata.is_volume:
        grid = volume_grid(metadata, volume.geometry, volume.shape, everywhere)
        view = volume_sampled(volume.hu, grid)
        if metadata.input.is_patch_data:
            patch = tuple(int(side) for side in metadata.sides)
            view = view[patch_places(view.shape, patch, metadata.preprocessing.patch_overlap)[0]]
        return {metadata.input_name: input_tensor(with_channels(view[None], metadata), metadata)}
    count = 1 if "N" not in metadata.input_layout else metadata.preprocessing.batch or len(hu)
    grid = slice_grid(metadata, volume.geometry, volume.shape, everywhere)
    slices = np.arange(count) % len(hu)
    return {metadata.input_name: input_tensor(stacked(volume.hu, slices, grid, metadata), metadata)}
