"""From the voxels of a series to those that a network wants, and back: linear, axis by axis.

Crop, stretching, resampling to a spacing, padding and turning are all one thing: where along each axis of the series
the network's samples lie.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]

_NEARLY = 1e-6


@dataclass(frozen=True, eq=False)
class Axis:
    """Samples along one axis of the series.

    positions: float64 [n], where each lies, in voxels of the series (0 is the centre of the first); they rise, or
        fall where the axis is turned round. reach: half the distance between neighbours, in the same unit.
    length: voxels of the series along this axis.
    """

    positions: npt.NDArray[np.float64]
    reach: float
    length: int

    @property
    def covered(self) -> slice:
        """The voxels of the series that samples lie over."""
        low, high = float(self.positions.min()) - self.reach, float(self.positions.max()) + self.reach
        first = max(0, int(np.ceil(low - _NEARLY)))
        return slice(first, max(first, min(self.length - 1, int(np.floor(high + _NEARLY))) + 1))

    def of_voxels(self) -> npt.NDArray[np.float64]:
        """Where the voxels `covered` lie among the samples, float64 [m]."""
        voxels = np.arange(self.covered.start, self.covered.stop, dtype=np.float64)
        numbers = np.arange(len(self.positions), dtype=np.float64)
        if self.positions[0] > self.positions[-1]:
            return np.interp(voxels, self.positions[::-1], numbers[::-1])
        return np.interp(voxels, self.positions, numbers)


def stretched(first: int, end: int, length: int, count: int, *, turned: bool = False) -> Axis:
    """`count` samples evenly over the voxels `first` to `end` (not included)."""
    step = (end - first) / count
    positions = first - 0.5 + (np.arange(count, dtype=np.float64) + 0.5) * step
    return Axis(positions[::-1] if turned else positions, step / 2, length)


def spaced(first: int, end: int, length: int, step: float, count: int, *, turned: bool = False) -> Axis:
    """`count` samples `step` voxels apart around the middle of the voxels `first` to `end` (not included)."""
    middle = (first + end - 1) / 2
    positions = middle + (np.arange(count, dtype=np.float64) - (count - 1) / 2) * step
    return Axis(positions[::-1] if turned else positions, step / 2, length)


def at_places(places: npt.NDArray[np.float64], offsets: npt.NDArray[np.float64], *, turned: bool) -> Axis:
    """Samples at `places` mm along an axis whose voxels lie at `offsets` mm (rising, gaps may be uneven)."""
    numbers = np.arange(len(offsets), dtype=np.float64)
    positions = np.interp(places, offsets, numbers)
    before, after = places < offsets[0], places > offsets[-1]
    first_gap, last_gap = _end_gaps(offsets)
    positions[before] = (places[before] - offsets[0]) / first_gap
    positions[after] = len(offsets) - 1 + (places[after] - offsets[-1]) / last_gap
    reach = float(np.max(np.diff(positions))) / 2 if len(positions) > 1 else len(offsets) / 2
    return Axis(positions[::-1] if turned else positions, reach, len(offsets))


def _end_gaps(offsets: npt.NDArray[np.float64]) -> tuple[float, float]:
    if len(offsets) == 1:
        return 1.0, 1.0
    return float(offsets[1] - offsets[0]), float(offsets[-1] - offsets[-2])


def sampled(values: npt.NDArray[np.generic], axis: Axis, dimension: int, fill: float) -> Floats:
    """`values` at the samples of an axis, along `dimension`; `fill` for samples outside of the series."""
    inside = (axis.positions >= -0.5 - _NEARLY) & (axis.positions <= axis.length - 0.5 + _NEARLY)
    taken = _interpolated(values, axis.positions, dimension)
    if not inside.all():
        np.moveaxis(taken, dimension, 0)[~inside] = fill
    return taken


def returned(values: Floats, axis: Axis, dimension: int) -> Floats:
    """`values` given at the samples of an axis, at the voxels that it covers."""
    return _interpolated(values, axis.of_voxels(), dimension)


def _interpolated(
    values: npt.NDArray[np.generic], positions: npt.NDArray[np.float64], dimension: int
) -> Floats:
    """float32, linear between elements along `dimension`, constant beyond the first and last."""
    last = values.shape[dimension] - 1
    at = np.clip(positions, 0, last)
    lower = np.floor(at).astype(np.intp)
    share = (at - lower).astype(np.float32)
    low = np.take(values, lower, axis=dimension).astype(np.float32)
    if not share.any():
        return low
    shape = [1] * values.ndim
    shape[dimension] = len(share)
    high = np.take(values, np.minimum(lower + 1, last), axis=dimension).astype(np.float32)
    return np.asarray(low + (high - low) * share.reshape(shape), dtype=np.float32)
