"""The graphs of a model package as torch modules: everything between int16 HU slices and the results.

Names, shapes and dtypes of inputs and outputs are those of the package contract in docs/architecture.md.
Window, resize, normalisation and the activation map are inside, so that a host needs no image processing
beyond the crop. Batch, rows and columns are dynamic.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from networks.jcs import POSITIVE, JCSClassifier
from networks.m3lung import M3PatientNet, M3SliceNet, SliceOutput
from training.preprocessing import JCS_WINDOW, M3_CENTRES, M3_WIDTH, normalise_grey, resize_square, window


class LesionPredictor(Protocol):
    """A network that gives lesion logits [N, 1, H, W] of [N, 3, H, W]: `JCSSegmenter`, `JCSJoint`."""

    def prediction(self, x: Tensor) -> Tensor: ...


class ServingGraph(nn.Module):
    """A module with the names and example inputs that its export needs."""

    input_name: str
    output_names: tuple[str, ...]
    dynamic_axes: tuple[str, ...]
    """Names of the dynamic axes of the one input, from the first axis on."""

    def example(self) -> Tensor:
        """An input to trace with."""
        raise NotImplementedError


class _HounsfieldGraph(ServingGraph):
    input_name = "hu"
    dynamic_axes = ("N", "H", "W")

    def example(self) -> Tensor:
        """int16 [2, 40, 48], values over the whole lung window."""
        return torch.linspace(-1400, 200, 2 * 40 * 48).reshape(2, 40, 48).to(torch.int16)


class JCSClassifyGraph(_HounsfieldGraph):
    """`classify`: int16 HU [N, H, W] -> probability [N], activation map [N, h, w] (eq. 2, unnormalised).

    Args:
        classifier: the network.
        size: rows and columns of the network's input; 224 in the paper.
        centre, width: lung window in HU.
        relu: see `networks.jcs.activation_map`.
    """

    output_names = ("probability", "activation_map")

    def __init__(
        self,
        classifier: JCSClassifier,
        size: int = 224,
        centre: float = JCS_WINDOW[0],
        width: float = JCS_WINDOW[1],
        relu: Literal["per_channel", "sum"] = "per_channel",
    ) -> None:
        super().__init__()
        self.classifier = classifier
        self.size, self.centre, self.width = size, centre, width
        self.relu: Literal["per_channel", "sum"] = relu

    def forward(self, hu: Tensor) -> tuple[Tensor, Tensor]:
        """As in the class's first line."""
        grey = resize_square(window(hu.float(), self.centre, self.width)[:, None], self.size)
        logits, am = self.classifier.with_activation_map(normalise_grey(grey), self.relu)
        return torch.softmax(logits, dim=1)[:, POSITIVE], am


class JCSSegmentGraph(_HounsfieldGraph):
    """`segment`: int16 HU [N, H, W] -> lesion probability uint8 [N, H, W], 255 = 1.0.

    Args:
        segmenter: `JCSSegmenter` or `JCSJoint`.
        size: rows and columns of the network's input; 512 in the paper.
        centre, width: lung window in HU.
    """

    output_names = ("lesion_probability",)

    def __init__(
        self,
        segmenter: LesionPredictor,
        size: int = 512,
        centre: float = JCS_WINDOW[0],
        width: float = JCS_WINDOW[1],
    ) -> None:
        super().__init__()
        self.segmenter = segmenter
        self.size, self.centre, self.width = size, centre, width

    def forward(self, hu: Tensor) -> Tensor:
        """As in the class's first line."""
        grey = resize_square(window(hu.float(), self.centre, self.width)[:, None], self.size)
        probability = torch.sigmoid(self.segmenter.prediction(normalise_grey(grey)))
        whole = functional.interpolate(
            probability, size=(hu.shape[1], hu.shape[2]), mode="bilinear", align_corners=False
        )
        return torch.round(whole[:, 0] * 255.0).to(torch.uint8)


class M3SlicesGraph(_HounsfieldGraph):
    """`slices`: int16 HU [N, H, W] of the lung box -> probabilities, location map and features of N slices.

    The slice is resized once and shown to the network in every window; probabilities and location maps are
    means over the windows, features are kept per window.

    Args:
        network: the network.
        size: rows and columns of the network's input; 512 in the paper.
        centres, width: lung windows in HU.
    """

    output_names = ("lesion_probability", "class_probability", "location_map", "features")

    def __init__(
        self,
        network: M3SliceNet,
        size: int = 512,
        centres: Sequence[float] = M3_CENTRES,
        width: float = M3_WIDTH,
    ) -> None:
        super().__init__()
        self.network = network
        self.size, self.centres, self.width = size, tuple(centres), width

    def forward(self, hu: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """lesion [N, 2], class [N, 4], map [N, h, w] in [0, 1], features [windows, N, D]."""
        resized = resize_square(hu.float()[:, None], self.size)
        grey = torch.cat([window(resized, centre, self.width) for centre in self.centres])
        out: SliceOutput = self.network(normalise_grey(grey))
        lesion, disease, location, features = (
            part.reshape(len(self.centres), -1, *part.shape[1:])
            for part in (
                torch.softmax(out.lesion_logits, dim=1),
                torch.softmax(out.class_logits, dim=1),
                out.location_map,
                out.features,
            )
        )
        return lesion.mean(dim=0), disease.mean(dim=0), location.mean(dim=0), features


class M3PatientGraph(ServingGraph):
    """`patient`: features float32 [n, D] of all slices in order -> class probability [classes]."""

    input_name = "features"
    output_names = ("probability",)
    dynamic_axes = ("n",)

    def __init__(self, network: M3PatientNet) -> None:
        super().__init__()
        self.network = network

    def example(self) -> Tensor:
        """float32 [9, D]."""
        return torch.linspace(-1, 1, 9 * self.network.classifier.in_features).reshape(9, -1)

    def forward(self, features: Tensor) -> Tensor:
        """As in the class's first line."""
        return torch.softmax(self.network(features), dim=0)
