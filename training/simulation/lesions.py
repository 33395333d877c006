"""One lesion: an outline, what fills it, and how it is laid into a volume.

An outline gives a level at each voxel: positive inside, 1 at the heart of the lesion, 0 on its border. The
border is warped by noise and softened, which makes the lesion's opacity; the filling is a Hounsfield level
with texture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from training.simulation.anatomy import Anatomy
from training.simulation.fields import Field, Spacing, layered_noise, ramp, smooth_noise

Point = tuple[float, float, float]
Window = tuple[slice, slice, slice]


class Outline(Protocol):
    """The form of a lesion; lengths in mm, places in voxels (z, y, x)."""

    @property
    def centre(self) -> Point:
        """Voxel (z, y, x) around which the lesion lies."""
        ...

    @property
    def reach(self) -> float:
        """No part of the lesion is farther than this from its centre, mm."""
        ...

    def level(self, z: Field, y: Field, x: Field) -> Field:
        """Level at points given in mm relative to the centre (open grids), float32 [Z, Y, X]."""
        ...


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid with semi-axes (z, along, across) in mm, turned by `turn` radians within the slice."""

    centre: Point
    axes: tuple[float, float, float]
    turn: float = 0.0

    @property
    def reach(self) -> float:
        return 1.6 * max(self.axes)

    def level(self, z: Field, y: Field, x: Field) -> Field:
        cos, sin = np.cos(self.turn), np.sin(self.turn)
        along, across = cos * y + sin * x, cos * x - sin * y
        squared = (z / self.axes[0]) ** 2 + (along / self.axes[1]) ** 2 + (across / self.axes[2]) ** 2
        return np.asarray(1.0 - np.sqrt(squared), dtype=np.float32)


@dataclass(frozen=True)
class Wedge:
    """A cone that opens from `apex` (mm, relative to the centre) through the centre, cut off at `reach`.

    spread: tangent of half the opening angle.
    """

    centre: Point
    apex: tuple[float, float, float]
    spread: float
    reach: float

    def level(self, z: Field, y: Field, x: Field) -> Field:
        axis = -np.asarray(self.apex)
        length = max(float(np.linalg.norm(axis)), 1e-3)
        axis = axis / length
        dz, dy, dx = z - self.apex[0], y - self.apex[1], x - self.apex[2]
        along = dz * axis[0] + dy * axis[1] + dx * axis[2]
        away = np.sqrt(np.maximum(dz**2 + dy**2 + dx**2 - along**2, 0.0))
        radius = np.maximum(along, 0.0) * self.spread
        end = (length + self.reach * 0.6 - along) / self.reach
        return np.asarray(
            np.minimum(
                np.minimum((radius - away) / np.maximum(length * self.spread, 1.0), end), along / length
            ),
            dtype=np.float32,
        )


@dataclass(frozen=True)
class Lobe:
    """A ball cut by a plane through its centre with normal `plane`: sharp on that side, as at a fissure."""

    centre: Point
    radius: float
    plane: tuple[float, float, float]

    @property
    def reach(self) -> float:
        return 1.4 * self.radius

    def level(self, z: Field, y: Field, x: Field) -> Field:
        ball = 1.0 - np.sqrt(z**2 + y**2 + x**2) / self.radius
        beyond = (z * self.plane[0] + y * self.plane[1] + x * self.plane[2]) / (0.15 * self.radius)
        return np.asarray(np.minimum(ball, beyond), dtype=np.float32)


@dataclass(frozen=True)
class Filling:
    """What a lesion is made of.

    hu: mean Hounsfield units. contrast: standard deviation of its texture, HU.
    opacity: 1 replaces the lung, less lets it shine through.
    core_hu: denser middle, or None. lines: strength of reticular lines (crazy paving), HU.
    bronchi: share of dark branches kept free (air bronchogram), 0 to 1.
    rim: the middle is clear and the border dense (reversed halo).
    """

    hu: float
    contrast: float = 40.0
    opacity: float = 0.9
    core_hu: float | None = None
    lines: float = 0.0
    bronchi: float = 0.0
    rim: bool = False


@dataclass(frozen=True)
class Lesion:
    """An outline with its filling.

    softness: width of the border in levels. warp: how far noise moves the border, in levels;
    warp_mm: over which length that noise varies.
    max_depth: mm below the pleura beyond which the lesion fades, or None (bands under the pleura).
    """

    outline: Outline
    filling: Filling
    softness: float = 0.25
    warp: float = 0.3
    warp_mm: float = 12.0
    max_depth: float | None = None


@dataclass(frozen=True, eq=False)
class Patch:
    """One lesion on the voxels of `window`: opacity and Hounsfield target, both float32 [z, y, x]."""

    window: Window
    opacity: Field
    target: Field


def render(lesion: Lesion, anatomy: Anatomy, rng: np.random.Generator) -> Patch | None:
    """The lesion on the voxel grid of `anatomy`; None where it does not touch the lungs."""
    window = _window(lesion.outline, anatomy.lungs.shape, anatomy.spacing)
    if window is None or not anatomy.lungs[window].any():
        return None
    z, y, x = _millimetres(window, lesion.outline.centre, anatomy.spacing)
    level = lesion.outline.level(z, y, x)
    shape = (level.shape[0], level.shape[1], level.shape[2])
    if lesion.warp:
        wavelengths = (lesion.warp_mm, 0.4 * lesion.warp_mm)
        level = level + lesion.warp * layered_noise(shape, anatomy.spacing, wavelengths, rng, 0.35)
    opacity = ramp(level, 0.0, lesion.softness)
    if lesion.max_depth is not None:
        edge = lesion.max_depth * (1 + 0.25 * smooth_noise(shape, anatomy.spacing, 15.0, rng))
        opacity = opacity * ramp(edge - anatomy.depth[window], 0.0, 0.35 * lesion.max_depth)
    if lesion.filling.rim:
        opacity = opacity * (1 - 0.75 * ramp(level, 0.35, 0.6))
    return _fill(lesion.filling, window, level, opacity, anatomy.spacing, rng)


def _fill(
    filling: Filling, window: Window, level: Field, opacity: Field, spacing: Spacing, rng: np.random.Generator
) -> Patch:
    shape = (level.shape[0], level.shape[1], level.shape[2])
    target = np.full(shape, filling.hu, dtype=np.float32)
    if filling.core_hu is not None:
        target += (filling.core_hu - filling.hu) * ramp(level, 0.25, 0.6)
    if filling.contrast:
        target += filling.contrast * layered_noise(shape, spacing, (2.0, 5.0, 14.0), rng)
    if filling.lines:
        ridges = 1 - np.abs(smooth_noise(shape, spacing, 6.0, rng)) / 0.25
        target += filling.lines * np.clip(ridges, 0.0, 1.0)
    opacity = filling.opacity * opacity
    if filling.bronchi:
        # Branches are where two independent fields are both near zero: thin curved tubes.
        tubes = np.hypot(smooth_noise(shape, spacing, 16.0, rng), smooth_noise(shape, spacing, 16.0, rng))
        opacity = opacity * (1 - filling.bronchi * (1 - ramp(tubes, 0.1, 0.22)))
    return Patch(window, opacity.astype(np.float32), target)


def _window(outline: Outline, shape: tuple[int, ...], spacing: Spacing) -> Window | None:
    edges = []
    for centre, n, step in zip(outline.centre, shape, spacing, strict=True):
        low, high = int(centre - outline.reach / step), int(centre + outline.reach / step) + 2
        low, high = max(low, 0), min(high, n)
        if low >= high:
            return None
        edges.append(slice(low, high))
    return edges[0], edges[1], edges[2]


def _millimetres(window: Window, centre: Point, spacing: Spacing) -> tuple[Field, Field, Field]:
    axes: list[npt.NDArray[np.float32]] = [
        ((np.arange(part.start, part.stop) - middle) * step).astype(np.float32)
        for part, middle, step in zip(window, centre, spacing, strict=True)
    ]
    return axes[0][:, None, None], axes[1][None, :, None], axes[2][None, None, :]
