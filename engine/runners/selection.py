"""Which runner serves a package on this machine."""

from __future__ import annotations

from engine.packages import ModelPackage
from engine.runners.interface import Runner, RunnerOptions
from engine.runners.openvino_runner import OpenVINORunner


def open_runner(package: ModelPackage, options: RunnerOptions) -> Runner:
    """A runner for the graphs of `package`. Raises RunnerFailed."""
    return OpenVINORunner(package, options)
