"""Networks of others to compare with, under the same tasks: MONAI's, and timm's where it is installed.

Classifiers take [N, 3, H, W] and give [N, classes]; segmenters take the same and give logits [N, S, H, W] with
the prediction in channel 0, as the networks of JCS do.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from training.efficientnet_lite import VARIANTS, EfficientNetLite

nets: Any = importlib.import_module(
    "monai.networks.nets"
)  # its names are not exported in a way types can follow

CLASSIFIERS: dict[str, Callable[[int], nn.Module]] = {
    "densenet121": lambda n: nets.DenseNet121(spatial_dims=2, in_channels=3, out_channels=n),
    "densenet201": lambda n: nets.DenseNet201(spatial_dims=2, in_channels=3, out_channels=n),
    "efficientnet-b0": lambda n: nets.EfficientNetBN(
        "efficientnet-b0", pretrained=False, spatial_dims=2, in_channels=3, num_classes=n
    ),
    **{name: partial(EfficientNetLite, name) for name in VARIANTS},
    "resnet18": lambda n: nets.resnet18(spatial_dims=2, n_input_channels=3, num_classes=n),
    "resnet50": lambda n: nets.resnet50(spatial_dims=2, n_input_channels=3, num_classes=n),
    "senet154": lambda n: nets.SENet154(spatial_dims=2, in_channels=3, num_classes=n),
    "seresnet50": lambda n: nets.SEResNet50(spatial_dims=2, in_channels=3, num_classes=n),
}

SEGMENTERS: dict[str, Callable[[], nn.Module]] = {
    "unet": lambda: nets.UNet(
        spatial_dims=2,
        in_channels=3,
        out_channels=1,
        channels=(32, 64, 128, 256, 512),
        strides=(2, 2, 2, 2),
        num_res_units=0,
    ),
    "unet++": lambda: nets.BasicUNetPlusPlus(spatial_dims=2, in_channels=3, out_channels=1),
    "attention-unet": lambda: nets.AttentionUnet(
        spatial_dims=2, in_channels=3, out_channels=1, channels=(32, 64, 128, 256, 512), strides=(2, 2, 2, 2)
    ),
}


class BaselineSegmenter(nn.Module):
    """A segmenter of others with the interface of `JCSSegmenter`: one side, `prediction`."""

    def __init__(self, name: str) -> None:
        super().__init__()
        if name not in SEGMENTERS:
            raise ValueError(f"segmenter must be one of {', '.join(SEGMENTERS)}, not {name!r}")
        self.body = SEGMENTERS[name]()

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, 1, H, W] of x [N, 3, H, W]; H and W multiples of 16."""
        out: Any = self.body(x)
        return out[0] if isinstance(out, list) else torch.as_tensor(out)

    def prediction(self, x: Tensor) -> Tensor:
        """As `forward`."""
        return self(x)  # type: ignore[no-any-return]


def build_classifier(name: str, classes: int) -> nn.Module:
    """A classifier by name; `timm/NAME` takes any of timm's. Raises ValueError for an unknown name."""
    if name.startswith("timm/"):
        try:
            import timm
        except ImportError as error:
            raise ValueError(
                f"{name} needs timm, which is not installed (with a matching torchvision)"
            ) from error
        network: nn.Module = timm.create_model(name.removeprefix("timm/"), num_classes=classes)
        return network
    if name not in CLASSIFIERS:
        raise ValueError(f"classifier must be timm/NAME or one of {', '.join(CLASSIFIERS)}, not {name!r}")
    return CLASSIFIERS[name](classes)


def installed_weights(network: nn.Module) -> Path:
    """ImageNet weights of a baseline that are installed as a Python package. Raises ValueError where there are none."""
    if not isinstance(network, EfficientNetLite):
        raise ValueError(f"no installed package has weights of {type(network).__name__}")
    return network.installed_weights()
