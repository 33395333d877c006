"""The networks of M3Lung-Sys: slice network and patient network.

Qian et al., "M3Lung-Sys: a deep learning system for multi-class lung pneumonia screening from CT imaging",
IEEE JBHI 2020. Classes: 0 healthy, 1 COVID-19, 2 H1N1, 3 CAP.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from networks.resnet import ResNetEncoder

Distance = Literal["inner", "cosine", "euclidean"]
RowNorm = Literal["sum", "softmax", "relu_sum"]

DENOMINATOR_GUARD = 1e-6

WITH_LESION_FOR_CERTAIN = (-100.0, 100.0)
"""Lesion logits whose softmax is (0, 1)."""


class SliceOutput(NamedTuple):
    """What the slice network says of N slices."""

    lesion_logits: Tensor
    """[N, 2]: 0 without lesion, 1 with lesion."""
    class_logits: Tensor
    """[N, classes]."""
    location_map: Tensor
    """[N, h, w] at stride 16, min-max per image to [0, 1]; of the predicted one of the two lesion classes."""
    features: Tensor
    """[N, D], concatenated averages of stage 3 and stage 4; 1024 + 2048 at full size."""


def coordinate_maps(height: int, width: int, like: Tensor) -> Tensor:
    """[3, height, width]: x and y in [-1, 1] and the distance sqrt(x^2 + y^2) from the centre.

    x = 2 column / (width - 1) - 1. dtype and device are those of `like`.
    """
    x = torch.linspace(-1, 1, width, dtype=like.dtype, device=like.device).expand(height, width)
    y = torch.linspace(-1, 1, height, dtype=like.dtype, device=like.device)[:, None].expand(height, width)
    return torch.stack([x, y, torch.sqrt(x * x + y * y)])


def nearness(features: Tensor, prototypes: Tensor, distance: Distance) -> Tensor:
    """How near every position of features [N, C, H, W] is to its image's prototype [N, C]: [N, H, W].

    "inner" is the inner product (so that its mean equals the logit of a head without bias), "cosine" the
    cosine, "euclidean" the negative Euclidean distance. Higher is nearer.
    """
    prototype = prototypes[:, :, None, None]
    if distance == "inner":
        return (features * prototype).sum(dim=1)
    if distance == "cosine":
        return functional.cosine_similarity(features, prototype, dim=1)
    if distance == "euclidean":
        return -torch.linalg.vector_norm(features - prototype, dim=1)  # type: ignore[no-any-return]
    raise ValueError(f"distance must be 'inner', 'cosine' or 'euclidean', not {distance!r}")


def min_max(maps: Tensor) -> Tensor:
    """Every map of [N, H, W] scaled to [0, 1]; a constant map gives 0."""
    low = maps.amin(dim=(1, 2), keepdim=True)
    span = maps.amax(dim=(1, 2), keepdim=True) - low
    return (maps - low) / torch.where(span > 0, span, torch.ones_like(span))


class M3SliceNet(nn.Module):
    """ResNet-50 with a lesion classifier on stage 3, whose location map and coordinates enter stage 4.

    Without arguments 23,528,516 parameters. Input [N, 3, H, W], H and W multiples of 32 (512 in the paper).

    Args:
        depths, planes, stem: sizes of the encoder, see `ResNetEncoder`.
        classes: outputs of the disease head.
        lesion_bias: bias in the lesion head; without it the mean of the unnormalised map is the logit.
        distance: what the location map measures, see `nearness`.
        detach_map: True stops the gradient of stage 4 at the location map.
        attention, coordinates: False leaves the location map / coordinate maps out of stage 4 (ablations of
            Table V; without both this is a plain ResNet with two heads).
        multi_task: False leaves out the lesion head, too, and with it the location map (first row of Table V).
            Every slice is then one with a lesion, so that eq. 4 gives the class probabilities as they are.

    Raises ValueError for `attention` without `multi_task`.
    """

    def __init__(
        self,
        depths: Sequence[int] = (3, 4, 6, 3),
        planes: Sequence[int] = (64, 128, 256, 512),
        stem: int = 64,
        classes: int = 4,
        lesion_bias: bool = False,
        distance: Distance = "inner",
        detach_map: bool = False,
        attention: bool = True,
        coordinates: bool = True,
        multi_task: bool = True,
    ) -> None:
        super().__init__()
        if attention and not multi_task:
            raise ValueError("the location map is the lesion head's; multi_task=False needs attention=False")
        self.distance: Distance = distance
        self.detach_map = detach_map
        self.attention = attention
        self.coordinates = coordinates
        extra = int(attention) + 3 * int(coordinates)
        self.encoder = ResNetEncoder(depths, planes, stem, extra_channels=extra)
        third, fourth = self.encoder.channels[2:]
        self.feature_width = third + fourth
        self.lesion_head = nn.Linear(third, 2, bias=lesion_bias) if multi_task else None
        self.class_head = nn.Linear(fourth, classes)

    def forward(self, x: Tensor) -> SliceOutput:
        """Everything of `SliceOutput` for x [N, 3, H, W]."""
        third = self.encoder.to_stage3(x)[-1]
        third_mean = third.mean(dim=(2, 3))
        lesion_logits, location = self._lesion(third, third_mean)
        fourth_mean = self.encoder.layer4(self._stage4_input(third, location)).mean(dim=(2, 3))
        return SliceOutput(
            lesion_logits,
            self.class_head(fourth_mean),
            location,
            torch.cat([third_mean, fourth_mean], dim=1),
        )

    def _lesion(self, third: Tensor, third_mean: Tensor) -> tuple[Tensor, Tensor]:
        """Lesion logits [N, 2] and location map [N, h, w]; without a lesion head the map is 0."""
        if self.lesion_head is None:
            certain = third.new_tensor(WITH_LESION_FOR_CERTAIN)
            return certain.expand(third.shape[0], -1), torch.zeros_like(third[:, 0])
        logits = self.lesion_head(third_mean)
        prototypes = self.lesion_head.weight[logits.argmax(dim=1)]
        return logits, min_max(nearness(third, prototypes, self.distance))

    def _stage4_input(self, third: Tensor, location: Tensor) -> Tensor:
        parts = [third]
        if self.attention:
            parts.append((location.detach() if self.detach_map else location)[:, None])
        if self.coordinates:
            maps = coordinate_maps(third.shape[2], third.shape[3], third)
            parts.append(maps.expand(third.shape[0], -1, -1, -1))
        return torch.cat(parts, dim=1)


def slice_loss(
    lesion_logits: Tensor, class_logits: Tensor, label: Tensor, label_smoothing: float = 0.0
) -> Tensor:
    """Cross-entropy of "any disease" plus cross-entropy of the class, weighted alike.

    Args:
        lesion_logits: [N, 2].
        class_logits: [N, classes].
        label: [N] int64, 0 is healthy.
        label_smoothing: share of the wanted probability that is spread over all classes; none in the paper.
    """
    any_disease = functional.cross_entropy(
        lesion_logits, (label != 0).long(), label_smoothing=label_smoothing
    )
    return any_disease + functional.cross_entropy(class_logits, label, label_smoothing=label_smoothing)


def normalise_rows(scores: Tensor, norm: RowNorm, allowed: Tensor | None = None) -> Tensor:
    """Normalise scores over the last axis (M3Lung-Sys eq. 2).

    Args:
        scores: [..., m]; already without negative factors for "relu_sum".
        norm: "sum" and "relu_sum" divide by the sum (a sum nearer to 0 than 1e-6 becomes +-1e-6), "softmax"
            is the softmax.
        allowed: bool, broadcastable to scores; False entries take no part and become 0.
    """
    if norm == "softmax":
        if allowed is None:
            return torch.softmax(scores, dim=-1)
        return torch.softmax(scores.masked_fill(~allowed, -torch.inf), dim=-1).masked_fill(~allowed, 0.0)
    if norm not in ("sum", "relu_sum"):
        raise ValueError(f"norm must be 'sum', 'softmax' or 'relu_sum', not {norm!r}")
    if allowed is not None:
        scores = scores * allowed
    total = scores.sum(dim=-1, keepdim=True)
    guard = torch.where(total < 0, -DENOMINATOR_GUARD, DENOMINATOR_GUARD)
    return scores / torch.where(total.abs() < DENOMINATOR_GUARD, guard, total)


class Refinement(nn.Module):
    """Multi-head feature refinement with a skip (M3Lung-Sys eq. 1-3); 75,518,976 parameters at full size.

    Args:
        features: D, width of a slice's feature.
        head_width: D', width of one head.
        heads: h.
        axis: "channel" is eq. 2 as printed, a D' x D' correlation over the slices of a part; "slice" the
            n x n form that the prose describes.
        norm: see `normalise_rows`; "relu_sum" puts a ReLU on the first two projections.
    """

    def __init__(
        self,
        features: int,
        head_width: int,
        heads: int,
        axis: Literal["channel", "slice"] = "channel",
        norm: RowNorm = "sum",
    ) -> None:
        super().__init__()
        if axis not in ("channel", "slice"):
            raise ValueError(f"axis must be 'channel' or 'slice', not {axis!r}")
        self.heads = heads
        self.axis = axis
        self.norm: RowNorm = norm
        self.f1 = nn.Linear(features, heads * head_width)
        self.f2 = nn.Linear(features, heads * head_width)
        self.f3 = nn.Linear(features, heads * head_width)
        self.f4 = nn.Linear(heads * head_width, features)

    def forward(self, features: Tensor, parts: Tensor) -> Tensor:
        """Refined features [L, D] of features [L, D]; every part of parts (bool [s, L]) is refined alone."""
        one, two, three = (self._split_heads(f(features)) for f in (self.f1, self.f2, self.f3))
        if self.norm == "relu_sum":
            one, two = torch.relu(one), torch.relu(two)
        attend = self._over_channels if self.axis == "channel" else self._over_slices
        refined = attend(one, two, three, parts)
        return features + self.f4(refined.transpose(0, 1).flatten(1))  # type: ignore[no-any-return]

    def _split_heads(self, x: Tensor) -> Tensor:
        """[L, h D'] -> [h, L, D']."""
        return x.reshape(x.shape[0], self.heads, -1).transpose(0, 1)

    def _over_channels(self, one: Tensor, two: Tensor, three: Tensor, parts: Tensor) -> Tensor:
        refined = torch.zeros_like(three)
        for part in parts.to(one.dtype)[:, None, :, None]:
            correlation = normalise_rows((one * part).transpose(1, 2) @ two, self.norm)
            refined = refined + (three * part) @ correlation
        return refined

    def _over_slices(self, one: Tensor, two: Tensor, three: Tensor, parts: Tensor) -> Tensor:
        membership = parts.to(one.dtype)
        together = (membership.transpose(0, 1) @ membership) > 0
        return normalise_rows(one @ two.transpose(1, 2), self.norm, together) @ three


class Aggregation(nn.Module):
    """Attention pooling of the slices of a part by a learned query; 18,883,584 parameters at full size."""

    def __init__(self, features: int, norm: RowNorm = "sum") -> None:
        super().__init__()
        self.norm: RowNorm = norm
        self.query = nn.Parameter(torch.randn(features) / features**0.5)
        self.f2 = nn.Linear(features, features)
        self.f3 = nn.Linear(features, features)

    def forward(self, features: Tensor, parts: Tensor) -> Tensor:
        """One vector per part, [s, D], of features [L, D] and parts (bool [s, L])."""
        key = self.f2(features)
        query: Tensor = self.query
        if self.norm == "relu_sum":
            query, key = torch.relu(query), torch.relu(key)
        scores = (key @ query).expand(parts.shape)
        return normalise_rows(scores, self.norm, parts) @ self.f3(features)  # type: ignore[no-any-return]


def part_rows(features: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Split n slices in `count` consecutive parts, as even as possible, the first ones longer.

    With fewer slices than parts, part i is slice floor(i n / count), so slices are repeated. All steps are
    tensor operations, so that an exported graph holds for every n >= 1.

    Args:
        features: [n, D].

    Returns:
        The rows [L, D] that the parts are made of (L = max(n, count)) and the parts as bool [count, L].
    """
    n = features.shape[0]
    length = torch.sym_max(n, count)  # type: ignore[no-untyped-call]
    rows = torch.arange(length, device=features.device)
    chosen = features[rows * n // length]
    size, longer = length // count, length % count
    part = torch.arange(count, device=features.device)[:, None]
    start = part * size + torch.clamp(part, max=longer)
    end = (part + 1) * size + torch.clamp(part + 1, max=longer)
    return chosen, (rows >= start) & (rows < end)


class M3PatientNet(nn.Module):
    """From the features of all slices of a patient to the four classes.

    Without arguments 188,789,764 parameters. The shared refinement and aggregation run on 1, 2, 3 and 4
    consecutive parts of the series; the ten vectors go through two fully connected layers.

    Args:
        features: D.
        head_width: D', width of one head.
        heads: h.
        scales: numbers of parts.
        classes: outputs.
        axis, norm: see `Refinement` and `normalise_rows`.
        refine: False leaves the refinement out (Table IV, "aggregation only").
        pooling: "max" is the maximum over the slices and one fully connected layer (Table IV).
        hidden_relu: a ReLU between the last two layers; not printed, off.
    """

    def __init__(
        self,
        features: int = 3072,
        head_width: int = 512,
        heads: int = 12,
        scales: Sequence[int] = (1, 2, 3, 4),
        classes: int = 4,
        axis: Literal["channel", "slice"] = "channel",
        norm: RowNorm = "sum",
        refine: bool = True,
        pooling: Literal["aggregation", "max"] = "aggregation",
        hidden_relu: bool = False,
    ) -> None:
        super().__init__()
        if pooling not in ("aggregation", "max"):
            raise ValueError(f"pooling must be 'aggregation' or 'max', not {pooling!r}")
        self.scales = tuple(scales)
        self.pooling = pooling
        self.hidden_relu = hidden_relu
        self.classifier = nn.Linear(features, classes)
        if pooling == "max":
            return
        self.refinement = Refinement(features, head_width, heads, axis, norm) if refine else None
        self.aggregation = Aggregation(features, norm)
        self.fc = nn.Linear(features * sum(self.scales), features)

    def forward(self, features: Tensor) -> Tensor:
        """Logits [classes] of one patient's features [n, D], n >= 1, in slice order."""
        if self.pooling == "max":
            return self.classifier(features.amax(dim=0))  # type: ignore[no-any-return]
        hidden = self.fc(torch.cat([self._scale(features, s) for s in self.scales]))
        return self.classifier(torch.relu(hidden) if self.hidden_relu else hidden)  # type: ignore[no-any-return]

    def _scale(self, features: Tensor, count: int) -> Tensor:
        rows, parts = part_rows(features, count)
        if self.refinement is not None:
            rows = self.refinement(rows, parts)
        return self.aggregation(rows, parts).flatten()  # type: ignore[no-any-return]
