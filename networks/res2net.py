"""Res2Net v1b encoder (Res2Net-101 v1b 26w 4s by default).

Gao et al., "Res2Net: a new multi-scale backbone architecture", TPAMI 2021. Deep 3x3x3 stem, average-pool
shortcuts. Parameter names are those of the authors' file and of timm's `res2net101d`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

EXPANSION = 4


class Bottle2neck(nn.Module):
    """Residual block whose 3x3 convolution works on `scale` channel groups one after the other.

    Group i is added to the convolved group i-1 before its own convolution, except in the first block of a
    stage, where the groups are independent and the last one is average-pooled.
    """

    def __init__(self, channels_in: int, planes: int, stride: int, first: bool, base_width: int, scale: int):
        super().__init__()
        self.width = math.floor(planes * base_width / 64)
        self.first = first
        channels_out = EXPANSION * planes
        self.conv1 = nn.Conv2d(channels_in, self.width * scale, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(self.width * scale)
        self.convs = nn.ModuleList(
            nn.Conv2d(self.width, self.width, 3, stride=stride, padding=1, bias=False)
            for _ in range(scale - 1)
        )
        self.bns = nn.ModuleList(nn.BatchNorm2d(self.width) for _ in range(scale - 1))
        self.pool = nn.AvgPool2d(3, stride=stride, padding=1) if first else nn.Identity()
        self.conv3 = nn.Conv2d(self.width * scale, channels_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels_out)
        self.downsample = _shortcut(channels_in, channels_out, stride) if first else None

    def forward(self, x: Tensor) -> Tensor:
        """[N, C_in, H, W] -> [N, 4 * planes, H / stride, W / stride]."""
        groups = torch.split(torch.relu(self.bn1(self.conv1(x))), self.width, dim=1)
        done: list[Tensor] = []
        for conv, bn, group in zip(self.convs, self.bns, groups, strict=False):
            chained = group if self.first or not done else done[-1] + group
            done.append(torch.relu(bn(conv(chained))))
        done.append(self.pool(groups[-1]))
        out = self.bn3(self.conv3(torch.cat(done, dim=1)))
        shortcut = x if self.downsample is None else self.downsample(x)
        return torch.relu(out + shortcut)


class Res2NetEncoder(nn.Module):
    """Deep stem and four stages, giving the five feature maps A1..A5 of JCS.

    Args:
        depths: blocks per stage; (3, 4, 23, 3) is Res2Net-101.
        planes: inner channels per stage; a stage puts out four times as many.
        base_width: channels of a group per 64 planes.
        scale: groups, at least 2.
    """

    def __init__(
        self,
        depths: Sequence[int] = (3, 4, 23, 3),
        planes: Sequence[int] = (64, 128, 256, 512),
        base_width: int = 26,
        scale: int = 4,
    ) -> None:
        super().__init__()
        stem = planes[0] // 2
        self.channels = (planes[0], *(EXPANSION * p for p in planes))
        self.conv1 = nn.Sequential(
            nn.Conv2d(3, stem, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(stem),
            nn.ReLU(),
            nn.Conv2d(stem, stem, 3, padding=1, bias=False),
            nn.BatchNorm2d(stem),
            nn.ReLU(),
            nn.Conv2d(stem, planes[0], 3, padding=1, bias=False),
        )
        self.bn1 = nn.BatchNorm2d(planes[0])
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = _stage(self.channels[0], planes[0], depths[0], 1, base_width, scale)
        self.layer2 = _stage(self.channels[1], planes[1], depths[1], 2, base_width, scale)
        self.layer3 = _stage(self.channels[2], planes[2], depths[2], 2, base_width, scale)
        self.layer4 = _stage(self.channels[3], planes[3], depths[3], 2, base_width, scale)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """A1..A5 of x [N, 3, H, W] at strides 2, 4, 8, 16, 32; channels in `channels`."""
        stem = torch.relu(self.bn1(self.conv1(x)))
        first = self.layer1(self.maxpool(stem))
        second = self.layer2(first)
        third = self.layer3(second)
        return stem, first, second, third, self.layer4(third)

    def load_imagenet(self, state: Mapping[str, Tensor]) -> None:
        """Load timm `res2net101d` or the authors' v1b weights; the source's classifier `fc.*` is left out.

        Raises RuntimeError naming missing, unexpected or misshapen keys.
        """
        self.load_state_dict({name: value for name, value in state.items() if not name.startswith("fc.")})


def _shortcut(channels_in: int, channels_out: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.AvgPool2d(stride, stride=stride, ceil_mode=True, count_include_pad=False)
        if stride > 1
        else nn.Identity(),
        nn.Conv2d(channels_in, channels_out, 1, bias=False),
        nn.BatchNorm2d(channels_out),
    )


def _stage(
    channels_in: int, planes: int, depth: int, stride: int, base_width: int, scale: int
) -> nn.Sequential:
    blocks = [Bottle2neck(channels_in, planes, stride, True, base_width, scale)]
    blocks += [Bottle2neck(EXPANSION * planes, planes, 1, False, base_width, scale) for _ in range(depth - 1)]
    return nn.Sequential(*blocks)
