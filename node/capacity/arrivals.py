"""A day's arrivals: a Poisson process whose rate follows the hours of a hospital's day."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

HOUR = 3600.0
DAY_SHAPE = (2, 2, 2, 2, 2, 2, 3, 6, 10, 14, 16, 15, 11, 12, 14, 13, 10, 7, 5, 4, 4, 3, 3, 2)
"""Relative rate of each hour from midnight: two peaks, late morning and afternoon, and a thin night. An assumption for
planning, not a measurement: a site passes its own with `--hours`."""

Times = npt.NDArray[np.float64]


def arrival_times(
    per_day: float, days: int, chance: np.random.Generator, shape: Sequence[float] = DAY_SHAPE
) -> Times:
    """Seconds since the first midnight of every arrival, float64, ascending.

    Each part of the day (a day is cut into as many as `shape` has) gets a Poisson number of arrivals, spread evenly:
    that is a Poisson process of piecewise constant rate.
    """
    weights = np.asarray(shape, dtype=np.float64)
    expected = np.tile(per_day * weights / weights.sum(), days)
    part = 24 * HOUR / len(weights)
    counts = chance.poisson(expected)
    begins = np.repeat(np.arange(len(expected)) * part, counts)
    return np.sort(begins + chance.random(int(counts.sum())) * part)
