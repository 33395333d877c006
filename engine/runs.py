"""A mask as runs: unbroken stretches of pixels in image rows. Lesions are few of these, however large the volume."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from engine.label_volume import Label, LabelVolume, PlaneRuns

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


def runs_of(mask: LabelVolume[np.bool_]) -> Runs:
    """The runs of a mask [Z, Y, X] with at least one voxel."""
    slices, rows, columns = mask.shape
    planes = [mask.runs(z) for z in range(slices)]
    firsts = np.concatenate([plane.firsts for plane in planes]).astype(np.intp)
    ends = np.concatenate([plane.ends for plane in planes]).astype(np.intp)
    # Where the mask reaches both edges a run goes on in the next row: it is cut into one for each row.
    row = firsts // columns
    parts = (ends - 1) // columns - row + 1
    whole = np.repeat(np.arange(len(firsts)), parts)
    y = row[whole] + np.arange(len(whole)) - np.repeat(np.cumsum(parts) - parts, parts)
    x = np.maximum(firsts[whole] - y * columns, 0)
    lengths = np.minimum(ends[whole] - y * columns, columns) - x
    z = np.repeat(np.arange(slices), [len(plane.firsts) for plane in planes])[whole]
    # An empty column ends each row and an empty row each slice, so that nothing touches around an edge.
    width, area = columns + 1, (rows + 1) * (columns + 1)
    return Runs(z, y, x, lengths, z * area + y * width + x, (width, area - width, area, area + width))


def labelled(runs: Runs, labels: npt.NDArray[Label], shape: tuple[int, int, int]) -> LabelVolume[Label]:
    """The volume of `shape` [Z, Y, X] in which each run has its label, [n]; 0 leaves it out."""
    kept = np.flatnonzero(labels)
    firsts = (runs.y[kept] * shape[2] + runs.x[kept]).astype(np.int32)
    ends = firsts + runs.lengths[kept].astype(np.int32)
    given = labels[kept]
    at = np.searchsorted(runs.z[kept], np.arange(shape[0] + 1))
    planes = (PlaneRuns(firsts[a:b], ends[a:b], given[a:b]) for a, b in pairwise(at))
    return LabelVolume(shape, given.dtype.type, planes)


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
