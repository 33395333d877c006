"""Binary morphology in the plane of the slices, for stacks: eight slices share a byte, so that each step is cheap.

Everything works on masks bool [Z, Y, X], each slice by itself; beyond the border of a slice there is nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
Planes = npt.NDArray[np.uint8]
"""[ceil(Z / 8), Y, X]: a mask with slice 8 k + b in bit b of plane k."""


def grown_by_rectangle(mask: Mask, rows: int, columns: int) -> Mask:
    """Dilation by a rectangle of (2 rows + 1) x (2 columns + 1) pixels."""
    planes = _packed(mask)
    for axis, reach in ((1, rows), (2, columns)):
        planes = _grown_along(planes, axis, reach)
    return _unpacked(planes, len(mask))


def closed_by_disc(mask: Mask, rows: int, columns: int) -> Mask:
    """Closing by the ellipse with half axes `rows` + 0.5 and `columns` + 0.5 pixels (a disc where they are equal)."""
    padding = ((0, 0), (rows, rows), (columns, columns))
    grown = _grown_by_disc(np.pad(_packed(mask), padding), rows, columns)
    # Erosion is dilation of the complement; beyond the padding the complement is full, as nothing reaches there.
    shrunk = ~_grown_by_disc(np.pad(~grown, padding, constant_values=255), rows, columns)
    inner = shrunk[:, 2 * rows : shrunk.shape[1] - 2 * rows, 2 * columns : shrunk.shape[2] - 2 * columns]
    return _unpacked(inner, len(mask))


def _packed(mask: Mask) -> Planes:
    planes = np.zeros((-(-len(mask) // 8), *mask.shape[1:]), dtype=np.uint8)
    for bit in range(8):
        every_eighth = mask[bit::8].view(np.uint8)
        planes[: len(every_eighth)] |= every_eighth << np.uint8(bit)
    return planes


def _unpacked(planes: Planes, slices: int) -> Mask:
    mask = np.empty((slices, *planes.shape[1:]), dtype=np.bool_)
    for bit in range(8):
        every_eighth = mask[bit::8]
        np.not_equal(planes[: len(every_eighth)] & np.uint8(1 << bit), 0, out=every_eighth)
    return mask


def _grown_along(planes: Planes, axis: int, reach: int) -> Planes:
    """By `reach` pixels to both sides of an axis, in steps that double: 1, 2, 4 ... pixels."""
    grown, covered = planes.copy(), 0
    while covered < reach:
        step = min(covered + 1, reach - covered)
        before = grown.copy()
        for here, there in _shifts(axis, step):
            grown[here] |= before[there]
        covered += step
    return grown


def _shifts(axis: int, step: int) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """Both ways to lay an array over itself, `step` pixels apart along an axis."""
    low, high = [slice(None)] * 3, [slice(None)] * 3
    low[axis], high[axis] = slice(None, -step), slice(step, None)
    yield tuple(low), tuple(high)
    yield tuple(high), tuple(low)


def _grown_by_disc(planes: Planes, rows: int, columns: int) -> Planes:
    """Row by row of the disc, from its narrow ends to its middle: the sideways growth is shared between them."""
    grown = np.zeros_like(planes)
    wide, reach = planes.copy(), 0
    for row in range(rows, -1, -1):
        half = int((columns + 0.5) * (1 - (row / (rows + 0.5)) ** 2) ** 0.5)
        if half > reach:
            wide, reach = _grown_along(wide, 2, half - reach), half
        if row == 0:
            grown |= wide
        else:
            for here, there in _shifts(1, row):
                grown[here] |= wide[there]
    return grown
