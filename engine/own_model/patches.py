"""A volume through a network of patches: overlapping windows whose scores are averaged, as MONAI does."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import numpy as np

from engine.own_model.deciding import Scores

Place = tuple[slice, slice, slice]


def patch_places(shape: tuple[int, ...], patch: tuple[int, ...], overlap: float) -> list[Place]:
    """Places of patches that cover `shape`, each side at least as long as the patch; they overlap by that share."""
    starts = [_starts(whole, part, overlap) for whole, part in zip(shape, patch, strict=True)]
    return [
        (slice(z, z + patch[0]), slice(y, y + patch[1]), slice(x, x + patch[2]))
        for z, y, x in itertools.product(*starts)
    ]


def _starts(whole: int, part: int, overlap: float) -> list[int]:
    step = max(1, int(part * (1 - overlap)))
    count = -(-(whole - part) // step) + 1
    return [min(i * step, whole - part) for i in range(count)]


def averaged(scored: Iterable[tuple[Place, Scores]], shape: tuple[int, ...], channels: int) -> Scores:
    """Scores [channels, D, H, W] of a volume of `shape` [D, H, W]: the mean over the patches that hold a voxel."""
    total = np.zeros((channels, *shape), dtype=np.float32)
    weight = np.zeros(shape, dtype=np.float32)
    for place, scores in scored:
        total[(slice(None), *place)] += scores
        weight[place] += 1
    return np.asarray(total / weight, dtype=np.float32)
