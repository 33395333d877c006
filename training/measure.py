"""Running candidates over a data set: slices, patients and lesion masks, each with its measures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.assessment import (
    fused_slice_probabilities,
    jcs_patient_rule,
    m3_nonparametric,
    patient_inputs,
)
from training.candidates import Candidate
from training.datasets.items import CLASSES, Item
from training.datasets.pixels import PixelSource
from training.lung_boxes import LungBoxes
from training.metrics import (
    Floats,
    Interval,
    Ints,
    Scores,
    adaptive_threshold,
    e_measure,
    four_class,
    interval,
    overlap,
    resampled,
    surface_distances,
    two_class,
)

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Measured:
    """Scores with intervals, the resamples behind them, and what plots need.

    `whose`: the patient of every case. `raw`: truth and probability of classifications; dice and lesion share of
    masks. `excluded`: cases that a measure leaves out because it is undefined for them.
    """

    whose: tuple[str, ...]
    scores: dict[str, Interval]
    resamples: dict[str, Floats]
    raw: dict[str, Array] = field(default_factory=dict)
    excluded: dict[str, int] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How many cases."""
        return len(self.whose)

    @property
    def patients(self) -> int:
        """Of how many patients."""
        return len(set(self.whose))

    def comparable(self, other: Measured) -> bool:
        """The same scores of the same cases, so that resamples are pairs."""
        return self.whose == other.whose and self.scores.keys() == other.scores.keys()


@dataclass(frozen=True, eq=False)
class SliceResults:
    """What a classifier says of every item: `lesion` [n, 2] (M3 only), `probability` [n, classes]."""

    probability: Floats
    lesion: Floats
    features: list[npt.NDArray[np.float32] | None]
    """Per item [windows, D], None where there is no lung or the network has none."""


def classify(candidate: Candidate, items: Sequence[Item], pixels: PixelSource) -> SliceResults:
    """Every item through the candidate's classifier; slices without lung are healthy."""
    width = 2 if candidate.system == "jcs" else len(CLASSES)
    probability, lesion = np.zeros((len(items), width)), np.zeros((len(items), 2))
    probability[:, 0] = lesion[:, 0] = 1
    features: list[npt.NDArray[np.float32] | None] = [None] * len(items)
    boxes = LungBoxes(pixels)
    for place, item in enumerate(items):
        crop = candidate.crop(as_int16(pixels.hu(item)), item, boxes)
        if crop is None:
            continue
        if candidate.system == "jcs":
            p = float(candidate.run("classify", crop[None])["probability"][0])
            probability[place] = 1 - p, p
            continue
        out = candidate.run("slices", crop[None])
        lesion[place] = out["lesion_probability"][0]
        probability[place] = out["class_probability"][0]
        if "features" in out:
            features[place] = out["features"][:, 0]
    return SliceResults(probability, lesion, features)


def as_int16(hu: Array) -> npt.NDArray[np.int16]:
    """HU as the graphs take them."""
    return np.clip(np.round(hu), -32768, 32767).astype(np.int16)


def slice_truth(item: Item) -> int:
    """The class that a slice shows: the patient's, but healthy where the slice is known to be free of lesions."""
    return 0 if item.lesion is False else int(item.label or 0)


def measure_slices(
    candidate: Candidate, items: Sequence[Item], results: SliceResults, resamples: int
) -> Measured:
    """Slice-level scores."""
    truth = np.array([slice_truth(item) for item in items], dtype=np.int64)
    if candidate.system == "jcs":
        probability = results.probability[:, 1]
        decided = (probability > candidate.slice_threshold).astype(np.int64)
        return _two_class(_whose(items), truth, probability, resamples, decided)
    fused = fused_slice_probabilities(results.lesion, results.probability)
    return _four_class(_whose(items), truth, fused.argmax(axis=1), fused, resamples)


def measure_patients(
    candidate: Candidate, items: Sequence[Item], results: SliceResults, resamples: int
) -> Measured | None:
    """Patient-level scores over the series of more than one slice; None where there are none."""
    groups: dict[tuple[str, str, str], list[int]] = {}
    for place, item in enumerate(items):
        groups.setdefault((item.source, item.patient, item.series), []).append(place)
    series = [
        np.array(
            sorted(places, key=lambda place: items[place].index)
        )  # feet to head, as the patient network learned
        for places in groups.values()
        if len(places) > 1
    ]
    if not series:
        return None
    first = [items[int(places[0])] for places in series]
    truth = np.array([int(item.label or 0) for item in first], dtype=np.int64)
    if candidate.system == "jcs":
        verdicts = [
            jcs_patient_rule(
                results.probability[p, 1],
                candidate.patient_count,
                candidate.patient_mode,
                candidate.slice_threshold,
            )
            for p in series
        ]
        decided = np.array([int(v.positive) for v in verdicts])
        share = np.array([v.count / len(p) for v, p in zip(verdicts, series, strict=True)])
        return _two_class(_whose(first), truth, share, resamples, decided)
    labels, shares = zip(*(_m3_patient(candidate, results, places) for places in series), strict=True)
    return _four_class(_whose(first), truth, np.array(labels), np.stack(shares), resamples)


def _m3_patient(candidate: Candidate, results: SliceResults, places: Ints) -> tuple[int, Floats]:
    features = [f for p in places if (f := results.features[int(p)]) is not None]
    if "patient" in candidate.graphs and features:
        inputs = patient_inputs(np.stack(features, axis=1), candidate.window_fusion)
        share = np.mean([candidate.run("patient", one)["probability"] for one in inputs], axis=0)
        return int(np.argmax(share)), np.asarray(share, np.float64)
    verdict = m3_nonparametric(results.lesion[places], results.probability[places], candidate.nonparametric)
    return verdict.label, np.asarray(verdict.probabilities.mean(axis=0), np.float64)


def measure_lesions(
    candidate: Candidate, items: Sequence[Item], pixels: PixelSource, resamples: int
) -> Measured:
    """Scores of lesion masks per image, and their means."""
    rows: list[Scores] = []
    boxes = LungBoxes(pixels)
    for item in items:
        truth = pixels.mask(item)
        assert truth is not None
        probability = candidate.lesions(as_int16(pixels.hu(item)), item, boxes)
        found = probability >= candidate.lesion_threshold
        adaptive = probability >= max(adaptive_threshold(probability), 1 / 255)
        rows.append(
            {
                **overlap(found, truth),
                **surface_distances(found, truth, item.spacing or (1.0, 1.0)),
                **e_measure(probability, truth),
                **{
                    f"{name}_adaptive": value
                    for name, value in overlap(adaptive, truth).items()
                    if name in ("dice", "iou")
                },
                "lesion_share": float(truth.mean()),
            }
        )
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    share = columns.pop("lesion_share")

    def score(places: Ints) -> Scores:
        return {name: _mean(values[places]) for name, values in columns.items()}

    measured = _measured(_whose(items), score, resamples)
    undefined = {name: int((~np.isfinite(v)).sum()) for name, v in columns.items()}
    return replace(
        measured,
        raw={"dice": columns["dice"], "lesion_share": share},
        excluded={name: count for name, count in undefined.items() if count},
    )


def _mean(values: Floats) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def _two_class(
    patients: Sequence[str],
    truth: Ints,
    probability: Floats,
    resamples: int,
    predicted: Ints,
) -> Measured:
    truth = (truth == 1).astype(np.int64)

    def score(places: Ints) -> Scores:
        return two_class(truth[places], probability[places], predicted[places])

    raw = {"truth": truth, "predicted": predicted, "probability": probability[:, None]}
    return replace(_measured(patients, score, resamples), raw=raw)


def _four_class(
    patients: Sequence[str], truth: Ints, predicted: Ints, probability: Floats, resamples: int
) -> Measured:
    def score(places: Ints) -> Scores:
        return four_class(truth[places], predicted[places], probability[places], CLASSES)

    raw = {"truth": truth, "predicted": predicted, "probability": probability}
    return replace(_measured(patients, score, resamples), raw=raw)


def _measured(patients: Sequence[str], score: Callable[[Ints], Scores], resamples: int) -> Measured:
    drawn = resampled(patients, score, resamples)
    whole = score(np.arange(len(patients)))
    scores = {name: interval(value, drawn[name]) for name, value in whole.items()}
    return Measured(tuple(patients), scores, drawn)


def _whose(items: Sequence[Item]) -> list[str]:
    return [f"{item.source}/{item.patient}" for item in items]
