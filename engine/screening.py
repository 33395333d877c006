"""Screening: a Volume and two model packages give the Findings. Pure but for the clock of the timings."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from engine import jcs, m3lung
from engine.engine_cache import EngineRecord
from engine.errors import NotScreenable, PackageInvalid
from engine.findings import Findings, JCSFindings, M3LungFindings, PneumoniaClass
from engine.jcs import JCSSystem
from engine.lesions import key_slices, label_lesions
from engine.lungs import Mask, dilated, find_lungs, lung_volume_ml, slices_with_lung
from engine.m3lung import M3System
from engine.packages import JCSMetadata, read_package
from engine.runners.interface import RunnerOptions
from engine.runners.selection import open_runner
from engine.series_choice import SeriesRules, limit_breaches
from engine.volume import Volume

LUNG_RIM_MM = 4.0
"""Lesions may reach this far beyond the lungs; what the segmenter marks further out is no lesion."""


@dataclass(frozen=True, eq=False)
class ScreeningSystems:
    """Both systems, open and ready. Use as a context manager, or call `close`."""

    jcs: JCSSystem
    m3lung: M3System
    reasons: Mapping[str, str] = field(default_factory=dict)
    """Per system: why it is run by what runs it."""

    @property
    def descriptions(self) -> dict[str, str]:
        """Per system: what runs it."""
        return {"jcs": self.jcs.runner.description, "m3lung": self.m3lung.runner.description}

    def close(self) -> None:
        self.jcs.runner.close()
        self.m3lung.runner.close()

    def __enter__(self) -> ScreeningSystems:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_systems(
    package_paths: Sequence[Path | str],
    options: RunnerOptions = RunnerOptions(),  # noqa: B008 (frozen)
    report: Callable[[EngineRecord], None] = lambda record: None,
) -> ScreeningSystems:
    """Read the packages, one of each system, and open their runners.

    report: told of every engine that is built, fails or is ready, where `options.engines` are configured.

    Raises PackageInvalid for a package that fails its checks and where a system is missing or there twice;
    RunnerFailed when no runner can be opened.
    """
    found: dict[str, JCSSystem | M3System] = {}
    reasons: dict[str, str] = {}
    for path in package_paths:
        package = read_package(path)
        metadata = package.metadata
        if metadata.system in found:
            raise PackageInvalid(
                f"{path}: a second package for {metadata.system}; configure one of each system"
            )
        for name in metadata.screening_graphs:
            if name not in metadata.graphs:
                raise PackageInvalid(f"{path}: graph {name} is missing, which screening needs")
        chosen = open_runner(package, options, report)
        reasons[metadata.system] = chosen.reason
        if isinstance(metadata, JCSMetadata):
            found["jcs"] = JCSSystem(package, metadata, chosen.runner, options.batch)
        else:
            found["m3lung"] = M3System(package, metadata, chosen.runner, options.batch)
    first, second = found.get("jcs"), found.get("m3lung")
    if not isinstance(first, JCSSystem) or not isinstance(second, M3System):
        missing = "jcs" if first is None else "m3lung"
        raise PackageInvalid(f"no model package for {missing} is configured; one of each system is needed")
    return ScreeningSystems(first, second, reasons)


class _Stopwatch:
    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = self._clock()
        yield
        self.seconds[name] = self._clock() - start


def screen(
    volume: Volume,
    systems: ScreeningSystems,
    rules: SeriesRules = SeriesRules(),  # noqa: B008 (frozen)
    *,
    always_segment: bool = False,
    clock: Callable[[], float] = time.perf_counter,
) -> Findings:
    """Screen a volume with both systems.

    JCS classifies every slice with lung, applies the count rule and segments only a positive case (specification
    C; `always_segment` for research); the lesion mask stays within the lungs and their rim of LUNG_RIM_MM.
    M3Lung-Sys gives the patient's class and its location maps. The result depends on volume, packages and precision
    only, not on batch size or threads.

    Raises NotScreenable when the series breaks a limit of `rules` or has no lungs; RunnerFailed when a network fails.
    """
    if breaches := limit_breaches(volume.geometry, volume.shape, rules):
        raise NotScreenable("not a chest series that can be screened: " + "; ".join(breaches))
    watch = _Stopwatch(clock)
    with watch.stage("lungs"):
        lungs = find_lungs(volume.hu, volume.geometry)
        if lungs is None:
            raise NotScreenable("no lungs found in the series")
        with_lung = slices_with_lung(lungs, volume.geometry)
        if not with_lung.any():
            raise NotScreenable("no lungs found in the series")
    with watch.stage("jcs_classify"):
        jcs_findings = jcs.classify(volume.hu, with_lung, systems.jcs)
    with watch.stage("jcs_segment"):
        mask = np.zeros(volume.shape, dtype=bool)
        if jcs_findings.positive or always_segment:
            allowed = dilated(lungs, volume.geometry, LUNG_RIM_MM)
            mask = jcs.segment(volume.hu, lungs, with_lung, allowed, systems.jcs)
    with watch.stage("m3lung_slices"):
        outputs = m3lung.classify_slices(volume.hu, lungs, with_lung, systems.m3lung)
    with watch.stage("m3lung_patient"):
        m3_findings = m3lung.assess(outputs, systems.m3lung)
    with watch.stage("lesions"):
        labels, lesions = label_lesions(mask, volume)
        lungs |= labels > 0
        lung_ml = lung_volume_ml(lungs, volume.geometry)
        lesion_ml = sum(lesion.volume_ml for lesion in lesions)
        shown = _key_slices(labels > 0, lungs, jcs_findings, m3_findings, systems)
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
    )


def _key_slices(
    lesions: Mask,
    lungs: Mask,
    jcs_findings: JCSFindings,
    m3_findings: M3LungFindings,
    systems: ScreeningSystems,
) -> tuple[int, ...]:
    """Where most is to be seen: lesions, else what M3Lung-Sys calls ill, else what JCS does, else most lung."""
    jcs_score = jcs_findings.slice_probabilities.copy()
    jcs_score[jcs_score <= systems.jcs.metadata.thresholds.slice] = 0
    m3_score = (1 - m3_findings.slice_probabilities[:, 0]) * (m3_findings.lesion_probabilities > 0.5)
    ill = m3_score * (m3_findings.label is not PneumoniaClass.HEALTHY)
    return key_slices(_areas(lesions), ill, jcs_score, m3_score, _areas(lungs))


def _areas(mask: Mask) -> npt.NDArray[np.float64]:
    return np.asarray(np.count_nonzero(mask, axis=(1, 2)), dtype=np.float64)
