"""What each call of `python -m training.compact` does with its arguments."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from training.compact.evaluation import jcs_figures, jcs_masks, m3_figures
from training.compact.fitting import Schedule, load_weights, quiet_cpu
from training.compact.jcs import CompactJCS, train_jcs
from training.compact.m3 import SupervisedSliceNet, patient_network, slice_network, train_slice_network
from training.compact.packaging import write_jcs_package, write_m3_package
from training.compact.patient import case_features, train_patient_network
from training.compact.pool import Pool, add_masks, build_pool, open_pool

JCS = "jcs.safetensors"
SLICES = "m3-slices.safetensors"
PATIENT = "m3-patient.safetensors"
FIGURES = "figures.json"
_FEATURE_VARIANTS = 1


def build(arguments: argparse.Namespace) -> None:
    """Write the pool."""
    build_pool(arguments.data, arguments.work / "pool", arguments.cases, arguments.seed)


def train_jcs_networks(arguments: argparse.Namespace) -> None:
    """Train classifier and joint segmenter of JCS."""
    pool = _pool(arguments)
    schedule = Schedule(arguments.steps, peak=arguments.peak)
    out = arguments.out or arguments.work / JCS
    without = _names(arguments.without)
    train_jcs(pool, schedule, out, arguments.seed, without, arguments.start, arguments.segment_every)


def draw_masks(arguments: argparse.Namespace) -> None:
    """Let a trained segmenter draw the lesions of ill slices that have no mask, into the pool."""
    pool = _pool(arguments)
    ill = pool.table.label > 0
    indices = np.flatnonzero(ill & ~pool.table.masked & (pool.table.split != "test"))
    masks = jcs_masks(_jcs(arguments.jcs or arguments.work / JCS), pool, indices) > 0.5
    print(f"{add_masks(arguments.work / 'pool', indices, masks)} of {len(indices)} slices got a mask")


def train_m3_slices(arguments: argparse.Namespace) -> None:
    """Train the slice network of M3Lung-Sys."""
    pool = _pool(arguments)
    schedule = Schedule(arguments.steps, peak=arguments.peak, average=0.985)
    out = arguments.out or arguments.work / SLICES
    train_slice_network(pool, schedule, out, arguments.seed, _names(arguments.without), arguments.start)


def train_m3_patient(arguments: argparse.Namespace) -> None:
    """Train the patient network of M3Lung-Sys."""
    pool = _pool(arguments)
    supervised = SupervisedSliceNet(slice_network())
    load_weights(supervised, arguments.slices or arguments.work / SLICES)
    cases = case_features(supervised.network, pool, _FEATURE_VARIANTS, arguments.seed)
    schedule = Schedule(arguments.steps, peak=1e-3, weight_decay=0.05)
    out = arguments.out or arguments.work / PATIENT
    train_patient_network(cases, schedule, out, arguments.seed, _names(arguments.without))


def evaluate(arguments: argparse.Namespace) -> None:
    """Print the figures of the given checkpoints and keep those of the default ones for the packages."""
    pool = _pool(arguments)
    figures: dict[str, dict[str, float]] = {}
    if jcs := arguments.jcs or _existing(arguments.work / JCS):
        figures["jcs"] = jcs_figures(_jcs(jcs), pool)
    if slices := arguments.slices or _existing(arguments.work / SLICES):
        figures["m3lung"] = m3_figures(_slices(slices).network, pool)
    text = json.dumps(figures, indent=2)
    print(text)
    if arguments.jcs is None and arguments.slices is None:
        (arguments.work / FIGURES).write_text(text + "\n")


def package(arguments: argparse.Namespace) -> None:
    """Write both packages from the default checkpoints and the figures of `evaluate`."""
    quiet_cpu()
    figures = json.loads((arguments.work / FIGURES).read_text())
    patient = patient_network()
    load_weights(patient, arguments.work / PATIENT)
    print(write_jcs_package(arguments.models / "jcs-compact", _jcs(arguments.work / JCS), figures["jcs"]))
    network = _slices(arguments.work / SLICES).network
    print(write_m3_package(arguments.models / "m3lung-compact", network, patient.eval(), figures["m3lung"]))


def _pool(arguments: argparse.Namespace) -> Pool:
    quiet_cpu()
    return open_pool(arguments.work / "pool")


def _jcs(path: Path) -> CompactJCS:
    model = CompactJCS()
    load_weights(model, path)
    return model.eval()


def _slices(path: Path) -> SupervisedSliceNet:
    model = SupervisedSliceNet(slice_network())
    load_weights(model, path)
    return model.eval()


def _existing(path: Path) -> Path | None:
    return path if path.exists() else None


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(",") if name)
