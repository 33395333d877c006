"""Pixel supervision of coarse maps: what makes networks this small look at lesions."""

from __future__ import annotations

from torch import Tensor, sigmoid
from torch.nn import functional

from networks.convolution import spatial_size


def pixel_loss(logits: Tensor, mask: Tensor, where: Tensor) -> Tensor:
    """Cross-entropy plus overlap of a coarse map with area-averaged masks.

    logits: [N, 1, h, w]. mask: [N, 1, H, W] in {0, 1}. where: bool [N], images whose mask is known.
    """
    if not where.any():
        return logits.sum() * 0
    chosen = logits[where]
    target = functional.adaptive_avg_pool2d(mask[where], spatial_size(chosen))
    cross = functional.binary_cross_entropy_with_logits(chosen, target)
    probability = sigmoid(chosen)
    overlap = (2 * (probability * target).sum() + 1) / ((probability + target).sum() + 1)
    return cross + 0.5 * (1 - overlap)
