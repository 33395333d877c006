"""From HU to a network's input: window, bilinear resize, three channels, ImageNet normalisation.

Training and the exported graphs go through these same functions.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

JCS_WINDOW = (-600.0, 1500.0)
"""Centre and width in HU; measured on the authors' example images, not printed."""

M3_CENTRES = (-700.0, -600.0, -500.0)
"""Window centres in HU at inference (M3Lung-Sys, multi-value window levelling)."""

M3_WIDTH = 1200.0
"""Window width in HU (M3Lung-Sys)."""


def window(hu: Tensor, centre: float | Tensor, width: float | Tensor) -> Tensor:
    """clip((hu - (centre - width / 2)) / width, 0, 1), any shape, float32."""
    return torch.clamp((hu - (centre - width / 2)) / width, 0.0, 1.0)


def resize_square(images: Tensor, size: int) -> Tensor:
    """Bilinear resize of images [N, C, H, W] to [N, C, size, size]; the aspect ratio is not kept."""
    return functional.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)


def normalise_grey(grey: Tensor) -> Tensor:
    """[N, 1, H, W] in [0, 1] -> [N, 3, H, W] with ImageNet mean and standard deviation removed."""
    mean = torch.tensor(IMAGENET_MEAN, dtype=grey.dtype, device=grey.device)[:, None, None]
    std = torch.tensor(IMAGENET_STD, dtype=grey.dtype, device=grey.device)[:, None, None]
    return (grey - mean) / std
