"""Training losses of JCS: eq. 4 (segmentation-guided classification) and eq. 6 (deep supervision)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from networks.convolution import resize, spatial_size

DICE_EPSILON = 1e-5


def segmentation_guided_loss(
    am_norm: Tensor, mask: Tensor, form: Literal["paper", "mse"] = "paper"
) -> Tensor:
    """L_seg of JCS eq. 4: the distance of the normalised activation map from the lesion mask.

    Args:
        am_norm: [N, H, W] or [N, 1, H, W], activation maps scaled to [0, 1] per image.
        mask: same shape, lesion masks in {0, 1} (any numeric or bool dtype).
        form: "paper" is (1 / (H W)) * ||am - mask||_2 as printed; "mse" the mean of the squared difference.

    Returns:
        Scalar, the mean over the N images (0 for N = 0); only images that have a mask belong in the batch.
    """
    if am_norm.shape != mask.shape:
        raise ValueError(f"activation maps {tuple(am_norm.shape)} and masks {tuple(mask.shape)} differ")
    if am_norm.shape[0] == 0:
        return am_norm.sum()
    difference = (am_norm - mask.to(am_norm.dtype)).flatten(1)
    if form == "mse":
        return difference.square().mean()
    if form != "paper":
        raise ValueError(f"form must be 'paper' or 'mse', not {form!r}")
    return (torch.linalg.vector_norm(difference, dim=1) / difference.shape[1]).mean()  # type: ignore[no-any-return]


def side_loss(
    logits: Tensor,
    target: Tensor,
    dice_factor: float = 1.0,
    dice_reduction: Literal["image", "batch"] = "image",
) -> Tensor:
    """JCS eq. 6 for one side output: BCE(P, G) + 1 - dice_factor * (P.G) / (|P|_1 + |G|_1).

    Args:
        logits: [N, 1, h, w], before the sigmoid; resized bilinearly to the target.
        target: [N, 1, H, W], lesion mask in {0, 1} (any numeric or bool dtype).
        dice_factor: 1 as printed (a perfect map then costs 0.5), 2 for the usual Dice loss, which also puts
            epsilon in the numerator so that two empty maps cost 0.
        dice_reduction: overlap per image and then the mean, or over the whole batch at once.

    Returns:
        Scalar.

    Raises ValueError for another `dice_reduction`.
    """
    if dice_reduction not in ("image", "batch"):
        raise ValueError(f"dice_reduction must be 'image' or 'batch', not {dice_reduction!r}")
    if logits.shape[-2:] != target.shape[-2:]:
        logits = resize(logits, spatial_size(target))
    target = target.to(logits.dtype)
    cross_entropy = functional.binary_cross_entropy_with_logits(logits, target)
    keep = 1 if dice_reduction == "image" else 0
    probability, truth = (t.flatten(keep) for t in (torch.sigmoid(logits), target))
    overlap = (probability * truth).sum(-1)
    total = probability.sum(-1) + truth.sum(-1)
    ratio = (dice_factor * overlap + DICE_EPSILON * (dice_factor - 1)) / (total + DICE_EPSILON)
    return cross_entropy + (1 - ratio).mean()


def deep_supervision_loss(
    sides: Tensor | Sequence[Tensor],
    target: Tensor,
    dice_factor: float = 1.0,
    dice_reduction: Literal["image", "batch"] = "image",
) -> Tensor:
    """Sum of `side_loss` over all side outputs with equal weights (JCS eq. 6).

    Args:
        sides: logits, stacked [N, S, H, W] or a sequence of S tensors [N, 1, h, w].
        target: [N, 1, H, W] in {0, 1}.

    Returns:
        Scalar.
    """
    each = torch.split(sides, 1, dim=1) if isinstance(sides, Tensor) else sides
    losses = [side_loss(side, target, dice_factor, dice_reduction) for side in each]
    return torch.stack(losses).sum()
