"""Where the lungs are: the 2-D crop of M3Lung-Sys (specification D.1) and the 3-D lungs of a volume."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from engine.label_volume import LabelVolume
from engine.morphology import closed_by_disc
from engine.volume import Geometry

Box = tuple[int, int, int, int]
"""(top, left, bottom, right) in pixels; bottom and right are the first row and column outside."""

Mask = npt.NDArray[np.bool_]
Maps = npt.NDArray[np.float32]

BODY_HU = -300
OPENING_ROWS = 8

LEAST_LUNG_MM2 = 500.0
"""Lung in a slice that counts as having some."""

_EIGHT = np.ones((3, 3), dtype=bool)
_PLANE_ONLY = np.zeros((3, 3, 3), dtype=bool)
_PLANE_ONLY[1] = True


def window(
    hu: npt.NDArray[np.integer] | npt.NDArray[np.floating], center: float, width: float
) -> npt.NDArray[np.float32]:
    """Linear window: clip((HU - (center - width / 2)) / width, 0, 1), float32 of the shape of `hu`.

    M3Lung-Sys D.1 uses centres -700, -600, -500 with width 1200; JCS A.2 centre -600 with width 1500.
    Raises ValueError when width is not positive.
    """
    if width <= 0:
        raise ValueError(f"window width must be positive, not {width}")
    low = center - width / 2
    return np.clip((np.asarray(hu, dtype=np.float32) - np.float32(low)) / np.float32(width), 0, 1)


def crop_box(hu_slice: npt.NDArray[np.int16], margin: int = 10) -> Box | None:
    """The box around the lungs of one slice, M3Lung-Sys D.1; None where there is no lung.

    hu_slice: int16 [Y, X] HU. Body = HU >= -300, opened with 8 rows x 1 column (this frees the hollow of the table);
    the air of the rest without what touches the image border (8-connected), opened with the same element, gives the
    lungs; the box is theirs, `margin` pixels wider on each side, clipped at the image. For 512 x 512 about 1 ms.
    """
    air = ~_opened_vertically(hu_slice >= BODY_HU)
    inside = _opened_vertically(_without_border_parts(air))
    return _bounding_box(inside, margin)


def _opened_vertically(mask: Mask) -> Mask:
    """Opening with OPENING_ROWS x 1: only vertical runs of at least that many pixels stay.

    Erosion and dilation by doubling (1, 2, 4 ... rows), on packed views of whole rows.
    """
    rows = mask.shape[0]
    if rows < OPENING_ROWS:
        return np.zeros_like(mask)
    runs, length = mask, 1
    while length < OPENING_ROWS:
        step = min(length, OPENING_ROWS - length)
        runs = runs[:-step] & runs[step:]
        length += step
    opened = np.zeros_like(mask)
    opened[: runs.shape[0]] = runs
    length = 1
    while length < OPENING_ROWS:
        step = min(length, OPENING_ROWS - length)
        opened[step:] |= opened[:-step].copy()
        length += step
    return opened


def _without_border_parts(mask: Mask) -> Mask:
    labels, count = ndimage.label(mask, structure=_EIGHT)
    outside = np.zeros(count + 1, dtype=bool)
    outside[0] = True
    for edge in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        outside[edge] = True
    return np.asarray(~outside[labels])


def _bounding_box(mask: Mask, margin: int) -> Box | None:
    y, x = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(y):
        return None
    return (
        max(int(y[0]) - margin, 0),
        max(int(x[0]) - margin, 0),
        min(int(y[-1]) + 1 + margin, mask.shape[0]),
        min(int(x[-1]) + 1 + margin, mask.shape[1]),
    )


def volume_box(lungs: LabelVolume[np.bool_], margin: int = 10) -> Box | None:
    """One box for a series: around the lungs [Z, Y, X] of all slices, `margin` pixels wider, clipped."""
    return _bounding_box(lungs.shadow(), margin)


@dataclass(frozen=True)
class LungRules:
    """How lungs are told from other air; lengths in mm, volumes in ml.

    air_hu: everything below is air or lung. pure_air_hu: bowel gas and airways have a median
    below this, lung does not. second_part: the other lung has at least this share of the larger one.
    closing_mm: gaps at the pleura up to twice this width (dense lesions, vessels) are filled.
    grid_mm: the search runs on voxels of about this size.
    """

    air_hu: int = -320
    pure_air_hu: int = -960
    second_part: float = 0.1
    minimum_ml: float = 300.0
    closing_mm: float = 12.0
    grid_mm: float = 2.5


def find_lungs(
    hu: npt.NDArray[np.int16], geometry: Geometry, rules: LungRules = LungRules()
) -> LabelVolume[np.bool_] | None:
    """The lungs [Z, Y, X] of a volume int16 [Z, Y, X] HU, or None where nothing looks like lungs.

    Air that does not reach the border of its slice; of its 3-D parts the largest and, where it is large enough, the
    second; each half of the body closed so that lesions at the pleura belong to it; holes filled slice by slice.
    Trachea and large bronchi stay in (about 1 % of the volume). A lobe that is dense as a whole is not found.
    """
    coarse, factors = _coarsened(hu, geometry, rules.grid_mm)
    spacing = _coarse_spacing(geometry, factors)
    voxel_ml = math.prod(spacing) / 1000
    parts = _lung_parts(coarse, voxel_ml, rules)
    if parts is None:
        return None
    slices, rows, columns = hu.shape
    return _refined(_closed(parts, spacing, rules.closing_mm), factors, (slices, rows, columns))


def volume_ml(areas: npt.NDArray[np.float64], geometry: Geometry) -> float:
    """What pixels are in ml, given how many there are in each slice, float64 [Z]; each slice with its own extent."""
    return float(areas * geometry.pixel_area @ geometry.slice_extents) / 1000


def slices_with_lung(
    lungs: LabelVolume[np.bool_], geometry: Geometry, minimum_mm2: float = LEAST_LUNG_MM2
) -> Mask:
    """bool [Z]: slices in which the lungs have at least `minimum_mm2`."""
    return np.asarray(lungs.areas() * geometry.pixel_area >= minimum_mm2)


def may_hold_lung(
    hu_slice: npt.NDArray[np.int16], geometry: Geometry, rules: LungRules = LungRules()
) -> bool:
    """A quick guess whether `slices_with_lung` will say so of one slice int16 [Y, X], before the lungs are known.

    By the air that does not reach the border of the image, on every fourth row and column. 0.2 ms for 512 x 512.
    """
    sample = hu_slice[::4, ::4]
    inner = _without_border_parts(sample < rules.air_hu) & (sample > rules.pure_air_hu)
    return bool(np.count_nonzero(inner) * 16 * geometry.pixel_area >= LEAST_LUNG_MM2)


def in_pixels(mm: float, geometry: Geometry) -> tuple[int, int]:
    """A length within slices in whole (rows, columns)."""
    rows, columns = (max(round(mm / spacing), 0) for spacing in geometry.pixel_spacing)
    return rows, columns


def _coarsened(
    hu: npt.NDArray[np.int16], geometry: Geometry, grid_mm: float
) -> tuple[npt.NDArray[np.float32], tuple[int, int, int]]:
    """Every k-th slice, in-plane means over blocks; factors (z, y, x). Rows and columns left over are cut off."""
    size = (geometry.slice_spacing, *geometry.pixel_spacing)
    factors = tuple(max(1, int(grid_mm / mm)) for mm in size)
    z, y, x = factors
    kept = hu[::z, : hu.shape[1] // y * y, : hu.shape[2] // x * x]
    blocks = np.empty((kept.shape[0], kept.shape[1] // y, kept.shape[2] // x), dtype=np.float32)
    for plane, block in zip(kept, blocks, strict=True):
        rows = np.add.reduce([plane[row::y] for row in range(y)], dtype=np.int32)
        np.divide(sum(rows[:, column::x] for column in range(x)), x * y, out=block, casting="same_kind")
    return blocks, (z, y, x)


def _coarse_spacing(geometry: Geometry, factors: tuple[int, int, int]) -> tuple[float, float, float]:
    z, y, x = factors
    rows, columns = geometry.pixel_spacing
    return geometry.slice_spacing * z, rows * y, columns * x


def _lung_parts(hu: Maps, voxel_ml: float, rules: LungRules) -> Mask | None:
    candidates = _lung_like(hu, rules)
    labels, count = ndimage.label(candidates)
    volumes = np.bincount(labels[candidates], minlength=count + 1)[1:] * voxel_ml
    order = np.argsort(-volumes, kind="stable")[:2]
    parts = [k + 1 for k in order if volumes[k] >= rules.second_part * volumes[order[0]]]
    if volumes[[p - 1 for p in parts]].sum() < rules.minimum_ml:
        return None
    wanted = np.zeros(count + 1, dtype=bool)
    wanted[parts] = True
    return np.asarray(wanted[labels])


def _lung_like(hu: Maps, rules: LungRules) -> Mask:
    """Air that does not touch the border of its slice and is, by the median of each 2-D part, denser than pure air.

    Two dimensions for both, since an open airway or thick slices join lungs, outside air and bowel in three.
    """
    labels, count = _plane_labels(hu < rules.air_hu)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    pure = np.bincount(labels[hu < rules.pure_air_hu], minlength=count + 1)
    outside = pure > sizes / 2
    outside[_border_labels(labels)] = True
    outside[0] = True
    return np.asarray(~outside[labels])


def _plane_labels(mask: Mask) -> tuple[npt.NDArray[np.int32], int]:
    labels, count = ndimage.label(mask, structure=_PLANE_ONLY)
    return labels, count


def _border_labels(labels: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    edges = (labels[:, 0], labels[:, -1], labels[:, :, 0], labels[:, :, -1])
    return np.unique(np.concatenate([edge.ravel() for edge in edges]))


def _closed(lungs: Mask, spacing: tuple[float, float, float], mm: float) -> Mask:
    """Left and right half closed apart, so that the mediastinum between them stays out; then holes filled."""
    columns = np.flatnonzero(lungs.any(axis=(0, 1)))
    middle = (int(columns[0]) + int(columns[-1]) + 1) // 2
    reach = max(1, round(mm / spacing[1])), max(1, round(mm / spacing[2]))
    halves = (lungs[:, :, :middle], lungs[:, :, middle:])
    return _inner_filled(np.concatenate([closed_by_disc(half, *reach) for half in halves], axis=2))


def _inner_filled(mask: Mask) -> Mask:
    """With the holes of each slice filled."""
    labels, count = _plane_labels(~mask)
    hole = np.ones(count + 1, dtype=bool)
    hole[_border_labels(labels)] = False
    return np.asarray(hole[labels] | mask)


def _refined(
    coarse: Mask, factors: tuple[int, int, int], shape: tuple[int, int, int]
) -> LabelVolume[np.bool_]:
    """The coarse mask on the grid of the volume: bilinear in plane, nearest across slices."""
    step, y, x = factors
    fine = LabelVolume(shape, np.bool_)
    plane = np.zeros(shape[1:], dtype=bool)
    # One coarse pixel around the lungs is enough for the same answer, since bilinear reaches no further.
    top, left, bottom, right = _bounding_box(np.asarray(coarse.any(axis=0)), margin=1) or (0, 0, 0, 0)
    part = coarse[:, top:bottom, left:right]
    inside = np.s_[top * y : bottom * y, left * x : right * x]
    for z in np.flatnonzero(part.any(axis=(1, 2))):
        image = Image.fromarray(part[z].view(np.uint8) * 255).resize(
            ((right - left) * x, (bottom - top) * y), Image.Resampling.BILINEAR
        )
        first = max(0, z * step - (step - 1) // 2)
        plane[inside] = np.asarray(image) > 127
        fine[first : z * step + step // 2 + 1] = plane
    if len(coarse):
        last = (len(coarse) - 1) * step
        fine[last:] = fine[last]
    return fine
