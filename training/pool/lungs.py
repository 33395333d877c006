"""Lungs by thresholds alone: where to simulate lesions, and what the lung box of a figure is."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

_AIR_HU = -320
_AIRWAY_DROP = 110
_MIN_FIGURE_LUNG = 0.08
Box = tuple[float, float, float, float]
"""Top, left, bottom, right as fractions of the slice."""


def without_airways(hu: npt.NDArray[np.int16], lungs: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """`lungs` less trachea and large bronchi: no lesion grows in them."""
    if not np.count_nonzero(lungs):
        return lungs
    level = float(np.median(hu[lungs])) - _AIRWAY_DROP
    airways = ndimage.uniform_filter(hu.astype(np.float32), (1, 3, 3)) < level
    return np.asarray(lungs & ~ndimage.binary_dilation(airways, np.ones((1, 5, 5))), dtype=np.bool_)


def lung_box(lungs: npt.NDArray[np.bool_], margin: int = 5) -> Box:
    """Bounding box of a mask [..., Y, X] with `margin` pixels around; the whole slice where it is empty."""
    flat = np.asarray(lungs.reshape(-1, *lungs.shape[-2:]).max(axis=0), dtype=np.bool_)
    if not flat.any():
        return 0.0, 0.0, 1.0, 1.0
    rows, columns = np.flatnonzero(flat.any(axis=1)), np.flatnonzero(flat.any(axis=0))
    height, width = flat.shape
    return (
        max(int(rows[0]) - margin, 0) / height,
        max(int(columns[0]) - margin, 0) / width,
        min(int(rows[-1]) + 1 + margin, height) / height,
        min(int(columns[-1]) + 1 + margin, width) / width,
    )


def figure_box(pseudo_hu: npt.NDArray[np.int16]) -> Box:
    """Lung box of one figure int16 [Y, X]; the whole figure where its lungs cannot be told from its border."""
    bodies, count = ndimage.label(pseudo_hu < _AIR_HU)
    sizes = np.bincount(bodies.ravel(), minlength=count + 1)
    sizes[np.unique(np.concatenate([bodies[0], bodies[-1], bodies[:, 0], bodies[:, -1]]))] = 0
    sizes[0] = 0
    lungs = (sizes > max(0.1 * sizes.max(), 300))[bodies]
    return lung_box(lungs) if lungs.mean() > _MIN_FIGURE_LUNG else (0.0, 0.0, 1.0, 1.0)
