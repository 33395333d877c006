"""Random distortion of slices: turn, bend, flip, noise, reconstruction kernel, offset and gain in HU.

All of it works on Hounsfield units before the window, so that a scanner's variety is imitated rather than a
picture's.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from training.recipe import Augmentation
from training.views import View

AIR_HU = -1024.0

_BEND_NODES = 6


def seen(
    hu: npt.NDArray[np.float32],
    mask: npt.NDArray[np.bool_],
    view: View,
    size: int,
    augmentation: Augmentation | None,
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor]:
    """What `view` shows of a slice [H, W] and its mask, float32 [1, 1, size, size] each, the mask in {0, 1}.

    Outside of the slice is air. `augmentation=None` takes the view as it is.
    """
    grid = _grid(view, size, augmentation, rng)
    planes = torch.from_numpy(np.stack([hu - AIR_HU, mask.astype(np.float32)]))[None]
    drawn = functional.grid_sample(planes, grid, align_corners=False)
    values, lesion = drawn[:, :1] + AIR_HU, (drawn[:, 1:] > 0.5).float()
    return (values if augmentation is None else _scanned(values, augmentation, rng)), lesion


def _grid(view: View, size: int, augmentation: Augmentation | None, rng: np.random.Generator) -> Tensor:
    """Where each pixel of the input lies in the slice, [1, size, size, 2] as (x, y)."""
    line = (torch.arange(size) + 0.5) * (2 / size) - 1
    y, x = torch.meshgrid(line, line, indexing="ij")
    points = torch.stack([x, y], dim=-1)
    if augmentation is not None:
        points = _moved(points, augmentation, rng)
    return (points * torch.tensor(view.half) + torch.tensor(view.centre))[None].float()


def _moved(points: Tensor, augmentation: Augmentation, rng: np.random.Generator) -> Tensor:
    size = len(points)
    turn = math.radians(rng.uniform(-augmentation.turn, augmentation.turn))
    x, y = points[..., 0] * (-1.0 if rng.random() < augmentation.flip else 1.0), points[..., 1]
    turned = torch.stack(
        [x * math.cos(turn) - y * math.sin(turn), x * math.sin(turn) + y * math.cos(turn)], -1
    )
    nodes = torch.from_numpy(rng.normal(0, augmentation.bend, (1, 2, _BEND_NODES, _BEND_NODES))).float()
    bend = functional.interpolate(nodes, (size, size), mode="bicubic", align_corners=False)
    return turned + bend[0].permute(1, 2, 0)


def _scanned(hu: Tensor, augmentation: Augmentation, rng: np.random.Generator) -> Tensor:
    """hu [1, 1, H, W] as another scanner, dose or kernel might give it."""
    gain = 1 + rng.uniform(-augmentation.gain, augmentation.gain)
    hu = (hu - AIR_HU) * gain + AIR_HU + augmentation.offset * rng.standard_normal()
    noise = torch.from_numpy(rng.standard_normal(tuple(hu.shape), dtype=np.float32))
    if rng.random() < 0.5:
        # Noise of a soft kernel is correlated; doubled, since the blur takes most of its strength.
        noise = 2.0 * _blurred(noise, 0.8)
    hu = hu + rng.random() ** 2 * augmentation.noise * noise
    sharpness = rng.uniform(*augmentation.kernel)
    if rng.random() < augmentation.kernel_share:
        hu = hu + sharpness * (hu - _blurred(hu, rng.uniform(0.5, 1.3)))
    return hu


def _blurred(image: Tensor, sigma: float) -> Tensor:
    """A Gaussian of `sigma` pixels over image [1, 1, H, W]."""
    offsets = torch.arange(-2, 3, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = kernel / kernel.sum()
    padded = functional.pad(image, (2, 2, 2, 2), mode="replicate")
    rows = functional.conv2d(padded, kernel[None, None, :, None])
    return functional.conv2d(rows, kernel[None, None, None, :])
