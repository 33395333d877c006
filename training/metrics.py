"""The measures of the papers. Libraries do the counting; what they do not have is written here.

All rates are shares in [0, 1]; distances are in mm. NaN means undefined.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from py_sod_metrics import Emeasure
from scipy import stats
from sklearn import metrics as sk

_monai: Any = importlib.import_module("monai.metrics")  # its deprecation wrappers hide the types

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Scores = dict[str, float]


def two_class(truth: Ints, probability: Floats, predicted: Ints | None = None) -> Scores:
    """Sensitivity, specificity, precision, accuracy, F1, F2, F0.5 and AUC of a two-class decision.

    truth [n] in {0, 1}; probability [n] of class 1, or any score that grows with it; predicted [n] in {0, 1},
    default is probability above 0.5. AUC is NaN for one class.
    """
    if predicted is None:
        predicted = (probability > 0.5).astype(np.int64)
    return {
        "sensitivity": _safe(sk.recall_score, truth, predicted),
        "specificity": _safe(sk.recall_score, truth, predicted, pos_label=0),
        "precision": _safe(sk.precision_score, truth, predicted),
        "accuracy": float(sk.accuracy_score(truth, predicted)),
        "f1": _safe(sk.f1_score, truth, predicted),
        "f2": _safe(sk.fbeta_score, truth, predicted, beta=2),
        "f0.5": _safe(sk.fbeta_score, truth, predicted, beta=0.5),
        "auc": _auc(truth, probability),
    }


def four_class(truth: Ints, predicted: Ints, probability: Floats, classes: Sequence[str]) -> Scores:
    """Accuracy, FPE, FNE, FDPE, and per class sensitivity, specificity, AUC (one against the rest).

    truth, predicted [n] labels with 0 = healthy; probability [n, classes].
    """
    labels = np.arange(len(classes))
    matrix = sk.confusion_matrix(truth, predicted, labels=labels)
    scores = {"accuracy": float(sk.accuracy_score(truth, predicted)), **error_rates(matrix)}
    one_against_rest = sk.multilabel_confusion_matrix(truth, predicted, labels=labels)
    for label, name in enumerate(classes):
        (tn, fp), (fn, tp) = one_against_rest[label]
        scores[f"sensitivity_{name}"] = _ratio(tp, tp + fn)
        scores[f"specificity_{name}"] = _ratio(tn, tn + fp)
        scores[f"auc_{name}"] = _auc((truth == label).astype(np.int64), probability[:, label])
    return scores


def error_rates(confusion: npt.NDArray[np.integer]) -> Scores:
    """FPE, FNE and FDPE of a confusion matrix [truth, predicted] with class 0 = healthy (M3Lung-Sys).

    FPE: healthy taken for any disease. FNE: diseased taken for healthy. FDPE: diseased taken for another disease.
    """
    healthy, diseased = confusion[0], confusion[1:]
    wrong_disease = diseased[:, 1:].sum() - np.trace(diseased[:, 1:])
    return {
        "fpe": _ratio(healthy[1:].sum(), healthy.sum()),
        "fne": _ratio(diseased[:, 0].sum(), diseased.sum()),
        "fdpe": _ratio(wrong_disease, diseased.sum()),
    }


def overlap(predicted: Mask, truth: Mask) -> Scores:
    """Dice, IoU, VOE (1 - IoU), volume similarity 2 (P - G) / (P + G), and RVD in % of two masks of one shape.

    Both empty: Dice and IoU are 1. An empty truth leaves RVD undefined.
    """
    both, either = int((predicted & truth).sum()), int((predicted | truth).sum())
    size, true_size = int(predicted.sum()), int(truth.sum())
    iou = 1.0 if either == 0 else both / either
    return {
        "dice": 1.0 if either == 0 else 2 * both / (size + true_size),
        "iou": iou,
        "voe": 1 - iou,
        "volume_similarity": 0.0 if either == 0 else 2 * (size - true_size) / (size + true_size),
        "rvd_percent": _ratio(size - true_size, true_size) * 100,
    }


def surface_distances(predicted: Mask, truth: Mask, spacing: tuple[float, float]) -> Scores:
    """Average (ASD) and maximum (MSD, Hausdorff) symmetric contour distance of masks [H, W]; NaN if one is empty."""
    if not predicted.any() or not truth.any():
        return {"asd": np.nan, "msd": np.nan}
    pair = [torch.from_numpy(m)[None, None].float() for m in (predicted, truth)]
    options: dict[str, Any] = {"spacing": list(spacing), "include_background": True}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # MONAI warns of its own use of an old argument
        asd = _monai.compute_average_surface_distance(*pair, symmetric=True, **options)
        msd = _monai.compute_hausdorff_distance(*pair, **options)
    return {"asd": float(asd), "msd": float(msd)}


def e_measure(probability: Floats, truth: Mask) -> Scores:
    """E-measure of a probability map [H, W] in [0, 1]: at the adaptive threshold, and the mean over all thresholds."""
    measure = Emeasure()
    measure.step(pred=np.asarray(probability, np.float64), gt=np.asarray(truth, bool), normalize=False)
    found = measure.get_results()["em"]
    return {"e_adaptive": float(found["adp"]), "e_mean": float(np.mean(found["curve"]))}


def adaptive_threshold(probability: Floats) -> float:
    """Twice the mean of the map, at most 1: the threshold of JCS's public evaluation."""
    return float(min(1.0, 2 * probability.mean()))


@dataclass(frozen=True)
class Interval:
    """A score with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


def resampled(
    patients: Sequence[str], score: Callable[[Ints], Scores], resamples: int, seed: int = 0
) -> dict[str, Floats]:
    """Scores of bootstrap resamples of the patients, each [resamples].

    `score` gets the places of all items of the drawn patients, with repeats. The same patients are drawn for the
    same patients and seed, so that two systems are compared on the same resamples.
    """
    names, places = np.unique(np.asarray(patients), return_inverse=True)
    members = [np.flatnonzero(places == number) for number in range(len(names))]
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, len(names), (resamples, len(names)))
    found = [score(np.concatenate([members[n] for n in row])) for row in drawn]
    return {name: np.array([scores[name] for scores in found]) for name in found[0]}


def interval(value: float, scores: Floats) -> Interval:
    """The 2.5 and 97.5 percentiles of the resampled scores, undefined ones left out."""
    known = scores[np.isfinite(scores)]
    if not len(known):
        return Interval(value, np.nan, np.nan)
    low, high = np.percentile(known, (2.5, 97.5))
    return Interval(value, float(low), float(high))


def p_values(first: Floats, second: Floats) -> Scores:
    """Whether two systems differ, from the same resamples of both.

    `welch`: t-test on the resampled scores, nearest to the paper's text (it shrinks with more resamples).
    `paired`: two-sided share of resamples in which the better system is not better.
    """
    known = np.isfinite(first) & np.isfinite(second)
    if known.sum() < 2:
        return {"welch": np.nan, "paired": np.nan}
    difference = first[known] - second[known]
    below, above = float((difference <= 0).mean()), float((difference >= 0).mean())
    same = bool(np.all(difference == 0))
    welch = 1.0 if same else float(stats.ttest_ind(first[known], second[known], equal_var=False).pvalue)
    return {"welch": welch, "paired": min(1.0, 2 * min(below, above))}


def _safe(function: Callable[..., float], *arguments: Ints, **options: float) -> float:
    return float(function(*arguments, zero_division=np.nan, **options))


def _auc(truth: Ints, probability: Floats) -> float:
    if len(np.unique(truth)) < 2:
        return float("nan")
    return float(sk.roc_auc_score(truth, probability))


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else float("nan")
