"""The weights that the authors of JCS released, as a package (profile "public").

Nothing is downloaded: the user brings the file. It is read without unpickling anything but tensors, and every
key must find its place.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from networks.convolution import FrozenBatchNorm2d
from networks.jcs import JCSClassifier, JCSJoint, JCSSegmenter
from training.package import write_package
from training.packaging import INTENDED_USE, model_card
from training.recipe import RecipeError
from training.serving import JCSClassifyGraph, JCSSegmentGraph, ServingGraph
from training.starting import read_weights

VGG_FEATURES = {
    f"conv{stage}_{number}": position
    for (stage, number), position in zip(
        ((s, n) for s, depth in enumerate((2, 2, 3, 3, 3), start=1) for n in range(1, depth + 1)),
        (0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40),
        strict=True,
    )
}
"""Where the convolutions of the authors' VGG lie in `features`; their normalisation is one further."""

RULES: tuple[tuple[str, str], ...] = (
    (r"gpd(1?)\.expand_conv\.conv\.(.+)", r"gam{gam}.expand.0.\2"),
    (r"gpd(1?)\.dilation_convs\.(\d)\.(.+)", r"gam{gam}.branches.\2.\3"),
    (r"gpd(1?)\.se_block\.linear(\d)\.(.+)", r"gam{gam}.se.fc\2.\3"),
    (r"gpd(1?)\.reduce_conv\.conv\.(.+)", r"gam{gam}.reduce.0.\2"),
    (r"gpd(1?)\.end_conv\.conv\.(.+)", r"gam{gam}.transition.0.\2"),
    (r"fpn\.inners_a\.5\.conv\.(.+)", r"bridge.0.0.\1"),
    (r"fpn\.fuse\.5\.conv\.(.+)", r"bridge.1.0.\1"),
    (r"fpn\.inners_a\.(\d)\.conv\.(.+)", r"fusions.\1.low.0.\2"),
    (r"fpn\.inners_b\.(\d)\.conv\.(.+)", r"fusions.\1.high.0.\2"),
    (r"fpn\.fuse\.(\d)\.se(\d)\.linear(\d)\.(.+)", r"fusions.\1.se\2.fc\3.\4"),
    (r"fpn\.fuse\.(\d)\.conv(\d)\.conv\.(.+)", r"fusions.\1.transition\2.0.\3"),
    (r"fpn\.fuse\.(\d)\.reduce_conv\.conv\.(.+)", r"fusions.\1.reduce.0.\2"),
)
"""The authors' names in decoder and EFM, and ours."""

FUSION_PARTS = {"cat_modules": 0, "se_modules": 1, "fuse_modules": 2}


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A released segmentation state dict under the names of `JCSSegmenter` or, with `res2net.*`, `JCSJoint`.

    Raises RecipeError naming the first key that has no place.
    """
    plain = {name.removeprefix("module."): value for name, value in state.items()}
    joint = any(name.startswith("res2net.") for name in plain)
    found: dict[str, Tensor] = {}
    for name, value in plain.items():
        if name.startswith("res2net.fc."):
            continue
        found[_our_name(name, "segmenter." if joint else "")] = value
    return found


def _our_name(name: str, prefix: str) -> str:
    if name.startswith("res2net."):
        return "trunk." + name.removeprefix("res2net.")
    if match := re.fullmatch(r"fuse\.(\w+)\.(\d)\.(conv|bn)\.(.+)", name):
        part, level, kind, rest = match.groups()
        if part in FUSION_PARTS:
            return f"fusions.{level}.body.{FUSION_PARTS[part]}.{int(kind == 'bn')}.{rest}"
    if match := re.fullmatch(r"vgg16\.(conv\d_\d)\.(conv|bn)\.(.+)", name):
        layer, kind, rest = match.groups()
        if layer in VGG_FEATURES:
            return f"{prefix}encoder.features.{VGG_FEATURES[layer] + int(kind == 'bn')}.{rest}"
    if match := re.fullmatch(r"cls([1-5])\.(weight|bias)", name):
        return f"{prefix}sides.{int(match[1]) - 1}.{match[2]}"
    for pattern, ours in RULES:
        if match := re.fullmatch(pattern, name):
            gam = "2" if name.startswith("gpd1") else "1"
            return prefix + match.expand(ours.replace("{gam}", gam))
    raise RecipeError(f"the weights have a key that JCS does not have: {name}")


def load_released(network: nn.Module, state: Mapping[str, Tensor], frozen: bool) -> None:
    """Put renamed weights into a network; every key of both must match.

    frozen: the authors' frozen normalisation divides by sqrt(variance) without epsilon; ours adds epsilon, so it
    is taken off the variance. Raises RecipeError naming the first missing, unexpected or misshapen key.
    """
    state = dict(state)
    for name, module in network.named_modules():
        if isinstance(module, nn.BatchNorm2d) and not isinstance(module, FrozenBatchNorm2d):
            state.setdefault(
                f"{name}.num_batches_tracked", network.state_dict()[f"{name}.num_batches_tracked"]
            )
        without_epsilon = isinstance(module, FrozenBatchNorm2d) or (
            frozen and isinstance(module, nn.BatchNorm2d) and not name.startswith("fusions.")
        )
        if without_epsilon and f"{name}.running_var" in state:
            state[f"{name}.running_var"] = state[f"{name}.running_var"] - float(module.eps)
    own = network.state_dict()
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own]
    wrong = [name for name in own if name in state and own[name].shape != state[name].shape]
    if missing or unexpected or wrong:
        parts = [
            f"{kind} {', '.join(names[:3])}" + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            for kind, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", wrong))
            if names
        ]
        raise RecipeError(f"the weights do not fit JCS: {'; '.join(parts)}")
    network.load_state_dict(state)


def import_jcs(directory: Path, segmentation: Path, classification: Path | None, half: bool = True) -> str:
    """Package released weights; gives the package hash.

    Args:
        directory: the package; its name is the package's name.
        segmentation: `joint.pth`, or the weights of the single segmentation model.
        classification: weights of the classifier; without it the package has no `classify` graph.
    """
    state = renamed(_read(segmentation))
    joint = any(name.startswith("trunk.") for name in state)
    segmenter = JCSJoint("public") if joint else JCSSegmenter("public")
    load_released(segmenter, state, frozen=joint)
    graphs: dict[str, ServingGraph] = {"segment": JCSSegmentGraph(segmenter)}
    if classification is not None:
        classifier = JCSClassifier()
        load_released(classifier, _classifier_names(_read(classification)), frozen=False)
        graphs["classify"] = JCSClassifyGraph(classifier, relu="sum")
    metadata = _metadata(directory.name, joint)
    return write_package(directory, graphs, metadata, model_card(metadata), half)


def _read(path: Path) -> dict[str, Any]:
    content = read_weights(path)
    while isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    return content


def _classifier_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    plain = {name.removeprefix("module."): value for name, value in state.items()}
    return {name if name.startswith("fc.") else f"encoder.{name}": value for name, value in plain.items()}


def _metadata(name: str, joint: bool) -> dict[str, Any]:
    return {
        "name": name,
        "version": "1.0.0",
        "system": "jcs",
        "variant": "public",
        "preprocessing": {"crop": "centre", "crop_fraction": 0.875},
        "classes": ["not_infected", "covid19"],
        "thresholds": {"slice": 0.5, "patient_count": 25, "patient_mode": "auto", "lesion": 0.5},
        "description": "Weights released by the authors of JCS"
        + (", segmentation joined with classification." if joint else ", segmentation alone."),
        "authors": "Yu-Huan Wu et al.",
        "copyright": "the authors of the weights",
        "license": "none stated by the authors; for the downloader's own use",
        "intended_use": INTENDED_USE,
        "training_data": ["COVID-CS (JCS), not public"],
        "metrics": {},
    }
