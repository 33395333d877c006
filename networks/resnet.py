"""ResNet bottleneck encoder (ResNet-50 by default), parameter names as in torchvision.

He et al., "Deep residual learning for image recognition", CVPR 2016; the stride sits in the 3x3 convolution
as in torchvision. M3Lung-Sys feeds four extra channels into stage 4, hence `extra_channels`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

EXPANSION = 4
"""A bottleneck puts out four times the channels of its inner convolution."""


class Bottleneck(nn.Module):
    """1x1 - 3x3 - 1x1 residual block; channels out = 4 * planes."""

    def __init__(self, channels_in: int, planes: int, stride: int) -> None:
        super().__init__()
        channels_out = EXPANSION * planes
        self.conv1 = nn.Conv2d(channels_in, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, channels_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels_out)
        self.relu = nn.ReLU()
        self.downsample: nn.Sequential | None = None
        if stride != 1 or channels_in != channels_out:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride=stride, bias=False),
                nn.BatchNorm2d(channels_out),
            )

    def forward(self, x: Tensor) -> Tensor:
        """[N, C_in, H, W] -> [N, 4 * planes, H / stride, W / stride]."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        shortcut = x if self.downsample is None else self.downsample(x)
        return torch.relu(out + shortcut)


class ResNetEncoder(nn.Module):
    """Stem and four stages; strides 4, 8, 16, 32.

    Args:
        depths: blocks per stage; (3, 4, 6, 3) is ResNet-50.
        planes: inner channels per stage; a stage puts out four times as many.
        stem: channels of the 7x7 stem.
        extra_channels: channels concatenated to the input of stage 4 (0 for a plain ResNet).
    """

    def __init__(
        self,
        depths: Sequence[int] = (3, 4, 6, 3),
        planes: Sequence[int] = (64, 128, 256, 512),
        stem: int = 64,
        extra_channels: int = 0,
    ) -> None:
        super().__init__()
        self.extra_channels = extra_channels
        self.channels = tuple(EXPANSION * p for p in planes)
        self.conv1 = nn.Conv2d(3, stem, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = _stage(stem, planes[0], depths[0], stride=1)
        self.layer2 = _stage(self.channels[0], planes[1], depths[1], stride=2)
        self.layer3 = _stage(self.channels[1], planes[2], depths[2], stride=2)
        self.layer4 = _stage(self.channels[2] + extra_channels, planes[3], depths[3], stride=2)
        _initialise(self)

    def to_stage3(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Stages 1, 2, 3 of x [N, 3, H, W]: [N, 4 * planes[i], H / s, W / s] with s = 4, 8, 16."""
        first = self.layer1(self.maxpool(self.relu(self.bn1(self.conv1(x)))))
        second = self.layer2(first)
        return first, second, self.layer3(second)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """All four stages of a plain ResNet (`extra_channels=0`)."""
        first, second, third = self.to_stage3(x)
        return first, second, third, self.layer4(third)

    def load_imagenet(self, state: Mapping[str, Tensor]) -> None:
        """Load torchvision/timm ResNet weights; the columns of the extra channels start at zero.

        The classifier `fc.*` of the source is left out. Raises RuntimeError naming missing, unexpected or
        misshapen keys.
        """
        trunk = {name: value for name, value in state.items() if not name.startswith("fc.")}
        for name in ("layer4.0.conv1.weight", "layer4.0.downsample.0.weight"):
            if self.extra_channels and name in trunk:
                trunk[name] = _with_zero_columns(trunk[name], self.extra_channels)
        self.load_state_dict(trunk)


def _with_zero_columns(weight: Tensor, extra: int) -> Tensor:
    return torch.cat([weight, weight.new_zeros(weight.shape[0], extra, *weight.shape[2:])], dim=1)


def _stage(channels_in: int, planes: int, depth: int, stride: int) -> nn.Sequential:
    blocks = [Bottleneck(channels_in, planes, stride)]
    blocks += [Bottleneck(EXPANSION * planes, planes, 1) for _ in range(depth - 1)]
    return nn.Sequential(*blocks)


def _initialise(module: nn.Module) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
