"""From pool slices to random network inputs: crop, bend, noise, kernel, window. All on whole batches.

A view is a rectangle of the slice that becomes the square network input: the lung box for M3Lung-Sys, a square
part of the slice for JCS.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from training import preprocessing
from training.compact.pool import Pool

_AIR = 1024.0


@dataclass(frozen=True, eq=False)
class Views:
    """Rectangles in the coordinates of `grid_sample` (-1 to 1): centres and half sizes, float32 [N, 2] as (x, y)."""

    centre: Tensor
    half: Tensor


@dataclass(frozen=True)
class Strength:
    """How strongly inputs are varied; `NONE` for evaluation.

    turn: degrees. bend: elastic displacement relative to the half input. flip: chance of a left-right flip.
    kernel: (lowest, highest) sharpening; -1 is a full blur. noise: standard deviation up to this, HU.
    shift: standard deviation of an offset, HU. gain: relative spread of the contrast.
    """

    turn: float = 12.0
    bend: float = 0.03
    flip: float = 0.5
    kernel: tuple[float, float] = (-1.0, 1.2)
    noise: float = 70.0
    shift: float = 15.0
    gain: float = 0.05


def lung_views(pool: Pool, indices: npt.NDArray[np.int64], jitter: float, rng: np.random.Generator) -> Views:
    """The lung box of each slice, every edge moved at random by up to `jitter` of the box's size."""
    top, left, bottom, right = pool.table.box[indices].T
    height, width = bottom - top, right - left
    move = rng.uniform(-jitter, jitter, (4, len(indices)))
    top, bottom = top + move[0] * height, bottom + move[1] * height
    left, right = left + move[2] * width, right + move[3] * width
    centre = np.stack([left + right, top + bottom], axis=1) - 1
    half = np.stack([right - left, bottom - top], axis=1)
    return Views(torch.from_numpy(centre).float(), torch.from_numpy(half).float())


def square_views(
    pool: Pool, indices: npt.NDArray[np.int64], scale: tuple[float, float], rng: np.random.Generator
) -> Views:
    """A centred square of each slice, its side a random share of the shorter side, moved at random."""
    aspect = pool.table.aspect[indices]
    square = np.stack([np.minimum(1, 1 / aspect), np.minimum(1, aspect)], axis=1)
    share = np.exp(rng.uniform(np.log(scale[0]), np.log(scale[1]), (len(indices), 1)))
    half = square * share
    room = np.maximum(1 - half, 0)
    centre = room * rng.uniform(-0.7, 0.7, room.shape) * (scale[0] != scale[1])
    return Views(torch.from_numpy(centre).float(), torch.from_numpy(half).float())


def sample(
    pool: Pool,
    indices: npt.NDArray[np.int64],
    views: Views,
    size: int,
    strength: Strength | None,
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor]:
    """HU float32 [N, 1, size, size] of the views and their masks float32 [N, 1, size, size] in {0, 1}.

    Outside of the slice is air (-1024). `strength=None` takes the views as they are.
    """
    grid = _grid(views, size, strength, rng)
    hu = torch.from_numpy(pool.hu[indices].astype(np.float32))[:, None]
    mask = torch.from_numpy(pool.mask[indices].astype(np.float32))[:, None]
    hu = functional.grid_sample(hu + _AIR, grid, align_corners=False) - _AIR
    mask = (functional.grid_sample(mask, grid, align_corners=False) > 0.5).float()
    return (hu if strength is None else _vary(hu, strength, rng)), mask


def window(hu: Tensor, centre: Tensor | float, width: Tensor | float) -> Tensor:
    """Network input float32 [N, 3, H, W] of HU [N, 1, H, W], each image through its own window."""
    return preprocessing.normalise_grey(preprocessing.window(hu, centre, width))


def uniform(low: float, high: float, count: int, rng: np.random.Generator) -> Tensor:
    """One number per sample, float32 [count, 1, 1, 1]."""
    return torch.from_numpy(rng.uniform(low, high, (count, 1, 1, 1))).float()


def _grid(views: Views, size: int, strength: Strength | None, rng: np.random.Generator) -> Tensor:
    n = len(views.centre)
    line = (torch.arange(size) + 0.5) * (2 / size) - 1
    v, u = torch.meshgrid(line, line, indexing="ij")
    points = torch.stack([u, v], dim=-1).expand(n, size, size, 2)
    if strength is not None:
        turn = uniform(-1, 1, n, rng)[..., 0] * np.deg2rad(strength.turn)
        flip = torch.from_numpy(np.where(rng.random((n, 1, 1)) < strength.flip, -1.0, 1.0)).float()
        x, y = points[..., 0] * flip, points[..., 1]
        points = torch.stack([x * turn.cos() - y * turn.sin(), x * turn.sin() + y * turn.cos()], dim=-1)
        nodes = torch.from_numpy(rng.normal(0, strength.bend, (n, 2, 6, 6))).float()
        bend = functional.interpolate(nodes, (size, size), mode="bicubic", align_corners=False)
        points = points + bend.permute(0, 2, 3, 1)
    return points * views.half[:, None, None, :] + views.centre[:, None, None, :]


def _vary(hu: Tensor, strength: Strength, rng: np.random.Generator) -> Tensor:
    n = len(hu)
    gain = 1 + strength.gain * uniform(-1, 1, n, rng)
    hu = (hu + 1000) * gain - 1000 + strength.shift * torch.from_numpy(rng.normal(0, 1, (n, 1, 1, 1))).float()
    level = uniform(0, 1, n, rng) ** 2 * strength.noise
    noise = torch.from_numpy(rng.standard_normal(hu.shape, dtype=np.float32))
    correlated = torch.from_numpy(rng.random((n, 1, 1, 1)) < 0.5)
    noise = torch.where(correlated, 2.0 * _blur(noise, torch.full((n, 1, 1, 1), 0.8)), noise)
    hu = hu + level * noise
    smooth = _blur(hu, uniform(0.5, 1.3, n, rng))
    low, high = strength.kernel
    sharpness = uniform(low, high, n, rng) * torch.from_numpy(rng.random((n, 1, 1, 1)) < 0.6)
    return hu + sharpness * (hu - smooth)


def _blur(images: Tensor, sigma: Tensor) -> Tensor:
    """A Gaussian of its own `sigma` (pixels, [N, 1, 1, 1]) on each image [N, 1, H, W]."""
    offsets = torch.arange(-2, 3, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (offsets / sigma.flatten()[:, None]) ** 2)
    kernel = kernel / kernel.sum(dim=1, keepdim=True)
    padded = functional.pad(images, (2, 2, 2, 2), mode="replicate").transpose(0, 1)
    rows = functional.conv2d(padded, kernel[:, None, :, None], groups=len(images))
    return functional.conv2d(rows, kernel[:, None, None, :], groups=len(images)).transpose(0, 1)
