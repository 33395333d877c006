"""Model packages with random weights, full size or compact, for measuring what does not depend on weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from engine.packages import ModelPackage, read_package
from networks.jcs import JCSClassifier, JCSJoint, JCSSegmenter
from networks.m3lung import M3PatientNet, M3SliceNet
from training.package import write_package
from training.serving import JCSClassifyGraph, JCSSegmentGraph, M3PatientGraph, M3SlicesGraph, ServingGraph

_COMMON: dict[str, Any] = {
    "version": "0",
    "description": "random weights for benchmarks",
    "authors": "",
    "copyright": "",
    "license": "Apache-2.0",
    "intended_use": "measuring speed; its output means nothing",
    "training_data": [],
    "metrics": {},
}
_ALWAYS_ILL = {"slice": 0.0, "patient_count": 0, "patient_mode": "absolute"}
"""So that every series is a positive case and is segmented, whatever the weights."""


def graphs_of(size: str) -> dict[str, dict[str, ServingGraph]]:
    """Serving graphs by system and name, with random weights of the given size."""
    torch.manual_seed(0)
    if size == "full":
        classifier, segmenter, slices = JCSClassifier(), JCSJoint(), M3SliceNet()
        patient, pixels = M3PatientNet(norm="softmax"), (224, 512, 512)
    else:
        classifier = JCSClassifier(depths=(2, 3, 4, 2), planes=(24, 40, 80, 128), base_width=32)
        segmenter = JCSSegmenter(widths=(12, 24, 48, 96, 96), encoder_norm="train", decoder_norm="train")  # type: ignore[assignment]
        slices = M3SliceNet(planes=(16, 32, 64, 96), stem=16)
        patient = M3PatientNet(slices.feature_width, head_width=16, heads=2, scales=(1, 2), norm="softmax")
        pixels = (224, 256, 256)
    for network in (classifier, segmenter, slices, patient):
        _settle(network)
    with torch.no_grad():
        # Features are not negative: so every slice is ill, and no probability is rounded to 0
        classifier.fc.weight.abs_()[0].neg_()
        # No pixel is near one half, where noise would decide, and an engine in bfloat16 be refused for it
        sides = segmenter.segmenter.sides if isinstance(segmenter, JCSJoint) else segmenter.sides
        side = cast(nn.Conv2d, sides[0])
        nn.init.constant_(side.weight, 0)
        nn.init.constant_(cast(nn.Parameter, side.bias), -20)
    return {
        "jcs": {
            "classify": JCSClassifyGraph(classifier, pixels[0]),
            "segment": JCSSegmentGraph(segmenter, pixels[1]),
        },
        "m3lung": {"slices": M3SlicesGraph(slices, pixels[2]), "patient": M3PatientGraph(patient)},
    }


def _settle(network: nn.Module) -> None:
    """Statistics of normalisations such that values stay of order one through many layers."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_var is not None:
            module.running_var.uniform_(0.8, 1.2)
    network.eval()


def packages(size: str, folder: Path) -> dict[str, ModelPackage]:
    """Both packages of a size, exported where they are not there yet."""
    metadata = {
        "jcs": {
            "classes": ["not_infected", "covid19"],
            "preprocessing": {"crop": "centre"},
            "thresholds": _ALWAYS_ILL,
        },
        "m3lung": {
            "classes": ["healthy", "covid19", "h1n1", "cap"],
            "preprocessing": {"crop": "lungs"},
            "thresholds": {},
        },
    }
    paths = {system: folder / f"{system}-{size}-random" for system in metadata}
    if not all(path.is_dir() for path in paths.values()):
        for system, graphs in graphs_of(size).items():
            described = {
                **_COMMON,
                **metadata[system],
                "name": paths[system].name,
                "system": system,
                "variant": size,
            }
            write_package(paths[system], graphs, described, "Random weights, for measuring speed.")
    return {system: read_package(path) for system, path in paths.items()}
