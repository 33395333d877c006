"""A mask as runs: unbroken stretches of pixels in image rows. Lesions are few of these, however large the volume."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from engine.lungs import Mask

Indices = npt.NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Runs:
    """Runs of one mask in the order of its voxels, each int [n].

    z, y: slice and row. x: first column. lengths: pixels. places: where a run begins on a line on which runs that are
    neighbours in the plane or across slices lie at the distances `steps`.
    """

    z: Indices
    y: Indices
    x: Indices
    lengths: Indices
    places: Indices
    steps: tuple[int, ...]

    @property
    def centres(self) -> npt.NDArray[np.float64]:
        """Middle of each run, voxel indices (z, y, x) float64 [n, 3]."""
        return np.stack([self.z, self.y, self.x + (self.lengths - 1) / 2], axis=1, dtype=np.float64)

    def taken(self, which: Indices) -> Runs:
        """Some of the runs."""
        return Runs(
            self.z[which],
            self.y[which],
            self.x[which],
            self.lengths[which],
            self.places[which],
            self.steps,
        )

    def sums(self, values: npt.NDArray[np.int16]) -> npt.NDArray[np.int64]:
        """Sum over each run of `values`, one per voxel of the mask in its order: int64 [n]."""
        firsts = np.cumsum(self.lengths) - self.lengths
        return np.add.reduceat(values, firsts, dtype=np.int64)


def runs_of(mask: Mask, origin: tuple[int, int, int] = (0, 0, 0)) -> Runs:
    """The runs of a mask bool [Z, Y, X] with at least one voxel; `origin` (z, y, x) is added to their indices."""
    slices, rows, columns = mask.shape
    # An empty column ends each row and an empty row each slice, so that nothing touches around an edge.
    line = np.zeros((slices, rows + 1, columns + 1), dtype=bool)
    line[:, :rows, :columns] = mask
    flat = line.ravel()
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    if flat[0]:
        changes = np.concatenate([[0], changes])
    places, ends = changes[::2], changes[1::2]
    z, y, x = np.unravel_index(places, line.shape)
    width, area = columns + 1, (rows + 1) * (columns + 1)
    steps = (width, area - width, area, area + width)
    return Runs(z + origin[0], y + origin[1], x + origin[2], ends - places, places, steps)


def connected(runs: Runs) -> tuple[npt.NDArray[np.int32], int]:
    """The connected part (26-neighbourhood) of each run, int32 [n] from 0 on, and how many there are."""
    ends = runs.places + runs.lengths
    pairs = [_touching(runs.places, ends, step) for step in runs.steps]
    one, other = (np.concatenate(side) for side in zip(*pairs, strict=True))
    count = len(runs.places)
    graph = coo_array((np.ones(len(one), dtype=np.int8), (one, other)), shape=(count, count))
    parts, of_run = connected_components(graph, directed=False)
    return of_run, int(parts)


def _touching(firsts: Indices, ends: Indices, step: int) -> tuple[Indices, Indices]:
    """Pairs of runs of which the second, seen from `step` further on, overlaps the first or touches one of its ends."""
    low = np.searchsorted(ends, firsts + step, side="left")
    high = np.searchsorted(firsts, ends + step, side="right")
    counts = np.maximum(high - low, 0)
    one = np.repeat(np.arange(len(firsts)), counts)
    before = np.repeat(np.cumsum(counts) - counts, counts)
    return one, np.repeat(low, counts) + np.arange(len(one)) - before
