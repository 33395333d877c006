"""Training of the compact M3Lung-Sys patient network on the features of a trained slice network.

Three real patients teach nothing about patients; the simulated cases do the work. A case is seen through random
windows and as a random part of its slices, so that the network cannot count on a length or a pitch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from engine.findings import PneumoniaClass
from networks.m3lung import M3PatientNet, M3SliceNet
from training.compact.augment import Strength, lung_views, sample, window
from training.compact.fitting import Losses, Schedule, fit
from training.compact.m3 import SIZE, patient_network
from training.compact.pool import Pool
from training.preprocessing import M3_WIDTH

_CASES_PER_STEP = 16
_BATCH = 16
_NOISE = 0.05
_CLASS_SHARES = (0.34, 0.3, 0.1, 0.26)
"""Healthy, COVID-19, H1N1, CAP: what a step is drawn from. H1N1 is rare on purpose: its looks are simulated only,
and a bacterial pneumonia of many nodules would else be named so."""


@dataclass(frozen=True, eq=False)
class CaseFeatures:
    """One case as a slice network sees it.

    features: [variants, n, D], each variant another window and distortion of all slices, feet first.
    lesion_free: bool [n], slices known to show no lesion. disease: of the whole case. patient: whose lungs.
    real: a scanned patient rather than a simulated case.
    """

    features: Tensor
    lesion_free: npt.NDArray[np.bool_]
    disease: PneumoniaClass
    patient: str
    real: bool


@torch.no_grad()
def case_features(network: M3SliceNet, pool: Pool, variants: int, seed: int) -> list[CaseFeatures]:
    """Features of every real series and simulated case of the pool."""
    network.eval()
    cases = []
    for number in np.unique(pool.table.case[pool.table.case >= 0]):
        indices = np.flatnonzero(pool.table.case == number)
        indices = indices[np.argsort(pool.table.order[indices])]
        rng = np.random.default_rng([seed, 3, int(number)])
        seen = torch.stack([_features(network, pool, indices, rng) for _ in range(variants)])
        first = indices[0]
        cases.append(
            CaseFeatures(
                features=seen,
                lesion_free=pool.table.label[indices] == PneumoniaClass.HEALTHY,
                disease=PneumoniaClass(int(pool.table.disease[first])),
                patient=str(pool.table.patient[first]),
                real=str(pool.table.kind[first]) == "series",
            )
        )
    return cases


def train_patient_network(
    cases: Sequence[CaseFeatures],
    schedule: Schedule,
    checkpoint: Path,
    seed: int,
    without: Sequence[str] = (),
) -> M3PatientNet:
    """Train on the cases whose lungs are not of a patient named in `without`; the averaged network."""
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 4])
    learnt = [case for case in cases if case.patient not in without]
    by_class = [_candidates(learnt, disease) for disease in PneumoniaClass]
    model = patient_network()

    def losses(step: int) -> Losses:
        labels = rng.choice(len(by_class), size=_CASES_PER_STEP, p=_CLASS_SHARES)
        logits = torch.stack(
            [model(_draw(by_class[label], PneumoniaClass(label), rng)) for label in labels.tolist()]
        )
        return {"patient": functional.cross_entropy(logits, torch.from_numpy(labels), label_smoothing=0.05)}

    average = fit(model, losses, schedule, checkpoint)
    assert isinstance(average, M3PatientNet)
    return average


def _candidates(cases: Sequence[CaseFeatures], disease: PneumoniaClass) -> list[CaseFeatures]:
    """Cases of a disease, real ones four times; the lesion-free slices of any case make a healthy one."""
    if disease is PneumoniaClass.HEALTHY:
        fit_cases = [case for case in cases if case.lesion_free.sum() >= 8]
    else:
        fit_cases = [case for case in cases if case.disease is disease]
    return [case for case in fit_cases for _ in range(4 if case.real else 1)]


def _draw(cases: Sequence[CaseFeatures], label: PneumoniaClass, rng: np.random.Generator) -> Tensor:
    case = cases[int(rng.integers(len(cases)))]
    rows = np.arange(case.features.shape[1])
    if label is PneumoniaClass.HEALTHY:
        rows = rows[case.lesion_free]
    rows = _part(rows, case.lesion_free, label, rng)
    if rng.random() < 0.5:
        rows = rows[::-1].copy()
    chosen = case.features[rng.integers(len(case.features)), torch.from_numpy(rows)]
    noise = torch.from_numpy(rng.standard_normal(chosen.shape, dtype=np.float32))
    return chosen + _NOISE * chosen.std() * noise


def _part(
    rows: npt.NDArray[np.int64],
    lesion_free: npt.NDArray[np.bool_],
    label: PneumoniaClass,
    rng: np.random.Generator,
) -> npt.NDArray[np.int64]:
    """A random stretch at a random pitch that still shows a tenth of ill slices where the case is ill."""
    for _ in range(8):
        low, high = sorted(rng.choice(len(rows) + 1, size=2, replace=False))
        part = (
            rows[low : max(high, low + 1) : rng.integers(1, 4)]
            if rng.random() < 0.6
            else rows[:: rng.integers(1, 4)]
        )
        enough = label is PneumoniaClass.HEALTHY or (~lesion_free[part]).mean() > 0.1
        if len(part) >= 4 and enough:
            return part
    return rows


def _features(
    network: M3SliceNet, pool: Pool, indices: npt.NDArray[np.int64], rng: np.random.Generator
) -> Tensor:
    """Features [n, D] of slices that share one window, one flip and one place of the lung box."""
    centre, width = float(rng.uniform(-720, -480)), M3_WIDTH * float(rng.uniform(0.92, 1.08))
    strength = Strength(turn=0.0, bend=0.0, flip=float(rng.random() < 0.5), noise=40.0)
    found = []
    for first in range(0, len(indices), _BATCH):
        batch = indices[first : first + _BATCH]
        hu, _ = sample(pool, batch, lung_views(pool, batch, 0.03, rng), SIZE, strength, rng)
        with torch.autocast("cpu", torch.bfloat16):
            output = network(window(hu, centre, width).to(memory_format=torch.channels_last))
        found.append(output.features.float())
    return torch.cat(found)
