"""Heatmaps: min-max to [0, 1] and placed from a network's crop into the grid that covers the whole slice."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from engine.findings import MAP_GRID
from engine.lungs import Box

Maps = npt.NDArray[np.float32]


def normalised(maps: npt.NDArray[np.floating]) -> Maps:
    """Each map of [N, h, w] min-max to [0, 1]: (m - min) / (max - min + 1e-8); a constant map becomes 0 (A.4)."""
    low = maps.min(axis=(1, 2), keepdims=True)
    high = maps.max(axis=(1, 2), keepdims=True)
    return np.asarray((maps - low) / (high - low + 1e-8), dtype=np.float32)


def placed(maps: Maps, box: Box, shape: tuple[int, int]) -> Maps:
    """Maps [N, h, w] of the crop `box` of slices of `shape` (Y, X) in the grid MAP_GRID: float32 [N, 64, 64].

    Bilinear between the centres of map pixels, constant beyond the outer centres, 0 outside of the box.
    """
    top, left, bottom, right = box
    rows = _interpolation(maps.shape[1], top, bottom, shape[0], MAP_GRID[0])
    columns = _interpolation(maps.shape[2], left, right, shape[1], MAP_GRID[1])
    return np.asarray(rows @ maps @ columns.T, dtype=np.float32)


def _interpolation(size: int, first: int, end: int, pixels: int, grid: int) -> Maps:
    """Weights [grid, size] that sample `size` map pixels lying over first..end at the centres of the grid cells."""
    centres = (np.arange(grid) + 0.5) * pixels / grid
    at = np.clip((centres - first) / (end - first) * size - 0.5, 0, size - 1)
    lower = np.minimum(at.astype(int), max(size - 2, 0))
    weights = np.zeros((grid, size), dtype=np.float32)
    weights[np.arange(grid), lower] = 1 - (at - lower)
    if size > 1:
        weights[np.arange(grid), lower + 1] = at - lower
    weights[(centres < first) | (centres >= end)] = 0
    return weights
