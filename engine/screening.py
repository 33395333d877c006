"""Screening: a Volume and model packages give the Findings. Pure but for the clock of the timings."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from engine import jcs, m3lung
from engine.engine_cache import EngineRecord
from engine.errors import EngineError, NotScreenable, PackageInvalid, RunnerFailed
from engine.findings import (
    Findings,
    JCSFindings,
    M3LungFindings,
    OwnModelFailure,
    OwnModelFindings,
    PackageReference,
    PneumoniaClass,
)
from engine.jcs import JCSSystem
from engine.label_volume import LabelVolume
from engine.lesions import key_slices, label_lesions
from engine.lungs import Mask, find_lungs, in_pixels, slices_with_lung, volume_ml
from engine.m3lung import M3System
from engine.own_model.contract import OwnModelMetadata
from engine.own_model.screening import OwnModelSystem, screen_with
from engine.packages import JCSMetadata, ModelPackage, read_package
from engine.runners.interface import RunnerOptions
from engine.runners.selection import open_runner
from engine.series_choice import SeriesRules, limit_breaches
from engine.stopwatch import Stopwatch
from engine.volume import Series, Volume

LUNG_RIM_MM = 4.0
"""Lesions may reach this far beyond the lungs; what the segmenter marks further out is no lesion."""


@dataclass(frozen=True, eq=False)
class ScreeningSystems:
    """Both systems and the own models, open and ready. Use as a context manager, or call `close`.

    reasons: per system, why it is run by what runs it.
    own_model_failures: own models that could not be opened. own_models_required: whether one that fails on a study
        fails the study; else the others speak, and it is said which one did not.
    """

    jcs: JCSSystem
    m3lung: M3System
    reasons: Mapping[str, str] = field(default_factory=dict)
    own_models: tuple[OwnModelSystem, ...] = ()
    own_model_failures: tuple[OwnModelFailure, ...] = ()
    own_models_required: bool = True

    @property
    def all(self) -> tuple[JCSSystem | M3System | OwnModelSystem, ...]:
        """Every open system: JCS, M3Lung-Sys, own models."""
        return (self.jcs, self.m3lung, *self.own_models)

    @property
    def packages(self) -> tuple[PackageReference, ...]:
        """The packages of all systems."""
        return tuple(system.package.reference for system in self.all)

    @property
    def descriptions(self) -> dict[str, str]:
        """Per system: what runs it."""
        return {_stage_name(system.package): system.runner.description for system in self.all}

    def close(self) -> None:
        for system in self.all:
            system.runner.close()

    def __enter__(self) -> ScreeningSystems:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_systems(
    package_paths: Sequence[Path | str],
    options: RunnerOptions = RunnerOptions(),  # noqa: B008 (frozen)
    report: Callable[[EngineRecord], None] = lambda record: None,
) -> ScreeningSystems:
    """Read the packages, one of each system and any number of own models, and open their runners.

    report: told of every engine that is built, fails or is ready, where `options.engines` are configured.
    With `options.own_models` optional, own models that cannot be read or opened are left out, and findings say so.

    Raises PackageInvalid for a package that fails its checks and where a system is missing or there twice;
    RunnerFailed when no runner can be opened.
    """
    opened: dict[str, JCSSystem | M3System | OwnModelSystem] = {}
    reasons: dict[str, str] = {}
    failures: dict[OwnModelFailure, EngineError] = {}
    required = options.own_models == "required"
    for path in package_paths:
        package = None
        try:
            package = read_package(path)
            name = _stage_name(package)
            if name in opened:
                raise PackageInvalid(f"{path}: a second package for {name}; configure one of each system")
            opened[name], reasons[name] = _open(package, options, report)
        except (PackageInvalid, RunnerFailed) as error:
            if required or (package is not None and package.metadata.system != "onnx"):
                raise
            name = Path(path).name if package is None else package.metadata.name
            failures[OwnModelFailure(name, str(error))] = error
    first, second = opened.get("jcs"), opened.get("m3lung")
    if not isinstance(first, JCSSystem) or not isinstance(second, M3System):
        if failures:  # what could not be read may be the one that is missing
            raise next(iter(failures.values()))
        missing = "jcs" if first is None else "m3lung"
        raise PackageInvalid(f"no model package for {missing} is configured; one of each system is needed")
    own = tuple(system for system in opened.values() if isinstance(system, OwnModelSystem))
    return ScreeningSystems(first, second, reasons, own, tuple(failures), required)


def _open(
    package: ModelPackage, options: RunnerOptions, report: Callable[[EngineRecord], None]
) -> tuple[JCSSystem | M3System | OwnModelSystem, str]:
    """The system of a package with its runner, and why it is that runner."""
    metadata = package.metadata
    for name in metadata.screening_graphs:
        if name not in metadata.graphs:
            raise PackageInvalid(f"{package.path}: graph {name} is missing, which screening needs")
    alone = isinstance(metadata, OwnModelMetadata) and metadata.is_volume
    chosen = open_runner(package, replace(options, at_once=1) if alone else options, report)
    if isinstance(metadata, OwnModelMetadata):
        return OwnModelSystem(package, metadata, chosen.runner, options.batch), chosen.reason
    if isinstance(metadata, JCSMetadata):
        return JCSSystem(package, metadata, chosen.runner, options.batch), chosen.reason
    return M3System(package, metadata, chosen.runner, options.batch), chosen.reason


def _stage_name(package: ModelPackage) -> str:
    """jcs, m3lung, or an own model by its name."""
    metadata = package.metadata
    return f"own_{metadata.name}" if isinstance(metadata, OwnModelMetadata) else metadata.system


def screen(
    volume: Series,
    systems: ScreeningSystems,
    rules: SeriesRules = SeriesRules(),  # noqa: B008 (frozen)
    *,
    always_segment: bool = False,
    clock: Callable[[], float] = time.perf_counter,
) -> Findings:
    """Screen a volume, or one that is still being decoded, with both systems and the own models.

    JCS classifies every slice with lung, applies the count rule and segments only a positive case (specification
    C; `always_segment` for research); the lesion mask stays within the lungs and their rim of LUNG_RIM_MM.
    M3Lung-Sys gives the patient's class and its location maps. The result depends on volume, packages and precision
    only, not on batch size or threads. What needs no network is done beside them: the lungs are looked for while
    slices are classified, lesions are measured while M3Lung-Sys looks at the slices. The timings of these stages say
    only how long was waited for them.

    Raises NotScreenable when the series breaks a limit of `rules` or has no lungs; Undecodable for a slice that cannot
    be decoded; RunnerFailed when a network fails.
    """
    if breaches := limit_breaches(volume.geometry, volume.shape, rules):
        raise NotScreenable("not a chest series that can be screened: " + "; ".join(breaches))
    watch = Stopwatch(clock)
    with ThreadPoolExecutor(1, "beside the networks") as beside:
        search = beside.submit(_lungs_of, volume)
        with watch.stage("jcs_classify"):
            scores = jcs.classify_ahead(volume, search.done, systems.jcs)
        with watch.stage("lungs"):
            lungs, with_lung = search.result()
        whole = volume.whole()
        with watch.stage("jcs_classify"):
            jcs_findings = jcs.classify(whole, with_lung, scores, systems.jcs)
        with watch.stage("jcs_segment"):
            mask = LabelVolume(whole.shape, np.bool_)
            if jcs_findings.positive or always_segment:
                rim = in_pixels(LUNG_RIM_MM, whole.geometry)
                mask = jcs.segment(whole, lungs, with_lung, rim, systems.jcs)
        measuring = beside.submit(label_lesions, mask, whole)
        with watch.stage("m3lung_slices"):
            outputs = m3lung.classify_slices(whole, lungs, with_lung, systems.m3lung)
        with watch.stage("m3lung_patient"):
            m3_findings = m3lung.assess(outputs, systems.m3lung)
        with watch.stage("lesions"):
            labels, lesions = measuring.result()
            _join(labels, lungs)
            lung_ml = volume_ml(lungs.areas(), whole.geometry)
            lesion_ml = sum(lesion.volume_ml for lesion in lesions)
            shown = _key_slices(labels, lungs, jcs_findings, m3_findings, systems)
    own, failures = _own_models(whole, lungs, with_lung, systems, watch)
    return Findings(
        jcs=jcs_findings,
        m3lung=m3_findings,
        lesion_labels=labels,
        lesions=lesions,
        lung_mask=lungs,
        lesion_volume_ml=lesion_ml,
        lung_volume_ml=lung_ml,
        lung_involvement_percent=100 * lesion_ml / lung_ml,
        key_slices=shown,
        timings_s=watch.seconds,
        own_models=own,
        own_model_failures=failures,
    )


def _lungs_of(series: Series) -> tuple[LabelVolume[np.bool_], Mask]:
    """The lungs [Z, Y, X] and which slices have some, bool [Z]. Raises NotScreenable, Undecodable."""
    whole = series.whole()
    lungs = find_lungs(whole.hu, whole.geometry)
    with_lung = None if lungs is None else slices_with_lung(lungs, whole.geometry)
    if lungs is None or with_lung is None or not with_lung.any():
        raise NotScreenable("no lungs found in the series")
    return lungs, with_lung


def _own_models(
    volume: Volume,
    lungs: LabelVolume[np.bool_],
    with_lung: Mask,
    systems: ScreeningSystems,
    watch: Stopwatch,
) -> tuple[tuple[OwnModelFindings, ...], tuple[OwnModelFailure, ...]]:
    """What the own models say, and which of them could not."""
    findings, failures = [], list(systems.own_model_failures)
    for system in systems.own_models:
        try:
            with watch.stage(_stage_name(system.package)):
                findings.append(screen_with(system, volume, lungs, with_lung))
        except RunnerFailed as error:
            if systems.own_models_required:
                raise
            failures.append(OwnModelFailure(system.metadata.name, str(error)))
    return tuple(findings), tuple(failures)


def _join(lesions: LabelVolume[np.uint16], lungs: LabelVolume[np.bool_]) -> None:
    """Make the lesions part of the lungs, in place."""
    for z in lesions.occupied():
        lungs[z] = lungs[z] | (lesions[z] > 0)


def _key_slices(
    lesions: LabelVolume[np.uint16],
    lungs: LabelVolume[np.bool_],
    jcs_findings: JCSFindings,
    m3_findings: M3LungFindings,
    systems: ScreeningSystems,
) -> tuple[int, ...]:
    """Where most is to be seen: lesions, else what M3Lung-Sys calls ill, else what JCS does, else most lung."""
    jcs_score = jcs_findings.slice_probabilities.copy()
    jcs_score[jcs_score <= systems.jcs.metadata.thresholds.slice] = 0
    m3_score = (1 - m3_findings.slice_probabilities[:, 0]) * (m3_findings.lesion_probabilities > 0.5)
    ill = m3_score * (m3_findings.label is not PneumoniaClass.HEALTHY)
    return key_slices(lesions.areas(), ill, jcs_score, m3_score, lungs.areas())
