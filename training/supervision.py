"""Pixel supervision of classifiers: what makes small networks look at lesions.

Mask heads on stages of the encoder, trained beside the class and dropped afterwards (a practical form of JCS eq. 4).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from networks.convolution import spatial_size
from training.recipe import RecipeError


class MaskHeads(nn.Module):
    """A 1 x 1 convolution per supervised stage of `encoder`, giving lesion logits.

    Args:
        network: its `encoder` has `layer1` to `layer4` and their channels (`Res2NetEncoder`, `ResNetEncoder`).
        stages: which of them.

    Raises RecipeError where the network has no such encoder.
    """

    def __init__(self, network: nn.Module, stages: Sequence[int]) -> None:
        super().__init__()
        encoder = getattr(network, "encoder", None)
        widths = getattr(encoder, "channels", ())
        self.stages = tuple(sorted(stages))
        if any(not hasattr(encoder, f"layer{stage}") for stage in stages):
            raise RecipeError(
                "supervision needs an encoder of stages; set supervision.weight=0 for a baseline"
            )
        # Counted from the end, since Res2Net's channels begin with its stem.
        self.heads = nn.ModuleList(nn.Conv2d(widths[stage - 5], 1, 1) for stage in self.stages)

    def loss(self, maps: Sequence[Tensor], mask: Tensor, where: Tensor) -> Tensor:
        """Sum of `pixel_loss` over the heads; mask [N, 1, H, W], where bool [N]."""
        parts = [pixel_loss(head(m).float(), mask, where) for head, m in zip(self.heads, maps, strict=True)]
        return torch.stack(parts).sum()

    def nothing(self) -> Tensor:
        """0, for a batch without masks; with a gradient for every head, since several devices wait for all of them."""
        return torch.stack([parameter.sum() for parameter in self.parameters()]).sum() * 0


@contextmanager
def stage_maps(network: nn.Module, stages: Sequence[int]) -> Iterator[list[Tensor]]:
    """Collects what `stages` (1 to 4) of the network's encoder give, in their order, while it runs once."""
    maps: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        maps.append(output)

    encoder: Any = network.encoder
    hooks = [getattr(encoder, f"layer{stage}").register_forward_hook(keep) for stage in stages]
    try:
        yield maps
    finally:
        for hook in hooks:
            hook.remove()


def pixel_loss(logits: Tensor, mask: Tensor, where: Tensor) -> Tensor:
    """Cross-entropy plus half the overlap loss of a coarse map with area-averaged masks.

    logits: [N, 1, h, w]. mask: [N, 1, H, W] in {0, 1}. where: bool [N], images whose mask is known.
    """
    if not where.any():
        return logits.sum() * 0
    chosen = logits[where]
    target = functional.adaptive_avg_pool2d(mask[where], spatial_size(chosen))
    cross = functional.binary_cross_entropy_with_logits(chosen, target)
    probability = torch.sigmoid(chosen)
    overlap = (2 * (probability * target).sum() + 1) / ((probability + target).sum() + 1)
    return cross + 0.5 * (1 - overlap)
