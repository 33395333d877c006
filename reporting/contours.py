"""Iso-contours of heatmaps as closed polylines in image coordinates.

Contours are traced on the map's own grid: traced on a map enlarged to the CT's matrix they have eight times the
points and show nothing more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import contourpy
import numpy as np
import numpy.typing as npt

POINT_LIMIT = 20_000
"""So many points a presentation state may have in all; more make viewers slow."""

SMALLEST_AREA = 20.0
"""mm2: smaller loops are noise of the grid."""

_CLOSED_TRIANGLE = 4
_TINY = 1e-12


@dataclass(frozen=True, eq=False)
class Contour:
    """One closed loop on one slice: `points` float64 [N, 2] as (column, row), the last equal to the first.

    (0, 0) is the outer corner of the first pixel, so that the centre of pixel i is i + 0.5 (PS3.3 C.10.5.1.2).
    """

    z: int
    level: float
    points: npt.NDArray[np.float64]

    @property
    def area(self) -> float:
        """Enclosed area in pixels (shoelace formula)."""
        x, y = self.points[:-1].T
        return abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2


@dataclass(frozen=True)
class SimplifiedContours:
    """Contours within the point limit, and what was done to get there.

    sources: which of the given contours each of `contours` was.
    tolerance: how far, in pixels, a contour may now be off; 0 where it was left as it is.
    left_out: how many of the smallest loops had to go, where simplifying alone was not enough.
    """

    contours: tuple[Contour, ...]
    sources: tuple[int, ...]
    tolerance: float = 0.0
    left_out: int = 0


def iso_contours(
    maps: npt.NDArray[np.float32],
    levels: Sequence[float],
    slice_shape: tuple[int, int],
    pixel_area: float = 1.0,
) -> tuple[Contour, ...]:
    """Contours of maps [Z, h, w] that cover slices of `slice_shape` (rows, columns); none for maps below all levels.

    pixel_area: mm2 of one CT pixel, to leave out loops smaller than SMALLEST_AREA.
    """
    scale = np.array([slice_shape[1] / maps.shape[2], slice_shape[0] / maps.shape[1]])
    bounds = np.array([slice_shape[1], slice_shape[0]], dtype=np.float64)
    contours = []
    for z in np.flatnonzero(maps.max(axis=(1, 2)) >= min(levels)):
        # Padded with zeros, so that a contour that reaches the border is closed there.
        tracer = contourpy.contour_generator(z=np.pad(maps[z], 1).astype(np.float64))
        for level in levels:
            for line in tracer.lines(level):
                points = np.clip((np.asarray(line) - 0.5) * scale, 0.0, bounds)
                contour = Contour(int(z), level, points)
                if len(points) >= 4 and contour.area * pixel_area >= SMALLEST_AREA:
                    contours.append(contour)
    return tuple(contours)


def within_point_limit(contours: Sequence[Contour], limit: int = POINT_LIMIT) -> SimplifiedContours:
    """The same contours with at most `limit` points in all: simplified as little as is enough, never cut short.

    One tolerance holds for all of them. Every loop keeps at least a triangle; only where there are so many loops
    that triangles are too much, the smallest loops are left out, and counted.
    """
    counts = np.array([len(c.points) for c in contours], dtype=np.intp)
    if counts.sum() <= limit:
        return SimplifiedContours(tuple(contours), tuple(range(len(contours))))
    chosen = list(range(len(contours)))
    if len(contours) * _CLOSED_TRIANGLE > limit:
        by_area = sorted(chosen, key=lambda i: (-contours[i].area, i))
        chosen = sorted(by_area[: limit // _CLOSED_TRIANGLE])
    points = np.concatenate([contours[i].points for i in chosen])
    starts = np.concatenate([[0], np.cumsum(counts[chosen])])
    weights = point_weights(points, starts)
    tolerance = float(np.partition(weights, len(weights) - limit - 1)[len(weights) - limit - 1])
    keep = weights > tolerance
    simpler = tuple(
        replace(contours[i], points=points[a:b][keep[a:b]])
        for i, a, b in zip(chosen, starts[:-1], starts[1:], strict=True)
    )
    return SimplifiedContours(simpler, tuple(chosen), tolerance, len(contours) - len(chosen))


def point_weights(points: npt.NDArray[np.float64], starts: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
    """How much each point matters to the shape of its loop, in the unit of the points.

    points: float64 [N, 2], closed loops one after the other, loop i at `starts[i]`:`starts[i + 1]`, each of at least
    four points. Keeping the points that weigh more than t gives the loop that Douglas and Peucker's method gives
    with the tolerance t (Cartographica 10, 1973): nothing is off by more than t. The points that no loop can do
    without, three and the closing one, weigh infinitely much.

    All loops are split at once, one level of the method at a time.
    """
    first, last = starts[:-1], starts[1:] - 1
    loop = np.repeat(np.arange(len(first)), np.diff(starts))
    weights = np.zeros(len(points))
    weights[first] = weights[last] = np.inf
    # A closed loop has no ends to draw a chord between: its first chord goes to the point farthest from its start.
    far = _first_maxima(np.hypot(*(points - points[first[loop]]).T), starts[:-1])
    weights[far] = np.inf
    here = np.arange(len(points))
    left = np.where(here < far[loop], first[loop], far[loop])
    right = np.where(here < far[loop], far[loop], last[loop])
    ceiling = np.full(len(points), np.inf)
    open_points = np.flatnonzero(weights == 0)
    while len(open_points):
        a, b = left[open_points], right[open_points]
        distances = _distances(points[open_points], points[a], points[b])
        groups = np.flatnonzero(np.diff(a, prepend=-1))
        winners = open_points[_first_maxima(distances, groups)]
        sizes = np.diff(np.append(groups, len(open_points)))
        winner = np.repeat(winners, sizes)
        reached = np.repeat(np.maximum.reduceat(distances, groups), sizes)
        # A point is never kept without those that split the loop before it.
        ceiling[open_points] = np.minimum(ceiling[open_points], np.maximum(reached, _TINY))
        weights[winners] = ceiling[winners]
        before = open_points < winner
        right[open_points[before]] = winner[before]
        left[open_points[~before]] = winner[~before]
        open_points = open_points[open_points != winner]
    finite = np.where(np.isinf(weights), -1.0, weights)
    weights[_first_maxima(finite, starts[:-1])] = np.inf
    return weights


def _first_maxima(values: npt.NDArray[np.float64], groups: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """Index of the first largest value in each group; groups start at the given indices."""
    sizes = np.diff(np.append(groups, len(values)))
    largest = np.flatnonzero(values == np.repeat(np.maximum.reduceat(values, groups), sizes))
    return np.asarray(largest[np.searchsorted(largest, groups)], dtype=np.intp)


def _distances(
    points: npt.NDArray[np.float64], start: npt.NDArray[np.float64], end: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Distance of each point from its segment start-end, all float64 [N, 2]."""
    along = end - start
    length = np.maximum((along**2).sum(axis=1), _TINY)
    t = np.clip(((points - start) * along).sum(axis=1) / length, 0.0, 1.0)
    return np.asarray(np.hypot(*(points - start - t[:, None] * along).T), dtype=np.float64)
