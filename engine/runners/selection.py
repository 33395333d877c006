"""Which runner serves a package on this machine."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal

from engine.accelerators import gpu_models
from engine.builder import open_builder
from engine.engine_cache import EngineRecord
from engine.errors import RunnerFailed
from engine.packages import ModelPackage
from engine.runners.interface import EngineOptions, Runner, RunnerOptions
from engine.runners.openvino_runner import OpenVINORunner

Report = Callable[[EngineRecord], None]

Built = Literal["tensorrt", "openvino"]


@dataclass(frozen=True, eq=False)
class ChosenRunner:
    """A runner and, in one line, why it is this one."""

    runner: Runner
    reason: str


def open_runner(
    package: ModelPackage, options: RunnerOptions, report: Report = lambda record: None
) -> ChosenRunner:
    """A runner for the graphs of `package`, after the rules in `RunnerOptions`.

    Where no engine can be built for the processor (no room in the cache, say), the ONNX runs in f32, which is what
    engines are verified against. Raises RunnerFailed.
    """
    if options.device == "torch":
        if gpu_models():
            with suppress(RunnerFailed):  # a torch without CUDA, which runs here all the same
                return ChosenRunner(_torch(package, options, "cuda"), "torch, as configured")
        return ChosenRunner(_torch(package, options, "cpu"), "torch, as configured")
    if options.engines is None:
        return ChosenRunner(OpenVINORunner(package, options), "OpenVINO from ONNX, without built engines")
    wanted = _candidates() if options.device == "auto" else (options.device,)
    reasons: list[str] = []
    for backend in wanted:
        try:
            if backend == "torch":
                runner = _torch(package, replace(options, precision="f32"), "cuda")
            else:
                runner = _built(package, options, options.engines, backend, report)
        except RunnerFailed as error:
            reasons.append(f"not {backend}: {error}")
        else:
            return ChosenRunner(runner, "; ".join([backend, *reasons]))
    if options.device == "tensorrt":
        raise RunnerFailed("; ".join(reasons))
    reference = OpenVINORunner(package, replace(options, precision="f32"))
    return ChosenRunner(reference, "; ".join(["OpenVINO from ONNX in f32", *reasons]))


def _candidates() -> tuple[Built | Literal["torch"], ...]:
    """What `auto` tries, the fastest first. torch is loaded only where there is a GPU for it."""
    return ("tensorrt", "torch", "openvino") if gpu_models() else ("tensorrt", "openvino")


def _torch(package: ModelPackage, options: RunnerOptions, device: str) -> Runner:
    try:
        from engine.runners.torch_runner import TorchRunner
    except ImportError as error:
        raise RunnerFailed(
            f"device torch needs the train extra ({error}): pip install lungnode[train]"
        ) from error
    return TorchRunner(package, options, device)


def _built(
    package: ModelPackage,
    options: RunnerOptions,
    engines: EngineOptions,
    backend: Built,
    report: Report,
) -> Runner:
    builder = open_builder(replace(engines, backend=backend), report)
    records = [builder.ensure(package, graph, options.precision) for graph in package.metadata.graphs]
    return builder.open(package, records, options)
