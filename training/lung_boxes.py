"""Where the lungs of an item are: for a slice of a volume as serving finds them, else slice by slice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.label_volume import LabelVolume
from engine.lungs import crop_box, find_lungs, slices_with_lung
from engine.volume import Geometry
from training.datasets.items import Item
from training.datasets.pixels import PixelSource, volume_header
from training.recipe import LungScope

PixelBox = tuple[int, int, int, int]
"""Top, left, bottom, right in pixels, the last two exclusive."""


class LungBoxes:
    """Lung boxes of items; the lungs of a volume are searched once.

    Args:
        pixels: opens the volumes.
    """

    def __init__(self, pixels: PixelSource) -> None:
        self._pixels = pixels
        self._found: dict[Path, tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]] = {}

    def of(
        self, item: Item, hu: npt.NDArray[Any], margin: int, scope: LungScope = "volume"
    ) -> PixelBox | None:
        """The box in the item's slice `hu` [H, W]; None where a slice has no lung.

        With scope `volume` the box of the series where the data set names it or the item is a slice of a volume in HU;
        of a single slice in HU, and with scope `slice`, that of the paper (D.1); of a picture of unknown window all of
        it, since no threshold holds there.
        """
        height, width = hu.shape
        if item.lung_box is not None and scope == "volume":
            top, left, bottom, right = item.lung_box
            return round(top * height), round(left * width), round(bottom * height), round(right * width)
        if not item.calibration.exact:
            return 0, 0, height, width
        if item.image.index is None or scope == "slice":
            return crop_box(hu.astype(np.int16), margin)
        if not self.shows_lung(item):
            return None
        union, _ = self._volume(item)
        rows, columns = np.flatnonzero(union.any(axis=1)), np.flatnonzero(union.any(axis=0))
        return (
            max(int(rows[0]) - margin, 0),
            max(int(columns[0]) - margin, 0),
            min(int(rows[-1]) + 1 + margin, height),
            min(int(columns[-1]) + 1 + margin, width),
        )

    def shows_lung(self, item: Item) -> bool:
        """Whether the node would look at the slice: one of a volume in HU only where it shows lung."""
        if item.image.index is None or item.lung_box is not None or not item.calibration.exact:
            return True
        return bool(self._volume(item)[1][item.image.index])

    def _volume(self, item: Item) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """The lungs of all slices over each other, bool [H, W], and which slices show lung, bool [Z]."""
        path = item.image.path
        if path not in self._found:
            hu = self._pixels.volume(item)
            header = volume_header(path)
            positions = np.zeros((len(hu), 3))
            positions[:, 2] = np.arange(len(hu)) * header.slice_mm
            x, y = np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0])
            geometry = Geometry(positions, x, y, header.spacing, header.slice_mm)
            lungs = find_lungs(hu, geometry)
            if lungs is None:
                lungs = LabelVolume((hu.shape[0], hu.shape[1], hu.shape[2]), np.bool_)
            self._found[path] = lungs.shadow(), slices_with_lung(lungs, geometry)
        return self._found[path]
