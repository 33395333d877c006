"""How the compact networks do on slices and series that they did not learn from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from engine.assessment import m3_nonparametric
from engine.findings import PneumoniaClass
from networks.jcs import POSITIVE
from networks.m3lung import M3SliceNet, SliceOutput
from training.compact.augment import lung_views, sample, square_views, window
from training.compact.jcs import CLASSIFY_SIZE, SEGMENT_SIZE, CompactJCS
from training.compact.m3 import SIZE
from training.compact.pool import Pool
from training.preprocessing import JCS_WINDOW, M3_CENTRES, M3_WIDTH

Indices = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

_BATCH = 16
_CROP_FRACTION = 0.875
JCS_SLICE_THRESHOLD = 0.7
"""Above it a slice of the compact JCS is positive. 0.5 called most simulated bacterial pneumonias positive by the count
rule; between 0.5 and 0.7 no simulated COVID-19 case was lost."""
SERIES = ("covid-1", "cap-1", "normal-1", "nlst-1")


@dataclass(frozen=True, eq=False)
class M3Slices:
    """Slice outputs of N slices: lesion [N, 2], classes [N, 4] (means over windows), features [windows, N, D]."""

    lesion: Floats
    classes: Floats
    features: Floats

    @property
    def assessed(self) -> Floats:
        """Per-slice probabilities of eq. 4, [N, 4]."""
        return np.asarray(m3_nonparametric(self.lesion, self.classes).probabilities, dtype=np.float32)


@torch.no_grad()
def m3_slices(network: M3SliceNet, pool: Pool, indices: Indices) -> M3Slices:
    """Run the slice network as serving does: lung box, three windows."""
    lesion, classes, features = [], [], []
    for batch in _batches(indices):
        hu, _ = sample(pool, batch, lung_views(pool, batch, 0.0, _no_chance()), SIZE, None, _no_chance())
        outputs = [_run_slices(network, window(hu, centre, M3_WIDTH)) for centre in M3_CENTRES]
        lesion.append(torch.stack([torch.softmax(o.lesion_logits.float(), 1) for o in outputs]).mean(0))
        classes.append(torch.stack([torch.softmax(o.class_logits.float(), 1) for o in outputs]).mean(0))
        features.append(torch.stack([o.features.float() for o in outputs]))
    return M3Slices(torch.cat(lesion).numpy(), torch.cat(classes).numpy(), torch.cat(features, dim=1).numpy())


@torch.no_grad()
def jcs_probabilities(model: CompactJCS, pool: Pool, indices: Indices) -> Floats:
    """Slice probabilities of COVID-19, float32 [N], on the centre crop."""
    found = []
    for batch in _batches(indices):
        views = square_views(pool, batch, (_CROP_FRACTION, _CROP_FRACTION), _no_chance())
        hu, _ = sample(pool, batch, views, CLASSIFY_SIZE, None, _no_chance())
        logits = _run(model.classifier, window(hu, *JCS_WINDOW))
        found.append(torch.softmax(logits.float(), 1)[:, POSITIVE])
    return np.asarray(torch.cat(found).numpy(), dtype=np.float32)


@torch.no_grad()
def jcs_masks(model: CompactJCS, pool: Pool, indices: Indices) -> Floats:
    """Lesion probabilities float32 [N, 256, 256] of whole slices."""
    found = []
    for batch in _batches(indices):
        hu = torch.from_numpy(pool.hu[batch].astype(np.float32))[:, None]
        assert hu.shape[-1] == SEGMENT_SIZE
        found.append(torch.sigmoid(_run(model.joint, window(hu, *JCS_WINDOW))[:, 0].float()))
    return np.asarray(torch.cat(found).numpy(), dtype=np.float32)


def jcs_figures(model: CompactJCS, pool: Pool) -> dict[str, float]:
    """Figures of JCS: test splits of the picture sources, and every second slice of each real series."""
    pictures, drawn = figures(pool, "covid-ct", "test"), figures(pool, "ct100", "test")
    truth = np.asarray(pool.mask[drawn])
    dice, iou = mean_dice(jcs_masks(model, pool, drawn), truth)
    found = {
        "covid_ct_test_auc": covid_auc(jcs_probabilities(model, pool, pictures), pool, pictures),
        "ct100_test_dice": dice,
        "ct100_test_iou": iou,
    }
    for patient in SERIES:
        indices = series(pool, patient)[::2]
        probabilities, ill = jcs_probabilities(model, pool, indices), pool.table.label[indices] > 0
        found[f"{patient}_positive_share"] = float((probabilities > JCS_SLICE_THRESHOLD).mean())
        if ill.any():
            found[f"{patient}_slice_auc"] = float(roc_auc_score(ill, probabilities))
    return found


def m3_figures(network: M3SliceNet, pool: Pool) -> dict[str, float]:
    """Figures of the slice network: pictures of COVID-CT, and every second slice of each real series."""
    pictures = figures(pool, "covid-ct", "test")
    covid = m3_slices(network, pool, pictures).assessed[:, PneumoniaClass.COVID19]
    found = {"covid_ct_test_auc": covid_auc(covid, pool, pictures)}
    for patient in SERIES:
        indices = series(pool, patient)[::2]
        seen, ill = m3_slices(network, pool, indices), pool.table.label[indices] > 0
        named = seen.assessed.argmax(axis=1)
        for disease in PneumoniaClass:
            found[f"{patient}_share_{disease.key}"] = float((named == disease).mean())
        if ill.any():
            found[f"{patient}_lesion_auc"] = float(roc_auc_score(ill, seen.lesion[:, 1]))
    return found


def mean_dice(
    probabilities: Floats, truth: npt.NDArray[np.bool_], threshold: float = 0.5
) -> tuple[float, float]:
    """Dice and IoU per image, then the mean over images; two empty masks count 1."""
    predicted = probabilities > threshold
    both = (predicted & truth).sum(axis=(1, 2))
    sizes = predicted.sum(axis=(1, 2)) + truth.sum(axis=(1, 2))
    dice = np.where(sizes > 0, 2 * both / np.maximum(sizes, 1), 1.0)
    iou = np.where(sizes > 0, both / np.maximum(sizes - both, 1), 1.0)
    return float(dice.mean()), float(iou.mean())


def figures(pool: Pool, kind: str, split: str) -> Indices:
    """Slices of one figure source and split."""
    return np.flatnonzero((pool.table.kind == kind) & (pool.table.split == split))


def series(pool: Pool, patient: str) -> Indices:
    """All slices of one real series, feet first."""
    chosen = np.flatnonzero((pool.table.kind == "series") & (pool.table.patient == patient))
    return np.asarray(chosen[np.argsort(pool.table.order[chosen])])


def covid_auc(scores: Floats, pool: Pool, indices: Indices) -> float:
    """Area under the ROC curve of COVID-19 against all else."""
    return float(roc_auc_score(pool.table.label[indices] == PneumoniaClass.COVID19, scores))


def _no_chance() -> np.random.Generator:
    """For views without jitter, which take nothing from it."""
    return np.random.default_rng(0)


def _batches(indices: Indices) -> Iterator[Indices]:
    for first in range(0, len(indices), _BATCH):
        yield indices[first : first + _BATCH]


def _run(network: torch.nn.Module, x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return network(x.to(memory_format=torch.channels_last))  # type: ignore[no-any-return]


def _run_slices(network: M3SliceNet, x: Tensor) -> SliceOutput:
    with torch.autocast("cpu", torch.bfloat16):
        output: SliceOutput = network(x.to(memory_format=torch.channels_last))
    return output
