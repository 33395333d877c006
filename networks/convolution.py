"""Small convolution blocks that several of the papers' networks share."""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor, nn

Norm = Literal["none", "train", "frozen"]
"""Batch normalisation after a convolution: none, trainable, or frozen statistics and affine parameters."""


class FrozenBatchNorm2d(nn.Module):
    """Batch normalisation whose statistics and affine parameters are buffers, so nothing in it is trained.

    State-dict names are those of `torch.nn.BatchNorm2d`; its `num_batches_tracked` is accepted and ignored.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Scale and shift x [N, C, H, W] by the stored statistics."""
        scale = self.weight * torch.rsqrt(self.running_var + self.eps)
        shift = self.bias - self.running_mean * scale
        return x * scale[:, None, None] + shift[:, None, None]

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Tensor],
        prefix: str,
        local_metadata: dict[str, object],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        state_dict.pop(prefix + "num_batches_tracked", None)
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )


def norm_layer(norm: Norm, channels: int) -> nn.Module | None:
    """The normalisation layer of that kind, or None for "none"."""
    if norm == "none":
        return None
    return nn.BatchNorm2d(channels) if norm == "train" else FrozenBatchNorm2d(channels)


def conv_relu(
    channels_in: int, channels_out: int, kernel: int, *, dilation: int = 1, norm: Norm = "none"
) -> nn.Sequential:
    """A size-keeping convolution with bias, an optional normalisation, and a ReLU."""
    padding = dilation * (kernel // 2)
    convolution = nn.Conv2d(channels_in, channels_out, kernel, padding=padding, dilation=dilation)
    nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
    layers: list[nn.Module] = [convolution]
    normalisation = norm_layer(norm, channels_out)
    if normalisation is not None:
        layers.append(normalisation)
    layers.append(nn.ReLU())
    return nn.Sequential(*layers)


class SqueezeExcitation(nn.Module):
    """Channel gate: global average, two fully connected layers, sigmoid, scale (SE block).

    Args:
        channels: channels in and out.
        hidden: width of the layer between; channels / 4 in the JCS paper.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Scale x [N, C, H, W] channel by channel by factors in (0, 1)."""
        gate = torch.relu(self.fc1(x.mean(dim=(2, 3))))
        return x * torch.sigmoid(self.fc2(gate))[:, :, None, None]


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resize of x [N, C, H, W] to `size` (rows, columns), pixel centres not aligned to corners."""
    return nn.functional.interpolate(x, size=size, mode="bilinear", align_corners=False)


def spatial_size(x: Tensor) -> tuple[int, int]:
    """Rows and columns of x [..., H, W]."""
    return cast("tuple[int, int]", tuple(x.shape[-2:]))
