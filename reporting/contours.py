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

_TOLERANCES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)


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
    """The same contours with at most `limit` points in all: simplified as little as is enough, never cut short."""
    everyone = tuple(range(len(contours)))
    if _points(contours) <= limit:
        return SimplifiedContours(tuple(contours), everyone)
    simpler = tuple(contours)
    for tolerance in _TOLERANCES:
        simpler = tuple(replace(c, points=simplified(c.points, tolerance)) for c in contours)
        if _points(simpler) <= limit:
            return SimplifiedContours(simpler, everyone, tolerance)
    largest_first = sorted(range(len(contours)), key=lambda i: (-contours[i].area, i))
    room = np.cumsum([len(simpler[i].points) for i in largest_first]) <= limit
    kept = tuple(sorted(i for i, fits in zip(largest_first, room, strict=True) if fits))
    left_out = len(contours) - len(kept)
    return SimplifiedContours(tuple(simpler[i] for i in kept), kept, _TOLERANCES[-1], left_out)


def simplified(points: npt.NDArray[np.float64], tolerance: float) -> npt.NDArray[np.float64]:
    """A closed loop [N, 2] with fewer points, nowhere off by more than `tolerance` (Douglas and Peucker 1973).

    Keeps at least a triangle, and the loop closed.
    """
    if len(points) <= 4:
        return points
    # A loop has no ends to start from: split it at the point that is farthest from the first.
    far = int(np.argmax(np.hypot(*(points - points[0]).T)))
    keep = np.zeros(len(points), dtype=bool)
    keep[[0, far, -1]] = True
    pending = [(0, far), (far, len(points) - 1)]
    while pending:
        start, end = pending.pop()
        if end - start < 2:
            continue
        distances = _distances(points[start + 1 : end], points[start], points[end])
        farthest = int(np.argmax(distances))
        if distances[farthest] > tolerance:
            middle = start + 1 + farthest
            keep[middle] = True
            pending += [(start, middle), (middle, end)]
    if keep.sum() < 4:
        keep[_farthest_from_line(points, far)] = True
    return np.asarray(points[keep], dtype=np.float64)


def _farthest_from_line(points: npt.NDArray[np.float64], far: int) -> int:
    distances = _distances(points, points[0], points[far])
    distances[[0, far, -1]] = -1.0
    return int(np.argmax(distances))


def _distances(
    points: npt.NDArray[np.float64], start: npt.NDArray[np.float64], end: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Distance of each point from the segment start-end."""
    along = end - start
    length = float(along @ along)
    if length == 0.0:
        return np.asarray(np.hypot(*(points - start).T), dtype=np.float64)
    t = np.clip((points - start) @ along / length, 0.0, 1.0)
    return np.asarray(np.hypot(*(points - (start + t[:, None] * along)).T), dtype=np.float64)


def _points(contours: Sequence[Contour]) -> int:
    return sum(len(c.points) for c in contours)
