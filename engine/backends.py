"""What builds engines from packages: one module per backend, all with the same four functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from engine.packages import ModelPackage
from engine.recipes import Backend, BuildPrecision, Profile
from engine.runners.interface import Runner, RunnerOptions

_MODULES: dict[Backend, str] = {
    "openvino": "engine.runners.openvino_runner",
    "tensorrt": "engine.runners.tensorrt_runner",
    "tensorrt_rtx": "engine.runners.tensorrt_runner",
}


@dataclass(frozen=True)
class WantedEngine:
    """What is to be built. timings: a file for what a builder measures and can use again, of its library and device.

    calibration: how many slices INT8 is calibrated with at most, where only speed matters; None for all there are.
    """

    package: ModelPackage
    graph: str
    precision: BuildPrecision
    profile: Profile = field(default_factory=Profile)
    timings: Path | None = None
    calibration: int | None = None


class EngineBackend(Protocol):
    """A backend; its functions raise RunnerFailed where library, driver or device are missing, and say which."""

    def identity(self) -> str:
        """Library with its version and the device an engine is bound to; part of the key of every engine."""
        ...

    def offers(self, precision: BuildPrecision) -> bool:
        """Whether this machine runs `precision` natively."""
        ...

    def build(self, wanted: WantedEngine) -> bytes:
        """Build one engine: the bytes that `open` takes back."""
        ...

    def open(
        self, package: ModelPackage, engines: Mapping[str, Path], options: RunnerOptions, precisions: str = ""
    ) -> Runner:
        """A runner of built engines, by graph, whose files have been checked against their hash.

        precisions: what the description of the runner says of them.
        """
        ...


def backend_named(name: Backend) -> EngineBackend:
    """The backend; its libraries are imported here and not before. Raises RunnerFailed."""
    return cast(EngineBackend, import_module(_MODULES[name]).backend(name))
