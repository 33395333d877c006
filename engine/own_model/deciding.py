"""From scores to classes, per voxel, per slice and per patient."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import special

from engine.errors import RunnerFailed
from engine.findings import ClassFinding
from engine.own_model.contract import OwnModelMetadata

Scores = npt.NDArray[np.float32]

_ROUNDING = 1e-2
"""Probabilities of half precision may be so much below 0 or above 1."""


def activated(raw: Scores, metadata: OwnModelMetadata, dimension: int = 1) -> Scores:
    """Scores in [0, 1] with the channels along `dimension`, from what the graph gave.

    Raises RunnerFailed where it should give probabilities and does not.
    """
    kind = metadata.postprocessing.activation
    if kind == "sigmoid":
        return np.asarray(special.expit(raw), dtype=np.float32)
    if kind == "softmax":
        return np.asarray(special.softmax(raw, axis=dimension), dtype=np.float32)
    if kind == "labels":
        channels = [np.rint(raw) == channel for channel in range(metadata.channels)]
        return np.asarray(np.concatenate(channels, axis=dimension), dtype=np.float32)
    if raw.size and (raw.min() < -_ROUNDING or raw.max() > 1 + _ROUNDING):
        raise RunnerFailed(
            f"output {metadata.output_name} of {metadata.name} is {raw.min():.3g} to {raw.max():.3g} and no "
            "probability; postprocessing.activation says what is still to be done to it"
        )
    return raw


def labels_of(scores: Scores, metadata: OwnModelMetadata) -> npt.NDArray[np.uint8]:
    """uint8 of the shape of `scores` [C, ...] without C: 0, or k for the k-th class of the metadata.

    Where several classes are above their thresholds, the one with the largest score gets the voxel. Where the highest
    channel counts and two are equal, the first is taken (`argmax`, as MONAI's `AsDiscrete`): background before a class.
    """
    if metadata.postprocessing.takes_highest:
        number_of = np.zeros(metadata.channels, dtype=np.uint8)
        number_of[[entry.channel for entry in metadata.classes]] = np.arange(1, len(metadata.classes) + 1)
        return np.asarray(number_of[scores.argmax(axis=0)])
    own = scores[[entry.channel for entry in metadata.classes]]
    limits = np.array([entry.threshold for entry in metadata.classes], dtype=np.float32)
    held = own > limits.reshape(-1, *(1,) * (own.ndim - 1))
    best = np.argmax(np.where(held, own, -1), axis=0)
    return np.where(held.any(axis=0), best + 1, 0).astype(np.uint8)


def classes_of(scores: Scores, metadata: OwnModelMetadata) -> npt.NDArray[np.bool_]:
    """bool [..., K]: which classes hold, from scores [..., C]. Classes exclude each other where the highest counts."""
    channels = [entry.channel for entry in metadata.classes]
    if metadata.postprocessing.takes_highest:
        return np.asarray(scores.argmax(axis=-1)[..., None] == channels)
    own = scores[..., channels]
    return np.asarray(own > np.array([entry.threshold for entry in metadata.classes], dtype=np.float32))


def patient_classes(scores: Scores, metadata: OwnModelMetadata) -> tuple[ClassFinding, ...]:
    """The patient's classes from scores [n, C] of the slices seen, or [1, C] of the volume."""
    rule = metadata.postprocessing.patient
    if rule.rule == "count" and not metadata.is_volume:
        counts = classes_of(scores, metadata).sum(axis=0)
        return tuple(
            ClassFinding(which, bool(n > rule.count), positive_slices=int(n), slice_limit=rule.count)
            for which, n in zip(metadata.model_classes, counts, strict=True)
        )
    patient = scores.mean(axis=0) if rule.rule == "mean" else scores.max(axis=0)
    found = classes_of(patient, metadata)
    own: Sequence[float] = [float(patient[entry.channel]) for entry in metadata.classes]
    return tuple(
        ClassFinding(which, bool(held), score=score)
        for which, held, score in zip(metadata.model_classes, found, own, strict=True)
    )


def rule_words(metadata: OwnModelMetadata) -> str:
    """How the patient's classes are decided, in a few words for the report."""
    post = metadata.postprocessing
    if metadata.task == "segmentation":
        return f"segmented volume above {post.minimum_ml:g} ml"
    if not metadata.is_volume and post.patient.rule == "count":
        return f"more than {post.patient.count} positive slices"
    what = "score of the volume" if metadata.is_volume else f"{_RULE_WORDS[post.patient.rule]} slice score"
    if post.takes_highest:
        return f"class with the highest {what}"
    limits = ", ".join(f"{entry.threshold:g}" for entry in metadata.classes)
    return f"{what} above {limits}"


_RULE_WORDS = {"max": "largest", "mean": "mean", "count": "largest"}
