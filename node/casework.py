"""One case: files of a study in, findings and result objects out. What the worker and `lungnode screen` share."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict, dataclass, field
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from engine.engine_cache import EngineRecord
from engine.errors import PackageInvalid
from engine.findings import Findings
from engine.loading import open_series
from engine.packages import read_package
from engine.runners.interface import EngineOptions, RunnerOptions
from engine.series_choice import SeriesRules
from engine.stopwatch import Stopwatch
from engine.summary import findings_summary
from engine.volume import Volume
from node.configuration import Configuration
from node.executors.interface import Executor
from node.executors.selection import open_executor
from node.installation import shipped
from node.priors import NO_PRIORS, Priors
from reporting import (
    ObjectKind,
    PriorComparison,
    ReportContext,
    ReportOptions,
    ResultObject,
    build,
    warm_up,
)
from reporting.context import PredecessorReport
from reporting.profiles import with_fallbacks

DISTRIBUTION = "lungnode"


@dataclass(frozen=True, eq=False)
class Case:
    """A screened study. `summary` is what findings.json holds."""

    volume: Volume
    findings: Findings
    objects: tuple[ResultObject, ...]
    summary: dict[str, Any]


@dataclass(frozen=True)
class Occasion:
    """What results say of the occasion besides the findings: see `reporting.ReportContext`."""

    result_time: datetime
    revision: int = 1
    predecessor: PredecessorReport | None = None


class Interrupted(Exception):
    """The work was asked to stop between two stages; nothing was written."""


@dataclass(frozen=True, eq=False)
class Casework:
    """Both systems, open somewhere, with the settings that decide results.

    settings_digest: SHA-256 hex over packages, settings and software version: all but the instances.
    """

    executor: Executor
    rules: SeriesRules
    options: ReportOptions
    station_name: str
    kinds: tuple[ObjectKind, ...]
    software_version: str = field(default_factory=lambda: version(DISTRIBUTION))

    @property
    def settings_digest(self) -> str:
        """SHA-256 hex over everything but the instances that results depend on."""
        settings = {
            "packages": [asdict(package) for package in self.executor.packages],
            "runners": dict(self.executor.descriptions),
            "rules": asdict(self.rules),
            "options": asdict(self.options),
            "station": self.station_name,
            "software": self.software_version,
        }
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()

    @property
    def equipment(self) -> str:
        """The model packages in words, with the beginnings of their hashes."""
        return ", ".join(f"{p.name} {p.version} ({p.sha256[:12]})" for p in self.executor.packages)

    def work(
        self,
        paths: Iterable[Path],
        occasion: Callable[[Volume], Occasion],
        *,
        priors: Callable[[dict[str, Any]], Priors] = lambda summary: NO_PRIORS,
        stopping: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.perf_counter,
    ) -> Case:
        """Load, screen and build. `occasion` tells the circumstances once the volume is known.

        priors: finds the earlier screenings of the patient, given the summary of this one.

        Raises engine.errors.NotScreenable, engine.errors.Undecodable, engine.errors.RunnerFailed,
        reporting.VerificationError, and Interrupted when `stopping` says so between two stages.
        """
        loading = Stopwatch(clock)
        with loading.stage("load"):
            series = open_series(paths, self.rules)
        with series:
            _check(stopping)
            findings = self.executor.screen(series, self.rules, clock=_watched(clock, stopping))
            _check(stopping)
            volume = series.whole()
        summary = findings_summary(findings, loading.seconds) | {"series_choice": volume.series_choice}
        earlier = priors(summary)
        if (told := earlier.as_summary(summary)) is not None:
            summary["prior"] = told
        with Stopwatch(clock, summary["timings_s"]).stage("build"):
            context = self._context(occasion(volume), earlier.comparison)
            objects = build(findings, volume, context, self.kinds)
        return Case(volume, findings, objects, summary)

    def _context(self, occasion: Occasion, prior: PriorComparison | None) -> ReportContext:
        return ReportContext(
            result_time=occasion.result_time,
            settings_hash=self.settings_digest,
            software_version=self.software_version,
            revision=occasion.revision,
            predecessor=occasion.predecessor,
            prior=prior,
            station_name=self.station_name,
            options=self.options,
        )


def open_special_casework(
    configuration: Configuration, report: Callable[[EngineRecord], None] = lambda record: None
) -> dict[tuple[str, ...], Casework]:
    """Open the packages of rules that name some, by the names that the rules give.

    Raises engine.errors.PackageInvalid, also where a rule names packages that do not make up both systems.
    """
    named = {rule.then.packages for rule in configuration.routing if rule.then.packages is not None}
    return {
        names: open_casework(
            configuration.model_copy(
                update={
                    "models": tuple(path for path in configuration.models if path.name in names),
                    "routing": (),
                }
            ),
            report=report,
        )
        for names in sorted(named)
    }


def open_casework(
    configuration: Configuration,
    kinds: Iterable[ObjectKind] | None = None,
    report: Callable[[EngineRecord], None] = lambda record: None,
) -> Casework:
    """Open the model packages that the configuration names.

    report: told of engines that are built, where `screening.built_engines` is set.
    kinds: which objects are made; by default all that a destination wants, the usual four where there is none.
    Raises engine.errors.PackageInvalid, engine.errors.RunnerFailed.
    """
    screening = configuration.screening
    models = configuration.models
    named = {name for rule in configuration.routing for name in rule.then.packages or ()}
    if named:
        models = _unnamed_models(models, named)
    executor = open_executor(models, runner_options(configuration), configuration, report)
    rules = SeriesRules(
        min_slices=screening.min_slices,
        min_cover_mm=screening.min_cover_mm,
        max_thickness_mm=screening.max_thickness_mm,
        preferred_kernel=screening.preferred_kernel,
    )
    options = ReportOptions(**configuration.results.model_dump())
    warm_up()
    wanted = tuple(kinds) if kinds is not None else wanted_kinds(configuration)
    return Casework(executor, rules, options, configuration.listener.ae_title, wanted)


def _unnamed_models(models: tuple[Path, ...], named: Collection[str]) -> tuple[Path, ...]:
    """Where rules choose among packages, what studies without such a rule get.

    The first package of each system, and the own models that no rule keeps to itself.
    """
    found: dict[str, Path] = {}
    own = []
    for path in models:
        try:
            system = read_package(path).metadata.system
        except PackageInvalid:  # whether that matters is decided when it is opened
            system = "onnx"
        if system != "onnx":
            found.setdefault(system, path)
        elif path.name not in named:
            own.append(path)
    return (*found.values(), *own)


def engine_options(configuration: Configuration) -> EngineOptions:
    """Where engines are built and kept."""
    screening = configuration.screening
    return EngineOptions(
        cache=screening.engine_cache,
        recipes=shipped("trt_engines"),
        backend="tensorrt" if screening.device == "tensorrt" else "openvino",
        precision=screening.precision,
    )


def runner_options(configuration: Configuration) -> RunnerOptions:
    """How the configuration wants the networks to be run."""
    screening = configuration.screening
    return RunnerOptions(
        precision=screening.precision,
        threads=screening.threads,
        device=screening.device,
        own_models=screening.own_models,
        engines=engine_options(configuration) if screening.uses_built_engines else None,
    )


def wanted_kinds(configuration: Configuration) -> tuple[ObjectKind, ...]:
    """The kinds of object that some destination wants, with their stand-ins; the usual four without a destination."""
    if not configuration.destination_objects:
        return ("seg", "gsps", "pm", "sr")
    wanted = {kind for kinds in configuration.destination_objects.values() for kind in kinds}
    return with_fallbacks(wanted)


def _check(stopping: Callable[[], bool]) -> None:
    if stopping():
        raise Interrupted


def _watched(clock: Callable[[], float], stopping: Callable[[], bool]) -> Callable[[], float]:
    """The clock of the stages, which is read between them: where it is looked whether to stop."""

    def read() -> float:
        _check(stopping)
        return clock()

    return read
