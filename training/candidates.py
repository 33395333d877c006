"""What is compared in an evaluation: packages as they are served, and outputs of trainings, baselines among them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from engine.assessment import WindowFusion
from engine.errors import PackageInvalid
from engine.jcs import centre_crop
from engine.packages import JCSMetadata, M3Metadata, read_package
from engine.runners.interface import RunnerOptions
from engine.runners.selection import open_runner
from networks.jcs import JCSClassifier
from networks.m3lung import M3PatientNet, M3SliceNet
from training.datasets.items import Item
from training.lung_boxes import LungBoxes, PixelBox
from training.outputs import RECIPE, WEIGHTS, load_trained, load_training_of
from training.patients import weights_fingerprint
from training.preprocessing import normalise_grey, resize_square, window
from training.recipe import Image, LungScope, Recipe
from training.serving import JCSClassifyGraph, JCSSegmentGraph, LesionPredictor, M3PatientGraph, M3SlicesGraph
from training.starting import recipe_directory

Array = npt.NDArray[Any]
Run = Callable[[str, Array], dict[str, Array]]


@dataclass(frozen=True)
class Candidate:
    """A system under test.

    `graphs`: what it can do; `run(graph, input)` gives outputs by name. `sha256`: of the package, or of the weights
    of a training. `margin`, `lung_scope`: of the lung box that M3Lung-Sys sees. `segment_margin`: the segmenter sees
    the box of the series' lungs with so many pixels around, None whole slices. `pictures_squeezed`: of pictures of
    unknown window JCS sees `crop_fraction` of both sides instead of a square.
    """

    name: str
    system: Literal["jcs", "m3lung"]
    graphs: frozenset[str]
    run: Run
    sha256: str
    crop_fraction: float = 1.0
    margin: int = 10
    lung_scope: LungScope = "volume"
    slice_threshold: float = 0.5
    patient_count: float = 25
    patient_mode: Literal["auto", "absolute", "proportional"] = "auto"
    lesion_threshold: float = 0.5
    nonparametric: float = 0.99
    window_fusion: WindowFusion = "scores"
    segment_margin: int | None = None
    pictures_squeezed: bool = False

    def crop(self, hu: Array, item: Item, boxes: LungBoxes) -> Array | None:
        """The part of a slice [H, W] that a classifier sees; None where there is no lung in it."""
        if not boxes.shows_lung(item):
            return None
        if self.system == "jcs":
            if self.pictures_squeezed and not item.calibration.exact:
                return _middle(hu, self.crop_fraction)
            top, left, bottom, right = centre_crop((hu.shape[0], hu.shape[1]), self.crop_fraction)
            return hu[top:bottom, left:right]
        box = boxes.of(item, hu, self.margin, self.lung_scope)
        return None if box is None else hu[box[0] : box[2], box[1] : box[3]]

    def lesions(self, hu: Array, item: Item, boxes: LungBoxes) -> Array:
        """Lesion probability [H, W] in [0, 1] of a slice; 0 where the segmenter does not look."""
        height, width = hu.shape
        box: PixelBox | None = None
        if self.segment_margin is not None:
            box = boxes.of(item, hu, self.segment_margin)
        elif boxes.shows_lung(item):
            box = (0, 0, height, width)
        probability = np.zeros((height, width), dtype=np.float32)
        if box is not None:
            top, left, bottom, right = box
            seen = self.run("segment", hu[None, top:bottom, left:right])["lesion_probability"][0]
            probability[top:bottom, left:right] = seen / np.float32(255)
        return probability


def _middle(hu: Array, fraction: float) -> Array:
    """The middle of a slice, `fraction` of each side."""
    top, left = (round(side * (1 - fraction) / 2) for side in hu.shape)
    return hu[top : hu.shape[0] - top, left : hu.shape[1] - left]


def open_candidate(path: Path) -> Candidate:
    """The candidate of a package or of a training's output. Raises PackageInvalid, RecipeError."""
    return _trained(path) if (path / RECIPE).is_file() else _packaged(path)


def _packaged(path: Path) -> Candidate:
    package = read_package(path)
    runner = open_runner(package, RunnerOptions(precision="f32", device="openvino")).runner
    metadata = package.metadata

    def run(graph: str, value: Array) -> dict[str, Array]:
        key = "features" if graph == "patient" else "hu"
        return dict(runner.run(graph, {key: np.ascontiguousarray(value)}))

    graphs = frozenset(metadata.graphs)
    if isinstance(metadata, JCSMetadata):
        return Candidate(
            metadata.name,
            "jcs",
            graphs,
            run,
            package.sha256,
            crop_fraction=metadata.preprocessing.crop_fraction,
            slice_threshold=metadata.thresholds.slice,
            patient_count=metadata.thresholds.patient_count,
            patient_mode=metadata.thresholds.patient_mode,
            lesion_threshold=metadata.thresholds.lesion,
            segment_margin=metadata.preprocessing.segment_margin
            if metadata.preprocessing.segment_crop == "lungs"
            else None,
            pictures_squeezed=metadata.preprocessing.pictures_squeezed,
        )
    if not isinstance(metadata, M3Metadata):
        raise PackageInvalid(
            f"{path}: only packages of JCS and M3Lung-Sys are evaluated, not {metadata.system}"
        )
    if metadata.thresholds.patient_rule == "nonparametric":
        graphs -= {"patient"}
    return Candidate(
        metadata.name,
        "m3lung",
        graphs,
        run,
        package.sha256,
        margin=metadata.preprocessing.crop_margin,
        lung_scope=metadata.preprocessing.crop_scope,
        nonparametric=metadata.thresholds.nonparametric,
        window_fusion=metadata.thresholds.window_fusion,
    )


def _trained(path: Path) -> Candidate:
    recipe, network = load_trained(path)
    system: Literal["jcs", "m3lung"] = "jcs" if recipe.task.startswith("jcs") else "m3lung"
    graphs = {name: module.eval() for name, module in _graphs(recipe, network).items()}

    @torch.no_grad()
    def run(name: str, value: Array) -> dict[str, Array]:
        module = graphs[name]
        outputs = module(torch.from_numpy(np.ascontiguousarray(value)))
        tensors = outputs if isinstance(outputs, tuple) else (outputs,)
        names: tuple[str, ...] = cast(Any, module).output_names
        return {key: tensor.numpy() for key, tensor in zip(names, tensors, strict=True)}

    side = recipe.image.shorter_side or recipe.image.size
    fraction = recipe.image.size / side
    return Candidate(
        path.name,
        system,
        frozenset(graphs),
        run,
        weights_fingerprint(path / WEIGHTS),
        crop_fraction=fraction,
        margin=recipe.image.lung_margin,
        lung_scope=recipe.image.lung_scope,
        segment_margin=recipe.image.lung_margin if "segment" in graphs and recipe.image.lung_crop else None,
        pictures_squeezed=recipe.image.pictures_squeezed,
    )


def _graphs(recipe: Recipe, network: nn.Module) -> dict[str, nn.Module]:
    """The serving graphs of a training; of a patient network also those of the slice network that it rests on."""
    image = recipe.image
    if recipe.task in ("jcs-segmenter", "jcs-joint"):
        return {"segment": JCSSegmentGraph(cast(LesionPredictor, network), image.size, *image.middle_window)}
    if isinstance(network, M3PatientNet):
        slices = load_training_of(recipe_directory(recipe.start.slice, "slice"), "m3-slice")[1]
        return {"slices": _slices_graph(slices, image), "patient": M3PatientGraph(network)}
    if isinstance(network, JCSClassifier):
        return {"classify": JCSClassifyGraph(network, image.size, *image.middle_window)}
    if recipe.task == "jcs-classifier":
        return {"classify": BaselineClassifyGraph(network, image.size, *image.middle_window)}
    return {"slices": _slices_graph(network, image)}


def _slices_graph(network: nn.Module, image: Image) -> nn.Module:
    windows = (image.three_centres, image.middle_window[1])
    if isinstance(network, M3SliceNet):
        return M3SlicesGraph(network, image.size, *windows)
    return BaselineSlicesGraph(network, image.size, *windows)


class BaselineClassifyGraph(nn.Module):
    """A two-class baseline: int16 HU [N, H, W] -> probability [N]; no activation map."""

    output_names = ("probability",)

    def __init__(self, network: nn.Module, size: int, centre: float, width: float) -> None:
        super().__init__()
        self.network, self.size, self.centre, self.width = network, size, centre, width

    def forward(self, hu: Tensor) -> Tensor:
        """As in the class's first line."""
        grey = resize_square(window(hu.float(), self.centre, self.width)[:, None], self.size)
        return torch.softmax(self.network(normalise_grey(grey)), dim=1)[:, 1]


class BaselineSlicesGraph(nn.Module):
    """A four-class baseline: int16 HU [N, H, W] of the lung box -> `lesion_probability` [N, 2], `class_probability`
    [N, 4], means over the windows `centres` of `width` in HU; no location map, no features.

    It has no lesion classifier: every slice is one with a lesion, so that eq. 4 leaves the classes as they are.
    """

    output_names = ("lesion_probability", "class_probability")

    def __init__(self, network: nn.Module, size: int, centres: Sequence[float], width: float) -> None:
        super().__init__()
        self.network, self.size, self.centres, self.width = network, size, tuple(centres), width

    def forward(self, hu: Tensor) -> tuple[Tensor, Tensor]:
        """As in the class's first line."""
        resized = resize_square(hu.float()[:, None], self.size)
        seen = [self.network(normalise_grey(window(resized, c, self.width))) for c in self.centres]
        classes = torch.stack([torch.softmax(logits, dim=1) for logits in seen]).mean(dim=0)
        return classes.new_tensor([0.0, 1.0]).expand(len(classes), -1), classes


def outputs_by_name(candidates: list[Candidate]) -> Mapping[str, Candidate]:
    """Candidates by a name that is theirs alone."""
    named: dict[str, Candidate] = {}
    for candidate in candidates:
        name, number = candidate.name, 2
        while name in named:
            name, number = f"{candidate.name} ({number})", number + 1
        named[name] = candidate
    return named
