"""VGG encoder (VGG-16 by default), parameter names `features.N.*` as in torchvision's `vgg16`/`vgg16_bn`.

Simonyan and Zisserman, "Very deep convolutional networks", ICLR 2015.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from networks.convolution import Norm, norm_layer


class VGGEncoder(nn.Module):
    """Five stages of 3x3 convolutions with bias and ReLU, max pooling 2x2 before stages 2 to 5.

    Args:
        widths: channels per stage.
        depths: convolutions per stage.
        norm: batch normalisation after every convolution; "frozen" adds no trainable parameter.
        pool_before_stage5: False keeps stage 5 at stride 8, as in the authors' public code.
    """

    def __init__(
        self,
        widths: Sequence[int] = (64, 128, 256, 512, 512),
        depths: Sequence[int] = (2, 2, 3, 3, 3),
        norm: Norm = "none",
        pool_before_stage5: bool = True,
    ) -> None:
        super().__init__()
        self.channels = tuple(widths)
        self.pool_before_stage5 = pool_before_stage5
        layers: list[nn.Module] = []
        self._stages: list[tuple[int, int]] = []
        channels_in = 3
        for index, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            if index:
                layers.append(nn.MaxPool2d(2, stride=2))
            start = len(layers)
            for _ in range(depth):
                layers += _convolution(channels_in, width, norm)
                channels_in = width
            self._stages.append((start, len(layers)))
        self.features = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """E1..E5 of x [N, 3, H, W] at strides 1, 2, 4, 8, 16 (8, 8 for the last two without the pool)."""
        outputs: list[Tensor] = []
        for index, (start, end) in enumerate(self._stages):
            pooled = index > 0 and (index < 4 or self.pool_before_stage5)
            x = self.features[start - 1 if pooled else start : end](x)
            outputs.append(x)
        first, second, third, fourth, fifth = outputs
        return first, second, third, fourth, fifth

    def load_imagenet(self, state: Mapping[str, Tensor]) -> None:
        """Load torchvision/timm VGG weights; the source's `classifier.*` and `pre_logits.*` are left out.

        Raises RuntimeError naming missing, unexpected or misshapen keys.
        """
        self.load_state_dict({name: value for name, value in state.items() if name.startswith("features.")})


def _convolution(channels_in: int, channels_out: int, norm: Norm) -> list[nn.Module]:
    convolution = nn.Conv2d(channels_in, channels_out, 3, padding=1)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
    normalisation = norm_layer(norm, channels_out)
    return [convolution, nn.ReLU()] if normalisation is None else [convolution, normalisation, nn.ReLU()]
