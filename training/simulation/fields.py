"""Smooth random fields on voxel grids: the raw material of lesion outlines and textures."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Field = npt.NDArray[np.float32]
Spacing = tuple[float, float, float]
"""Distances between neighbouring voxels along z, y and x, mm."""


_WIDTH = 0.45
"""Standard deviation of the Gaussian filter, in wavelengths."""


def smooth_noise(
    shape: tuple[int, int, int], spacing: Spacing, wavelength_mm: float, rng: np.random.Generator
) -> Field:
    """A field of about unit variance that varies over `wavelength_mm`, float32 [Z, Y, X].

    White noise under a Gaussian filter, thinned out to a coarser grid where that is much finer than the
    wavelength. Along an axis whose voxels are wider than the wavelength the field is white.
    """
    width = [_WIDTH * wavelength_mm / step for step in spacing]
    pitch = [min(n, max(1, int(w / 1.5))) for n, w in zip(shape, width, strict=True)]
    coarse = [-(-n // p) + 1 for n, p in zip(shape, pitch, strict=True)]
    sigma = [w / p for w, p in zip(width, pitch, strict=True)]
    field = ndimage.gaussian_filter(rng.standard_normal(coarse, dtype=np.float32), sigma, mode="wrap")
    for axis, p in enumerate(pitch):
        field = _stretch(field, axis, p)
    field = field[: shape[0], : shape[1], : shape[2]]
    # What is left of the variance of white noise per axis after a Gaussian filter; never less than a mean's.
    left = [max(1 / n, min(1.0, 1 / (2 * np.sqrt(np.pi) * s))) for n, s in zip(coarse, sigma, strict=True)]
    return np.asarray(field / np.sqrt(np.prod(left)), dtype=np.float32)


def _stretch(field: Field, axis: int, factor: int) -> Field:
    """Linear interpolation by a whole factor along one axis; n nodes become (n - 1) * factor + 1 or n."""
    if factor == 1:
        return field
    n = field.shape[axis]
    at = np.arange((n - 1) * factor) / factor
    low = at.astype(int)
    weight_shape = [1, 1, 1]
    weight_shape[axis] = len(at)
    weight = (at - low).astype(np.float32).reshape(weight_shape)
    return np.asarray(
        field.take(low, axis) * (1 - weight) + field.take(low + 1, axis) * weight, dtype=np.float32
    )


def layered_noise(
    shape: tuple[int, int, int],
    spacing: Spacing,
    wavelengths_mm: tuple[float, ...],
    rng: np.random.Generator,
    persistence: float = 1.0,
) -> Field:
    """Sum of independent `smooth_noise` fields of about unit variance, float32 [Z, Y, X].

    persistence: amplitude of each layer relative to the one before it.
    """
    amplitudes = persistence ** np.arange(len(wavelengths_mm), dtype=np.float32)
    amplitudes /= np.sqrt((amplitudes**2).sum())
    layers = [
        amplitude * smooth_noise(shape, spacing, wavelength, rng)
        for amplitude, wavelength in zip(amplitudes, wavelengths_mm, strict=True)
    ]
    return np.asarray(sum(layers), dtype=np.float32)


def ramp(values: Field, low: float, high: float) -> Field:
    """Smooth step: 0 at and below `low`, 1 at and above `high`, float32, same shape as `values`."""
    t = np.clip((values - low) / (high - low), 0.0, 1.0)
    return np.asarray(t * t * (3 - 2 * t), dtype=np.float32)
