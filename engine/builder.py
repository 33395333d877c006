"""Engines built once, checked, cached: from a package to the files that a runner opens."""

from __future__ import annotations

import json
import mmap
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from engine.backends import backend_named
from engine.build_process import BuildJob, job_to_json, verify_engine
from engine.engine_cache import EngineCache, EngineKey, EngineRecord
from engine.errors import EngineError, RunnerFailed
from engine.packages import ModelPackage, read_package
from engine.recipes import BuildPrecision, Recipe, read_recipe
from engine.runners.interface import EngineOptions, Precision, Runner, RunnerOptions
from engine.verification import OutputCheck

_NATIVE: tuple[BuildPrecision, ...] = ("f32",)


@dataclass(frozen=True)
class BuiltContent:
    """What a build gives: the engine and the checks that it went through."""

    content: bytes | memoryview
    checks: tuple[OutputCheck, ...]


Build = Callable[[BuildJob, float], BuiltContent]
"""Builds a job within so many seconds. Raises RunnerFailed."""


def build_in_child(job: BuildJob, timeout_s: float) -> BuiltContent:
    """Build in a child process, which ends afterwards. Raises RunnerFailed, also when the child crashes or hangs."""
    with tempfile.TemporaryDirectory(prefix="lungnode-build-") as folder:
        output = Path(folder) / "engine"
        command = [sys.executable, "-m", "engine.build_process"]
        try:
            child = subprocess.run(
                command,
                input=job_to_json(replace(job, output=str(output))),
                capture_output=True,
                text=True,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise RunnerFailed(f"the build took longer than {timeout_s:g} s") from error
        if child.returncode < 0:
            raise RunnerFailed(f"the build was ended by signal {-child.returncode}")
        if child.returncode:
            raise RunnerFailed(_last_line(child.stderr) or f"the build ended with code {child.returncode}")
        checks = tuple(OutputCheck(**check) for check in json.loads(child.stdout.splitlines()[-1]))
        # Mapped, not read: at full size it is nearly a gigabyte, beside what screens meanwhile
        with output.open("rb") as file:
            content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        return BuiltContent(content, checks)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""


class EngineBuilder:
    """Builds the engines of one recipe into one cache.

    report: told of every change of state, for logs and the store.
    """

    def __init__(
        self,
        recipe: Recipe,
        cache: EngineCache,
        report: Callable[[EngineRecord], None] = lambda record: None,
        build: Build = build_in_child,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.recipe, self.cache = recipe, cache
        self._backend = backend_named(recipe.backend)
        self._report, self._build, self._clock = report, build, clock

    def key(self, package: ModelPackage, graph: str, precision: BuildPrecision) -> EngineKey:
        """The key of an engine on this machine."""
        profile = self.recipe.profile
        return EngineKey(
            package=package.metadata.name,
            package_sha256=package.sha256,
            graph=graph,
            recipe_version=self.recipe.version,
            precision=precision,
            backend=self.recipe.backend,
            identity=self._backend.identity(),
            profile=f"{profile.smallest}-{profile.usual}-{profile.largest}",
        )

    def ensure(
        self, package: ModelPackage, graph: str, precision: Precision = "auto", *, again: bool = False
    ) -> EngineRecord:
        """The first engine of the recipe's precisions that is there, or can be built, and passes its checks.

        An engine that failed before is not tried again unless `again`. Raises RunnerFailed with every reason when
        none is left, or where the cache cannot be written.
        """
        reasons = []
        for candidate in self.candidates(precision):
            try:
                record = self._one(package, graph, candidate, again)
            except OSError as error:
                why = error.strerror or str(error)
                raise RunnerFailed(f"no engines can be kept in {self.cache.folder}: {why}") from error
            if record.state == "ready":
                return record
            reasons.append(f"{candidate}: {record.why}")
        raise RunnerFailed(f"no engine for graph {graph} of {package.metadata.name}: {'; '.join(reasons)}")

    def candidates(self, precision: Precision) -> tuple[BuildPrecision, ...]:
        """Precisions to try, in order: those of the recipe that this machine has, or the one asked for, then f32.

        INT8 is asked for in front of the recipe's: not every graph passes in it, nor is every graph quantised.
        """
        wanted: tuple[BuildPrecision, ...] = self.recipe.precisions
        if precision == "int8":
            wanted = ("int8", *wanted)
        elif precision != "auto":
            return tuple(dict.fromkeys((precision, *_NATIVE)))
        return tuple(p for p in dict.fromkeys(wanted) if self._backend.offers(p))

    def open(self, package: ModelPackage, records: Sequence[EngineRecord], options: RunnerOptions) -> Runner:
        """A runner of engines that `ensure` gave."""
        files = {record.key.graph: self.cache.engine_path(record.key) for record in records}
        precisions = ", ".join(f"{record.key.graph} {record.key.precision}" for record in records)
        return self._backend.open(package, files, options, precisions)

    def _one(self, package: ModelPackage, graph: str, precision: BuildPrecision, again: bool) -> EngineRecord:
        key = self.key(package, graph, precision)
        with self.cache.locked(key):
            known = self.cache.find(key)
            # A state "building" under a free lock is what a builder left that did not come to its end.
            if known is not None and (known.state == "ready" or (known.state == "failed" and not again)):
                self.cache.used(key)
                return known
            return self._built(package, key)

    def _built(self, package: ModelPackage, key: EngineKey) -> EngineRecord:
        start = self._clock()
        self._note(EngineRecord(key, "building"))
        try:
            timings = str(self.cache.timings_path(key))
            job = BuildJob(str(package.path), key.graph, key.precision, self.recipe, "", timings)
            built = self._build(job, self.recipe.timeout_s)
        except EngineError as error:
            return self._note(EngineRecord(key, "failed", str(error), seconds=self._clock() - start))
        lines = tuple(str(check) for check in built.checks)
        failed = [str(check) for check in built.checks if not check.passed]
        seconds = self._clock() - start
        if failed:
            why = f"differs from the reference: {failed[0]}"
            return self._note(EngineRecord(key, "failed", why, seconds=seconds, checks=lines))
        record = self.cache.put(key, built.content, seconds, lines)
        self._report(record)
        return record

    def _note(self, record: EngineRecord) -> EngineRecord:
        self.cache.note(record)
        self._report(record)
        return record


def open_builder(
    options: EngineOptions, report: Callable[[EngineRecord], None] = lambda record: None
) -> EngineBuilder:
    """The builder of the backend that `options` name. Raises RecipeInvalid, RunnerFailed."""
    recipe = read_recipe(options.recipes / f"{options.backend}.yaml")
    return EngineBuilder(recipe, EngineCache(options.cache), report)


@dataclass(frozen=True)
class Verified:
    """An engine in use with its checks, run anew; `why` where it could not be run."""

    record: EngineRecord
    checks: tuple[OutputCheck, ...]
    why: str = ""

    @property
    def passed(self) -> bool:
        return not self.why and all(check.passed for check in self.checks)


def list_engines(cache: Path) -> tuple[EngineRecord, ...]:
    """All engines in a cache directory, with state, precision, size and checks."""
    return EngineCache(cache).records()


def verify_engines(package_paths: Sequence[Path | str], options: EngineOptions) -> tuple[Verified, ...]:
    """Run every engine that the packages would use, building where there is none, against the FP32 reference.

    Raises PackageInvalid, RecipeInvalid, RunnerFailed.
    """
    builder = open_builder(options)
    results = []
    for path in package_paths:
        package = read_package(path)
        for graph in package.metadata.graphs:
            record = builder.ensure(package, graph, options.precision)
            engine = builder.cache.engine_path(record.key)
            try:
                checks = verify_engine(package, graph, engine, builder.recipe, record.key.precision)
                results.append(Verified(record, checks))
            except EngineError as error:
                results.append(Verified(record, (), str(error)))
    return tuple(results)
