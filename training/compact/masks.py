"""Pixel supervision of coarse maps: what makes networks this small look at lesions."""

from __future__ import annotations

from torch import Tensor, sigmoid
from torch.nn import functional


def pixel_loss(logits: Tensor, mask: Tensor, where: Tensor) -> Tensor:
    """Cross-entropy plus overlap of a coarse map [N, 1, h, w] with area-averaged masks, over images `where` bool [N]."""
    if not where.any():
        return logits.sum() * 0
    chosen = logits[where]
    target = functional.adaptive_avg_pool2d(mask[where], chosen.shape[-2:])
    cross = functional.binary_cross_entropy_with_logits(chosen, target)
    probability = sigmoid(chosen)
    overlap = (2 * (probability * target).sum() + 1) / ((probability + target).sum() + 1)
    return cross + 0.5 * (1 - overlap)
