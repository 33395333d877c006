"""What both systems said of a study, read from the summary in the store and made ready to be drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.findings import PneumoniaClass
from reporting.wording import CLASS_NAMES

CHART_WIDTH, CHART_HEIGHT = 1000.0, 100.0


@dataclass(frozen=True)
class ClassShare:
    """One class of M3Lung-Sys. share: its probability in [0, 1]."""

    name: str
    share: float
    chosen: bool


@dataclass(frozen=True)
class LesionRow:
    """One lesion; slices count from 1."""

    label: int
    volume_ml: float
    mean_hu: float
    first: int
    last: int
    largest: int


@dataclass(frozen=True)
class OwnVerdict:
    """What an own model said. classes: each in words and whether it was found. why_not: where it said nothing."""

    title: str
    rule: str = ""
    classes: tuple[tuple[str, bool], ...] = ()
    why_not: str = ""


@dataclass(frozen=True)
class StudyVerdict:
    """The verdicts of one screening. chart: SVG path of JCS's slice probabilities on CHART_WIDTH x CHART_HEIGHT."""

    positive: bool
    positive_slices: int
    slices: int
    threshold: float
    rule: str
    outside_paper_protocol: bool
    classes: tuple[ClassShare, ...]
    label: str
    healthy: bool
    discordant: bool
    involvement_percent: float
    lesion_volume_ml: float
    lung_volume_ml: float
    lesions: tuple[LesionRow, ...]
    key_slices: tuple[int, ...]
    chart: str
    series_choice: str
    timings: tuple[tuple[str, float], ...]
    packages: tuple[Mapping[str, str], ...]
    own_models: tuple[OwnVerdict, ...] = ()

    @property
    def by_patient_rule(self) -> bool:
        """Whether M3Lung-Sys named a class that has not the largest probability: its patient rule counts slices."""
        return not max(self.classes, key=lambda c: c.share).chosen

    @property
    def seconds(self) -> float:
        """How long the screening took."""
        return sum(seconds for _, seconds in self.timings)


def study_verdict(summary: Mapping[str, Any]) -> StudyVerdict:
    """The verdicts of a summary (`engine.summary.findings_summary`)."""
    jcs, m3lung = summary["jcs"], summary["m3lung"]
    return StudyVerdict(
        positive=jcs["positive"],
        positive_slices=jcs["positive_slices"],
        slices=jcs["slices"],
        threshold=jcs["threshold"],
        rule=jcs["rule"],
        outside_paper_protocol=jcs["outside_paper_protocol"],
        classes=tuple(
            ClassShare(CLASS_NAMES[c], m3lung["probabilities"][c.key], c.key == m3lung["label"])
            for c in PneumoniaClass
        ),
        label=CLASS_NAMES[_class_of(m3lung["label"])],
        healthy=m3lung["label"] == PneumoniaClass.HEALTHY.key,
        discordant=summary["discordant"],
        involvement_percent=summary["lung_involvement_percent"],
        lesion_volume_ml=summary["lesion_volume_ml"],
        lung_volume_ml=summary["lung_volume_ml"],
        lesions=tuple(_lesion(item) for item in summary["lesions"]),
        key_slices=tuple(summary["key_slices"]),
        chart=_area(jcs["slice_probabilities"]),
        series_choice=summary.get("series_choice", ""),
        timings=tuple(summary["timings_s"].items()),
        packages=tuple(summary["packages"]),
        own_models=(
            *(_own(item) for item in summary.get("own_models", ())),
            *(OwnVerdict(f["name"], why_not=f["why"]) for f in summary.get("own_model_failures", ())),
        ),
    )


def _own(item: Mapping[str, Any]) -> OwnVerdict:
    classes = tuple((c["said"], c["found"]) for c in item["classes"])
    return OwnVerdict(item["title"], item["rule"], classes)


def _class_of(key: str) -> PneumoniaClass:
    return next(c for c in PneumoniaClass if c.key == key)


def _lesion(item: Mapping[str, Any]) -> LesionRow:
    first, last = item["slices"]
    return LesionRow(
        item["label"], item["volume_ml"], item["mean_hu"], first + 1, last + 1, item["largest_slice"] + 1
    )


def _area(values: Sequence[float]) -> str:
    """An area under steps, one for each slice."""
    step = CHART_WIDTH / max(1, len(values))
    points = []
    for i, value in enumerate(values):
        y = CHART_HEIGHT * (1 - value)
        points.append(f"L{i * step:.1f} {y:.1f}L{(i + 1) * step:.1f} {y:.1f}")
    return f"M0 {CHART_HEIGHT:g}{''.join(points)}L{CHART_WIDTH:g} {CHART_HEIGHT:g}Z"
