"""The child process that builds and verifies one engine, and ends: libraries do not give building memory back.

Reads a job as JSON from standard input, writes the engine to the path in it, and prints the checks as JSON.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from engine.backends import WantedEngine, backend_named
from engine.errors import EngineError
from engine.own_model.contract import OwnModelMetadata
from engine.own_model.trial import trial_tensor
from engine.packages import ModelPackage, read_package
from engine.recipes import BuildPrecision, Recipe
from engine.runners.interface import Runner, RunnerOptions
from engine.verification import OutputCheck, compare, fixed_slices, graph_inputs, shown


@dataclass(frozen=True)
class BuildJob:
    """What to build, and where to. timings: see `engine.backends.EngineBackend.build`, "" for none."""

    package: str
    graph: str
    precision: BuildPrecision
    recipe: Recipe
    output: str
    timings: str = ""


def job_to_json(job: BuildJob) -> str:
    """One line for the child's standard input."""
    return json.dumps({**asdict(job), "recipe": job.recipe.model_dump(mode="json")})


def _job_from_json(text: str) -> BuildJob:
    content = json.loads(text)
    return BuildJob(**{**content, "recipe": Recipe.model_validate(content["recipe"])})


def build_and_verify(job: BuildJob) -> tuple[OutputCheck, ...]:
    """Build the engine of a job into its output file and check it against the reference."""
    package = read_package(job.package)
    backend = backend_named(job.recipe.backend)
    timings = Path(job.timings) if job.timings else None
    content = backend.build(WantedEngine(package, job.graph, job.precision, job.recipe.profile, timings))
    Path(job.output).write_bytes(content)
    return verify_engine(package, job.graph, Path(job.output), job.recipe, job.precision)


def verify_engine(
    package: ModelPackage, graph: str, engine: Path, recipe: Recipe, precision: BuildPrecision
) -> tuple[OutputCheck, ...]:
    """Run an engine and the FP32 reference (OpenVINO, f32, from the ONNX) on the fixed slices and compare.

    For an own model the recipe names the tolerance of its output `output`, under the graph `model`.
    """
    reference = _Reference(package)
    metadata, tolerances = package.metadata, recipe.allowed(graph, precision)
    if isinstance(metadata, OwnModelMetadata):
        inputs = trial_tensor(fixed_slices(), metadata)
        tolerances = {metadata.output_name: tolerances["output"]} if "output" in tolerances else {}
    else:
        inputs = graph_inputs(graph, metadata, reference.runner)
    runner = backend_named(recipe.backend).open(package, {graph: engine}, RunnerOptions())
    try:
        found = runner.run(graph, inputs)
    finally:
        runner.close()
    expected = reference.runner().run(graph, inputs)
    if isinstance(metadata, OwnModelMetadata):
        return compare(graph, expected, found, tolerances)
    used = [shown(graph, metadata, expected, output) for output in (expected, found)]
    return compare(graph, used[0], used[1], tolerances)


class _Reference:
    def __init__(self, package: ModelPackage) -> None:
        self._package = package
        self._runner: Runner | None = None

    def runner(self) -> Runner:
        if self._runner is None:
            from engine.runners.openvino_runner import OpenVINORunner

            self._runner = OpenVINORunner(self._package, RunnerOptions(precision="f32"))
        return self._runner


def main() -> int:
    """Exit code 0 with the checks on standard output; 1 with one line of reason on standard error."""
    job = _job_from_json(sys.stdin.read())
    try:
        checks = build_and_verify(job)
    except (EngineError, OSError) as error:
        print(str(error), file=sys.stderr)
        return 1
    print(json.dumps([asdict(check) for check in checks]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
