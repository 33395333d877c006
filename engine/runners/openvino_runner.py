"""OpenVINO on the CPU: graphs compiled from a package's ONNX, or engines that were built before."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from engine.backends import WantedEngine
from engine.errors import RunnerFailed
from engine.openvino_graph import in_planes
from engine.openvino_offline import ov
from engine.packages import ModelPackage
from engine.recipes import Backend, BuildPrecision
from engine.runners.interface import Results, RunnerOptions, Tensors

DEVICE = "CPU"

_HEADER = 8
"""Bytes in front of the exported model that name its precision: OpenVINO settles that anew at each import."""

MOST_STREAMS = 4
"""Batches that are computed at once. A stream on one core waits for nobody, but each has its own memory."""

_NATIVE_NAMES = {"bf16": "BF16", "int8": "INT8", "f32": "FP32"}


class OpenVINORunner:
    """The graphs of one package, compiled (or their engines opened) when they are first used."""

    def __init__(
        self,
        package: ModelPackage,
        options: RunnerOptions,
        engines: Mapping[str, Path] | None = None,
        precisions: str = "",
    ) -> None:
        self._package = package
        self._engines = dict(engines or {})
        self._core = ov.Core()
        self._precision = chosen_precision(options, _capabilities(self._core))
        self._said = precisions or self._precision
        self._threads, self._at_once = options.threads, options.at_once
        self._requests: dict[str, list[Any]] = {}

    @property
    def description(self) -> str:
        return f"OpenVINO {_version()}, CPU, {self._said}"

    def run(self, graph: str, inputs: Tensors) -> Results:
        """See `engine.runners.interface.Runner`."""
        return next(self.run_each(graph, [inputs]))

    def run_each(self, graph: str, inputs: Iterable[Tensors]) -> Iterator[Results]:
        """See `engine.runners.interface.Runner`: one request under way on each stream."""
        under_way: deque[tuple[Any, Tensors]] = deque()
        try:
            free = list(self._requests.get(graph) or self._opened(graph))
            for given in inputs:
                request = free.pop() if free else None
                if request is None:
                    request, _ = under_way.popleft()
                    yield _waited_for(request)
                request.start_async(dict(given), share_inputs=True)
                under_way.append((request, given))  # the inputs are read where they lie until it has ended
            while under_way:
                yield _waited_for(under_way.popleft()[0])
        except RuntimeError as error:
            raise RunnerFailed(f"graph {graph} of {self._package.metadata.name} failed: {error}") from error
        finally:
            for request, _ in under_way:
                request.cancel()

    def close(self) -> None:
        self._requests.clear()

    def _opened(self, graph: str) -> list[Any]:
        if graph in self._engines:
            content = self._engines[graph].read_bytes()
            precision, blob = content[:_HEADER].decode().strip(), BytesIO(content[_HEADER:])
            compiled = self._core.import_model(
                blob, DEVICE, _settings(precision, self._threads, self._at_once)
            )
        else:
            compiled = self._core.compile_model(
                _read(self._core, self._package, graph),
                DEVICE,
                _settings(self._precision, self._threads, self._at_once),
            )
        count = int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        self._requests[graph] = [compiled.create_infer_request() for _ in range(count)]
        return self._requests[graph]


def _read(core: Any, package: ModelPackage, graph: str) -> ov.Model:
    return in_planes(core.read_model(package.graph_path(graph)))


def _waited_for(request: Any) -> Results:
    request.wait()
    return {
        name: np.array(request.get_tensor(port).data)
        for port in request.model_outputs
        for name in sorted(port.names)
    }


class OpenVINOBackend:
    """Builds OpenVINO engines; see `engine.backends.EngineBackend`."""

    def identity(self) -> str:
        core = ov.Core()
        name = core.get_property(DEVICE, "FULL_DEVICE_NAME")
        return f"openvino {ov.__version__}, {name}, {' '.join(sorted(_capabilities(core)))}"

    def offers(self, precision: BuildPrecision) -> bool:
        return _NATIVE_NAMES.get(precision) in _capabilities(ov.Core())

    def build(self, wanted: WantedEngine) -> bytes:
        core = ov.Core()
        try:
            model = _read(core, wanted.package, wanted.graph)
            hint = "f32" if wanted.precision == "int8" else wanted.precision
            if wanted.precision == "int8":
                from engine.runners.openvino_quantised import quantised

                model = quantised(model, wanted.graph)
            stream = BytesIO()
            core.compile_model(model, DEVICE, _settings(hint)).export_model(stream)
            return hint.encode().ljust(_HEADER) + stream.getvalue()
        except RuntimeError as error:
            raise RunnerFailed(f"OpenVINO cannot build graph {wanted.graph}: {error}") from error

    def open(
        self, package: ModelPackage, engines: Mapping[str, Path], options: RunnerOptions, precisions: str = ""
    ) -> OpenVINORunner:
        return OpenVINORunner(package, options, engines, precisions)


def backend(name: Backend) -> OpenVINOBackend:
    """See `engine.backends.backend_named`."""
    return OpenVINOBackend()


def chosen_precision(options: RunnerOptions, capabilities: list[str]) -> str:
    """f32 or bf16: as asked, or for auto bf16 where the CPU lists it among its capabilities."""
    if options.precision != "auto":
        return options.precision
    return "bf16" if "BF16" in capabilities else "f32"


def _capabilities(core: Any) -> list[str]:
    return list(core.get_property(DEVICE, "OPTIMIZATION_CAPABILITIES"))


def _version() -> str:
    return str(ov.__version__).split("-", maxsplit=1)[0]


def _settings(precision: str, threads: int = 0, at_once: int = 0) -> dict[str, Any]:
    cores = threads or len(os.sched_getaffinity(0))
    return {
        "INFERENCE_PRECISION_HINT": precision,
        "NUM_STREAMS": at_once or min(cores, MOST_STREAMS),
        "INFERENCE_NUM_THREADS": cores,
    }
