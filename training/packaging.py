"""From finished trainings to a model package: graphs, metadata in the MONAI bundle schema, model card."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import yaml

from networks.jcs import JCSClassifier
from networks.m3lung import M3PatientNet, M3SliceNet
from training.datasets.items import CLASSES
from training.outputs import load_summary, load_training_of
from training.package import write_package
from training.recipe import Recipe, RecipeError
from training.serving import (
    JCSClassifyGraph,
    JCSSegmentGraph,
    LesionPredictor,
    M3PatientGraph,
    M3SlicesGraph,
    ServingGraph,
)

INTENDED_USE = (
    "Research and screening software for chest CT; not a medical device. Results are for a reader's attention "
    "and no diagnosis."
)


@dataclass(frozen=True)
class PackageText:
    """What only people can say of a package."""

    name: str
    version: str
    authors: str
    copyright: str
    license: str
    description: str
    card: str | None = None
    """MODEL_CARD.md as written by hand, with {figure} where one of the metrics belongs; None is made from the rest."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    thresholds: Mapping[str, Any] = field(default_factory=dict)
    """Thresholds of the package other than the papers'."""


def read_about(path: Path) -> dict[str, Any]:
    """`card` (text), `metrics` and `thresholds` of a YAML file, as `PackageText` takes them. Raises RecipeError."""
    try:
        said = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(said, dict) or not set(said) <= {"card", "metrics", "thresholds"}:
            raise RecipeError(f"{path} must hold card, metrics and thresholds alone")
        if "card" in said:
            said["card"] = (path.parent / said["card"]).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecipeError(f"{path}: {' '.join(str(error).split())}") from error
    return said


def package_jcs(
    directory: Path, text: PackageText, classifier: Path, segmenter: Path, half: bool = True
) -> str:
    """Package a jcs-classifier training with a jcs-segmenter or jcs-joint training; gives the package hash.

    Raises RecipeError where an output is of another task or a baseline, or saw slices that screening does not cut so.
    """
    classify_recipe, network = load_training_of(classifier, "jcs-classifier")
    if not isinstance(network, JCSClassifier):
        raise RecipeError(f"{classifier} is a baseline; it has no activation map to serve")
    segment_recipe, predictor = load_training_of(segmenter, "jcs-segmenter", "jcs-joint")
    image, lesions = classify_recipe.image, segment_recipe.image
    if lesions.lung_crop and lesions.lung_scope == "slice":
        raise RecipeError(
            f"{segmenter} learned on a box of each slice; screening cuts the series' (lung_scope: volume)"
        )
    graphs: dict[str, ServingGraph] = {
        "classify": JCSClassifyGraph(
            network, image.size, *image.middle_window, relu=classify_recipe.guidance.relu
        ),
        "segment": JCSSegmentGraph(cast(LesionPredictor, predictor), lesions.size, *lesions.middle_window),
    }
    metadata = {
        **_common(text, "jcs", {"classify": classify_recipe, "segment": segment_recipe}),
        "preprocessing": {
            "crop": "centre",
            "crop_fraction": image.size / (image.shorter_side or image.size),
            **({"pictures_squeezed": True} if image.pictures_squeezed else {}),
            **({"segment_crop": "lungs", "segment_margin": lesions.lung_margin} if lesions.lung_crop else {}),
        },
        "classes": ["not_infected", "covid19"],
        "thresholds": {
            "slice": 0.5,
            "patient_count": 25,
            "patient_mode": "auto",
            "lesion": 0.5,
            **text.thresholds,
        },
        **_provenance(text, {"classify": classifier, "segment": segmenter}),
    }
    return write_package(directory, graphs, metadata, _card(text, metadata), half)


def package_m3lung(
    directory: Path, text: PackageText, slices: Path, patient: Path | None, half: bool = True
) -> str:
    """Package an m3-slice training, with an m3-patient training or the non-parametric rule; gives the hash."""
    slice_recipe, network = load_training_of(slices, "m3-slice")
    if not isinstance(network, M3SliceNet):
        raise RecipeError(f"{slices} is a baseline; it has no location map to serve")
    image = slice_recipe.image
    graphs: dict[str, ServingGraph] = {
        "slices": M3SlicesGraph(network, image.size, image.three_centres, image.middle_window[1])
    }
    recipes, homes = {"slices": slice_recipe}, {"slices": slices}
    if patient is not None:
        recipe, trained = load_training_of(patient, "m3-patient")
        head = cast(M3PatientNet, trained)
        if head.classifier.in_features != network.feature_width:
            raise RecipeError(f"{patient} was trained on features of another slice network than {slices}")
        graphs["patient"] = M3PatientGraph(head)
        recipes["patient"], homes["patient"] = recipe, patient
    metadata = {
        **_common(text, "m3lung", recipes),
        "preprocessing": {"crop": "lungs", "crop_scope": image.lung_scope, "crop_margin": image.lung_margin},
        "classes": list(CLASSES),
        "thresholds": {
            "patient_rule": "nonparametric" if patient is None else "network",
            "nonparametric": 0.99,
            **text.thresholds,
        },
        **_provenance(text, homes),
    }
    return write_package(directory, graphs, metadata, _card(text, metadata), half)


def _common(text: PackageText, system: str, recipes: Mapping[str, Recipe]) -> dict[str, Any]:
    """The keys of the MONAI bundle schema that all packages share."""
    return {
        "name": text.name,
        "version": text.version,
        "changelog": {text.version: "packaged from trainings"},
        "system": system,
        "variant": "full" if not any(recipe.network for recipe in recipes.values()) else "custom",
        "pytorch_version": torch.__version__,
        "numpy_version": np.__version__,
        "task": "Screening of chest CT for pneumonia",
        "description": text.description,
        "authors": text.authors,
        "copyright": text.copyright,
        "license": text.license,
        "intended_use": INTENDED_USE,
        "networks": {
            name: {"task": recipe.task, "arguments": recipe.network, "input_size": recipe.image.size}
            for name, recipe in recipes.items()
        },
        "network_data_format": {
            "inputs": {
                "hu": {
                    "type": "image",
                    "format": "hounsfield",
                    "modality": "CT",
                    "num_channels": 1,
                    "dtype": "int16",
                    "value_range": [-1024, 3071],
                    "is_patch_data": False,
                }
            },
            "outputs": {name: {"type": "probabilities"} for name in recipes},
        },
    }


def _provenance(text: PackageText, homes: Mapping[str, Path]) -> dict[str, Any]:
    summaries = {name: load_summary(home) for name, home in homes.items()}
    data = sorted({source for summary in summaries.values() for source in summary.get("data", ())})
    losses = {
        f"{name}_last_training_loss": summary["last_training_loss"]
        for name, summary in summaries.items()
        if math.isfinite(summary.get("last_training_loss", math.nan))
    }
    return {"training_data": data, "training": summaries, "metrics": {**losses, **text.metrics}}


def _card(text: PackageText, metadata: Mapping[str, Any]) -> str:
    """The card by hand with its figures put in, or one made from the metadata. Raises RecipeError."""
    if text.card is None:
        return model_card(metadata)
    try:
        return text.card.format_map(metadata["metrics"])
    except (KeyError, ValueError, IndexError) as error:
        raise RecipeError(f"card of {text.name}: {error} is no figure of its metrics") from error


def model_card(metadata: Mapping[str, Any]) -> str:
    """MODEL_CARD.md from the metadata; what is not known is said to be not known."""
    lines = [
        f"# {metadata['name']} {metadata['version']}",
        "",
        metadata["description"],
        "",
        f"System: {metadata['system']}, variant {metadata['variant']}. Classes: "
        + ", ".join(metadata["classes"])
        + ".",
        "",
        "## Intended use",
        "",
        metadata["intended_use"],
        "",
        "## Trained on",
        "",
        *([f"- {source}" for source in metadata["training_data"]] or ["Not recorded."]),
        "",
    ]
    for name, summary in metadata.get("training", {}).items():
        if summary:
            lines += [f"`{name}`: {_counts(summary)}", ""]
        lines += [f"- {warning}" for warning in summary.get("warnings", ())]
    lines += ["", "## Scores", ""]
    scores = [f"- {name}: {value}" for name, value in metadata["metrics"].items()]
    lines += scores or ["No evaluation is recorded; run `lungnode evaluate`."]
    lines += [
        "",
        "## Limits",
        "",
        "Scores hold for data like the above. Scanners, protocols and diseases that are not in it were not seen.",
        "",
        f"Authors: {metadata['authors']}. Copyright: {metadata['copyright']}. Licence: {metadata['license']}.",
    ]
    return "\n".join(lines) + "\n"


def _counts(summary: Mapping[str, Any]) -> str:
    slices = ", ".join(f"{count} slices {split}" for split, count in summary.get("slices", {}).items())
    patients = ", ".join(f"{count} {split}" for split, count in summary.get("patients", {}).items())
    return f"{slices}; patients or pictures: {patients}; {summary.get('steps')} iterations."
