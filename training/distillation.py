"""Learning from other networks beside the labels: a classifier's answers and features held against its teachers'.

Answers: Hinton et al., "Distilling the knowledge in a neural network", 2015, on the very view that the student sees.
Features: Romero et al., "FitNets: hints for thin deep nets", ICLR 2015.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from networks.convolution import resize, spatial_size
from training.recipe import Distillation, RecipeError


class Teachers(nn.Module):
    """Frozen classifiers that stay in evaluation mode; each has `features(x)` and `logits(features)`.

    Raises RecipeError for a network that has not.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        if not all(hasattr(network, "features") and hasattr(network, "logits") for network in networks):
            raise RecipeError("distillation.teachers: a teacher is a JCS classifier or an efficientnet-lite")
        self.networks = nn.ModuleList(networks).requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> Self:
        """Stays in evaluation mode, whatever `mode` is."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor, temperature: float) -> tuple[Tensor, list[Tensor]]:
        """Mean probabilities [N, 2] at a temperature, and the feature maps [N, C, h, w], of images [N, 3, H, W]."""
        maps = [cast(Any, network).features(images) for network in self.networks]
        answers = [cast(Any, n).logits(m).float() for n, m in zip(self.networks, maps, strict=True)]
        return torch.stack([torch.softmax(a / temperature, dim=1) for a in answers]).mean(dim=0), maps


class Lessons(nn.Module):
    """The losses of a student against its teachers.

    Args:
        teachers: whom to learn from.
        width: channels of the student's last map.
        chosen: the recipe's section.
    """

    def __init__(self, teachers: Teachers, width: int, chosen: Distillation) -> None:
        super().__init__()
        self.teachers, self.chosen = teachers, chosen
        widths = [_width(network) for network in teachers.networks] if chosen.hints else []
        self.readers = nn.ModuleList(nn.Conv2d(width, channels, 1) for channels in widths)
        self.scales = nn.ModuleList(nn.BatchNorm2d(channels, affine=False) for channels in widths)

    def forward(self, images: Tensor, logits: Tensor, features: Tensor, picture: Tensor) -> dict[str, Tensor]:
        """`teachers`: answers, zero where none counts; `hints`: features, where the recipe wants them.

        images: [N, 3, H, W]. logits: [N, 2] and features: [N, K, h, w] of the student. picture: bool [N].
        """
        answers, maps = self.teachers(images, self.chosen.temperature)
        counts = picture if self.chosen.pictures_only else torch.ones_like(picture)
        parts = {"teachers": answer_loss(logits, answers, self.chosen.temperature, counts)}
        if self.chosen.hints:
            parts["hints"] = self._hints(features, maps)
        return parts

    def _hints(self, features: Tensor, maps: Sequence[Tensor]) -> Tensor:
        """Mean squared error of what can be read from the student's map, of teachers' maps at mean 0, deviation 1."""
        losses = [
            functional.mse_loss(resize(reader(features).float(), spatial_size(wanted)), scale(wanted.float()))
            for reader, scale, wanted in zip(self.readers, self.scales, maps, strict=True)
        ]
        return torch.stack(losses).mean()


def answer_loss(logits: Tensor, answers: Tensor, temperature: float, counts: Tensor) -> Tensor:
    """Divergence of the student's softened answer from the wanted one, times temperature squared.

    logits: [N, classes]. answers: wanted probabilities [N, classes] at `temperature`. counts: bool [N]; the mean is
    over these, and 0 where there are none.
    """
    own = functional.log_softmax(logits.float() / temperature, dim=1)
    divergence = functional.kl_div(own, answers, reduction="none").sum(dim=1) * temperature**2
    return (divergence * counts).sum() / counts.sum().clamp(min=1)


def _width(network: nn.Module) -> int:
    """Channels of a classifier's last map, by one small picture."""
    with torch.no_grad():
        return int(cast(Any, network).features(torch.zeros(1, 3, 64, 64)).shape[1])
