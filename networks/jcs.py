"""The networks of JCS: slice classifier, segmenter, and the segmenter joined with the classifier's features.

Wu et al., "JCS: An explainable COVID-19 diagnosis system by joint classification and segmentation", IEEE TIP
2021. `profile="paper"` follows the text and equations, `profile="public"` the authors' released code, which
differs in the stride of stage 5, the squeeze width of the decoder, two extra convolutions on the smallest
map, and the fusion block.

All inputs are [N, 3, H, W] float32: grey replicated to three channels, in [0, 1], ImageNet mean and standard
deviation removed. All outputs are logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from networks.convolution import Norm, SqueezeExcitation, conv_relu, norm_layer, resize, spatial_size
from networks.res2net import Res2NetEncoder
from networks.vgg import VGGEncoder

Profile = Literal["paper", "public"]

POSITIVE = 1
"""Index of COVID-19 in the two-way output; 0 is not infected."""

SE_REDUCTION = 4


def activation_map(
    features: Tensor, weights: Tensor, relu: Literal["per_channel", "sum"] = "per_channel"
) -> Tensor:
    """The class activation map of JCS eq. 1 and 2, not normalised.

    For global average pooling and a linear head eq. 1 has the closed form w_k = weight_k / (H W). Eq. 2 as
    printed has the ReLU inside the sum over the channels; Grad-CAM and the public demo have it outside.

    Args:
        features: [N, K, H, W], the map before the global average pooling.
        weights: [K], the linear head's weights of the positive class.
        relu: "per_channel" is sum_k ReLU(w_k X_k), "sum" is ReLU(sum_k w_k X_k).

    Returns:
        [N, H, W], not negative.
    """
    if relu not in ("per_channel", "sum"):
        raise ValueError(f"relu must be 'per_channel' or 'sum', not {relu!r}")
    height, width = spatial_size(features)
    w = (weights / (height * width))[None, :, None, None]
    if relu == "sum":
        return torch.relu((features * w).sum(dim=1))
    return torch.relu(features * w).sum(dim=1)


def normalise_activation_map(am: Tensor) -> Tensor:
    """Min-max of every map of am [N, H, W] to [0, 1]: (am - min) / (max - min + 1e-8); a flat map gives 0."""
    low = am.amin(dim=(1, 2), keepdim=True)
    high = am.amax(dim=(1, 2), keepdim=True)
    return (am - low) / (high - low + 1e-8)


class JCSClassifier(nn.Module):
    """Res2Net with global average pooling and a two-way head without bias.

    Without arguments Res2Net-101 v1b 26w 4s, 43,181,016 parameters.

    Args:
        depths, planes, base_width, scale: sizes of the encoder, see `Res2NetEncoder`.
        classes: outputs; index 0 not infected, 1 COVID-19.
    """

    def __init__(
        self,
        depths: Sequence[int] = (3, 4, 23, 3),
        planes: Sequence[int] = (64, 128, 256, 512),
        base_width: int = 26,
        scale: int = 4,
        classes: int = 2,
    ) -> None:
        super().__init__()
        self.encoder = Res2NetEncoder(depths, planes, base_width, scale)
        self.fc = nn.Linear(self.encoder.channels[-1], classes, bias=False)

    def features(self, x: Tensor) -> Tensor:
        """The map before pooling, [N, K, H / 32, W / 32]."""
        return self.encoder(x)[-1]  # type: ignore[no-any-return]

    def logits(self, features: Tensor) -> Tensor:
        """[N, classes] from `features`."""
        return self.fc(features.mean(dim=(2, 3)))  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, classes] of x [N, 3, H, W]."""
        return self.logits(self.features(x))

    def with_activation_map(
        self, x: Tensor, relu: Literal["per_channel", "sum"] = "per_channel"
    ) -> tuple[Tensor, Tensor]:
        """Logits [N, classes] and the unnormalised, differentiable map [N, H / 32, W / 32] of eq. 1-2."""
        features = self.features(x)
        return self.logits(features), activation_map(features, self.fc.weight[POSITIVE], relu)


class GAM(nn.Module):
    """Grouped atrous module: widen, four dilated group convolutions, channel gate, narrow. Size-keeping.

    Args:
        channels: channels in and out; 6,295,808 parameters for 512.
        dilations: one per group; the widened 2 * channels are split evenly among them.
        norm: batch normalisation after the convolutions; none in the paper.
    """

    def __init__(self, channels: int, dilations: Sequence[int], norm: Norm = "none") -> None:
        super().__init__()
        wide = 2 * channels
        self.group = wide // len(dilations)
        if self.group * len(dilations) != wide:
            raise ValueError(f"{wide} widened channels do not split evenly into {len(dilations)} groups")
        self.expand = conv_relu(channels, wide, 1, norm=norm)
        self.branches = nn.ModuleList(
            nn.Conv2d(self.group, self.group, 3, padding=d, dilation=d) for d in dilations
        )
        self.norm = norm_layer(norm, wide) or nn.Identity()
        self.se = SqueezeExcitation(wide, wide // SE_REDUCTION)
        self.reduce = conv_relu(wide, channels, 1, norm=norm)
        self.transition = conv_relu(channels, channels, 3, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C, H, W]."""
        groups = torch.split(self.expand(x), self.group, dim=1)
        joined = torch.cat([branch(g) for branch, g in zip(self.branches, groups, strict=True)], dim=1)
        gated = self.se(torch.relu(self.norm(joined)))
        return self.transition(self.reduce(gated))  # type: ignore[no-any-return]


class AFF(nn.Module):
    """Attentive feature fusion: joins a lateral map with the coarser decoder map.

    Args:
        channels: channels d of the lateral map and of the output.
        channels_high: channels of the coarser map; None is as many as the lateral one has.
        squeeze_hidden: hidden width of both channel gates; None is the paper's input channels / 4.
        norm: batch normalisation after the convolutions; none in the paper.
    """

    def __init__(
        self,
        channels: int,
        channels_high: int | None = None,
        squeeze_hidden: int | None = None,
        norm: Norm = "none",
    ) -> None:
        super().__init__()
        half = channels // 2
        self.low = conv_relu(channels, half, 1, norm=norm)
        self.high = conv_relu(channels_high or channels, half, 1, norm=norm)
        self.se1 = SqueezeExcitation(2 * half, squeeze_hidden or 2 * half // SE_REDUCTION)
        self.transition1 = conv_relu(2 * half, channels, 3, norm=norm)
        wide = channels + half
        self.se2 = SqueezeExcitation(wide, squeeze_hidden or wide // SE_REDUCTION)
        self.reduce = conv_relu(wide, channels, 1, norm=norm)
        self.transition2 = conv_relu(channels, channels, 3, norm=norm)

    def forward(self, lateral: Tensor, coarser: Tensor) -> Tensor:
        """lateral [N, d, H, W], coarser [N, d_high, h, w] -> [N, d, H, W]."""
        high = resize(self.high(coarser), spatial_size(lateral))
        x = self.transition1(self.se1(torch.cat([self.low(lateral), high], dim=1)))
        x = self.se2(torch.cat([x, high], dim=1))
        return self.transition2(self.reduce(x))  # type: ignore[no-any-return]


class PlainFusion(nn.Module):
    """Feature-pyramid fusion in place of AFF, the ablation of JCS Table V: lateral 1x1 + sum + 3x3."""

    def __init__(self, channels: int, channels_high: int, norm: Norm = "none") -> None:
        super().__init__()
        self.low = nn.Conv2d(channels, channels, 1)
        self.high = nn.Conv2d(channels_high, channels, 1)
        self.smooth = conv_relu(channels, channels, 3, norm=norm)

    def forward(self, lateral: Tensor, coarser: Tensor) -> Tensor:
        """lateral [N, d, H, W], coarser [N, d_high, h, w] -> [N, d, H, W]."""
        high = resize(self.high(coarser), spatial_size(lateral))
        return self.smooth(self.low(lateral) + high)  # type: ignore[no-any-return]


class JCSSegmenter(nn.Module):
    """VGG-16 encoder, EFM (two GAMs) and five AFF decoder levels with a side output each.

    Without arguments 40,864,253 parameters; `profile="public"` has 42,501,423. Needs H, W >= 32.

    Args:
        profile: "paper" or "public".
        widths, depths: sizes of the encoder, see `VGGEncoder`.
        encoder_norm: batch normalisation in the encoder; None is "none" for the paper profile and "frozen"
            for the public one.
        decoder_norm: batch normalisation in EFM and decoder; none in the paper.
        efm, aff: False takes the block out (ablation, JCS Table V).
    """

    def __init__(
        self,
        profile: Profile = "paper",
        widths: Sequence[int] = (64, 128, 256, 512, 512),
        depths: Sequence[int] = (2, 2, 3, 3, 3),
        encoder_norm: Norm | None = None,
        decoder_norm: Norm = "none",
        efm: bool = True,
        aff: bool = True,
    ) -> None:
        super().__init__()
        public = _is_public(profile)
        norm = encoder_norm or ("frozen" if public else "none")
        top = widths[4]
        self.encoder = VGGEncoder(widths, depths, norm, pool_before_stage5=not public)
        self.gam1 = GAM(top, (1, 3, 6, 9), decoder_norm) if efm else nn.Identity()
        self.gam2 = GAM(top, (1, 2, 3, 4), decoder_norm) if efm else nn.Identity()
        self.pool = nn.MaxPool2d(2, stride=2)
        self.bridge = (
            nn.Sequential(*(conv_relu(top, top, k, norm=decoder_norm) for k in (1, 3)))
            if public
            else nn.Identity()
        )
        highs = [*widths[1:], top]
        self.fusions = nn.ModuleList(
            AFF(d, high, 1 if public else None, decoder_norm) if aff else PlainFusion(d, high, decoder_norm)
            for d, high in zip(widths, highs, strict=True)
        )
        self.sides = nn.ModuleList(nn.Conv2d(d, 1, 1) for d in widths)

    def encode(self, x: Tensor) -> list[Tensor]:
        """M_E^1 .. M_E^6 of x [N, 3, H, W]; strides 1, 2, 4, 8, 16, 32 (1, 2, 4, 8, 8, 16 public)."""
        first, second, third, fourth, conv5 = self.encoder(x)
        fifth = self.gam1(conv5)
        return [first, second, third, fourth, fifth, self.gam2(self.pool(fifth))]

    def decode(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Side logits of level 1 to 5, each [N, 1, h, w] at its level's size, from six encoder maps."""
        *laterals, coarser = maps
        coarser = self.bridge(coarser)
        sides: list[Tensor] = []
        for level in reversed(range(len(laterals))):
            coarser = self.fusions[level](laterals[level], coarser)
            sides.append(self.sides[level](coarser))
        return sides[::-1]

    def forward(self, x: Tensor) -> Tensor:
        """Side logits [N, 5, H, W] of x [N, 3, H, W]; channel 0 is level 1, the prediction."""
        return stack_sides(self.decode(self.encode(x)), spatial_size(x))

    def prediction(self, x: Tensor) -> Tensor:
        """Channel 0 of `forward` alone, [N, 1, H, W]; its sigmoid is the lesion probability."""
        return resize(self.decode(self.encode(x))[0], spatial_size(x))


def stack_sides(sides: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """[N, S, *size] from S side maps [N, 1, h, w]."""
    return torch.cat([resize(side, size) for side in sides], dim=1)


class FeatureFusion(nn.Module):
    """Joins a classifier map with a segmenter map of one stage (JCS Fig. 4): 1x1, SE, 3x3."""

    def __init__(self, channels_class: int, channels: int) -> None:
        super().__init__()
        self.reduce = conv_relu(channels_class + channels, channels, 1)
        self.se = SqueezeExcitation(channels, channels // SE_REDUCTION)
        self.transition = conv_relu(channels, channels, 3)

    def forward(self, segmenter: Tensor, classifier: Tensor) -> Tensor:
        """segmenter [N, C, H, W], classifier [N, K, h, w] -> [N, C, H, W]."""
        resized = resize(classifier, spatial_size(segmenter))
        return self.transition(self.se(self.reduce(torch.cat([segmenter, resized], dim=1))))  # type: ignore[no-any-return]


class PublicFeatureFusion(nn.Module):
    """Fusion of the public code: at the classifier map's size, three 3x3 convolutions with normalisation."""

    def __init__(self, channels_class: int, channels: int) -> None:
        super().__init__()
        inputs = (channels_class + channels, channels, channels)
        self.body = nn.Sequential(*(conv_relu(c, channels, 3, norm="train") for c in inputs))

    def forward(self, segmenter: Tensor, classifier: Tensor) -> Tensor:
        """segmenter [N, C, H, W], classifier [N, K, h, w] -> [N, C, h, w]."""
        resized = resize(segmenter, spatial_size(classifier))
        return self.body(torch.cat([resized, classifier], dim=1))  # type: ignore[no-any-return]


class JCSJoint(nn.Module):
    """The segmenter with the classifier's features A1..A5 fused into its encoder maps (JCS Fig. 4).

    Without arguments 92,194,949 parameters. M_E^6 is computed before the fusion and not fused. The two parts
    are trained on their own first and are loaded into `segmenter` and `trunk`.

    Args:
        profile: "paper" or "public".
        segmenter: default is the full size of that profile.
        trunk: the classifier's encoder; default Res2Net-101 v1b.
        freeze_classifier: True keeps the trunk's weights and statistics as loaded.
    """

    def __init__(
        self,
        profile: Profile = "paper",
        segmenter: JCSSegmenter | None = None,
        trunk: Res2NetEncoder | None = None,
        freeze_classifier: bool = False,
    ) -> None:
        super().__init__()
        fusion = PublicFeatureFusion if _is_public(profile) else FeatureFusion
        self.segmenter = segmenter or JCSSegmenter(profile)
        self.trunk = trunk or Res2NetEncoder()
        self.freeze_classifier = freeze_classifier
        self.fusions = nn.ModuleList(
            fusion(a, m) for a, m in zip(self.trunk.channels, self.segmenter.encoder.channels, strict=True)
        )
        if freeze_classifier:
            self.trunk.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> JCSJoint:
        """As `Module.train`; a frozen trunk stays in evaluation mode."""
        super().train(mode)
        if self.freeze_classifier:
            self.trunk.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Side logits [N, 5, H, W] of x [N, 3, H, W]; channel 0 is the prediction."""
        return stack_sides(self._sides(x), spatial_size(x))

    def prediction(self, x: Tensor) -> Tensor:
        """Channel 0 of `forward` alone, [N, 1, H, W]; its sigmoid is the lesion probability."""
        return resize(self._sides(x)[0], spatial_size(x))

    def _sides(self, x: Tensor) -> list[Tensor]:
        *maps, sixth = self.segmenter.encode(x)
        fused = [fuse(m, a) for fuse, m, a in zip(self.fusions, maps, self.trunk(x), strict=True)]
        return self.segmenter.decode([*fused, sixth])


def _is_public(profile: Profile) -> bool:
    if profile not in ("paper", "public"):
        raise ValueError(f"profile must be 'paper' or 'public', not {profile!r}")
    return profile == "public"
