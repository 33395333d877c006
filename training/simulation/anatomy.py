"""What a lesion needs to know about the lungs that it is put into."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from training.simulation.fields import Field, Spacing

_SAMPLE = 6000


@dataclass(frozen=True, eq=False)
class Anatomy:
    """The lungs of one volume, slices from feet to head, rows from anterior to posterior.

    lungs: bool [Z, Y, X]. rim: bool [Z, Y, X], the lungs and one voxel around them in the slice: what lies
        there is partly lung and must be filled too, or a dense lesion gets a dark edge.
    depth: float32 [Z, Y, X], distance to the nearest voxel outside of the lungs, mm; 0 outside.
    spacing: mm along z, y, x.
    places: int [K, 3], a random sample of lung voxels (z, y, x) at which a lesion may be centred.
    height, dorsal, side: per place: 0 at the base to 1 at the apex; 0 anterior to 1 posterior; 0 for the
        lung at low columns (the patient's right in the usual display), 1 for the other.
    hila: float [2, 3], about where the bronchi enter either lung, voxels (z, y, x).
    """

    lungs: npt.NDArray[np.bool_]
    rim: npt.NDArray[np.bool_]
    depth: Field
    spacing: Spacing
    places: npt.NDArray[np.int64]
    height: Field
    dorsal: Field
    side: npt.NDArray[np.int64]
    hila: npt.NDArray[np.float64]

    @property
    def place_depth(self) -> Field:
        """Depth below the pleura of every place, mm, float32 [K]."""
        z, y, x = self.places.T
        return np.asarray(self.depth[z, y, x])


def describe(lungs: npt.NDArray[np.bool_], spacing: Spacing, rng: np.random.Generator) -> Anatomy:
    """The anatomy of a lung mask bool [Z, Y, X].

    Raises ValueError when the mask is empty.
    """
    voxels = np.argwhere(lungs)
    if not len(voxels):
        raise ValueError("no lung voxel to put a lesion into")
    low, high = voxels.min(axis=0), voxels.max(axis=0)
    extent = np.maximum(high - low, 1)
    midline = (low[2] + high[2]) / 2
    places = voxels[rng.integers(len(voxels), size=_SAMPLE)]
    relative = (places - low) / extent
    return Anatomy(
        lungs=lungs,
        rim=ndimage.binary_dilation(lungs, np.ones((1, 3, 3))),
        depth=_depth(lungs, spacing),
        spacing=spacing,
        places=places,
        height=relative[:, 0].astype(np.float32),
        dorsal=relative[:, 1].astype(np.float32),
        side=(places[:, 2] > midline).astype(np.int64),
        hila=_hila(places, midline),
    )


def _depth(lungs: npt.NDArray[np.bool_], spacing: Spacing) -> Field:
    """Distance to the pleura within each slice: what counts for a lesion's look, and cheap."""
    return np.stack(
        [ndimage.distance_transform_edt(slice_, sampling=spacing[1:]).astype(np.float32) for slice_ in lungs]
    )


def _hila(places: npt.NDArray[np.int64], midline: float) -> npt.NDArray[np.float64]:
    """Two thirds of the way from either lung's centre to the midline."""
    centre = places.mean(axis=0)
    hila = np.tile(centre, (2, 1))
    for side, members in enumerate((places[:, 2] <= midline, places[:, 2] > midline)):
        column = places[members, 2].mean() if members.any() else midline
        hila[side, 2] = midline + (column - midline) / 3
    return np.asarray(hila, dtype=np.float64)
