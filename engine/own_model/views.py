"""What a network is shown: slices and volumes of a series at the samples of a grid, in channels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from engine.own_model.contract import OwnModelMetadata
from engine.own_model.grids import Grid
from engine.own_model.sampling import Floats, sampled
from engine.own_model.tensors import AIR_HU


def stacked(
    hu: npt.NDArray[np.int16], slices: npt.NDArray[np.intp], grid: Grid, metadata: OwnModelMetadata
) -> Floats:
    """HU float32 [N, C, H, W] of slices, sampled; with `neighbours` the channels are the slices around each."""
    channels, middle = metadata.input.num_channels, metadata.input.num_channels // 2
    if metadata.preprocessing.channels == "neighbours":
        around = np.clip(slices[:, None] + np.arange(channels) - middle, 0, len(hu) - 1)
        return plane_sampled(hu[around], grid)
    plane = plane_sampled(hu[slices][:, None], grid)
    return np.repeat(plane, channels, axis=1) if channels > 1 else plane


def plane_sampled(values: npt.NDArray[np.generic], grid: Grid) -> Floats:
    """HU [..., Y, X] at the rows and columns of the grid, float32."""
    rows = sampled(values, grid.rows, values.ndim - 2, AIR_HU)
    return sampled(rows, grid.columns, values.ndim - 1, AIR_HU)


def with_channels(hu: Floats, metadata: OwnModelMetadata) -> Floats:
    """[N, D, H, W] as [N, C, D, H, W], each channel the same."""
    return np.repeat(hu[:, None], metadata.input.num_channels, axis=1)


def volume_sampled(hu: npt.NDArray[np.int16], grid: Grid) -> Floats:
    """HU float32 [D, H, W] of a volume int16 [Z, Y, X]; within the slices first, where a crop saves most."""
    assert grid.slices is not None
    return sampled(plane_sampled(hu, grid), grid.slices, 0, AIR_HU)
