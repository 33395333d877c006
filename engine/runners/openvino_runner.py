"""OpenVINO on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov

from engine.errors import RunnerFailed
from engine.packages import ModelPackage
from engine.runners.interface import RunnerOptions, Tensors

DEVICE = "CPU"


class OpenVINORunner:
    """The graphs of one package, compiled when they are first used."""

    def __init__(self, package: ModelPackage, options: RunnerOptions) -> None:
        self._package = package
        self._core = ov.Core()
        self._precision = chosen_precision(
            options, self._core.get_property(DEVICE, "OPTIMIZATION_CAPABILITIES")
        )
        self._settings = _settings(self._precision, options.threads)
        self._requests: dict[str, ov.InferRequest] = {}

    @property
    def description(self) -> str:
        return f"OpenVINO {ov.__version__.split('-')[0]}, CPU, {self._precision}"

    def run(self, graph: str, inputs: Tensors) -> dict[str, npt.NDArray[np.generic]]:
        """See `engine.runners.interface.Runner`."""
        try:
            request = self._requests.get(graph) or self._compiled(graph)
            request.infer(dict(inputs), share_inputs=True)
            return {
                name: np.array(request.get_tensor(port).data)
                for port in request.model_outputs
                for name in sorted(port.names)
            }
        except RuntimeError as error:
            raise RunnerFailed(f"graph {graph} of {self._package.metadata.name} failed: {error}") from error

    def close(self) -> None:
        self._requests.clear()

    def _compiled(self, graph: str) -> Any:
        model = self._core.read_model(self._package.graph_path(graph))
        self._requests[graph] = self._core.compile_model(model, DEVICE, self._settings).create_infer_request()
        return self._requests[graph]


def chosen_precision(options: RunnerOptions, capabilities: list[str]) -> str:
    """f32 or bf16: as asked, or for auto bf16 where the CPU lists it among its capabilities."""
    if options.precision != "auto":
        return options.precision
    return "bf16" if "BF16" in capabilities else "f32"


def _settings(precision: str, threads: int) -> dict[str, Any]:
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
    if threads:
        settings["INFERENCE_NUM_THREADS"] = threads
    return settings
