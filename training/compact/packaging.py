"""From trained compact networks to model packages."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from networks.m3lung import M3PatientNet, M3SliceNet
from training.compact.evaluation import JCS_SLICE_THRESHOLD
from training.compact.jcs import CLASSIFY_SIZE, SEGMENT_SIZE, CompactJCS
from training.compact.m3 import SIZE
from training.package import write_package
from training.serving import JCSClassifyGraph, JCSSegmentGraph, M3PatientGraph, M3SlicesGraph

VERSION = "1.1.0"

_COMMON: dict[str, Any] = {
    "version": VERSION,
    "variant": "compact",
    "authors": "lungnode contributors",
    "copyright": "lungnode contributors",
    "license": "Apache-2.0 (code and weights); the training data keep their own terms",
    "intended_use": "Demonstration and research. Not a medical device; never the only reader of an examination.",
}


JCS_THRESHOLDS = {"slice": JCS_SLICE_THRESHOLD, "patient_count": 25, "patient_mode": "auto", "lesion": 0.5}
M3_THRESHOLDS = {"patient_rule": "nonparametric", "nonparametric": 0.92}

_TRAINING_DATA = (
    "COVID-19-CT100: the 80 images outside test.txt",
    "COVID-CT: train and val splits",
    "COVID-CT-MD: three series (COVID-19, community-acquired pneumonia, healthy)",
    "NLST: 20 slices without known pneumonia",
    "simulated lesions in lesion-free slices of these series",
)
_CARDS = Path(__file__).parent / "cards"


def write_jcs_package(directory: Path, model: CompactJCS, metrics: Mapping[str, float]) -> str:
    """Write `jcs-compact` with its card; returns the package hash."""
    metadata = {
        **_COMMON,
        "name": "jcs-compact",
        "system": "jcs",
        "description": "JCS with small widths: Res2Net slice classifier and the segmenter joined with its features.",
        "preprocessing": {"crop": "centre", "crop_fraction": 0.875},
        "classes": ["not_infected", "covid19"],
        "thresholds": JCS_THRESHOLDS,
        "training_data": list(_TRAINING_DATA),
        "metrics": dict(metrics),
    }
    graphs = {
        "classify": JCSClassifyGraph(model.classifier, size=CLASSIFY_SIZE),
        "segment": JCSSegmentGraph(model.joint, size=SEGMENT_SIZE),
    }
    return write_package(directory, graphs, metadata, _card("jcs.md", metrics))


def write_m3_package(
    directory: Path, slices: M3SliceNet, patient: M3PatientNet, metrics: Mapping[str, float]
) -> str:
    """Write `m3lung-compact` with its card; returns the package hash."""
    metadata = {
        **_COMMON,
        "name": "m3lung-compact",
        "system": "m3lung",
        "description": "M3Lung-Sys with small widths: slice network with location map, and patient network.",
        "preprocessing": {"crop": "lungs", "crop_scope": "volume", "crop_margin": 10},
        "classes": ["healthy", "covid19", "h1n1", "cap"],
        "thresholds": M3_THRESHOLDS,
        "training_data": list(_TRAINING_DATA),
        "metrics": dict(metrics),
    }
    graphs = {"slices": M3SlicesGraph(slices, size=SIZE), "patient": M3PatientGraph(patient)}
    return write_package(directory, graphs, metadata, _card("m3lung.md", metrics))


def _card(name: str, metrics: Mapping[str, float]) -> str:
    """The card's text with the figures put in where it says {figure}."""
    return (_CARDS / name).read_text().format_map(metrics)
